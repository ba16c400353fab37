"""One source -> its pictures and their times, whatever kind it is of."""

import logging
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av

from usucl_fast.errors import DecodeError
from usucl_fast.pack.sector import Box
from usucl_fast.pack.sources import Source

# FFmpeg's own messages go nowhere: what matters of them comes back as an exception.
logging.getLogger("libav").setLevel(logging.CRITICAL)

# Texts in a file that are no UTF-8 do no harm. PyAV knows that since its version 19, and has to be told before.
LENIENT: dict[str, Any] = {} if int(av.__version__.partition(".")[0]) >= 19 else {"metadata_errors": "ignore"}
MOST_PIXELS = 1 << 26  # of a picture: a damaged header must not ask for all the memory there is


@dataclass(frozen=True)
class Header:
    """What a DICOM file says of itself, as far as packing needs it; nothing of it is written as it is.

    patient: PatientID.
    frame_rate: mean frames per second; 0 where it is not said.
    ultrasound: whether it is an ultrasound image at all.
    burned_in: whether it says that text is burned into its pictures.
    regions: boxes (left, top, right, bottom) of the 2-D images in its pictures, in pixels.
    """

    patient: str
    frame_rate: float
    ultrasound: bool
    burned_in: bool
    regions: tuple[Box, ...]


@dataclass(frozen=True)
class Video:
    """An opened source.

    pictures: every picture with its time in seconds from the first. Times of a frame folder are the numbers in its
        file names, or else the positions of the files.
    frame_rate: mean frames per second; 0 where the source does not say.
    header: what a DICOM file says of itself.

    Iterating over `pictures` raises DecodeError where the source stops decoding before its end.
    """

    pictures: Iterator[tuple[av.VideoFrame, float]]
    frame_rate: float
    header: Header | None = None


def open_video(source: Source) -> Video:
    """Opens a source.

    Raises:
        DecodeError: it cannot be opened.
    """
    if source.kind == "dicom":
        from usucl_fast.pack import dicom  # pydicom takes long to import, and most sources are none

        header = dicom.read_header(source.files[0])
        return Video(dicom.decode(source.files[0]), header.frame_rate, header)
    if source.kind == "images":
        return Video(_images(source.files), 0.0)
    container = _open(source.files[0])
    rate = float(container.streams.video[0].average_rate or 0)
    return Video(_timed(_decode(container), 1 / (rate or 1.0)), rate)


def _timed(pictures: Iterator[av.VideoFrame], step: float) -> Iterator[tuple[av.VideoFrame, float]]:
    start = last = None
    for picture in pictures:
        time = picture.time
        if time is None:
            time = 0.0 if last is None else last + step
        start = time if start is None else start
        last = time
        yield picture, time - start


def _images(files: tuple[Path, ...]) -> Iterator[tuple[av.VideoFrame, float]]:
    for number, (file, time) in enumerate(zip(files, _numbers(files), strict=True)):
        try:
            # An image file may hold several pictures (a TIFF, an animated WebP): the first is the frame.
            yield next(_decode(_open(file))), float(time)
        except DecodeError as error:
            raise DecodeError(f"image {number + 1} of {len(files)} {error}") from error


def _numbers(files: tuple[Path, ...]) -> list[int]:
    """The numbers that the file names end in, counted from the first, so that gaps stay gaps."""
    found = [re.fullmatch(r"(.*?)(\d{1,9})", file.stem, re.ASCII) for file in files]
    names = [(match[1], int(match[2])) for match in found if match]
    numbers = [number for _, number in names]
    if len(names) < len(files) or len({name for name, _ in names}) > 1 or sorted(set(numbers)) != numbers:
        return list(range(len(files)))
    return [number - numbers[0] for number in numbers]


def _open(file: Path) -> av.container.InputContainer:
    try:
        container = av.open(str(file), **LENIENT)
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


def thin(video: Video, every: int, fps: float) -> Iterator[tuple[av.VideoFrame, float]]:
    """The pictures that are kept: of `every` so many one, or, where `fps` is not 0, so many a second.

    Raises:
        DecodeError: `fps` is asked of a source without times.
    """
    if fps and not video.frame_rate:
        raise DecodeError("says nothing of its frame rate, which --fps needs; use --every for it")
    due = 0.0
    for number, (picture, time) in enumerate(video.pictures):
        if fps:
            if time < due - 1e-6:
                continue
            # Of the grid of times, so that the rate holds on average.
            due = (math.floor(time * fps + 1e-6) + 1) / fps
        elif number % every:
            continue
        yield picture, time
