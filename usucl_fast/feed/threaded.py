"""What the loaders that work in threads of this process have in common."""

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import torch
from numpy.typing import NDArray

from usucl_fast.feed.loader import PREFETCH, Batch, Delivery
from usucl_fast.feed.plan import BatchPlan
from usucl_fast.feed.store import ShardStore


class ThreadedLoader(ABC):
    """Fills batches in threads, each picture straight into its place.

    chunks_a_thread: in how many parts a batch is handed out. With more, no thread is left alone with much at its end;
        with fewer, less time goes into handing out.
    """

    chunks_a_thread = 4

    def __init__(self, store: ShardStore, delivery: Delivery) -> None:
        self._store = store
        self._delivery = delivery

    @abstractmethod
    def _fill(self, out_NHWC: torch.Tensor, plan: BatchPlan, chunk: NDArray[np.int64]) -> None:
        """Writes the pictures `chunk` of the plan, counted over all its views, to their places in `out_NHWC`."""

    def run(self, plans: Iterable[BatchPlan]) -> Generator[Batch, None, None]:
        """See `Loader.run`."""
        remaining = iter(plans)
        ahead: deque[tuple[BatchPlan, torch.Tensor, list[Future[None]]]] = deque()
        pool = ThreadPoolExecutor(self._delivery.threads, thread_name_prefix="usucl-feed")
        try:
            while True:
                while len(ahead) <= PREFETCH and (plan := next(remaining, None)) is not None:
                    ahead.append((plan, *self._start(pool, plan)))
                if not ahead:
                    return
                plan, frames_NHWC, jobs = ahead.popleft()
                for job in jobs:
                    job.result()
                frames = frames_NHWC.to(self._delivery.device, non_blocking=True)
                yield Batch(plan, frames.unflatten(0, plan.frame_ids.shape).movedim(-1, -3))
        except KeyboardInterrupt:
            self._store.close()  # or the threads would go on waiting for shards at a URL
            raise
        finally:
            pool.shutdown(cancel_futures=True)

    def _start(self, pool: ThreadPoolExecutor, plan: BatchPlan) -> tuple[torch.Tensor, list[Future[None]]]:
        size, channels = self._delivery.size, self._delivery.channels
        count = plan.frame_ids.size
        frames_NHWC = torch.empty(
            (count, size, size, channels), dtype=torch.uint8, pin_memory=self._delivery.device.type == "cuda"
        )
        parts = min(count, self.chunks_a_thread * self._delivery.threads)
        chunks = np.array_split(np.arange(count), max(1, parts))
        return frames_NHWC, [pool.submit(self._fill, frames_NHWC, plan, chunk) for chunk in chunks]
