"""A folder of images -> its pictures, numbered by the names of the files."""

import contextlib
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
from PIL import Image

from usucl_fast.errors import DecodeError
from usucl_fast.pack.container import pictures_of
from usucl_fast.pack.damage import WAY_OUT
from usucl_fast.pack.depth import Depth
from usucl_fast.pack.upright import Upright
from usucl_fast.pack.video import MOST_PIXELS, Video

ORIENTATION = 0x112
"""EXIF's tag."""
STACKS = frozenset((".png", ".tif", ".tiff", ".webp"))
"""Files that may hold several pictures, of which FFmpeg reads the first, or, of an animated WebP, none."""
ANIMATED = 2
"""A flag in the header of a WebP file."""


def open_images(files: tuple[Path, ...], damaged: str = "refuse") -> Video:
    """Opens a folder of images: one picture a file, or all that it holds.

    The times of pictures are the numbers in the files' names, or else their positions.

    damaged: what to do about damaged images: `refuse`, `drop` or `warn`.
    """
    upright = Upright()
    video = Video(iter(()), 0.0, notes=upright.notes)
    return replace(video, pictures=_images(files, upright, damaged, video.left_out))


def _images(
    files: tuple[Path, ...], upright: Upright, damaged: str, left_out: set[int]
) -> Iterator[tuple[av.VideoFrame, float]]:
    depth = Depth(lambda: _all_pages(files), upright.notes)
    number = extra = 0
    lost: list[float] = []  # the next picture stands in their places
    for place, (file, time) in enumerate(zip(files, _numbers(files), strict=True), 1):
        called = f"image {place} of {len(files)}"  # its name may be a patient's
        try:
            orientation = _orientation(file)
            for page, picture in enumerate(_pages(file, damaged, upright.notes, called)):
                extra += page > 0
                shown = upright(depth(picture), orientation)
                for at in (*lost, float(time + extra)):
                    yield shown, at
                    number += 1
                lost = []
        except DecodeError as error:
            if damaged == "refuse":
                way_out = "" if str(error).endswith(WAY_OUT) else f"; {WAY_OUT}"
                raise DecodeError(f"{called} {error}{way_out}") from error
            upright.notes.append(f"{called}, left out, {error}")
            left_out.add(number + len(lost))
            lost.append(float(time + extra))


def _all_pages(files: tuple[Path, ...]) -> Iterator[av.VideoFrame]:
    for file in files:
        with contextlib.suppress(DecodeError):  # comes to light in its turn
            yield from _pages(file)


def _pages(
    file: Path, damaged: str = "refuse", notes: list[str] | None = None, called: str = ""
) -> Iterator[av.VideoFrame]:
    """The pictures in an image file: the first, which FFmpeg reads, and the others of a stack or an animation."""
    if _is_animation(file):
        yield from _stack(file, 0)
        return
    try:
        yield next(pictures_of(file))
    except DecodeError as error:
        if damaged != "warn":
            raise
        yield next(pictures_of(file, "warn"))
        if notes is not None:
            notes.append(f"{called} {error}")
    if file.suffix.lower() in STACKS:
        yield from _stack(file, 1)


def _is_animation(file: Path) -> bool:
    with contextlib.suppress(OSError), file.open("rb") as opened:
        head = opened.read(21)
        return head[8:16] == b"WEBPVP8X" and bool(head[20] & ANIMATED)
    return False


def _stack(file: Path, first: int) -> Iterator[av.VideoFrame]:
    """The pictures in a file from number `first` on, as Pillow reads them."""
    try:
        with Image.open(file) as stack:
            for page in range(first, getattr(stack, "n_frames", 1)):
                stack.seek(page)
                if stack.width * stack.height > MOST_PIXELS:
                    raise DecodeError("is larger than any picture of a machine")
                if stack.mode.startswith("I;16"):
                    yield av.VideoFrame.from_ndarray(np.asarray(stack).astype("<u2"), format="gray16le")
                else:
                    mode = "RGBA" if stack.has_transparency_data else "RGB"
                    kind = "rgba" if mode == "RGBA" else "rgb24"
                    yield av.VideoFrame.from_ndarray(np.asarray(stack.convert(mode)), format=kind)
    except DecodeError:
        raise
    except Exception as error:  # Pillow raises whatever its readers of formats raise
        raise DecodeError(f"has a page that does not decode ({type(error).__name__})") from error


def _orientation(file: Path) -> int:
    """How EXIF says the picture is to be turned."""
    try:
        with Image.open(file) as image:
            return int(image.getexif().get(ORIENTATION, 1))
    except Exception:  # Pillow does not know the kind, or raises whatever its reader of it raises
        return 1


def _numbers(files: tuple[Path, ...]) -> list[int]:
    """The numbers that the file names end in, counted from the first, so that gaps stay gaps."""
    found = [re.fullmatch(r"(.*?)(\d{1,9})", file.stem, re.ASCII) for file in files]
    names = [(match[1], int(match[2])) for match in found if match]
    numbers = [number for _, number in names]
    if len(names) < len(files) or len({name for name, _ in names}) > 1 or sorted(set(numbers)) != numbers:
        return list(range(len(files)))
    return [number - numbers[0] for number in numbers]
