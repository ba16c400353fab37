"""The `resident` loader: a frame is decoded once and its pixels are kept; from then on it costs one pass over them."""

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray

from usucl_fast.feed.cut import cut
from usucl_fast.feed.loader import Delivery, decode_frame, decoded_bytes
from usucl_fast.feed.plan import BatchPlan
from usucl_fast.feed.store import ShardStore
from usucl_fast.feed.threaded import ThreadedLoader

Pixels = NDArray[np.uint8]
Ints = NDArray[np.int64]


class ResidentLoader(ThreadedLoader):
    """Keeps the pixels of as many frames as `Delivery.resident_bytes` has room for, the first ones of the shards.

    They are decoded when a plan asks for them first; the others each time.
    """

    chunks_a_thread = 1

    def __init__(self, store: ShardStore, delivery: Delivery) -> None:
        super().__init__(store, delivery)
        ends = np.cumsum(decoded_bytes(store.table, delivery.channels))
        self._start_of = np.concatenate([[0], ends[:-1]])
        self._kept = int(np.searchsorted(ends, delivery.resident_bytes, side="right"))  # frames
        self._pixels = np.empty(ends[self._kept - 1] if self._kept else 0, np.uint8)  # taken page by page
        self._is_decoded = np.zeros(len(store.table), bool)

    def _fill(self, out_NHWC: torch.Tensor, plan: BatchPlan, chunk: Ints) -> None:
        frame_ids = plan.frame_ids.ravel()[chunk]
        kept = frame_ids < self._kept
        fresh = np.unique(frame_ids[kept & ~self._is_decoded[frame_ids]])
        for frame_id, pixels in zip(fresh.tolist(), self._decoded(fresh), strict=True):
            # Where two threads decode one frame at a time, they write the same.
            start = self._start_of[frame_id]
            self._pixels[start : start + len(pixels)] = pixels
            self._is_decoded[frame_id] = True
        self._cut(self._pixels, self._start_of[frame_ids[kept]], out_NHWC, plan, chunk[kept])
        if not kept.all():
            others = list(self._decoded(frame_ids[~kept]))
            starts = np.cumsum([0] + [len(pixels) for pixels in others[:-1]])
            self._cut(np.concatenate(others), starts, out_NHWC, plan, chunk[~kept])

    def _decoded(self, frame_ids: Ints) -> Iterator[Pixels]:
        for frame_id, data in zip(frame_ids.tolist(), self._store.read(frame_ids), strict=True):
            yield decode_frame(self._store, frame_id, data, self._delivery.channels).ravel()

    def _cut(self, pixels: Pixels, starts: Ints, out_NHWC: torch.Tensor, plan: BatchPlan, chunk: Ints) -> None:
        videos = self._store.table.rows["video"][plan.frame_ids.ravel()[chunk]]
        widths = self._store.table.size[videos, 1]
        boxes, flips = plan.boxes.reshape(-1, 4)[chunk], plan.flips.ravel()[chunk]
        cut(pixels, starts, widths, boxes, flips, chunk, out_NHWC.numpy())
