"""Fits the outline of an ultrasound sector around the live image: two straight edges and two arcs.

Curved, phased and linear probes differ in where the edges meet: behind the probe's face, on it, or nowhere. Each bound
touches the live image from outside: none of it is lost, and what is dark between the bounds is the sector's too.
"""

import math

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import ConvexHull

ANGLES = np.radians(np.arange(8, 66))  # from the vertical outwards, of an edge that meets the other one
TOUCHES = 4  # cells: as far from an edge live image may end
LEAST_ROWS = 9  # that end at an edge, for it to be one
UPRIGHT_SHARE = 0.6  # of the rows that end at a vertical edge, for it to be one where there is one that leans
AS_GOOD = 0.75  # of the rows that end at the two best edges, for two that lean alike to be taken
CORNERS = 17  # of an arc

Cells = NDArray[np.bool_]  # `[rows, columns]`
Points = NDArray[np.float64]  # `[n, 2]`: x, y in cells
Bounds = tuple[float, float, float, float]  # left, top, right, bottom in cells


def fit_fan(part: Cells, more: Cells, box: Bounds, before: float) -> tuple[Points, Cells]:
    """Fits a sector around `part`: its corners, and which cells in it are live.

    more: further cells that are live where they lie between the sector's edges.
    box: the limits of the picture; where the live image ends there, it may continue beyond.
    before: how far left of a cell and above it its image may begin; it may end where the next cell begins.
    """
    rows, left, right = _ends(part, before)
    x0, _, x1, _ = box
    upright, slanted = zip(*(_touching(ends, rows) for ends in (left - x0, x1 - right)), strict=True)
    slopes = _slopes(np.array(slanted))
    a, b = slopes
    if not a or upright[0] > UPRIGHT_SHARE:
        x0 = left.min()
    if not b or upright[1] > UPRIGHT_SHARE:
        x1 = right.max()
    at_left, at_right = (left + a * rows).min(), (right - b * rows).max()  # x + a y of one edge, x - b y of the other
    y, x = np.mgrid[: part.shape[0], : part.shape[1]]
    live = part | (more & (x + a * y >= at_left) & (x - b * y <= at_right) & (x >= x0) & (x <= x1))
    rows, left, right = _ends(live, before)
    bounds = _rectangle(x0, rows[0], x1, rows[-1])
    if a + b == 0:
        return bounds, live
    columns, top, _ = _ends(live.T, before)
    apex = np.array([at_left * b + at_right * a, at_left - at_right]) / (a + b)
    near = np.hypot(columns - apex[0], top - apex[1]).min()
    far = np.hypot(np.concatenate([left, right]) - apex[0], np.tile(rows, 2) - apex[1]).max()
    angles = np.linspace(-math.atan(a), math.atan(b), CORNERS)
    far /= math.cos((angles[1] - angles[0]) / 2)  # the chords, not the corners, lie on the arc
    rays = np.stack([np.sin(angles), np.cos(angles)], axis=1)
    fan = apex + np.concatenate([near * rays, far * rays[::-1]])
    return clip(fan, bounds), live


def hull(part: Cells, before: float) -> Points:
    """Corners of the smallest convex outline of `part`; `before` as above."""
    rows, left, right = _ends(part, before)
    points = np.stack([np.concatenate([left, right]), np.tile(rows, 2)], axis=1)
    return points[ConvexHull(points).vertices]


def clip(corners: Points, convex: Points) -> Points:
    """The part of a polygon inside a convex one, whose corners run clockwise on screen (Sutherland, Hodgman 1974)."""
    for start, end in zip(convex, np.roll(convex, -1, axis=0), strict=True):
        (dx, dy), rest = end - start, corners - start
        depth = dx * rest[:, 1] - dy * rest[:, 0]
        kept = []
        for here, inside, there, beyond in zip(
            corners, depth, np.roll(corners, -1, 0), np.roll(depth, -1), strict=True
        ):
            if inside >= 0:
                kept.append(here)
            if inside * beyond < 0:
                kept.append(here + (there - here) * inside / (inside - beyond))
        corners = np.array(kept).reshape(-1, 2)
    return corners


def _rectangle(left: float, top: float, right: float, bottom: float) -> Points:
    return np.array([[left, top], [right, top], [right, bottom], [left, bottom]])


def _ends(cells: Cells, before: float) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Where rows of cells begin and end: y of the upper and the lower rim of each in turn, x on the left and right."""
    rows = np.flatnonzero(cells.any(axis=1))
    first, last = cells[rows].argmax(axis=1), cells.shape[1] - 1 - cells[rows, ::-1].argmax(axis=1)
    return np.stack([rows - before, rows + 1.0], axis=1).ravel(), np.repeat(first - before, 2), np.repeat(last + 1.0, 2)


def _touching(ends: NDArray[np.float64], rows: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
    """The share of rows that end at a vertical edge, and how many end at one leaning by each of the `ANGLES`.

    ends: of the rows, from the bound at 0 on; what ends there tells nothing.
    """
    within = ends > 0
    upright = float((within & (ends <= ends.min() + 1)).mean())
    distances = np.cos(ANGLES) * ends[:, None] + np.sin(ANGLES) * rows[:, None]
    near = (1 - (distances - distances.min(axis=0)) / TOUCHES).clip(0)
    slanted = near[within].sum(axis=0) / 2 - TOUCHES / np.sin(ANGLES) / 2  # as many are near an end of a vertical edge
    return upright, np.where(slanted < LEAST_ROWS, 0, slanted)


def _slopes(slanted: NDArray[np.float64]) -> tuple[float, float]:
    """How much the left and the right edge lean, x per y; 0 where both are vertical.

    slanted: how many rows end at either, for each of the `ANGLES`. An edge where none does, the other one mirrors.
    """
    most, best, alike = slanted.max(axis=1), slanted.argmax(axis=1), slanted.sum(axis=0).argmax()
    if not most.any():
        return 0.0, 0.0
    if slanted[:, alike].sum() >= AS_GOOD * most.sum():
        best[:] = alike
    a, b = np.tan(ANGLES[np.where(most > 0, best, best[::-1])])
    return float(a), float(b)
