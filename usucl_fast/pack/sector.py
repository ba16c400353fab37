"""Where the live ultrasound image lies in a video: what is outside (names, dates, logos, rulers) is cut away.

Live image changes all over and all the time; what is burned in does not. So a sector is what moves, with what moves
faintly or is bright right beside it; what is small or thin (a clock, a pointer, an ECG trace) is no sector. Its outline
is the convex hull, bowed in at the top as deep as the image allows: that is where the face of a curved probe is.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from scipy import ndimage
from scipy.spatial import ConvexHull

Box = tuple[int, int, int, int]  # left, top, right, bottom in pixels; right and bottom are not part of it
Polygon = tuple[tuple[int, int], ...]  # x, y of the corners in pixels from the picture's upper left corner

CELLS = 256  # at most, along the longer side: so fine is a video looked at
EPOCH = 8  # frames that are looked at together
STIRS, MOVES = 2, 6  # grey levels from darkest to brightest in an epoch that are exceeded: by faint image, by no noise
EPOCHS_SHARE = 0.25  # in which a cell must change, and in two of them: in a cut or a fade all changes, but not for long
DENSITY = 0.3  # of the cells around a changing one that change too
BRIGHT = 4  # grey levels above the background
NEAR = 0.2  # of the longer side: how far from moving image still image may reach
THIN = 3  # cells: half of what a sector is at least across
SECOND = 0.3  # of the largest sector's size, for another one
LEAST, ALL = 0.05, 0.97  # of the picture: for there to be a sector, for the picture to be nothing else
BOW = 0.3  # how much the chord of a bow may slope
VERTICES, BOW_VERTICES = 40, 7
SIMILAR = 0.9  # intersection over union of two sectors at least


@dataclass(frozen=True)
class Sector:
    """What is kept of a picture: all that lies in one of the `polygons`.

    picture: width and height in pixels.
    """

    picture: tuple[int, int]
    polygons: tuple[Polygon, ...]

    @staticmethod
    def of_boxes(picture: tuple[int, int], boxes: Sequence[Box]) -> "Sector":
        """What lies in the `boxes`; the whole picture where there are none."""
        corners = boxes or [(0, 0, *picture)]
        return Sector(picture, tuple(((x0, y0), (x1, y0), (x1, y1), (x0, y1)) for x0, y0, x1, y1 in corners))

    @property
    def box(self) -> Box:
        """The smallest box around it."""
        x, y = zip(*(corner for polygon in self.polygons for corner in polygon), strict=True)
        return min(x), min(y), max(x), max(y)

    def draw(self, height: int, width: int, box: Box | None = None) -> NDArray[np.bool_]:
        """`[height, width]`: which pixels lie in it once the picture is cropped to `box`, if any, and resized."""
        left, top, right, bottom = box or (0, 0, *self.picture)
        fine = 4  # Pillow rounds corners to pixels and draws the outline as well
        across, down = fine * width / (right - left), fine * height / (bottom - top)
        image = Image.new("1", (fine * width, fine * height))
        for polygon in self.polygons:
            ImageDraw.Draw(image).polygon([((x - left) * across, (y - top) * down) for x, y in polygon], fill=1)
        return np.array(image)[fine // 2 :: fine, fine // 2 :: fine]

    def mask(self, height: int, width: int) -> NDArray[np.bool_]:
        """`[height, width]`: which pixels to keep once the picture is cropped to its box and resized.

        The sector but for its rim, as far as a bilinear filter carries over what is outside.
        """
        left, top, right, bottom = self.box
        reach = math.ceil(max(1, width / (right - left), height / (bottom - top)))
        padded = np.pad(self.draw(height, width, self.box), reach, mode="edge")
        # Outside the box is outside the sector; but outside the picture is nothing that could be carried over.
        padded[:reach] &= top <= 0
        padded[-reach:] &= bottom >= self.picture[1]
        padded[:, :reach] &= left <= 0
        padded[:, -reach:] &= right >= self.picture[0]
        around = np.ones((2 * reach + 1, 2 * reach + 1))
        return ndimage.binary_erosion(padded, around)[reach:-reach, reach:-reach]


def overlap(a: Sector, b: Sector) -> float:
    """Intersection over union of two sectors of a picture."""
    scale = CELLS / max(a.picture)
    height, width = math.ceil(a.picture[1] * scale), math.ceil(a.picture[0] * scale)
    one, two = a.draw(height, width), b.draw(height, width)
    return float((one & two).sum() / max(1, (one | two).sum()))


def similar(a: Sector, b: Sector) -> bool:
    """Whether two sectors of a picture are the same for all that matters."""
    return overlap(a, b) >= SIMILAR


class Motion:
    """What changes over time in a video, gathered frame by frame on a coarse grid of pixels."""

    def __init__(self, height: int, width: int, within: Sequence[Box] = ()) -> None:
        """`within`: the boxes of the picture that may hold live image; all of it where there are none."""
        self._height, self._width = height, width
        self._everything = Sector.of_boxes((width, height), within)
        self._step = math.ceil(max(height, width) / CELLS)
        shape = (math.ceil(height / self._step), math.ceil(width / self._step))
        self._cells, self._low, self._high = (np.empty(shape, np.uint8) for _ in range(3))
        self._stirred, self._moved = np.zeros(shape, np.uint16), np.zeros(shape, np.uint16)  # in how many epochs
        self._lows = np.zeros(shape, np.uint32)
        self._epochs = self._frames = 0  # that have ended; of the one that has not

    def add(self, luma: NDArray[np.uint8]) -> None:
        """Looks at a frame, uint8 `[height, width]`; one of another size is passed over."""
        if luma.shape != (self._height, self._width):
            return
        np.copyto(self._cells, luma[:: self._step, :: self._step])
        if self._frames == 0:
            self._low[...] = self._high[...] = self._cells
        else:
            np.minimum(self._low, self._cells, out=self._low)
            np.maximum(self._high, self._cells, out=self._high)
        self._frames += 1
        if self._frames == EPOCH:
            self._end_epoch()

    def _end_epoch(self) -> None:
        change = self._high - self._low
        self._stirred += change > STIRS
        self._moved += change > MOVES
        self._lows += self._low
        self._epochs += 1
        self._frames = 0

    def sector(self) -> Sector | None:
        """The sector as far as it has been seen; None where nothing moves as one would."""
        if self._frames > (EPOCH // 2 if self._epochs else 1):
            self._end_epoch()
        if self._epochs == 0:
            return None
        allowed = self._everything.draw(*self._moved.shape)
        often = max(min(2, self._epochs), EPOCHS_SHARE * self._epochs)
        moving = _dense(allowed & (self._moved >= often))
        if not moving.any():
            return None
        # Around what moves a codec leaves a thin seam that stirs; faint image is more than that.
        faint = _dense(allowed & (self._stirred >= often)) & ~moving
        moving |= _opened(faint, 1)
        parts = _parts(moving | _still(moving, allowed, self._lows // self._epochs))
        if not parts:
            return None
        sector = Sector(self._everything.picture, tuple(self._outline(part) for part in parts))
        share = (sector.draw(*allowed.shape) & allowed).sum() / allowed.sum()
        if share < LEAST:
            return None
        return self._everything if share > ALL else sector

    def _outline(self, part: NDArray[np.bool_]) -> Polygon:
        """Around every pixel that may be like the cells of `part`, bool `[rows, columns]`."""
        rows, columns = np.nonzero(part ^ ndimage.binary_erosion(part))
        # A cell is one pixel: the image may go on up to the next cells' pixels.
        reach = np.array([1 - self._step, self._step])
        x = self._step * columns[:, None] + reach[[0, 0, 1, 1]]
        y = self._step * rows[:, None] + reach[[0, 1, 0, 1]]
        left, top, right, bottom = self._everything.box
        points = np.stack([x.clip(left, right).ravel(), y.clip(top, bottom).ravel()], axis=1)
        hull = _simplify(points[ConvexHull(points).vertices])
        return tuple((int(x), int(y)) for x, y in _bow_in(hull, part, self._step))


def _dense(cells: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The cells among many others, and the small gaps between them."""
    around = ndimage.uniform_filter(cells.astype(np.float32), 2 * THIN + 1)
    padded = np.pad(cells & (around > DENSITY), 1, mode="edge")
    closed: NDArray[np.bool_] = ndimage.binary_closing(padded, np.ones((3, 3)))[1:-1, 1:-1]
    return closed


