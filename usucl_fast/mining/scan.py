"""The loops of a search over the rows of a bank, compiled. They release the GIL.

Whatever is answered is a dot product in float64; anything cheaper only decides which rows need none. Of equal ones the
smaller row comes first, so that an answer does not depend on the order in which rows are visited.
"""

from typing import NamedTuple

import numpy as np

from usucl_fast.compiled import njit
from usucl_fast.mining.levels import RUN
from usucl_fast.mining.stored import as_float
from usucl_fast.mining.tile import LANES, ROWS, tile

FEW = 4
"""Queries that may look for answers in a run, at most, for which its rows are not worth a product in bytes."""
CLOSED = 2 * 10**9
"""What no product of codes comes up to."""


class Asked(NamedTuple):
    """What is asked of which rows. B is a multiple of `LANES`.

    query: float32 `[B, D]`; scaled: the same, scaled as the rows are; exact: that in float64.
    norm: float64 `[B]`, its length.
    slack: float64 `[B]`, how far a product in float32 may be off.
    excluded: int64 `[B]`, the group that is left out; -1 for none.
    written_at: int64 `[N]`; only rows written at the step `oldest` or later are answers.
    group_of_row: int32 `[N]`.
    below: rows more similar than this are no answers.
    """

    query: np.ndarray
    scaled: np.ndarray
    exact: np.ndarray
    norm: np.ndarray
    slack: np.ndarray
    excluded: np.ndarray
    written_at: np.ndarray
    group_of_row: np.ndarray
    oldest: int
    below: float


class State(NamedTuple):
    """The most similar rows so far: a min-heap a query.

    similarity: float64 `[B, K]`; row: int64 `[B, K]`.
    filled: int64 `[B]`, entries of the heap; room: int64 `[B]`, the most it may have.
    floor: float64 `[B]`, rows less similar than this are no answers: -inf while there is room.
    """

    similarity: np.ndarray
    row: np.ndarray
    filled: np.ndarray
    room: np.ndarray
    floor: np.ndarray


class Packed(NamedTuple):
    """The queries in bytes: a query is `step * code`, and what is left over.

    code: int8 `[B / LANES, D4 / 4, LANES, 4]`.
    per_step: float64 `[B]`, 1 over the step; rest: float64 `[B]`, as in `Codes`.
    shift: float64 `[B]`, `ZERO` times the sum of the codes: what the rows' `ZERO` adds to a product.
    """

    code: np.ndarray
    per_step: np.ndarray
    rest: np.ndarray
    shift: np.ndarray


@njit(nogil=True, fastmath=True)
def _dot(rows, row, queries, b):  # type: ignore[no-untyped-def]
    total = np.float32(0)
    for d in range(rows.shape[1]):
        total += as_float(rows[row, d]) * queries[b, d]
    return total


@njit(nogil=True, fastmath={"reassoc", "contract"})
def _exact_dot(rows, row, queries, b):  # type: ignore[no-untyped-def]
    total = 0.0
    for d in range(rows.shape[1]):
        total += as_float(rows[row, d]) * queries[b, d]
    return total


@njit(nogil=True, inline="always")
def _worse(key, value, other_key, other_value):  # type: ignore[no-untyped-def]
    return key < other_key or (key == other_key and value > other_value)


@njit(nogil=True)
def _push(keys, values, b, size, room, key, value):  # type: ignore[no-untyped-def]
    """Keeps the best `room` of (key, value) in heap b, of `size`, with the worst on top; returns its new size."""
    if size < room:
        place = size
        while place:
            parent = (place - 1) // 2
            if not _worse(key, value, keys[b, parent], values[b, parent]):
                break
            keys[b, place], values[b, place] = keys[b, parent], values[b, parent]
            place = parent
        keys[b, place], values[b, place] = key, value
        return size + 1
    if room == 0 or not _worse(keys[b, 0], values[b, 0], key, value):
        return size
    place = 0
    while True:
        child = 2 * place + 1
        if child >= size:
            break
        if child + 1 < size and _worse(keys[b, child + 1], values[b, child + 1], keys[b, child], values[b, child]):
            child += 1
        if not _worse(keys[b, child], values[b, child], key, value):
            break
        keys[b, place], values[b, place] = keys[b, child], values[b, child]
        place = child
    keys[b, place], values[b, place] = key, value
    return size


