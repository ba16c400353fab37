"""The `torch` loader: libjpeg-turbo in threads. Needs nothing but CPU cores."""

from collections import deque
from collections.abc import Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import torch
import torch.nn.functional as F

from usucl_fast.feed.loader import PREFETCH, Batch, Delivery, decode_frame
from usucl_fast.feed.plan import BatchPlan
from usucl_fast.feed.store import ShardStore


class TorchLoader:
    """Decodes, crops and resizes in threads, each frame straight into its place in the batch."""

    def __init__(self, store: ShardStore, delivery: Delivery) -> None:
        self._store = store
        self._delivery = delivery

    def run(self, plans: Iterable[BatchPlan]) -> Generator[Batch, None, None]:
        """See `Loader.run`."""
        remaining = iter(plans)
        ahead: deque[tuple[BatchPlan, torch.Tensor, list[Future[None]]]] = deque()
        pool = ThreadPoolExecutor(self._delivery.threads, thread_name_prefix="usucl-decode")
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
        finally:
            pool.shutdown(cancel_futures=True)

    def _start(self, pool: ThreadPoolExecutor, plan: BatchPlan) -> tuple[torch.Tensor, list[Future[None]]]:
        size, channels = self._delivery.size, self._delivery.channels
        count = plan.frame_ids.size
        frames_NHWC = torch.empty(
            (count, size, size, channels), dtype=torch.uint8, pin_memory=self._delivery.device.type == "cuda"
        )
        data = self._store.read(plan.frame_ids)
        # Small chunks, so that no thread is left alone with much at the end of a batch.
        chunks = np.array_split(np.arange(count), max(1, min(count, 4 * self._delivery.threads)))
        return frames_NHWC, [pool.submit(self._fill, frames_NHWC, plan, data, chunk) for chunk in chunks]

    def _fill(self, out_NHWC: torch.Tensor, plan: BatchPlan, data: list[np.ndarray], chunk: np.ndarray) -> None:
        size = self._delivery.size
        frame_ids, flips, boxes = plan.frame_ids.ravel(), plan.flips.ravel(), plan.boxes.reshape(-1, 4)
        for index in chunk.tolist():
            pixels = decode_frame(self._store, int(frame_ids[index]), data[index], self._delivery.channels)
            top, left, height, width = boxes[index].tolist()
            crop_HWC = torch.from_numpy(pixels)[top : top + height, left : left + width]
            if (height, width) != (size, size):
                crop_CHW = crop_HWC.permute(2, 0, 1).contiguous()
                resized = F.interpolate(crop_CHW[None], size=(size, size), mode="bilinear", antialias=True)
                crop_HWC = resized[0].permute(1, 2, 0)
            out_NHWC[index] = crop_HWC.flip(1) if flips[index] else crop_HWC
