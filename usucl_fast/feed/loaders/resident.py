"""The `resident` loader: decodes each frame once and keeps its pixels."""

from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Executor, Future
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from usucl_fast.compiled import runs_triton
from usucl_fast.feed.batch import Batch, Delivery, decoded_bytes
from usucl_fast.feed.decoded import DecodedFrames
from usucl_fast.feed.loaders.threaded import Ints, ThreadedLoader
from usucl_fast.feed.plan import BatchPlan
from usucl_fast.feed.render_gpu import develop, gather
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
        self._decode_missing(frame_ids)
        shapes = self._store.table.size_of(frame_ids)
        self._render(self.frames.addresses[frame_ids], shapes, boxes, plan, chunk, out_NHWC)

    def _decode_missing(self, frame_ids: Ints) -> None:
        missing = self.frames.missing(frame_ids)
        for frame_id, pixels in zip(missing.tolist(), self._decoded(missing), strict=True):
            self.frames.put(frame_id, pixels)


class DeviceResidentLoader(ResidentLoader):
    """Keeps the pixels of all frames on the device as well, and makes the pictures there.

    What a plan is the first to ask for, threads gather in one piece of memory, which is copied while they go on.
    """

    def __init__(self, store: ShardStore, delivery: Delivery) -> None:
        super().__init__(store, delivery)
        self._pixels = torch.empty(int(self.frames.bytes_of.sum()), dtype=torch.uint8, device=delivery.device)
        self._is_here = np.zeros(len(store.table), bool)
        self._is_asked = self._is_here
        self._gather = _gather_on(delivery.device)

    def run(self, plans: Iterable[BatchPlan]) -> Generator[Batch, None, None]:
        """See `Loader.run`."""
        self._is_asked = self._is_here.copy()  # a run that ended before its plans did had asked for more
        return super().run(plans)

    def _start(self, pool: Executor, plan: BatchPlan, prepared: Any) -> tuple[Any, list[Future[None]]]:
        fresh = np.unique(plan.frame_ids)
        fresh = fresh[~self._is_asked[fresh]]
        self._is_asked[fresh] = True
        bytes_of = self.frames.bytes_of[fresh]
        starts, pinned = np.cumsum(bytes_of) - bytes_of, self._delivery.device.type == "cuda"
        staged = torch.empty(int(bytes_of.sum()), dtype=torch.uint8, pin_memory=pinned)
        chunks = self._chunks(len(fresh))
        jobs = [pool.submit(self._stage, staged.numpy(), fresh[chunk], starts[chunk]) for chunk in chunks]
        return (fresh, starts, staged), jobs

    def _stage(self, staged: Pixels, frame_ids: Ints, starts: Ints) -> None:
        self._decode_missing(frame_ids)
        for frame_id, start in zip(frame_ids.tolist(), starts.tolist(), strict=True):
            pixels = self.frames.pixels(frame_id)
            staged[start : start + len(pixels)] = pixels

    def _finish(self, plan: BatchPlan, begun: Any) -> torch.Tensor:
        fresh, starts, staged = begun
        for start, to, length in zip(starts, self.frames.starts[fresh], self.frames.bytes_of[fresh], strict=True):
            self._pixels[to : to + length].copy_(staged[start : start + length], non_blocking=True)
        self._is_here[fresh] = True
        frame_ids = plan.frame_ids.ravel()
        frames = self._gather(
            self._pixels,
            self.frames.starts[frame_ids],
            self._store.table.size_of(frame_ids),
            plan.boxes.reshape(-1, 4),
            plan.flips.ravel(),
            self._delivery.size,
            self._delivery.channels,
        )
        return develop(frames, plan.photometry.ravel())


def _gather_on(device: torch.device) -> Callable[..., torch.Tensor]:
    if not runs_triton(device):
        return gather
    from usucl_fast.feed import fused_gather

    return fused_gather.gather