@njit(nogil=True)
def _consider(  # type: ignore[no-untyped-def]
    rows, row, b, exact, excluded, written_at, group_of_row, oldest, below, similarity, found, filled, room, floor
):
    """Answers query b by a row, if it is allowed and better than the worst answer so far."""
    if written_at[row] < oldest or group_of_row[row] == excluded[b]:
        return
    key = _exact_dot(rows, row, exact, b)
    if key >= floor[b] and key <= below:
        filled[b] = _push(similarity, found, b, filled[b], room[b], key, row)
        if filled[b] == room[b]:
            floor[b] = max(floor[b], similarity[b, 0])


@njit(nogil=True)
def _visit(rows, asked, state, b, start, end):  # type: ignore[no-untyped-def]
    """Answers query b by the rows from `start` to `end`."""
    _, scaled, exact, _, slack, excluded, written_at, group_of_row, oldest, below = asked
    similarity, found, filled, room, floor = state
    for row in range(start, end):
        if _dot(rows, row, scaled, b) + slack[b] >= floor[b]:
            _consider(
                rows, row, b, exact, excluded, written_at, group_of_row, oldest, below,
                similarity, found, filled, room, floor,
            )  # fmt: skip


@njit(nogil=True)
def visit_ranges(rows, asked, state, ranges_BS2):  # type: ignore[no-untyped-def]
    """Answers each query by its own S ranges of rows, start and end."""
    for b in range(len(ranges_BS2)):
        for s in range(ranges_BS2.shape[1]):
            _visit(rows, asked, state, b, ranges_BS2[b, s, 0], ranges_BS2[b, s, 1])


