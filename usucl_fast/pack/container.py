"""A video file -> its pictures, by FFmpeg."""

import io
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av

from usucl_fast.errors import DecodeError
from usucl_fast.pack.upright import Upright
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
    container = _open(str(file.absolute()))  # a colon in a bare name would be a protocol's
    return _video(container)


def open_stream(data: bytes) -> Video:
    """Opens a video file that is in memory.

    Raises:
        DecodeError: it cannot be opened.
    """
    return _video(_open(io.BytesIO(data)))


def pictures_of(file: Path) -> Iterator[av.VideoFrame]:
    """The pictures in a file, without times.

    Raises:
        DecodeError: it does not open, or not decode to its end.
    """
    return _decode(_open(str(file.absolute())))


def _video(container: av.container.InputContainer) -> Video:
    stream = _best(container)
    rate = float(stream.average_rate or 0)
    upright = Upright(float(stream.sample_aspect_ratio or 1))
    decoded = _told_of_damage(_decode(container), stream.frames, upright.notes)
    return Video(upright.each(_timed(decoded, 1 / (rate or 1.0), upright.notes)), rate, notes=upright.notes)


def _timed(pictures: Iterator[av.VideoFrame], step: float, notes: list[str]) -> Iterator[tuple[av.VideoFrame, float]]:
    """The pictures with their seconds from the first; where a clock starts again, it goes on from there."""
    shift, last = None, 0.0
    for picture in pictures:
        time = last + step if picture.time is None else picture.time
        if shift is None:
            shift, last = -time, 0.0
        elif time + shift < last:
            notes.append(f"has times that go back at {last:.3f} s; from there on they are counted on")
            shift = last + step - time
        last = time + shift
        yield picture, last


def _told_of_damage(pictures: Iterator[av.VideoFrame], expected: int, notes: list[str]) -> Iterator[av.VideoFrame]:
    """The pictures; in the end it is noted how many FFmpeg calls damaged, or that many are missing."""
    count = damaged = 0
    for picture in pictures:
        count += 1
        damaged += picture.is_corrupt
        yield picture
    if damaged:
        notes.append(f"has {damaged} damaged pictures of {count}; look at them, or leave the video out")
    if count < 0.9 * expected:  # a few are left out on purpose, by an edit list
        notes.append(f"has {count} pictures, and its header says {expected}: its end is missing, or some are damaged")


def _best(container: av.container.InputContainer) -> av.VideoStream:
    """The stream that a player shows: no cover picture, no thumbnail."""
    stream = container.streams.best("video")
    assert isinstance(stream, av.VideoStream)
    return stream


def _open(file: str | io.BytesIO) -> av.container.InputContainer:
    try:
        container = av.open(file, **LENIENT)
    except (av.FFmpegError, OSError, ValueError) as error:
        raise DecodeError(f"does not open: {_reason(error)}") from error
    streams = container.streams.video
    if not streams or not any(stream.codec_context for stream in streams):
        container.close()
        raise DecodeError("is of a codec that this FFmpeg does not know" if streams else "holds no video stream")
    return container


def _decode(container: av.container.InputContainer) -> Iterator[av.VideoFrame]:
    number = 0
    with container:
        stream = _best(container)
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
