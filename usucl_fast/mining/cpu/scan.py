"""The loops of a search over rows, compiled. They release the GIL.

Whatever is answered is a dot product in float64; anything cheaper only decides which rows need none, see `bounds`. Of
equal ones the smaller row comes first, so that an answer does not depend on the order in which rows are visited.

To take an array from a tuple counts a reference, which is slow in a loop: the loops take what they need beforehand, and
numbers that go together lie in one array of records.
"""

from typing import NamedTuple

import numpy as np

from usucl_fast.compiled import njit
from usucl_fast.mining.cpu import bounds
from usucl_fast.mining.cpu.levels import BLOCK
from usucl_fast.mining.cpu.stored import as_float
from usucl_fast.mining.cpu.tile import LANES, ROWS, tile

FEW = 4
"""Queries that may look for answers in a block, at most, for which its rows are not worth a product in int8."""
NEVER = 2 * 10**9
"""More than any product of codes."""
TOP = np.dtype([("threshold", np.float64), ("k", np.int64), ("filled", np.int64)])
"""Of one query: rows less similar than the threshold are no answers, -inf while there are fewer than k; and how many of
its k there are."""


class Queries(NamedTuple):
    """B queries, a multiple of `LANES`.

    query: float32 `[B, D]`; scaled: the same, scaled as the rows are; exact: that in float64.
    asked: `QUERY` `[B]`.
    code: int8 `[B / LANES, D4 / 4, LANES, 4]`; empty where nothing is searched for by codes.
    """

    query: np.ndarray
    scaled: np.ndarray
    exact: np.ndarray
    asked: np.ndarray
    code: np.ndarray


class TopK(NamedTuple):
    """The most similar rows so far: a min-heap a query.

    similarity: float64 `[B, K]`; row: int64 `[B, K]`.
    state: `TOP` `[B]`.
    """

    similarity: np.ndarray
    row: np.ndarray
    state: np.ndarray


class Share(NamedTuple):
    """A part of a search: blocks of the level above, and queries, multiples of `LANES`, from and to."""

    first_block: int
    last_block: int
    first_query: int
    last_query: int


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
def _push(keys, values, b, size, k, key, value):  # type: ignore[no-untyped-def]
    """Keeps the best `k` of (key, value) in heap b, of `size`, with the worst on top; returns its new size."""
    if size < k:
        place = size
        while place:
            parent = (place - 1) // 2
            if not _worse(key, value, keys[b, parent], values[b, parent]):
                break
            keys[b, place], values[b, place] = keys[b, parent], values[b, parent]
            place = parent
        keys[b, place], values[b, place] = key, value
        return size + 1
    if k == 0 or not _worse(keys[b, 0], values[b, 0], key, value):
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
def _consider(values, row, b, exact, asked, written_at, group, similarity, found, state):  # type: ignore[no-untyped-def]
    """Answers query b by a row, if it is allowed and better than the worst answer so far."""
    query, top = asked[b], state[b]
    if written_at[row] < query.oldest or group[row] == query.excluded:
        return
    key = _exact_dot(values, row, exact, b)
    if key >= top.threshold and key <= query.below:
        top.filled = _push(similarity, found, b, top.filled, top.k, key, row)
        if top.filled == top.k:
            top.threshold = max(top.threshold, similarity[b, 0])


@njit(nogil=True)
def _visit(vectors, queries, topk, b, start, end):  # type: ignore[no-untyped-def]
    """Answers query b by the rows from `start` to `end`."""
    values, written_at, group = vectors.values, vectors.written_at, vectors.group
    scaled, exact, asked = queries.scaled, queries.exact, queries.asked
    similarity, found, state = topk.similarity, topk.row, topk.state
    for row in range(start, end):
        if _dot(values, row, scaled, b) + asked[b].float32_error >= state[b].threshold:
            _consider(values, row, b, exact, asked, written_at, group, similarity, found, state)


@njit(nogil=True)
def visit_ranges(vectors, queries, topk, ranges_BS2):  # type: ignore[no-untyped-def]
    """Answers each query by its own S ranges of rows, start and end."""
    for b in range(len(ranges_BS2)):
        for s in range(ranges_BS2.shape[1]):
            _visit(vectors, queries, topk, b, ranges_BS2[b, s, 0], ranges_BS2[b, s, 1])


