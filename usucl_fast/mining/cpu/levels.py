"""Blocks of rows, compiled: the ball that each lies in, and its int8 codes."""

from typing import NamedTuple

import numpy as np

from usucl_fast.compiled import njit
from usucl_fast.mining.cpu import bounds
from usucl_fast.mining.cpu.bounds import ZERO
from usucl_fast.mining.cpu.stored import as_float
from usucl_fast.mining.cpu.tile import ROWS

BLOCK = 64
"""Rows of a block, at most."""


class Vectors(NamedTuple):
    """Rows that are searched: values `[N, D]`; written_at int64 `[N]`, -1 for rows never written, which take no part;
    group int32 `[N]`."""

    values: np.ndarray
    written_at: np.ndarray
    group: np.ndarray


class Level(NamedTuple):
    """R blocks of N rows; symbols are those of `bounds`.

    starts: int64 `[R + 1]`.
    group: int32 `[R]`, the group of a block's rows; -2 where they have several.
    newest: int64 `[R]`, the latest step at which a row of a block was written; -1 where none was.
    centroid: float32 `[R, D]`.
    ball: `BALL` `[R]`.
    code: uint8 `[N + ROWS, D4]`, h + `ZERO` of each row, D4 being D brought up to a multiple of 4; the last `ROWS` are
        padding. Empty until codes are asked for.
    """

    starts: np.ndarray
    group: np.ndarray
    newest: np.ndarray
    centroid: np.ndarray
    ball: np.ndarray
    code: np.ndarray


@njit(nogil=True)
def surround(vectors, scale, level, blocks):  # type: ignore[no-untyped-def]
    """Brings the balls of some blocks up to date."""
    rows, written_at = vectors.values, vectors.written_at
    total = np.empty(rows.shape[1])
    for block in blocks:
        total[:] = 0
        written, newest = 0, -1
        for row in range(level.starts[block], level.starts[block + 1]):
            if written_at[row] >= 0:
                newest = max(newest, written_at[row])
                written += 1
                stored = rows[row]
                for d in range(len(total)):
                    total[d] += scale * as_float(stored[d])
        centroid = level.centroid[block]
        for d in range(len(total)):
            centroid[d] = total[d] / max(1, written)
        farthest = longest = 0.0
        for row in range(level.starts[block], level.starts[block + 1]):
            if written_at[row] >= 0:
                away, length = _lengths(rows[row], scale, centroid)
                farthest, longest = max(farthest, away), max(longest, length)
        level.newest[block] = newest
        level.ball[block].length = bounds.length(longest)
        level.ball[block].radius = bounds.length(farthest)


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
def encode(vectors, scale, level, blocks):  # type: ignore[no-untyped-def]
    """Brings the codes of some blocks up to date; of rows never written they are `ZERO`."""
    rows, written_at = vectors.values, vectors.written_at
    for block in blocks:
        centroid = level.centroid[block]
        first, last = level.starts[block], level.starts[block + 1]
        greatest = 0.0
        for row in range(first, last):
            if written_at[row] >= 0:
                greatest = max(greatest, _greatest(rows[row], scale, centroid))
        step = max(greatest / 127, 1e-30)
        residual = reach = 0.0
        for row in range(first, last):
            code = level.code[row]
            if written_at[row] >= 0:
                left, long = _encode_row(rows[row], scale, centroid, step, code)
                residual, reach = max(residual, left), max(reach, long)
            else:
                code[:] = ZERO
        level.ball[block].step = step
        level.ball[block].residual = bounds.length(residual)
        level.ball[block].reach = bounds.length(reach)


@njit(nogil=True, fastmath=True)
def _greatest(stored, scale, centroid):  # type: ignore[no-untyped-def]
    greatest = 0.0
    for d in range(len(centroid)):
        greatest = max(greatest, abs(scale * as_float(stored[d]) - centroid[d]))
    return greatest


@njit(nogil=True, fastmath=True)
def _encode_row(stored, scale, centroid, step, code):  # type: ignore[no-untyped-def]
    """Squares of the lengths of what is left over and of what is not."""
    residual = reach = 0.0
    per_step = 1 / step
    for d in range(len(centroid)):
        value = scale * as_float(stored[d]) - centroid[d]
        number = np.floor(value * per_step + 0.5)
        code[d] = np.uint8(np.int32(number) + ZERO)
        kept = step * number
        residual += (value - kept) ** 2
        reach += kept * kept
    return residual, reach


@njit()
def cut(first_row):  # type: ignore[no-untyped-def]
    """Starts of blocks of up to `BLOCK` rows, and the end of the last one. A block begins where a
    video does, unless the videos before it are too short, and what belongs to one video is cut into whole tiles."""
    starts = [np.int64(0)]
    for end in first_row[1:]:
        rows = end - starts[-1]
        if 2 * rows >= BLOCK or (end == first_row[-1] and rows):
            parts = (rows + BLOCK - 1) // BLOCK
            size = (rows + parts * ROWS - 1) // (parts * ROWS) * ROWS
            while end - starts[-1] > size:
                starts.append(starts[-1] + size)
            starts.append(end)
    return np.array(starts)
