"""The `resident` loader: decodes each frame once and keeps its pixels."""

import functools
import itertools
from collections.abc import Generator, Iterable
from concurrent.futures import Executor
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from usucl_fast.feed.batch import Batch, Delivery, checked, decoded_bytes
from usucl_fast.feed.decode import decode_frame
from usucl_fast.feed.decoded import DecodedFrames
from usucl_fast.feed.loaders.threaded import Ints, ThreadedLoader, make_pool
from usucl_fast.feed.plan import BatchPlan
from usucl_fast.feed.render_gpu import develop, gather, to_device
from usucl_fast.shards import ShardStore

Pixels = NDArray[np.uint8]


def make_resident(store: ShardStore, delivery: Delivery) -> "ResidentLoader | DeviceResidentLoader":
    """Makes the loader. All pixels are kept on the GPU if they take at most `resident_bytes` and half of its free
    memory, else on the host."""
    needed = int(decoded_bytes(store.table, delivery.channels).sum())
    if delivery.device.type == "cuda" and needed <= delivery.resident_bytes:
        free, _ = torch.cuda.mem_get_info(delivery.device)
        if needed <= free // 2:
            return DeviceResidentLoader(store, delivery)
    return ResidentLoader(store, delivery)


class ResidentLoader(ThreadedLoader):
    """Keeps the pixels of all frames, see `DecodedFrames`. A frame is decoded when a plan first asks for it."""

    chunks_a_thread = 1

    def __init__(self, store: ShardStore, delivery: Delivery) -> None:
        super().__init__(store, delivery)
        self.frames = DecodedFrames(store, delivery.channels, delivery.resident_bytes)

    def _fill(self, out_NHWC: Pixels, plan: BatchPlan, prepared: Any, chunk: Ints) -> None:
        frame_ids, boxes = plan.frame_ids.ravel()[chunk], plan.boxes.reshape(-1, 4)[chunk]
        missing = self.frames.missing(frame_ids)
        for frame_id, pixels in zip(missing.tolist(), self._decoded(missing), strict=True):
            self.frames.put(frame_id, pixels)
        shapes = self._store.table.size_of(frame_ids)
        self._render(self.frames.addresses[frame_ids], shapes, boxes, plan, chunk, out_NHWC)


class DeviceResidentLoader:
    """Keeps the pixels of all frames on the device, and makes the pictures there.

    Threads decode the frames that a plan asks for first.
    """

    def __init__(self, store: ShardStore, delivery: Delivery) -> None:
        self._store, self._delivery = store, delivery
        bytes_of = decoded_bytes(store.table, delivery.channels)
        ends = np.cumsum(bytes_of)
        self._start_of = ends - bytes_of
        self._pixels = torch.empty(int(ends[-1]), dtype=torch.uint8, device=delivery.device)
        self._is_decoded = np.zeros(len(store.table), bool)

    def run(self, plans: Iterable[BatchPlan]) -> Generator[Batch, None, None]:
        """See `Loader.run`."""
        with make_pool(self._delivery.threads) as pool:
            for plan in checked(plans, len(self._store.table), self._delivery.most_frames):
                self._keep(pool, np.unique(plan.frame_ids))
                frame_ids, boxes = plan.frame_ids.ravel(), plan.boxes.reshape(-1, 4)
                frames = gather(
                    self._pixels,
                    self._start_of[frame_ids],
                    self._store.table.size_of(frame_ids),
                    boxes,
                    plan.flips.ravel(),
                    self._delivery.size,
                    self._delivery.channels,
                )
                frames = develop(frames, plan.photometry.ravel())
                yield Batch(plan, frames.unflatten(0, plan.frame_ids.shape))

    def _keep(self, pool: Executor, frame_ids: Ints) -> None:
        fresh = frame_ids[~self._is_decoded[frame_ids]]
        decode = functools.partial(decode_frame, self._store)
        channels = itertools.repeat(self._delivery.channels)
        decoded = pool.map(decode, fresh.tolist(), self._store.read(fresh), channels)
        for frame_id, pixels in zip(fresh.tolist(), decoded, strict=True):
            start = self._start_of[frame_id]
            self._pixels[start : start + pixels.size] = to_device(pixels.ravel(), self._delivery.device)
            self._is_decoded[frame_id] = True
