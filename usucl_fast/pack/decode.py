"""One video -> its pictures and their times, through FFmpeg."""

import logging
from collections.abc import Iterator
from pathlib import Path

import av

from usucl_fast.errors import DecodeError
from usucl_fast.pack.sources import IMAGES

# FFmpeg's own messages go nowhere: what matters of them comes back as an exception.
logging.getLogger("libav").setLevel(logging.CRITICAL)


def decode(files: tuple[Path, ...]) -> Iterator[tuple[av.VideoFrame, float]]:
    """Yields every picture of a video file, or of a folder's images, with its time.

    The time is in seconds from the first picture; a picture without a time stamp, and one of a frame folder,
    takes its number for it (frames, not seconds: the source does not say more).

    Raises:
        DecodeError: the file cannot be opened, holds no video, or stops decoding before its end.
    """
    if len(files) > 1 or _is_image(files[0]):
        for number, file in enumerate(files):
            for picture in _pictures(file):
                yield picture, float(number)
        return
    start = None
    for number, picture in enumerate(_pictures(files[0])):
        time = float(number) if picture.time is None else picture.time
        start = time if start is None else start
        yield picture, time - start


def frame_rate(files: tuple[Path, ...]) -> float:
    """Mean frames per second as the container states it; 0 where it does not."""
    if len(files) > 1 or _is_image(files[0]):
        return 0.0
    with av.open(str(files[0])) as container:
        return float(container.streams.video[0].average_rate or 0)


def _is_image(file: Path) -> bool:
    return file.suffix.lower() in IMAGES


def _pictures(file: Path) -> Iterator[av.VideoFrame]:
    number = 0
    try:
        with av.open(str(file)) as container:
            if not container.streams.video:
                raise DecodeError("holds no video stream")
            stream = container.streams.video[0]
            # Videos are decoded side by side; threads within one would only contend.
            stream.codec_context.thread_count = 1
            for picture in container.decode(stream):
                yield picture
                number += 1
    except (av.FFmpegError, OSError, ValueError) as error:
        # Without the path that FFmpeg adds: reasons go into the manifest.
        reason = getattr(error, "strerror", None) or type(error).__name__
        raise DecodeError(
            f"stops decoding at frame {number}: {reason}" if number else f"does not decode: {reason}"
        ) from error
    if number == 0:
        raise DecodeError("holds no frame")
