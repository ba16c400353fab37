"""Finds the live ultrasound image in a video by what changes over time.

Live image changes all over and all the time; what is burned in does not. So a sector is what moves, with what moves
faintly or is bright right beside it; what is small or thin (a clock, a pointer, an ECG trace) is no sector. Its outline
is the convex hull, bowed in at the top as deep as the image allows: that is where the face of a curved probe is.
"""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial import ConvexHull

from usucl_fast.pack.sector import Box, Polygon, Sector, dilate

CELLS = 256  # at most, along the longer side: so fine is a video looked at
EPOCH = 8  # frames that are looked at together
STIRS, MOVES = 2, 6  # grey levels from darkest to brightest in an epoch that are exceeded: by faint image, by no noise
EPOCHS_SHARE = 0.25  # in which a cell must change, and in two of them: in a cut or a fade all changes, but not for long
DENSITY = 0.3  # of the cells around a changing one that change too
BRIGHT = 4  # grey levels above the background
NEAR = 0.2  # of the longer side: how far from moving image still image may reach
THIN = 3  # cells: half of what a sector is at least across
SECOND = 0.3  # of the largest sector's size, for another one
LEAST, ALL = 0.01, 0.97  # of the picture: for there to be a sector, for the picture to be nothing else
SMALL, THICK = 0.05, 5  # of the picture; cells: half of what a sector is at least across that is smaller
NAMED, WRITTEN = 0.9, 40  # of the picture, in regions that say little; grey levels of text above the background
BOW = 0.3  # how much the chord of a bow may slope
VERTICES, BOW_VERTICES = 40, 7
SQUARE = np.ones((3, 3), bool)


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
        drawn = sector.draw(*allowed.shape) & allowed
        share = drawn.sum() / allowed.sum()
        if share < LEAST or (share < SMALL and not _opened(drawn, THICK).any()):
            return None
        return self._everything if share > ALL else sector

    def regions(self) -> Sector | None:
        """The boxes that may hold live image, where they say something: are far from all, or leave text out."""
        outside = ~self._everything.draw(*self._moved.shape)
        if outside.mean() < 1 - NAMED:
            levels = self._lows // self._epochs if self._epochs else self._low
            written = levels > np.bincount(levels.ravel()).argmax() + WRITTEN
            if np.count_nonzero(written & outside) < THIN**2:
                return None
        return self._everything

    def _outline(self, part: NDArray[np.bool_]) -> Polygon:
        """Around every pixel that may be like the cells of `part`, bool `[rows, columns]`."""
        # A row's first and last cell span all of it.
        rows = np.flatnonzero(part.any(axis=1))
        first, last = part[rows].argmax(axis=1), part.shape[1] - 1 - part[rows, ::-1].argmax(axis=1)
        rows, columns = np.tile(rows, 2), np.concatenate([first, last])
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
    spread = dilate(np.pad(cells & (around > DENSITY), 2, mode="edge"), SQUARE)
    return ~dilate(~spread, SQUARE)


def _still(
    moving: NDArray[np.bool_], allowed: NDArray[np.bool_], levels: NDArray[np.unsignedinteger]
) -> NDArray[np.bool_]:
    """Where there is image that does not move: brighter than the background, near to what moves."""
    rest = allowed & ~moving
    if not rest.any():
        return rest
    background = np.bincount(levels[rest]).argmax()
    near = ndimage.maximum_filter(moving, 2 * round(NEAR * max(moving.shape)) + 1)
    still: NDArray[np.bool_] = rest & near & (levels > background + BRIGHT)
    return still


def _parts(region: NDArray[np.bool_]) -> list[NDArray[np.bool_]]:
    """The largest connected part and those nearly as large, without holes and without what is thin."""
    background = ndimage.label(np.pad(~region, 1, constant_values=True))[0]
    solid = _opened(background[1:-1, 1:-1] != background[0, 0], THIN)  # what is not outside is region or hole
    labels, count = ndimage.label(solid)
    sizes = np.bincount(labels.ravel(), minlength=2)[1:]
    return [labels == 1 + number for number in range(count) if sizes[number] >= SECOND * sizes.max()]


def _opened(region: NDArray[np.bool_], radius: int) -> NDArray[np.bool_]:
    """Where a disk fits in: without what is thin."""
    disk = np.hypot(*np.mgrid[-radius : radius + 1, -radius : radius + 1]) <= radius + 0.5
    padded = np.pad(region, 2 * radius, mode="edge")  # the image may go on beyond the picture's edge
    return dilate(~dilate(~padded, disk), disk)


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
