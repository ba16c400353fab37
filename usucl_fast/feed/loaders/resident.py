"""The `resident` loader: decodes each frame once and keeps its pixels in memory."""

import functools
import itertools
import os
import tempfile
from collections.abc import Generator, Iterable
from concurrent.futures import Executor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from usucl_fast.errors import UsageError
from usucl_fast.feed.batch import Batch, Delivery, checked, decoded_bytes
from usucl_fast.feed.decode import decode_frame
from usucl_fast.feed.loaders.threaded import Ints, ThreadedLoader, addresses_of, make_pool
from usucl_fast.feed.plan import BatchPlan
from usucl_fast.feed.render_gpu import develop, gather, to_device
from usucl_fast.shards import ShardStore

Pixels = NDArray[np.uint8]


def make_resident(store: ShardStore, delivery: Delivery) -> "ResidentLoader | DeviceResidentLoader":
    """Makes the loader. All pixels are kept on the GPU if they take at most `resident_bytes` and half of its free
    memory, else in the host's memory."""
    needed = int(decoded_bytes(store.table, delivery.channels).sum())
    if delivery.device.type == "cuda" and needed <= delivery.resident_bytes:
        free, _ = torch.cuda.mem_get_info(delivery.device)
        if needed <= free // 2:
            return DeviceResidentLoader(store, delivery)
    return ResidentLoader(store, delivery)


class ResidentLoader(ThreadedLoader):
    """Keeps the pixels of as many frames as fit into `Delivery.resident_bytes` in memory, and with
    `Delivery.resident_file` those of the others in a file.

    Frames are decoded when a plan first asks for them; those that are not kept, each time. The file has no name, so it
    disappears with the process, however that ends.
    """

    chunks_a_thread = 1

    def __init__(self, store: ShardStore, delivery: Delivery) -> None:
        super().__init__(store, delivery)
        bytes_of = decoded_bytes(store.table, delivery.channels)
        ends = np.cumsum(bytes_of)
        self._start_of = ends - bytes_of
        self._kept = int(np.searchsorted(ends, delivery.resident_bytes, side="right"))  # frames
        self._in_memory = int(ends[self._kept - 1]) if self._kept else 0
        self._pixels: Pixels = np.empty(self._in_memory, np.uint8)  # taken page by page
        self._file: Pixels = np.empty(0, np.uint8)
        if delivery.resident_file and self._kept < len(ends):
            self._file = _nameless_file(store.folder, int(ends[-1]) - self._in_memory)
            self._kept = len(ends)
        self._address_of = self._start_of + self._pixels.ctypes.data
        moved = self._start_of >= self._in_memory
        self._address_of[moved] = self._start_of[moved] - self._in_memory + self._file.ctypes.data
        self._is_decoded = np.zeros(len(store.table), bool)

    def _fill(self, out_NHWC: Pixels, plan: BatchPlan, prepared: Any, chunk: Ints) -> None:
        frame_ids = plan.frame_ids.ravel()[chunk]
        addresses = self._address_of[frame_ids]
        kept = frame_ids < self._kept
        fresh = np.unique(frame_ids[kept & ~self._is_decoded[frame_ids]])
        for frame_id, pixels in zip(fresh.tolist(), self._decoded(fresh), strict=True):
            # Where two threads decode one frame at a time, they write the same.
            self._slot(self._start_of[frame_id], pixels.size)[:] = pixels.ravel()
            self._is_decoded[frame_id] = True
        others = list(self._decoded(frame_ids[~kept]))
        addresses[~kept] = addresses_of(others)
        shapes, boxes = self._store.table.size_of(frame_ids), plan.boxes.reshape(-1, 4)[chunk]
        self._render(addresses, shapes, boxes, plan, chunk, out_NHWC)

    def _slot(self, start: int, length: int) -> Pixels:
        if start < self._in_memory:
            return self._pixels[start : start + length]
        return self._file[start - self._in_memory :][:length]


def _nameless_file(folder: Path, length: int) -> Pixels:
    """Memory-mapped; all its room is taken at once, for a disk that gets full later would kill the process."""
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            os.posix_fallocate(file.fileno(), 0, length)
            return np.memmap(file, np.uint8, mode="r+").view(np.ndarray)
    except OSError as error:
        raise UsageError(
            f"--resident-file: {length / 1e9:.1f} GB cannot be written to {folder} ({error.strerror});"
            " leave it out, or make room there"
        ) from error


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
