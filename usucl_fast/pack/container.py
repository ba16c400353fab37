"""A video file -> its pictures, by FFmpeg."""

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av

from usucl_fast.errors import DecodeError
from usucl_fast.pack.video import MOST_PIXELS, Video

# FFmpeg's own messages go nowhere: what matters of them comes back as an exception.
logging.getLogger("libav").setLevel(logging.CRITICAL)

# Texts in a file that are no UTF-8 do no harm. PyAV knows that since its version 19, and has to be told before.
LENIENT: dict[str, Any] = {} if int(av.__version__.partition(".")[0]) >= 19 else {"metadata_errors": "ignore"}


def open_container(file: Path) -> Video:
    """Opens a video file of any kind that FFmpeg knows.

    Raises:
        DecodeError: it cannot be opened.
    """
    container = _open(file)
    rate = float(container.streams.video[0].average_rate or 0)
    return Video(_timed(_decode(container), 1 / (rate or 1.0)), rate)


def pictures_of(file: Path) -> Iterator[av.VideoFrame]:
    """The pictures in a file, without times.

    Raises:
        DecodeError: it does not open, or not decode to its end.
    """
    return _decode(_open(file))


def _timed(pictures: Iterator[av.VideoFrame], step: float) -> Iterator[tuple[av.VideoFrame, float]]:
    start = last = None
    for picture in pictures:
        time = picture.time
        if time is None:
            time = 0.0 if last is None else last + step
        start = time if start is None else start
        last = time
        yield picture, time - start


def _open(file: Path) -> av.container.InputContainer:
    try:
        container = av.open(str(file.absolute()), **LENIENT)  # a colon in a bare name would be a protocol's
    except (av.FFmpegError, OSError, ValueError) as error:
        raise DecodeError(f"does not open: {_reason(error)}") from error
    streams = container.streams.video
    if not streams or streams[0].codec_context is None:
        container.close()
        raise DecodeError("is of a codec that this FFmpeg does not know" if streams else "holds no video stream")
    return container


def _decode(container: av.container.InputContainer) -> Iterator[av.VideoFrame]:
    number = 0
    with container:
        stream = container.streams.video[0]
        # Videos are decoded side by side; threads within one would only contend.
        stream.codec_context.thread_count = 1
        stream.codec_context.options = {"max_pixels": str(MOST_PIXELS)}
        try:
            for picture in container.decode(stream):
                yield picture
                number += 1
        except (av.FFmpegError, OSError, ValueError) as error:
            where = f"stops decoding at frame {number}" if number else "does not decode"
            raise DecodeError(f"{where}: {_reason(error)}") from error
    if number == 0:
        raise DecodeError("holds no frame")


def _reason(error: Exception) -> str:
    """Without the path that FFmpeg adds: reasons go into the manifest."""
    return getattr(error, "strerror", None) or type(error).__name__
