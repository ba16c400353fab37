"""The `dali` loader: NVIDIA DALI, on a GPU or on CPU cores."""

import itertools
from collections import deque
from collections.abc import Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from nvidia.dali import fn, pipeline_def, types

from usucl_fast.errors import DataError
from usucl_fast.feed.batch import PREFETCH, Batch, Delivery, checked
from usucl_fast.feed.decode import check_header, decode_frame
from usucl_fast.feed.loaders.threaded import Ints, ThreadedLoader
from usucl_fast.feed.plan import BatchPlan
from usucl_fast.feed.render_gpu import develop
from usucl_fast.files import is_url
from usucl_fast.shards import ShardStore

Feed = tuple[list[np.ndarray], NDArray[np.int32]]
"""Encoded frames, and an argument row a frame: see `_arguments`."""


class DaliLoader(ThreadedLoader):
    """One pipeline that decodes the crop as the region of interest; the plan's arrays are tensor arguments.

    On a GPU the pipeline resizes and mirrors as well. On CPU cores its decoded crops are rendered as those of the other
    loaders are: DALI's own resizing takes 20 times as long there.
    """

    def __init__(self, store: ShardStore, delivery: Delivery) -> None:
        super().__init__(store, delivery)
        self._is_checked = np.zeros(len(store.table), bool)
        self._warm: Future[tuple[_Source, Any]] | None = None
        if delivery.device.type == "cuda" and not is_url(store.name):  # from where a frame may take long to come
            self.warm_up()

    def warm_up(self) -> None:
        """Builds the pipeline of the next `run_in_pipeline` and runs it once, in a thread, on batches of the largest
        frame. On a GPU the first batches would take many times as long as those that follow."""
        pool = ThreadPoolExecutor(1, thread_name_prefix="usucl-warm")
        self._warm = pool.submit(self._make_warm)
        pool.shutdown(wait=False)

    def _make_warm(self) -> "tuple[_Source, Any]":
        table, most = self._store.table, self._delivery.most_frames
        video = int(table.size.prod(axis=1).argmax())
        first, end = table.first_row[video : video + 2].tolist()
        frame_ids = np.full(most, first + int(table.rows["length"][first:end].argmax()))
        height, width = table.size[video].tolist()
        # A crop that goes beyond the frame, of another size, mirrored: all that a pipeline may have to do.
        arguments = np.tile([0, 0, height, width, -1, -1, height + 2, width + 2, 1], (most, 1)).astype(np.int32)
        source = _Source()
        pipeline = _build(source, self._delivery, True)
        source.following = itertools.repeat((None, (self._store.read(frame_ids), arguments)))
        pipeline.run()
        source.ahead.popleft()
        return source, pipeline

    def run(self, plans: Iterable[BatchPlan]) -> Generator[Batch, None, None]:
        """See `Loader.run`."""
        return self.run_in_pipeline(plans) if self._delivery.device.type == "cuda" else super().run(plans)

    def run_in_pipeline(self, plans: Iterable[BatchPlan]) -> Generator[Batch, None, None]:
        """`run`, all within the pipeline, as on a GPU."""
        plans = checked(plans, len(self._store.table), self._delivery.most_frames)
        for plan, output in self._decode(plans, finish=True):
            # No copy: with the dynamic executor an output stays the caller's as long as the tensor lives.
            frames = torch.from_dlpack(output.as_tensor()).movedim(-1, -3)
            yield Batch(plan, develop(frames, plan.photometry.ravel()).unflatten(0, plan.frame_ids.shape))

    def _prepare(self, plans: Iterable[BatchPlan]) -> Iterator[tuple[BatchPlan, Any]]:
        return self._decode(plans, finish=False)

    def _fill(self, out_NHWC: NDArray[np.uint8], plan: BatchPlan, prepared: Any, chunk: Ints) -> None:
        addresses = np.array([prepared[place].data_ptr() for place in chunk.tolist()], np.int64)
        boxes = plan.boxes.reshape(-1, 4)[chunk]
        inside = _inside(boxes, self._store.table.size_of(plan.frame_ids.ravel()[chunk]))
        boxes = np.concatenate([boxes[:, :2] - inside[:, :2], boxes[:, 2:]], axis=1)
        self._render(addresses, inside[:, 2:].copy(), boxes, plan, chunk, out_NHWC)

    def _decode(self, plans: Iterable[BatchPlan], finish: bool) -> Iterator[tuple[BatchPlan, Any]]:
        """The plans, each with the pipeline's output."""
        warm, self._warm = self._warm if finish else None, None
        source = _Source()
        try:
            if warm is not None:
                source, pipeline = warm.result()
            else:
                pipeline = _build(source, self._delivery, finish)
            source.following = map(self._feed, plans)
            while True:
                (output,) = pipeline.run()
                plan, _ = source.ahead.popleft()
                if plan is not None:
                    yield plan, output
        except StopIteration:
            return
        except RuntimeError as error:
            raise self._name_fault([plan for plan, _ in source.ahead if plan is not None], error) from error

    def _feed(self, plan: BatchPlan) -> "tuple[BatchPlan, Feed]":
        boxes = plan.boxes.reshape(-1, 4)
        inside = _inside(boxes, self._store.table.size_of(plan.frame_ids.ravel()))
        start = boxes[:, :2] - inside[:, :2]
        arguments = np.concatenate([inside, start, boxes[:, 2:], plan.flips.reshape(-1, 1)], axis=1)
        fed = self._store.read(plan.frame_ids), arguments.astype(np.int32)
        self._check(plan.frame_ids.ravel(), fed[0])
        return plan, fed

    def _check(self, frame_ids: Ints, frames: list[np.ndarray]) -> None:
        """Checks frames not seen before: DALI decodes pictures of any kind, and a part of one that is too large."""
        for place in np.flatnonzero(~self._is_checked[frame_ids]).tolist():
            check_header(self._store, int(frame_ids[place]), frames[place])
        self._is_checked[frame_ids] = True

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


