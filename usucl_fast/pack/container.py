"""A video file -> its pictures, decoded by FFmpeg."""

import io
import logging
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import av

from usucl_fast.errors import DecodeError
from usucl_fast.pack.damage import CUT, FAILURES, Decoded, is_cut, reason_of
from usucl_fast.pack.depth import Depth
from usucl_fast.pack.upright import Upright
from usucl_fast.pack.video import MOST_PIXELS, Video

# FFmpeg's own messages go nowhere: what matters of them comes back as an exception.
logging.getLogger("libav").setLevel(logging.CRITICAL)

# Texts in a file that are not UTF-8 do no harm. PyAV before version 19 has to be told so.
LENIENT: dict[str, Any] = {} if int(av.__version__.partition(".")[0]) >= 19 else {"metadata_errors": "ignore"}


def open_container(file: Path, damaged: str = "refuse") -> Video:
    """Opens a video file of any kind that FFmpeg knows.

    damaged: what to do about damaged pictures: `refuse`, `drop` or `warn`.

    Raises:
        DecodeError: it cannot be opened.
    """
    return _video(file, damaged)


def open_stream(data: bytes, damaged: str = "refuse") -> Video:
    """Opens a video file that is in memory, as `open_container` does.

    Raises:
        DecodeError: it cannot be opened.
    """
    return _video(io.BytesIO(data), damaged)


def pictures_of(file: Path, damaged: str = "refuse") -> Iterator[av.VideoFrame]:
    """The pictures in a file, without times.

    Raises:
        DecodeError: it does not open, or not decode to its end.
    """
    return (picture for picture, _ in _decoded(file, damaged, [])[0])


def _video(file: Path | io.BytesIO, damaged: str) -> Video:
    notes: list[str] = []
    decoded, stream = _decoded(file, damaged, notes)
    rate = float(stream.average_rate or 0)
    upright = Upright(float(stream.sample_aspect_ratio or 1), notes)
    depth = Depth(lambda: (picture for picture, _ in _decoded(file, "warn", [])[0]), notes)
    timed = _timed(decoded, 1 / (rate or 1.0), notes)
    pictures = upright.each((depth(picture), time) for picture, time in timed)
    return Video(pictures, rate, notes=notes, left_out=decoded.left_out)


def _timed(
    pictures: Iterable[tuple[av.VideoFrame, float | None]], step: float, notes: list[str]
) -> Iterator[tuple[av.VideoFrame, float]]:
    """The pictures with their seconds from the first; where the clock restarts, the times continue."""
    shift, last = None, 0.0
    for picture, at in pictures:
        time = last + step if at is None else at
        if shift is None:
            shift, last = -time, 0.0
        elif time + shift < last:
            notes.append(f"has times that go back at {last:.3f} s; from there on they are counted on")
            shift = last + step - time
        last = time + shift
        yield picture, last


def _best(container: av.container.InputContainer) -> av.VideoStream:
    """The stream that a player shows, not a cover picture or thumbnail."""
    stream = container.streams.best("video")
    assert isinstance(stream, av.VideoStream)
    return stream


def _decoded(file: Path | io.BytesIO, damaged: str, notes: list[str]) -> tuple[Decoded, av.VideoStream]:
    try:
        with av.logging.Capture() as lines:
            # A colon in a bare name would be a protocol's.
            container = av.open(str(file.absolute()) if isinstance(file, Path) else file, **LENIENT)
        cut = any(line.startswith(CUT) for _, _, line in lines) or (isinstance(file, Path) and is_cut(file))
    except FAILURES as error:
        raise DecodeError(f"does not open: {reason_of(error)}") from error
    streams = container.streams.video
    if not streams or not any(stream.codec_context for stream in streams):
        container.close()
        raise DecodeError("is of a codec that this FFmpeg does not know" if streams else "holds no video stream")
    stream = _best(container)
    # Videos are decoded side by side; threads within one would only contend.
    stream.codec_context.thread_count = 1
    stream.codec_context.options = {"max_pixels": str(MOST_PIXELS)}
    return Decoded(container, stream, damaged, cut, notes), stream
