"""The geometry of a probe's sector around live cells, against shapes drawn by their formulas."""

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from usucl_fast.pack.fan import clip, fit_fan, hull
from usucl_fast.pack.sector import Sector

ROWS, COLUMNS = 190, 250
BOX = (0.0, 0.0, float(COLUMNS), float(ROWS))
NOTHING = np.zeros((ROWS, COLUMNS), bool)


def fan(degrees: float, near: float, far: float, apex: tuple[float, float]) -> NDArray[np.bool_]:
    y, x = np.mgrid[:ROWS, :COLUMNS]
    x, y = x + 0.5 - apex[0], y + 0.5 - apex[1]
    return (np.hypot(x, y) > near) & (np.hypot(x, y) < far) & (abs(np.degrees(np.arctan2(x, y))) < degrees)


def draw(corners: NDArray[np.float64]) -> NDArray[np.bool_]:
    return Sector((COLUMNS, ROWS), (tuple(map(tuple, corners.tolist())),)).draw(ROWS, COLUMNS)


def fit(part: NDArray[np.bool_], more: NDArray[np.bool_] = NOTHING) -> NDArray[np.bool_]:
    return draw(fit_fan(part, more, BOX, 0)[0])


def iou(a: NDArray[np.bool_], b: NDArray[np.bool_]) -> float:
    return float((a & b).sum() / (a | b).sum())


@pytest.mark.parametrize(
    ("half", "near", "far", "apex"),
    [
        pytest.param(35, 50, 170, -20, id="curved"),
        pytest.param(40, 0, 160, 10, id="phased"),
        pytest.param(25, 90, 240, -75, id="curved, nearly straight"),
        pytest.param(38, 60, 260, -50, id="cut off by the picture"),
    ],
)
def test_what_is_dark_is_added(half: float, near: float, far: float, apex: float) -> None:
    y, x = np.mgrid[:ROWS, :COLUMNS]
    angle, depth = np.degrees(np.arctan2(x + 0.5 - 125, y + 0.5 - apex)), np.hypot(x - 125, y - apex)
    whole = fan(half, near, far, (125, apex))
    one_side = whole & ((angle < 5) | (depth < near + 15))
    streaks = whole & ((y < 90) | (abs(angle) < 4))
    corner = whole & ~((angle > 9) & (y > 90))
    for part in (whole, one_side, streaks, corner):
        found = fit(part)
        assert not (part & ~found).any()
        assert iou(found, whole) > 0.92  # how deep it goes nobody knows where all is dark


def test_a_rectangle_and_a_trapezoid() -> None:
    y, x = np.mgrid[:ROWS, :COLUMNS]
    rectangle = (x >= 60) & (x < 180) & (y >= 20) & (y < 170)
    assert fit_fan(rectangle, NOTHING, BOX, 0)[0].tolist() == [[60, 20], [180, 20], [180, 170], [60, 170]]
    assert fit_fan(rectangle, NOTHING, BOX, 0.5)[0].tolist() == [[59.5, 19.5], [180, 19.5], [180, 170], [59.5, 170]]
    trapezoid = (abs(x - 125) < 40 + 0.3 * y) & (y >= 20) & (y < 170)
    assert iou(fit(trapezoid), trapezoid) > 0.97
    assert not (trapezoid & ~fit(trapezoid)).any()


def test_a_fan_between_two_upright_bounds() -> None:
    """As a video editor crops it."""
    _, x = np.mgrid[:ROWS, :COLUMNS]
    cropped = fan(38, 60, 260, (125, -50)) & (x >= 50) & (x < 200)
    assert iou(fit(cropped), cropped) > 0.98


def test_more_counts_between_the_edges_alone() -> None:
    part, more = fan(35, 50, 120, (125, -20)), NOTHING.copy()
    more[140:146, 120:130] = more[140:150, 0:6] = True
    found = fit(part, more)
    assert found[140:146, 120:130].all()
    assert not found[140:150, 0:6].any()
    assert not found[150:].any()


def test_live_image_is_never_cut() -> None:
    rng = np.random.default_rng(0)
    for _ in range(200):
        part = NOTHING.copy()
        for _ in range(rng.integers(1, 5)):
            y, x, height, width = rng.integers((0, 0, 3, 3), (ROWS - 20, COLUMNS - 20, 100, 100))
            part[y : y + height, x : x + width] = True
        assert not (part & ~fit(part)).any()
        assert not (part & ~draw(hull(part, 0))).any()


def test_clip() -> None:
    square = np.array([[0.0, 0], [10, 0], [10, 10], [0, 10]])
    assert clip(square, square + 5).tolist() == [[10, 5], [10, 10], [5, 10], [5, 5]]
    assert len(clip(square, square + 20)) == 0
    notched = np.array([[0.0, 0], [5, 5], [10, 0], [10, 10], [0, 10]])
    assert area(clip(notched, np.array([[0.0, 0], [10, 0], [10, 6], [0, 6]]))) == 60 - 25
    assert area(hull(fan(35, 50, 120, (125, -20)), 0)) > area(fit_fan(fan(35, 50, 120, (125, -20)), NOTHING, BOX, 0)[0])


def area(corners: NDArray[np.float64]) -> float:
    x, y = corners.T
    return abs(float(x @ np.roll(y, -1) - y @ np.roll(x, -1))) / 2


def test_the_arcs_are_those_of_the_probe() -> None:
    corners, _ = fit_fan(fan(35, 50, 170, (125, -20)), NOTHING, BOX, 0)
    radii = np.hypot(*(corners - (125, -20)).T)
    assert abs(np.sort(radii)[8] - 50) < 2
    assert abs(np.sort(radii)[-8] - 170) < 3
    left = corners[corners[:, 0].argmin()] - corners[(corners[:, 0] + 2 * corners[:, 1]).argmin()]
    assert abs(math.degrees(math.atan2(-left[0], left[1])) - 35) < 2
