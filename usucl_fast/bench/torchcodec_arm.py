"""Frames decoded straight from the videos by torchcodec, as its documentation says: exact seeking, in threads.

The decoders are opened before the clock starts, and stay open. Frames are resized and cropped by torchvision.
"""

from collections import deque
from collections.abc import Generator, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from threading import Lock

import torch
import torchcodec
from torchcodec.decoders import VideoDecoder
from torchvision import transforms
from torchvision.transforms.functional import rgb_to_grayscale

from usucl_fast.errors import UsageError, first_line
from usucl_fast.feed import BatchPlan
from usucl_fast.feed.batch import PREFETCH
from usucl_fast.pack.kinds import Source
from usucl_fast.shards import FrameTable

if torchcodec.ffmpeg_major_version is None:  # it reports that only when a video is opened
    raise ImportError("FFmpeg's shared libraries are missing, or of no version that it knows")


def open_decoders(table: FrameTable, sources: dict[str, Source]) -> list[VideoDecoder]:
    """A decoder for each video of the table.

    Raises:
        UsageError: torchcodec cannot seek in one, or it is not a video file.
    """
    decoders = []
    for video in table.videos:
        source = sources[video.name]
        if source.kind != "container":
            raise UsageError(f"the arm torchcodec only reads video files, not {video.name!r}; leave the arm out")
        try:
            decoder = VideoDecoder(source.files[0])
            decoder.get_frames_at([video.frames - 1, 0])  # in some containers it finds the last ones only in passing
        except (RuntimeError, IndexError, ValueError) as error:
            raise UsageError(
                f"torchcodec cannot seek {video.name!r} ({first_line(error)}); leave the arm out"
            ) from error
        decoders.append(decoder)
    return decoders


def torchcodec_batches(
    decoders: Sequence[VideoDecoder],
    table: FrameTable,
    plans: Iterable[BatchPlan],
    *,
    size: int,
    channels: int,
    threads: int,
    device: torch.device,
) -> Generator[torch.Tensor, None, None]:
    """Yields a batch a plan, uint8 `[B, V, channels, size, size]`, cropped at random along the long side."""
    resize, crop = transforms.Resize(size), transforms.RandomCrop(size)
    locks = [Lock() for _ in decoders]

    def load(frame_ids: list[int]) -> torch.Tensor:
        video = int(table.rows[frame_ids[0]]["video"])
        with locks[video]:
            frames = decoders[video].get_frames_at([frame_id - int(table.first_row[video]) for frame_id in frame_ids])
        crops = torch.stack([crop(frame) for frame in resize(frames.data)])
        return crops if channels == 3 else rgb_to_grayscale(crops)

    def finish(jobs: list[Future[torch.Tensor]]) -> torch.Tensor:
        return torch.stack([job.result() for job in jobs]).to(device, non_blocking=True)

    ahead: deque[list[Future[torch.Tensor]]] = deque()
    with ThreadPoolExecutor(threads) as pool:
        for plan in plans:
            ahead.append([pool.submit(load, frame_ids) for frame_ids in plan.frame_ids.tolist()])
            if len(ahead) > PREFETCH:
                yield finish(ahead.popleft())
        yield from map(finish, ahead)
