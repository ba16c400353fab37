"""The `dali` loader: NVIDIA DALI, on a GPU or, by the same code, on CPU cores."""

from collections import deque
from collections.abc import Callable, Generator, Iterable
from typing import Any

import numpy as np
import torch
from nvidia.dali import fn, pipeline_def, types

from usucl_fast.errors import DataError
from usucl_fast.feed.loader import PREFETCH, Batch, Delivery, decode_frame
from usucl_fast.feed.plan import BatchPlan
from usucl_fast.feed.store import ShardStore

Feed = tuple[list[np.ndarray], np.ndarray, np.ndarray, np.ndarray]
"""Encoded frames; where their crops start, how large they are, whether they are mirrored."""


class DaliLoader:
    """One pipeline that decodes the crop as the region of interest; the plan's arrays are tensor arguments."""

    def __init__(self, store: ShardStore, delivery: Delivery) -> None:
        self._store = store
        self._delivery = delivery

    def run(self, plans: Iterable[BatchPlan]) -> Generator[Batch, None, None]:
        """See `Loader.run`."""
        remaining = iter(plans)
        # DALI reads what it is fed in place: it must live until its batch is delivered.
        ahead: deque[tuple[BatchPlan, Feed]] = deque()

        def feed() -> Feed:
            plan = next(remaining)  # its StopIteration ends the pipeline once the batches ahead are delivered
            boxes = plan.boxes.reshape(-1, 4).astype(np.int32)
            flips = plan.flips.reshape(-1, 1).astype(np.int32)
            # Arguments as one array a batch: a list of small arrays costs DALI a fifth of its rate.
            fed = self._store.read(plan.frame_ids), boxes[:, :2].copy(), boxes[:, 2:].copy(), flips
            ahead.append((plan, fed))
            return fed

        pipeline = self._build(feed)
        while True:
            try:
                (output,) = pipeline.run()
            except StopIteration:
                return
            except RuntimeError as error:
                raise self._name_fault([plan for plan, _ in ahead], error) from error
            plan, _ = ahead.popleft()
            # No copy: with the dynamic executor an output stays the caller's as long as the tensor lives.
            frames_NHWC = torch.from_dlpack(output.as_tensor())
            yield Batch(plan, frames_NHWC.unflatten(0, plan.frame_ids.shape).movedim(-1, -3))

    def _build(self, feed: Callable[[], Feed]) -> Any:
        size, gpu = self._delivery.size, self._delivery.device.type == "cuda"
        color = types.GRAY if self._delivery.channels == 1 else types.RGB

        @pipeline_def(
            batch_size=self._delivery.most_frames,
            num_threads=self._delivery.threads,
            device_id=(self._delivery.device.index or 0) if gpu else None,
            prefetch_queue_depth=PREFETCH,
            exec_dynamic=True,
            enable_conditionals=True,
        )
        def pipeline() -> Any:
            data, start, shape, flip = fn.external_source(
                feed,
                num_outputs=4,
                dtype=[types.UINT8, types.INT32, types.INT32, types.INT32],
                ndim=1,
                no_copy=True,
            )
            images = fn.decoders.image_slice(
                data,
                device="mixed" if gpu else "cpu",
                output_type=color,
                start=start,
                shape=shape,
                axes=[0, 1],
            )
            # Conditions are per frame: what already has its size, or is not mirrored, is not touched.
            if shape[0] != size or shape[1] != size:
                images = fn.resize(images, size=[size, size], interp_type=types.INTERP_LINEAR, antialias=True)
            if flip[0] != 0:
                images = fn.flip(images, horizontal=1)
            return images

        built = pipeline()
        built.build()
        return built

    def _name_fault(self, plans: Iterable[BatchPlan], error: RuntimeError) -> DataError:
        """DALI's message does not say which frame failed: find it among the plans under way."""
        for plan in plans:
            frame_ids = plan.frame_ids.ravel().tolist()
            for frame_id, data in zip(frame_ids, self._store.read(plan.frame_ids), strict=True):
                try:
                    decode_frame(self._store, frame_id, data, self._delivery.channels)
                except DataError as fault:
                    return fault
        reason = str(error).strip().splitlines()
        return DataError(f"DALI cannot load frames of {self._store.name}: {reason[0] if reason else error!r}")