@njit(nogil=True)
def visit_blocks(vectors, queries, topk, level, blocks_BV, done, first, last):  # type: ignore[no-untyped-def]
    """Answers the queries from `first` to `last` by their own V blocks each; -1 is none.

    done: uint16 `[R, B / LANES]`, for each block a bit a query, which is set.
    """
    for b in range(first, min(last, len(blocks_BV))):
        for block in blocks_BV[b]:
            if block >= 0:
                done[block, b // LANES] |= 1 << b % LANES
                _visit(vectors, queries, topk, b, level.starts[block], level.starts[block + 1])


@njit(nogil=True)
def _least_code_products(first, query, asked, state, centroid, block, balls, wide, product, least):  # type: ignore[no-untyped-def]
    """For each query from `first` on: what the product of its code with that of a row of a block is at least, if the
    row, or one up to `wide` away from it, is an answer; `NEVER` if none can be. Returns whether any can be at all."""
    for lane in range(LANES):
        product[lane] = _dot(centroid, block, query, first + lane)
    ball = balls[block]
    per_step, some = 1 / ball.step, 0
    # No branches, so that all lanes are computed at once.
    for lane in range(LANES):
        b = np.uint64(first + lane)
        one = asked[b]
        needed = state[b].threshold - product[np.uint64(lane)] - one.float32_error - one.norm * wide
        near = bounds.ball_reaches(needed, one, ball)
        code = min(max(bounds.least_code_product(needed, one, ball, per_step), -1e9), 1e9)
        least[np.uint64(lane)] = np.int32(code if near else float(NEVER))
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
def search(vectors, queries, topk, level, upper, done, share):  # type: ignore[no-untyped-def]
    """Answers the queries of a share by the rows of all blocks in its blocks of the level above.

    done: as `visit_blocks` leaves it; these blocks are passed over.
    """
    values, written_at, group_of_row = vectors.values, vectors.written_at, vectors.group
    query, scaled, exact, asked, query_code = queries.query, queries.scaled, queries.exact, queries.asked, queries.code
    similarity, found, state = topk.similarity, topk.row, topk.state
    starts, group, newest, centroid, balls, code = (
        level.starts, level.group, level.newest, level.centroid, level.ball, level.code
    )  # fmt: skip
    upper_starts, upper_newest, upper_centroid, upper_balls, upper_code = (
        upper.starts, upper.newest, upper.centroid, upper.ball, upper.code
    )  # fmt: skip
    product, least = np.empty(LANES), np.empty(LANES, np.int32)
    near, above = np.empty(BLOCK + ROWS, np.uint16), np.empty(BLOCK + ROWS, np.uint16)
    oldest = asked[share.first_query].oldest
    for over in range(share.first_block, share.last_block):
        if upper_newest[over] < oldest:
            continue
        start, end = upper_starts[over], upper_starts[over + 1]
        wide = 0.0
        for block in range(start, end):
            wide = max(wide, balls[block].radius)
        for b in range(share.first_query, share.last_query, LANES):
            lanes = b // LANES
            if not _least_code_products(
                b, query, asked, state, upper_centroid, over, upper_balls, wide, product, least
            ) or not _find(upper_code, start, end, query_code, lanes, least, near):
                continue
            for block in range(start, end):
                open_ = np.int64(near[block - start]) & ~np.int64(done[block, lanes])
                if not open_ or newest[block] < oldest:
                    continue
                first, last = starts[block], starts[block + 1]
                if _bits(open_) <= FEW:
                    # So few are answered by the rows themselves.
                    for one in range(b, b + LANES):
                        if open_ >> (one - b) & 1 and group[block] != asked[one].excluded:
                            needed = state[one].threshold - _dot(centroid, block, query, one) - asked[one].float32_error
                            if bounds.ball_reaches(needed, asked[one], balls[block]):
                                _visit(vectors, queries, topk, one, first, last)
                    continue
                if not _least_code_products(b, query, asked, state, centroid, block, balls, 0.0, product, least):
                    continue
                for lane in range(LANES):
                    if not open_ >> lane & 1 or group[block] == asked[b + lane].excluded:
                        least[lane] = NEVER
                if _find(code, first, last, query_code, lanes, least, above):
                    for row in range(first, last):
                        mask, one = above[row - first], b
                        while mask:
                            if (
                                mask & 1
                                and _dot(values, row, scaled, one) + asked[one].float32_error >= state[one].threshold
                            ):
                                _consider(
                                    values, row, one, exact, asked, written_at, group_of_row, similarity, found, state
                                )
                            mask >>= 1
                            one += 1