@njit(nogil=True)
def visit_runs(rows, asked, state, level, runs_BV, done, first, last):  # type: ignore[no-untyped-def]
    """Answers the queries from `first` to `last` by their own V runs each; -1 is none.

    done: uint16 `[R, B / LANES]`, for each run a bit a query, which is set.
    """
    for b in range(first, min(last, len(runs_BV))):
        for run in runs_BV[b]:
            if run >= 0:
                done[run, b // LANES] |= 1 << b % LANES
                _visit(rows, asked, state, b, level.starts[run], level.starts[run + 1])


@njit(nogil=True)
def _least_codes(  # type: ignore[no-untyped-def]
    first, floor, slack, norm, query, query_per_step, query_rest, shift,
    centroid, run, radius, step, rest, reach, wide, product, least,
):  # fmt: skip
    """For each query from `first` on: what the product of its code with that of a row of a run is at least, if the
    row, or one up to `wide` away from it, is an answer; `CLOSED` if none can be.

    With q = s g + a and x = c + t h + b, where g and h are codes, a and b what is left over:
    q . x = q . c + s t g . h + a . (t h) + q . b, of which the last two are at most |a| |t h| + |q| |b|.
    Returns whether there may be such a row at all.
    """
    for lane in range(LANES):
        product[lane] = _dot(centroid, run, query, first + lane)
    per_step, some = 1 / step, 0
    # No branches, so that all lanes are computed at once.
    for lane in range(LANES):
        b = np.uint64(first + lane)
        needed = floor[b] - product[np.uint64(lane)] - slack[b] - norm[b] * wide
        near = needed <= norm[b] * radius
        needed -= query_rest[b] * reach + norm[b] * rest
        code = needed * query_per_step[b] * per_step + shift[b] - 1
        code = min(max(code, -1e9), 1e9) if near else float(CLOSED)
        least[np.uint64(lane)] = np.int32(code)
        some += near
    return some > 0


@njit(nogil=True)
def _find(codes, start, end, query_codes, group, least, masks):  # type: ignore[no-untyped-def]
    """Sets, of each row from `start` to `end`, the bits of the queries of a group whose product is `least` or more."""
    some = False
    for row in range(start, end, ROWS):
        some |= tile(codes, row, query_codes, group, least, masks, row - start)
    return some


@njit(nogil=True)
def _bits(mask):  # type: ignore[no-untyped-def]
    count = 0
    while mask:
        mask &= mask - 1
        count += 1
    return count


@njit(nogil=True)
def search(  # type: ignore[no-untyped-def]
    rows, asked, state, packed, level, codes, upper, upper_codes, done, blocks_from, blocks_to, first, last
):
    """Answers the queries from `first` to `last`, multiples of `LANES`, by the rows of all runs in some blocks.

    upper: the level above; its runs, those from `blocks_from` to `blocks_to`, are the blocks.
    done: as `visit_runs` leaves it; these runs are passed over.
    """
    # All that the loops need, by name: to take it from a tuple counts a reference each time, which is slow.
    query, scaled, exact, norm, slack, excluded, written_at, group_of_row, oldest, below = asked
    similarity, of_row, filled, room, floor = state
    query_code, query_per_step, query_rest, shift = packed
    starts, group, newest, centroid, radius, _ = level
    code, step, rest, reach = codes
    block_starts, _, block_newest, block_centroid, block_radius, _ = upper
    block_code, block_step, block_rest, block_reach = upper_codes
    product, least, least_of_run = np.empty(LANES), np.empty(LANES, np.int32), np.empty(LANES, np.int32)
    near, found = np.empty(RUN + ROWS, np.uint16), np.empty(RUN + ROWS, np.uint16)
    for block in range(blocks_from, blocks_to):
        if block_newest[block] < oldest:
            continue
        start, end = block_starts[block], block_starts[block + 1]
        wide = radius[start:end].max()
        for b in range(first, last, LANES):
            lanes = b // LANES
            if not _least_codes(
                b, floor, slack, norm, query, query_per_step, query_rest, shift,
                block_centroid, block, block_radius[block], block_step[block], block_rest[block], block_reach[block],
                wide, product, least,
            ) or not _find(block_code, start, end, query_code, lanes, least, near):  # fmt: skip
                continue
            for run in range(start, end):
                open_ = np.int64(near[run - start]) & ~np.int64(done[run, lanes])
                if not open_ or newest[run] < oldest:
                    continue
                run_start, run_end = starts[run], starts[run + 1]
                if _bits(open_) <= FEW:
                    # So few are answered by the rows themselves.
                    for one in range(b, b + LANES):
                        if open_ >> (one - b) & 1 and group[run] != excluded[one]:
                            bound = _dot(centroid, run, query, one) + slack[one] + norm[one] * radius[run]
                            if bound >= floor[one]:
                                _visit(rows, asked, state, one, run_start, run_end)
                    continue
                if not _least_codes(
                    b, floor, slack, norm, query, query_per_step, query_rest, shift,
                    centroid, run, radius[run], step[run], rest[run], reach[run],
                    0.0, product, least_of_run,
                ):  # fmt: skip
                    continue
                for lane in range(LANES):
                    if not open_ >> lane & 1 or group[run] == excluded[b + lane]:
                        least_of_run[lane] = CLOSED
                if _find(code, run_start, run_end, query_code, lanes, least_of_run, found):
                    for row in range(run_start, run_end):
                        mask, one = found[row - run_start], b
                        while mask:
                            if mask & 1 and _dot(rows, row, scaled, one) + slack[one] >= floor[one]:
                                _consider(
                                    rows, row, one, exact, excluded, written_at, group_of_row, oldest, below,
                                    similarity, of_row, filled, room, floor,
                                )  # fmt: skip
                            mask >>= 1
                            one += 1
