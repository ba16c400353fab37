"""A folder of images -> its pictures, numbered by the names of the files."""

import re
from collections.abc import Iterator
from pathlib import Path

import av

from usucl_fast.errors import DecodeError
from usucl_fast.pack.container import pictures_of
from usucl_fast.pack.video import Video


def open_images(files: tuple[Path, ...]) -> Video:
    """One picture a file; their times are the numbers in their names, or else their positions."""
    return Video(_images(files), 0.0)


def _images(files: tuple[Path, ...]) -> Iterator[tuple[av.VideoFrame, float]]:
    for number, (file, time) in enumerate(zip(files, _numbers(files), strict=True)):
        try:
            # An image file may hold several pictures (a TIFF, an animated WebP): the first is the frame.
            yield next(pictures_of(file)), float(time)
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
