"""A folder of images -> its pictures, numbered by the names of the files."""

import re
from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np
from PIL import Image

from usucl_fast.errors import DecodeError
from usucl_fast.pack.container import pictures_of
from usucl_fast.pack.upright import Upright
from usucl_fast.pack.video import MOST_PIXELS, Video

ORIENTATION = 0x112
"""EXIF's tag."""
STACKS = frozenset((".tif", ".tiff"))
"""Files that may hold several pictures, of which FFmpeg reads the first."""


def open_images(files: tuple[Path, ...]) -> Video:
    """One picture a file, or all pages of a TIFF stack; times are the numbers in the files' names, or else
    their positions."""
    upright = Upright()
    return Video(_images(files, upright), 0.0, notes=upright.notes)


def _images(files: tuple[Path, ...], upright: Upright) -> Iterator[tuple[av.VideoFrame, float]]:
    times, depth = _numbers(files), _Depth(files, upright.notes)
    extra = 0
    for number, (file, time) in enumerate(zip(files, times, strict=True)):
        try:
            for page, picture in enumerate(_pages(file)):
                extra += page > 0
                yield depth(upright(picture, _orientation(file))), float(time + extra)
        except DecodeError as error:
            raise DecodeError(f"image {number + 1} of {len(files)} {error}") from error


def _pages(file: Path) -> Iterator[av.VideoFrame]:
    """The pictures in an image file: the first, which FFmpeg reads, and the other pages of a TIFF stack."""
    yield next(pictures_of(file))
    if file.suffix.lower() not in STACKS:
        return
    try:
        with Image.open(file) as stack:
            for page in range(1, getattr(stack, "n_frames", 1)):
                stack.seek(page)
                if stack.width * stack.height > MOST_PIXELS:
                    raise DecodeError("is larger than any picture of a machine")
                if stack.mode.startswith("I;16"):
                    yield av.VideoFrame.from_ndarray(np.asarray(stack).astype("<u2"), format="gray16le")
                else:
                    yield av.VideoFrame.from_ndarray(np.asarray(stack.convert("RGB")), format="rgb24")
    except (OSError, ValueError, SyntaxError) as error:
        raise DecodeError(f"has a page that does not decode ({type(error).__name__})") from error


def _orientation(file: Path) -> int:
    """How the picture is to be turned, by EXIF's number."""
    try:
        with Image.open(file) as image:
            return int(image.getexif().get(ORIENTATION, 1))
    except (OSError, ValueError, SyntaxError):  # of a kind that Pillow does not know
        return 1


class _Depth:
    """Grey pictures of 16 bits, of which a camera fills some: levels in proportion, the same for all of a folder."""

    def __init__(self, files: tuple[Path, ...], notes: list[str]) -> None:
        self._files, self._notes, self._bits = files, notes, 0

    def __call__(self, picture: av.VideoFrame) -> av.VideoFrame:
        if not picture.format.name.startswith("gray16"):
            return picture
        if not self._bits:
            most = max(int(_grey16(page).max()) for file in self._files for page in _pages(file))
            self._bits = max(8, most.bit_length())
            if self._bits < 16:
                self._notes.append(f"has grey levels of {self._bits} bits in 16, which were taken for the whole range")
        levels = _grey16(picture) >> (self._bits - 8)
        return av.VideoFrame.from_ndarray(np.minimum(levels, 255).astype(np.uint8), format="gray")


def _grey16(picture: av.VideoFrame) -> np.ndarray:
    return picture.to_ndarray(format="gray16le") if picture.format.name.startswith("gray16") else np.zeros(1, np.uint16)


def _numbers(files: tuple[Path, ...]) -> list[int]:
    """The numbers that the file names end in, counted from the first, so that gaps stay gaps."""
    found = [re.fullmatch(r"(.*?)(\d{1,9})", file.stem, re.ASCII) for file in files]
    names = [(match[1], int(match[2])) for match in found if match]
    numbers = [number for _, number in names]
    if len(names) < len(files) or len({name for name, _ in names}) > 1 or sorted(set(numbers)) != numbers:
        return list(range(len(files)))
    return [number - numbers[0] for number in numbers]
