"""Turns a decoded picture into what is meant to be seen: upright, with square pixels, opaque, all of one size."""

import functools
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import av
import numpy as np
from av.sidedata.sidedata import Type
from av.video.reformatter import VideoReformatter
from numpy.typing import NDArray

from usucl_fast.pack.video import frame_of

MOST_STRETCH = 4.0
"""Pixels that are more oblong than so are a mistake of the file's."""

TURNS: dict[int, Callable[[NDArray[Any]], NDArray[Any]]] = {
    2: np.fliplr,
    3: lambda array: np.rot90(array, 2),
    4: np.flipud,
    5: lambda array: np.rot90(np.fliplr(array)),
    6: lambda array: np.rot90(array, 3),
    7: lambda array: np.rot90(np.fliplr(array), 3),
    8: np.rot90,
}
"""By EXIF's number of an orientation: what turns the stored array `[h, w, ...]` upright."""
OF_MATRIX = {
    (-1, 0, 0, 1): 2,
    (-1, 0, 0, -1): 3,
    (1, 0, 0, -1): 4,
    (0, 1, 1, 0): 5,
    (0, 1, -1, 0): 6,
    (0, -1, -1, 0): 7,
    (0, -1, 1, 0): 8,
}
"""EXIF's number by a video's display matrix: signs of a, b, c, d; (x, y) is shown at (a x + c y, b x + d y)."""


OF_ROTATION = {90: 8, 180: 3, 270: 6}
"""EXIF's number by degrees, counter-clockwise."""


def _orientation(picture: av.VideoFrame) -> int:
    """EXIF's number for what the display matrix of a video says."""
    try:
        beside: Any = picture.side_data  # PyAV's own types know other keys
        matrix = beside.get(Type.DISPLAYMATRIX)
    except ValueError:  # where there is data of a kind that PyAV does not know, it gives the angle alone
        return OF_ROTATION.get(picture.rotation % 360, 1)
    if matrix is None:
        return 1
    a, b, _, c, d, *_ = np.sign(np.frombuffer(matrix, np.int32)).tolist()
    return OF_MATRIX.get((a, b, c, d), 1)


@functools.cache
def _may_be_transparent(format: str) -> bool:
    found = av.VideoFormat(format)
    return found.has_palette or any(component.is_alpha for component in found.components)


class Upright:
    """Converts pictures to what is meant to be seen, and records what was done for that.

    Most pictures are passed on untouched.

    aspect: width of a pixel by its height.
    notes: gets what was done, for a person to read, once all have passed.
    """

    def __init__(self, aspect: float = 1.0, notes: list[str] | None = None) -> None:
        # What is further off is a mistake of the file's; what is nearer, rounding.
        is_sane = 1 / MOST_STRETCH <= aspect <= MOST_STRETCH and abs(aspect - 1) > 0.005
        self._aspect = aspect if is_sane else 1.0
        self._size: tuple[int, int] | None = None
        self._scaler = VideoReformatter()  # one for all pictures: a new one is thrice the work
        self.notes: list[str] = [] if notes is None else notes

    def each(self, pictures: Iterable[tuple[av.VideoFrame, float]]) -> Iterator[tuple[av.VideoFrame, float]]:
        """The pictures with their times."""
        for picture, time in pictures:
            yield self(picture), time

    def __call__(self, picture: av.VideoFrame, orientation: int = 1) -> av.VideoFrame:
        """One picture.

        orientation: EXIF's number; where it is 1, what the picture says itself.
        """
        if _may_be_transparent(picture.format.name):
            picture = self._opaque(picture)
        turn = TURNS.get(orientation if orientation != 1 else _orientation(picture))
        if self._aspect != 1 or turn:
            picture = self._straight(picture, turn)
        size = picture.width, picture.height
        self._size = self._size or size
        return picture if size == self._size else self._fitted(picture, self._size)

    def _note(self, text: str) -> None:
        if text not in self.notes:
            self.notes.append(text)

    def _opaque(self, picture: av.VideoFrame) -> av.VideoFrame:
        pixels = picture.to_ndarray(format="rgba")
        if not (pixels[..., 3] == 255).all():
            self._note("has transparent parts, which lie over black now")
            pixels[..., :3] = (pixels[..., :3].astype(np.uint16) * pixels[..., 3:] + 127) // 255
        return frame_of(pixels[..., :3])

    def _straight(self, picture: av.VideoFrame, turn: Callable[[NDArray[Any]], NDArray[Any]] | None) -> av.VideoFrame:
        aspect = self._aspect
        if aspect != 1:
            width = round(picture.width * max(aspect, 1))
            height = round(picture.height / min(aspect, 1))
            self._note(f"has pixels {aspect:.4g} times as wide as high, and was stretched to {width} x {height}")
            picture = self._scaler.reformat(picture, width, height, threads=1)
        if turn:
            self._note("was turned as it says that it is to be seen")
            picture = frame_of(turn(picture.to_ndarray(format="rgb24")))
        return picture

    def _fitted(self, picture: av.VideoFrame, size: tuple[int, int]) -> av.VideoFrame:
        """Scales a picture to fit the size of the first one, with black around it."""
        self._note("has pictures of several sizes, which were fitted into the first one's, their shape kept")
        scale = min(size[0] / picture.width, size[1] / picture.height)
        width, height = max(1, round(picture.width * scale)), max(1, round(picture.height * scale))
        canvas = np.zeros((size[1], size[0], 3), np.uint8)
        left, top = (size[0] - width) // 2, (size[1] - height) // 2
        canvas[top : top + height, left : left + width] = picture.to_ndarray(format="rgb24", width=width, height=height)
        return frame_of(canvas)
