"""The ultrasound sector: the part of a picture with the live image, without names, dates, logos and rulers."""

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

Box = tuple[int, int, int, int]  # left, top, right, bottom in pixels; right and bottom are not part of it
Polygon = tuple[tuple[int, int], ...]  # x, y of the corners in pixels from the picture's upper left corner

GRID = 256  # cells along the longer side: so fine are sectors compared
MOTION, REGIONS, FILE, NOTHING = "moves", "DICOM regions", "file", "nothing moves: kept whole"  # how one is found
SIMILAR = 0.9  # intersection over union of two sectors at least


@dataclass(frozen=True)
class Sector:
    """The part of a picture that is kept: what lies in one of the `polygons`.

    picture: width and height in pixels.
    """

    picture: tuple[int, int]
    polygons: tuple[Polygon, ...]

    @staticmethod
    def of_boxes(picture: tuple[int, int], boxes: Sequence[Box]) -> "Sector":
        """A sector of `boxes`; the whole picture if there are none."""
        corners = boxes or [(0, 0, *picture)]
        return Sector(picture, tuple(((x0, y0), (x1, y0), (x1, y1), (x0, y1)) for x0, y0, x1, y1 in corners))

    @functools.cached_property
    def box(self) -> Box:
        """The smallest box around it."""
        x, y = zip(*(corner for polygon in self.polygons for corner in polygon), strict=True)
        return min(x), min(y), max(x), max(y)

    def draw(self, height: int, width: int, box: Box | None = None) -> NDArray[np.bool_]:
        """`[height, width]`: which pixels lie in it once the picture is cropped to `box`, if any, and resized."""
        left, top, right, bottom = box or (0, 0, *self.picture)
        fine = 4  # Pillow rounds corners to pixels and draws the outline as well
        across, down = fine * width / (right - left), fine * height / (bottom - top)
        image = Image.new("L", (fine * width, fine * height))
        for polygon in self.polygons:
            ImageDraw.Draw(image).polygon([((x - left) * across, (y - top) * down) for x, y in polygon], fill=1)
        return np.asarray(image)[fine // 2 :: fine, fine // 2 :: fine].astype(bool)

    def mask(self, height: int, width: int) -> NDArray[np.bool_]:
        """`[height, width]`: which pixels to keep once the picture is cropped to its box and resized.

        This is the sector without its rim, into which a scaling filter spreads what is outside.
        """
        left, top, right, bottom = self.box
        reach = math.ceil(max(1, width / (right - left), height / (bottom - top)))
        padded = np.pad(self.draw(height, width, self.box), reach, mode="edge")
        # Outside the box is outside the sector; but outside the picture is nothing that could be carried over.
        padded[:reach] &= top <= 0
        padded[-reach:] &= bottom >= self.picture[1]
        padded[:, :reach] &= left <= 0
        padded[:, -reach:] &= right >= self.picture[0]
        return ~dilate(~padded, np.ones((2 * reach + 1, 2 * reach + 1), bool))


def overlap(a: Sector, b: Sector) -> float:
    """Intersection over union of two sectors of a picture."""
    scale = GRID / max(a.picture)
    height, width = math.ceil(a.picture[1] * scale), math.ceil(a.picture[0] * scale)
    one, two = a.draw(height, width), b.draw(height, width)
    return float((one & two).sum() / max(1, (one | two).sum()))


def similar(a: Sector, b: Sector) -> bool:
    """Whether two sectors of a picture are nearly the same."""
    return overlap(a, b) >= SIMILAR


def dilate(region: NDArray[np.bool_], around: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Where any cell of `around`, `[2 * r + 1, 2 * r + 1]`, lies on `region`; smaller than it by r on each side."""
    height, width = region.shape[0] - len(around) + 1, region.shape[1] - len(around) + 1
    spread = np.zeros((height, width), bool)
    for y, x in np.argwhere(around).tolist():
        spread |= region[y : y + height, x : x + width]
    return spread
