"""The shards' frames decoded by SPDL, as its documentation says: batches in threads, by FFmpeg's decoders and filters.

It delivers the plan's frames and crops: the filter may be another for each frame.
"""

from collections.abc import Generator, Iterable

import spdl.io
import spdl.io.utils
import torch
from spdl.pipeline import PipelineBuilder

from usucl_fast.feed import BatchPlan
from usucl_fast.shards import ShardStore

spdl.io.utils.get_ffmpeg_versions()  # loads its compiled part, and raises here where that does not work
AV_LOG_ERROR = 16


def spdl_batches(
    store: ShardStore, plans: Iterable[BatchPlan], *, size: int, channels: int, threads: int, device: torch.device
) -> Generator[torch.Tensor, None, None]:
    """Yields a batch a plan, uint8 `[B, V, channels, size, size]`. Flips are not done: the plans here have none."""
    scale = f"scale=w={size}:h={size}:flags=bilinear,format=pix_fmts={'gray' if channels == 1 else 'rgb24'}"
    spdl.io.utils.set_ffmpeg_log_level(AV_LOG_ERROR)

    def decode(plan: BatchPlan) -> torch.Tensor:
        frames = [
            spdl.io.decode_packets(
                spdl.io.demux_image(data), filter_desc=f"crop=w={width}:h={height}:x={left}:y={top}:exact=1,{scale}"
            )
            for data, (top, left, height, width) in zip(
                store.read(plan.frame_ids), plan.boxes.reshape(-1, 4).tolist(), strict=True
            )
        ]
        batch_NHWC: torch.Tensor = spdl.io.to_torch(spdl.io.convert_frames(frames))
        return batch_NHWC.unflatten(0, plan.frame_ids.shape).movedim(-1, -3)

    pipeline = (
        PipelineBuilder()
        .add_source(plans)
        .pipe(decode, concurrency=threads, output_order="input")
        .add_sink(2)
        .build(num_threads=threads, max_failures=0)
    )
    with pipeline.auto_stop():
        for batch in pipeline.get_iterator():
            yield batch.to(device, non_blocking=True)