def _still(
    moving: NDArray[np.bool_], allowed: NDArray[np.bool_], levels: NDArray[np.unsignedinteger]
) -> NDArray[np.bool_]:
    """Where there is image that does not move: brighter than the background, near to what moves."""
    rest = allowed & ~moving
    if not rest.any():
        return rest
    background = np.bincount(levels[rest]).argmax()
    near = ndimage.distance_transform_edt(~moving) <= NEAR * max(moving.shape)
    still: NDArray[np.bool_] = rest & near & (levels > background + BRIGHT)
    return still


def _parts(region: NDArray[np.bool_]) -> list[NDArray[np.bool_]]:
    """The largest connected part and those nearly as large, without holes and without what is thin."""
    solid = _opened(ndimage.binary_fill_holes(np.pad(region, 1, mode="edge"))[1:-1, 1:-1], THIN)
    labels, count = ndimage.label(solid)
    sizes = np.bincount(labels.ravel(), minlength=2)[1:]
    return [labels == 1 + number for number in range(count) if sizes[number] >= SECOND * sizes.max()]


def _opened(region: NDArray[np.bool_], radius: int) -> NDArray[np.bool_]:
    """Where a disk fits in: without what is thin."""
    disk = np.hypot(*np.mgrid[-radius : radius + 1, -radius : radius + 1]) <= radius + 0.5
    padded = np.pad(region, radius, mode="edge")  # the image may go on beyond the picture's edge
    opened: NDArray[np.bool_] = ndimage.binary_opening(padded, disk)[radius:-radius, radius:-radius]
    return opened