class _Source:
    """What is fed to a pipeline: it does not know the pipeline, which would then live until cycles are looked for.

    following: plans, None for a batch that nobody wants, with what DALI is fed for them. Their end is that of the
        pipeline, once the batches ahead are delivered.
    ahead: what was fed and is not delivered yet. DALI reads it in place.
    """

    def __init__(self) -> None:
        self.following: Iterator[tuple[BatchPlan | None, Feed]] = iter(())
        self.ahead: deque[tuple[BatchPlan | None, Feed]] = deque()

    def __call__(self) -> Feed:
        self.ahead.append(next(self.following))
        return self.ahead[-1][1]


def _build(source: _Source, delivery: Delivery, finish: bool) -> Any:
    """Builds DALI's pipeline. It raises StopIteration at its end, else RuntimeError."""
    size, gpu = delivery.size, delivery.device.type == "cuda"
    color = types.GRAY if delivery.channels == 1 else types.RGB

    @pipeline_def(
        batch_size=delivery.most_frames,
        num_threads=max(1, delivery.threads),
        device_id=(delivery.device.index or 0) if gpu else None,
        prefetch_queue_depth=PREFETCH,
        exec_dynamic=True,
        enable_conditionals=finish,
    )
    def pipeline() -> Any:
        data, arguments = fn.external_source(
            source, num_outputs=2, dtype=[types.UINT8, types.INT32], ndim=1, no_copy=True
        )
        images = fn.decoders.image_slice(
            data,
            device="mixed" if gpu else "cpu",
            output_type=color,
            start=arguments[0:2],
            shape=arguments[2:4],
            axes=[0, 1],
        )
        if not finish:
            return images
        # Conditions are per frame: what already has its size, or is not mirrored, is not touched.
        if arguments[2] != arguments[6] or arguments[3] != arguments[7]:
            images = fn.slice(
                images, start=arguments[4:6], shape=arguments[6:8], axes=[0, 1], out_of_bounds_policy="pad"
            )
        if arguments[6] != size or arguments[7] != size:
            images = fn.resize(images, size=[size, size], interp_type=types.INTERP_LINEAR, antialias=True)
        if arguments[8] != 0:
            images = fn.flip(images, horizontal=1)
        return images

    built = pipeline()
    built.build()
    return built


def _inside(boxes: Ints, size: Ints) -> Ints:
    """The part of each box `[M, 4]` inside its frame, whose height and width are `size` `[M, 2]`."""
    start = np.clip(boxes[:, :2], 0, size - 1)
    end = np.clip(boxes[:, :2] + boxes[:, 2:], start + 1, size)
    return np.concatenate([start, end - start], axis=1)
