"""The `ffcv` loader: frames from a beton, decoded by FFCV's own compiled decoder."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from usucl_fast.feed.batch import Delivery
from usucl_fast.feed.beton import Beton
from usucl_fast.feed.loaders.threaded import Ints
from usucl_fast.feed.loaders.torch import TorchLoader
from usucl_fast.shards import ShardStore

LUMA = np.array([0.299, 0.587, 0.114], np.float32)
"""Of red, green and blue: ITU-R BT.601, as JPEG's."""


class FfcvLoader(TorchLoader):
    """Executes plans as `TorchLoader` does, with frames from a beton. FFCV always decodes three channels."""

    def __init__(self, store: ShardStore, delivery: Delivery, beton: Path) -> None:
        super().__init__(store, delivery)
        self._beton = Beton(beton, store)

    def _decoded(self, frame_ids: Ints) -> Iterator[NDArray[np.uint8]]:
        videos = self._store.table.rows["video"][frame_ids].tolist()
        for frame_id, video in zip(frame_ids.tolist(), videos, strict=True):
            pixels = self._beton.decode(frame_id)
            if self._delivery.channels == 3:
                yield pixels
            elif self._store.table.videos.color[video] == "grey":
                yield np.ascontiguousarray(pixels[..., :1])
            else:
                yield (pixels @ LUMA + 0.5).astype(np.uint8)[..., None]