def _simplify(polygon: NDArray[np.int_]) -> NDArray[np.int_]:
    """Leaves out the corners that change the area least."""
    while len(polygon) > VERTICES:
        a, b = np.roll(polygon, 1, axis=0) - polygon, np.roll(polygon, -1, axis=0) - polygon
        polygon = np.delete(polygon, np.abs(a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0]).argmin(), axis=0)
    return polygon


def _bow_in(hull: NDArray[np.int_], part: NDArray[np.bool_], step: int) -> NDArray[np.int_]:
    """Makes the edge across the top of `hull` a parabola, as deep as the cells of `part` allow."""
    ends = np.roll(hull, -1, axis=0)
    middle = (hull[:, 0].min() + hull[:, 0].max()) / 2
    # The corners come so ordered that x grows along the upper edges.
    edge = np.flatnonzero((hull[:, 0] <= middle) & (ends[:, 0] > middle))[0]
    (x0, y0), (x1, y1) = hull[edge], ends[edge]
    columns = np.arange(math.ceil(x0 / step), x1 // step)
    u = (2 * step * columns - x0 - x1) / (x1 - x0)  # -1 .. 1 from end to end
    columns, u = columns[abs(u) < 0.7], u[abs(u) < 0.7]  # the corners may be rounded off
    if abs(y1 - y0) > BOW * (x1 - x0) or len(columns) < 2 * THIN:
        return hull
    tops = step * (part[:, columns].argmax(axis=0) - 1)
    depth = min((x1 - x0) / 2, ((tops - y0 - (y1 - y0) * (u + 1) / 2) / (1 - u**2)).min())
    if depth < step:
        return hull
    u = np.linspace(-1, 1, BOW_VERTICES + 2)[1:-1]
    bow = np.stack([x0 + (x1 - x0) * (u + 1) / 2, y0 + (y1 - y0) * (u + 1) / 2 + depth * (1 - u**2)], axis=1)
    return np.insert(hull, edge + 1, np.floor(bow).astype(int), axis=0)
