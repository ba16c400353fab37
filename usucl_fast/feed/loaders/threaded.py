"""The base of the loaders that work in threads of this process."""

import weakref
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from usucl_fast.feed.augmentation import UNCHANGED
from usucl_fast.feed.batch import PREFETCH, Batch, Delivery, checked
from usucl_fast.feed.decode import decode_frame
from usucl_fast.feed.plan import BatchPlan
from usucl_fast.feed.render_cpu import render
from usucl_fast.feed.render_gpu import develop
from usucl_fast.shards import ShardStore

LEAST_CHUNK = 8
"""Pictures that a thread is handed at once, unless there are fewer. What it does for all of them together, handing out
among it, takes the interpreter's lock once, for which many threads wait."""

Ints = NDArray[np.int64]


class ThreadedLoader(ABC):
    """Fills batches in threads, each picture straight into its place. With a GPU, the grey levels are changed there.

    chunks_a_thread: in how many parts a batch is handed out. With more, no thread is left alone with much at its end;
        with fewer, less time goes into handing out.
    """

    chunks_a_thread = 4

    def __init__(self, store: ShardStore, delivery: Delivery) -> None:
        self._store = store
        self._delivery = delivery
        self._buffers = _Buffers(delivery)

    def _prepare(self, plans: Iterable[BatchPlan]) -> Iterator[tuple[BatchPlan, Any]]:
        """The plans, each with what is decoded ahead of `_fill`: here nothing."""
        return ((plan, None) for plan in plans)

    @abstractmethod
    def _fill(self, out_NHWC: NDArray[np.uint8], plan: BatchPlan, prepared: Any, chunk: Ints) -> None:
        """Writes the pictures `chunk` of the plan, counted over all its views, to their places in `out_NHWC`."""

    def _decoded(self, frame_ids: Ints) -> Iterator[NDArray[np.uint8]]:
        """The frames, uint8 `[height, width, channels]`, one after another."""
        for frame_id, data in zip(frame_ids.tolist(), self._store.read(frame_ids), strict=True):
            yield decode_frame(self._store, frame_id, data, self._delivery.channels)

    def _render(
        self, addresses: Ints, shapes: Ints, boxes: Ints, plan: BatchPlan, chunk: Ints, out_NHWC: NDArray[np.uint8]
    ) -> None:
        """`render` for the pictures `chunk` of the plan, which lie at `addresses`."""
        photometry = plan.photometry.ravel()[chunk]
        if self._delivery.device.type == "cuda":
            photometry = np.full(len(chunk), UNCHANGED)
        render(addresses, shapes, boxes, plan.flips.ravel()[chunk], photometry, chunk, out_NHWC)

    def run(self, plans: Iterable[BatchPlan]) -> Generator[Batch, None, None]:
        """See `Loader.run`."""
        prepared = self._prepare(checked(plans, len(self._store.table), self._delivery.most_frames))
        ahead: deque[tuple[BatchPlan, Any, list[Future[None]]]] = deque()
        pool = make_pool(self._delivery.threads)
        try:
            while True:
                while len(ahead) <= PREFETCH and (following := next(prepared, None)) is not None:
                    ahead.append((following[0], *self._start(pool, *following)))
                if not ahead:
                    return
                plan, begun, jobs = ahead.popleft()
                for job in jobs:
                    job.result()
                yield Batch(plan, self._finish(plan, begun).unflatten(0, plan.frame_ids.shape))
                del begun  # the consumer decides how long it lives
        except KeyboardInterrupt:
            self._store.close()  # or the threads would keep waiting for shards at a URL
            raise
        finally:
            pool.shutdown(cancel_futures=True)

    def _start(self, pool: Executor, plan: BatchPlan, prepared: Any) -> tuple[Any, list[Future[None]]]:
        """Begins a batch; returns what `_finish` takes once the jobs are done."""
        frames_NHWC = self._buffers.take(plan.frame_ids.size)
        out_NHWC = frames_NHWC.numpy()
        chunks = self._chunks(plan.frame_ids.size)
        return frames_NHWC, [pool.submit(self._fill, out_NHWC, plan, prepared, chunk) for chunk in chunks]

    def _chunks(self, count: int) -> list[Ints]:
        """The numbers up to `count`, as they are handed out."""
        parts = min(-(-count // LEAST_CHUNK), self.chunks_a_thread * self._delivery.threads)
        return np.array_split(np.arange(count), max(1, parts)) if count else []

    def _finish(self, plan: BatchPlan, begun: Any) -> torch.Tensor:
        """The pictures of a batch, uint8 `[M, C, size, size]` on the device, where a GPU changes their grey levels."""
        frames: torch.Tensor = begun.to(self._delivery.device, non_blocking=True).movedim(-1, -3)
        return develop(frames, plan.photometry.ravel()) if self._delivery.device.type == "cuda" else frames


def make_pool(threads: int) -> Executor:
    """Makes a thread pool; with 0 threads, work runs at once in the calling thread, where a debugger can follow it."""
    return ThreadPoolExecutor(threads, thread_name_prefix="usucl-feed") if threads else _Inline()


class _Inline(Executor):
    def submit(self, task: Callable[..., Any], /, *arguments: Any, **named: Any) -> Future[Any]:
        future: Future[Any] = Future()
        try:
            future.set_result(task(*arguments, **named))
        except Exception as error:
            future.set_exception(error)
        return future


def addresses_of(pictures: Sequence[NDArray[np.uint8]]) -> Ints:
    """The arrays' addresses in memory; the caller has to keep the arrays alive."""
    return np.array([picture.ctypes.data for picture in pictures], np.int64)


class _Buffers:
    """Memory for batches, used again when the last tensor over it is gone: taking it fresh from the system each time
    costs more than filling it."""

    def __init__(self, delivery: Delivery) -> None:
        self._delivery = delivery
        self._free: list[NDArray[np.uint8]] = []

    def take(self, count: int) -> torch.Tensor:
        """uint8 `[count, size, size, channels]`, not initialised."""
        size, channels = self._delivery.size, self._delivery.channels
        most = max(count, self._delivery.most_frames)
        if self._delivery.device.type == "cuda":  # torch keeps pinned memory for use again by itself, by its size
            return torch.empty((most, size, size, channels), dtype=torch.uint8, pin_memory=True)[:count]
        if not self._free or len(self._free[-1]) < count:
            self._free = [np.empty((most, size, size, channels), np.uint8)]
        buffer = self._free.pop()
        view = buffer[:count]
        weakref.finalize(view, self._free.append, buffer).atexit = False
        return torch.from_numpy(view)
