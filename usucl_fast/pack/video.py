"""An opened source of any kind: its pictures, their times, and what a DICOM file's header says."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import av
import numpy as np
from av.video.reformatter import ColorRange
from numpy.typing import NDArray

from usucl_fast.errors import DecodeError
from usucl_fast.pack.sector import Box

MOST_PIXELS = 1 << 26  # of a picture: a damaged header must not ask for all the memory there is


@dataclass(frozen=True)
class Header:
    """What packing needs of a DICOM file's header; none of it is written unchanged.

    patient: PatientID.
    frame_rate: mean frames per second; 0 where it is not said.
    burned_in: whether it says that text is burned into its pictures.
    regions: boxes (left, top, right, bottom) of the 2-D images in its pictures, in pixels.
    """

    patient: str
    frame_rate: float
    burned_in: bool
    regions: tuple[Box, ...]


def frame_of(pixels: NDArray[Any], format: str = "rgb24") -> av.VideoFrame:
    """Makes a picture of full range from pixels in `format`."""
    frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels, np.uint8), format=format)
    frame.color_range = ColorRange.JPEG
    return frame


class Kept(NamedTuple):
    """A picture that is packed.

    time: in seconds from the video's first picture.
    number: of the picture in its source, from 0.
    """

    picture: av.VideoFrame
    time: float
    number: int


@dataclass(frozen=True)
class Video:
    """An opened source.

    pictures: every picture with its time in seconds from the first. Times of a frame folder are the numbers in its
        file names, or else the positions of the files.
    frame_rate: mean frames per second; 0 where the source does not say.
    header: what a DICOM file says of itself.
    notes: what was guessed or converted, for a person to read, once all pictures have passed.
    left_out: numbers of pictures that are damaged, and not to be packed; each is in it once it comes.

    Iterating over `pictures` raises DecodeError where the source stops decoding before its end.
    """

    pictures: Iterator[tuple[av.VideoFrame, float]]
    frame_rate: float
    header: Header | None = None
    notes: list[str] = field(default_factory=list)
    left_out: set[int] = field(default_factory=set)


def thin(video: Video, every: int, fps: float) -> Iterator[Kept]:
    """The pictures to keep: one of `every`, or, unless `fps` is 0, at most `fps` a second; none that is left out.

    Raises:
        DecodeError: `fps` is asked of a source without times.
    """
    if fps and not video.frame_rate:
        raise DecodeError("has no frame rate, which --fps needs; use --every instead")
    due = 0.0
    for number, (picture, time) in enumerate(video.pictures):
        if number in video.left_out:
            continue
        if fps:
            if time < due - 1e-6:
                continue
            # Of the grid of times, so that the rate holds on average.
            due = (math.floor(time * fps + 1e-6) + 1) / fps
        elif number % every:
            continue
        yield Kept(picture, time, number)
