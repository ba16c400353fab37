"""The shards' frames in a dataset of Hugging Face's, an Arrow file that is mapped, read by torch's worker processes."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
from datasets import Dataset, Features, Image, disable_progress_bars

from usucl_fast.bench.stock import Tuples
from usucl_fast.feed import BatchPlan
from usucl_fast.shards import ShardStore

AT_ONCE = 1000
"""Frames that are read from the shards at once."""


def write_arrow(store: ShardStore, folder: Path) -> Dataset:
    """Writes all frames, encoded as they are, and opens them: row i is frame i."""

    def frames() -> Iterator[dict[str, Any]]:
        for frame_ids in np.array_split(np.arange(len(store.table)), -(-len(store.table) // AT_ONCE)):
            for data in store.read(frame_ids):
                yield {"picture": {"bytes": data.tobytes(), "path": None}}

    disable_progress_bars()
    return Dataset.from_generator(frames, Features({"picture": Image()}), str(folder))


class ArrowFrames(Tuples):
    """Tuples out of what `write_arrow` wrote."""

    def __init__(self, data: Dataset, plans: list[BatchPlan], size: int, tensors: bool) -> None:
        super().__init__(plans, size, tensors)
        self.data = data

    def pictures(self, frame_ids: list[int]) -> list[PIL.Image.Image]:
        """See `Tuples.pictures`."""
        pictures: list[PIL.Image.Image] = self.data[frame_ids]["picture"]
        return pictures
