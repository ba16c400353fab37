"""Finds the live ultrasound image in a video by what changes over time.

The live image changes everywhere and often; what is burned in does not. So the sector is what moves, together with what
moves faintly or is bright right beside it; small or thin regions (a clock, a pointer, an ECG trace) do not count. Its
outline is fitted to the shapes of probes (`fan.py`), or, where text would lie in it, cut to the convex hull.
"""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from usucl_fast.pack.fan import Points, clip, fit_fan, hull
from usucl_fast.pack.sector import Box, Polygon, Sector, dilate

CELLS = 256  # at most, along the longer side: so fine is a video looked at
EPOCH = 8  # frames that are looked at together
STIRS, MOVES = 2, 6  # grey levels from darkest to brightest in an epoch that are exceeded: by faint image, by no noise
# Share of the epochs in which the busiest cells change: a cell must change in as many, and in two. In a cut or a fade
# all changes, but not for long; and what is frozen most of the time is live all the same.
EPOCHS_SHARE = 0.1
DENSITY = 0.3  # of the cells around a changing one that change too
BRIGHT = 2  # grey levels above the background
NEAR = 0.2  # of the longer side: how far from moving image still image may reach
THIN = 3  # cells: half of what a sector is at least across
SECOND = 0.3  # of the largest sector's size, for another one
LEAST = 0.01  # of the picture: for there to be a sector
SMALL, THICK = 0.05, 5  # of the picture; cells: half of what a sector is at least across that is smaller
NAMED = 0.9  # of the picture: regions that say little
WRITTEN, WRITTEN_CELLS = 40, 4  # grey levels of text above the background; more of it is text
LOST = 0.003  # of the light of a sector, outside of what is kept of it
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
        self._highs = np.zeros(shape, np.uint32)
        self._epochs = self._frames = 0  # that have ended; of the one that has not

    def add(self, luma: NDArray[np.uint8]) -> None:
        """Adds a frame, uint8 `[height, width]`; one of another size is ignored."""
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
        self._highs += self._high
        self._epochs += 1
        self._frames = 0

    def sector(self) -> Sector | None:
        """The sector, from the frames so far; None if nothing moves as a live image would."""
        if self._frames > (EPOCH // 2 if self._epochs else 1):
            self._end_epoch()
        if self._epochs == 0:
            return None
        allowed = self._everything.draw(*self._moved.shape)
        busiest = ndimage.uniform_filter(np.where(allowed, self._moved, 0).astype(np.float32), 2 * THIN + 1).max()
        often = max(min(2, self._epochs), EPOCHS_SHARE * busiest)
        moving = _dense(allowed & (self._moved >= often))
        if not moving.any():
            return None
        # Around what moves a codec leaves a thin seam that stirs; faint image is more than that.
        faint = _dense(allowed & (self._stirred >= often)) & ~moving
        moving |= _opened(faint, 1)
        near = ndimage.maximum_filter(moving, 2 * round(NEAR * max(moving.shape)) + 1)
        above = _above(self._highs / self._epochs, allowed & ~moving)
        parts = _parts(moving | (allowed & near & (above > BRIGHT)))
        size, room = sum(map(np.count_nonzero, parts)), np.count_nonzero(allowed)
        if size < LEAST * room or (size < SMALL * room and not any(_opened(part, THICK).any() for part in parts)):
            return None
        stirring = allowed & (self._stirred >= often)
        more = _opened(stirring, THIN) | _touching(parts, _opened(stirring, 1))
        written = above > WRITTEN
        return Sector(self._everything.picture, tuple(self._outline(part, more, written) for part in parts))

    def loses(self, kept: Sector, found: Sector) -> bool:
        """Whether the part of `found` outside of `kept` is too bright to be lost."""
        shape = self._highs.shape
        light = np.where(found.draw(*shape), self._highs - self._highs.min(), 0)
        outside = ~ndimage.maximum_filter(kept.draw(*shape), 3)
        return bool(light[outside].sum() > LOST * light.sum())

    def regions(self) -> Sector | None:
        """The boxes that may hold live image, if they are of use: much smaller than the picture, or without text."""
        outside = ~self._everything.draw(*self._moved.shape)
        if outside.mean() < 1 - NAMED:
            levels = self._highs / self._epochs if self._epochs else self._high
            written = _above(levels, np.ones_like(outside)) > WRITTEN
            if np.count_nonzero(written & outside) <= WRITTEN_CELLS:
                return None
        return self._everything

    def _outline(self, part: NDArray[np.bool_], more: NDArray[np.bool_], written: NDArray[np.bool_]) -> Polygon:
        """A polygon around every pixel that the cells of `part` stand for, or those of `more` in its sector.

        Where that would be around cells that are `written`, no farther around than it has to be.
        """
        before = 1 - 1 / self._step  # a cell is one pixel: the image may begin right after the one before
        box = np.array(self._everything.box)
        corners, live = fit_fan(part, more, tuple(box / self._step), before)
        text = written & ~live & self._draw(corners)
        if np.count_nonzero(text) > WRITTEN_CELLS:
            tight = clip(corners, hull(ndimage.binary_dilation(live, SQUARE), before))
            if np.count_nonzero(text & ~self._draw(tight)) > WRITTEN_CELLS:
                corners = tight
        x, y = (self._step * corners).clip(box[:2], box[2:]).round().astype(int).T
        return tuple(zip(x.tolist(), y.tolist(), strict=True))

    def _draw(self, corners: Points) -> NDArray[np.bool_]:
        height, width = self._moved.shape
        return Sector((width, height), (tuple(map(tuple, corners.tolist())),)).draw(height, width)


def _dense(cells: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The cells among many others, and the small gaps between them."""
    around = ndimage.uniform_filter(cells.astype(np.float32), 2 * THIN + 1)
    spread = dilate(np.pad(cells & (around > DENSITY), 2, mode="edge"), SQUARE)
    return ~dilate(~spread, SQUARE)


def _above(levels: NDArray[np.number], outside: NDArray[np.bool_]) -> NDArray[np.number]:
    """Grey levels above the background, which is what most of the cells `outside` have."""
    return levels - np.bincount(levels[outside].astype(int), minlength=1).argmax()


def _parts(region: NDArray[np.bool_]) -> list[NDArray[np.bool_]]:
    """The largest connected part and those nearly as large, without holes and without what is thin."""
    background = ndimage.label(np.pad(~region, 1, constant_values=True))[0]
    solid = _opened(background[1:-1, 1:-1] != background[0, 0], THIN)  # what is not outside is region or hole
    labels, count = ndimage.label(solid)
    sizes = np.bincount(labels.ravel(), minlength=2)[1:]
    return [labels == 1 + number for number in range(count) if sizes[number] >= SECOND * sizes.max()]


def _touching(parts: list[NDArray[np.bool_]], region: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The part of a region that is connected with one of `parts`."""
    within = np.any(parts, axis=0)
    labels, count = ndimage.label(region | within)
    reached = np.zeros(count + 1, bool)
    reached[labels[within]] = True
    return reached[labels]


def _opened(region: NDArray[np.bool_], radius: int) -> NDArray[np.bool_]:
    """The region without its thin parts: where a disk fits in (a morphological opening)."""
    disk = np.hypot(*np.mgrid[-radius : radius + 1, -radius : radius + 1]) <= radius + 0.5
    padded = np.pad(region, 2 * radius, mode="edge")  # the image may continue beyond the picture's edge
    return dilate(~dilate(~padded, disk), disk)
