"""Runs of rows, the balls they lie in and their codes, compiled."""

from typing import NamedTuple

import numpy as np

from usucl_fast.compiled import njit
from usucl_fast.mining.stored import as_float
from usucl_fast.mining.tile import ROWS

ZERO = 128
"""The code of 0."""
RUN = 64
"""Rows of a run, at most."""


class Level(NamedTuple):
    """R runs of N rows, each with a ball that its written rows lie in.

    starts: int64 `[R + 1]`.
    group: int32 `[R]`, the group of a run's rows; -2 where they have several.
    newest: int64 `[R]`, the latest step at which a row of a run was written; -1 where none was.
    centroid: float32 `[R, D]`.
    radius, length: float64 `[R]`, how far a row is from the centroid and how long it is, at most.
    """

    starts: np.ndarray
    group: np.ndarray
    newest: np.ndarray
    centroid: np.ndarray
    radius: np.ndarray
    length: np.ndarray


class Codes(NamedTuple):
    """Rows less their run's centroid, in bytes: a row is `centroid + step * (code - ZERO)`, and what is left over.

    code: uint8 `[N + ROWS, D4]`, D4 being D brought up to a multiple of 4; the last `ROWS` are padding.
    step: float64 `[R]`.
    rest: float64 `[R]`, the length of what is left over, at most.
    reach: float64 `[R]`, the length of `step * (code - ZERO)`, at most.
    """

    code: np.ndarray
    step: np.ndarray
    rest: np.ndarray
    reach: np.ndarray


@njit(nogil=True)
def surround(rows, scale, written_at, level, runs):  # type: ignore[no-untyped-def]
    """Brings the balls of some runs up to date."""
    total = np.empty(rows.shape[1])
    for run in runs:
        total[:] = 0
        written, newest = 0, -1
        for row in range(level.starts[run], level.starts[run + 1]):
            if written_at[row] >= 0:
                newest = max(newest, written_at[row])
                written += 1
                stored = rows[row]
                for d in range(len(total)):
                    total[d] += scale * as_float(stored[d])
        centroid = level.centroid[run]
        for d in range(len(total)):
            centroid[d] = total[d] / max(1, written)
        farthest = longest = 0.0
        for row in range(level.starts[run], level.starts[run + 1]):
            if written_at[row] >= 0:
                away, length = _lengths(rows[row], scale, centroid)
                farthest, longest = max(farthest, away), max(longest, length)
        # The margin is above what the sums, in float64, are off.
        level.newest[run] = newest
        level.length[run] = np.sqrt(longest) * (1 + 1e-9)
        level.radius[run] = np.sqrt(farthest) * (1 + 1e-9)


@njit(nogil=True, fastmath=True)
def _lengths(stored, scale, centroid):  # type: ignore[no-untyped-def]
    """Squares of a row's distance from the centroid, and of its length."""
    away = length = 0.0
    for d in range(len(centroid)):
        value = scale * as_float(stored[d])
        away += (value - centroid[d]) ** 2
        length += value * value
    return away, length


@njit(nogil=True)
def encode(rows, scale, written_at, level, codes, runs):  # type: ignore[no-untyped-def]
    """Brings the codes of some runs up to date; of rows never written they are `ZERO`."""
    for run in runs:
        centroid = level.centroid[run]
        first, last = level.starts[run], level.starts[run + 1]
        greatest = 0.0
        for row in range(first, last):
            if written_at[row] >= 0:
                greatest = max(greatest, _greatest(rows[row], scale, centroid))
        step = max(greatest / 127, 1e-30)
        rest = reach = 0.0
        for row in range(first, last):
            code = codes.code[row]
            if written_at[row] >= 0:
                left, long = _encode_row(rows[row], scale, centroid, step, code)
                rest, reach = max(rest, left), max(reach, long)
            else:
                code[:] = ZERO
        codes.step[run] = step
        codes.rest[run] = np.sqrt(rest) * (1 + 1e-9)
        codes.reach[run] = np.sqrt(reach) * (1 + 1e-9)


@njit(nogil=True, fastmath=True)
def _greatest(stored, scale, centroid):  # type: ignore[no-untyped-def]
    greatest = 0.0
    for d in range(len(centroid)):
        greatest = max(greatest, abs(scale * as_float(stored[d]) - centroid[d]))
    return greatest


@njit(nogil=True, fastmath=True)
def _encode_row(stored, scale, centroid, step, code):  # type: ignore[no-untyped-def]
    """Squares of the lengths of what is left over and of what is not."""
    rest = reach = 0.0
    per_step = 1 / step
    for d in range(len(centroid)):
        value = scale * as_float(stored[d]) - centroid[d]
        number = np.floor(value * per_step + 0.5)
        code[d] = np.uint8(np.int32(number) + ZERO)
        kept = step * number
        rest += (value - kept) ** 2
        reach += kept * kept
    return rest, reach


@njit()
def cut(first_row):  # type: ignore[no-untyped-def]
    """Starts of runs of up to `RUN` rows, and the end of the last one. A run begins where a
    video does, unless the videos before it are too short, and what belongs to one video is cut into whole tiles."""
    starts = [np.int64(0)]
    for end in first_row[1:]:
        rows = end - starts[-1]
        if 2 * rows >= RUN or (end == first_row[-1] and rows):
            parts = (rows + RUN - 1) // RUN
            size = (rows + parts * ROWS - 1) // (parts * ROWS) * ROWS
            while end - starts[-1] > size:
                starts.append(starts[-1] + size)
            starts.append(end)
    return np.array(starts)
