"""The loops of a search over the rows of a bank, compiled. They release the GIL.

Rows come as they are stored: float32, or the 16 bits of a bfloat16 or float16 number, which `shift` tells apart.
Shifted to where float32 has them, the bits of a float16 mean the number times `2 ** -112`; its queries are multiplied
by `2 ** 112` beforehand (a power of two changes no digit), see `SHIFT` and `SCALE`.

A search keeps `State`: what was found, one min-heap a query. Each row is answered by its dot product in float64;
anything cheaper only decides which rows need none.
"""

from typing import NamedTuple

import numpy as np
import torch
from numba import njit, types
from numba.extending import intrinsic, overload
from numpy.typing import NDArray

SHIFT = {torch.float32: 0, torch.bfloat16: 16, torch.float16: 13}
SCALE = {torch.float32: 1.0, torch.bfloat16: 1.0, torch.float16: 2.0**112}


def stored(rows: torch.Tensor) -> tuple[NDArray[np.int16] | NDArray[np.float32], np.uint32]:
    """Rows on a CPU as these functions take them, and their `shift`."""
    bits = rows if rows.dtype == torch.float32 else rows.view(torch.int16)
    return bits.numpy(), np.uint32(SHIFT[rows.dtype])


_BITS, _FLOATS = types.int16[:, ::1], types.float32[:, ::1]
_KINDS = (_BITS, _FLOATS)
_I64, _F32, _F64 = types.int64[::1], types.float32[::1], types.float64[::1]


class Asked(NamedTuple):
    """What is asked of which rows.

    query: float32 `[B, D]`, scaled as the rows are; `exact_query`: the same in float64.
    slack: float64 `[B]`, how far a product in float32 may be off.
    excluded: int64 `[B]`, the group that is left out; -1 for none.
    written_at: int64 `[N]`; only rows written at the step `oldest` or later are answers.
    group_of_row: int32 `[N]`.
    below: rows more similar than this are no answers.
    """

    query: np.ndarray
    exact_query: np.ndarray
    slack: np.ndarray
    excluded: np.ndarray
    written_at: np.ndarray
    group_of_row: np.ndarray
    oldest: int
    below: float


class State(NamedTuple):
    """The most similar rows so far: a min-heap a query.

    similarity: float64 `[B, K]`; row: int64 `[B, K]`.
    count: int64 `[B]`, entries of the heap; room: int64 `[B]`, the most it may have.
    floor: float64 `[B]`, what a row must be above to become an answer: -inf while there is room.
    """

    similarity: np.ndarray
    row: np.ndarray
    count: np.ndarray
    room: np.ndarray
    floor: np.ndarray


_ASKED = types.NamedTuple(
    (_FLOATS, types.float64[:, ::1], _F64, _I64, _I64, types.int32[::1], types.int64, types.float64), Asked
)
_STATE = types.NamedTuple((types.float64[:, ::1], types.int64[:, ::1], _I64, _I64, _F64), State)


@intrinsic
def _as_float(typing_context, bits):  # type: ignore[no-untyped-def]
    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        return builder.bitcast(arguments[0], context.get_value_type(signature.return_type))

    return types.float32(types.uint32), generate


def _value(stored, shift):  # type: ignore[no-untyped-def]
    """A stored number as float32; a float16 as that times `2 ** -112`."""


@overload(_value)
def _(stored, shift):  # type: ignore[no-untyped-def]
    if isinstance(stored, types.Float):
        return lambda stored, shift: stored
    # Spread its sign to the left, shift it, and keep one of the bits that hold it.
    return lambda stored, shift: _as_float(
        np.uint32((np.int32(stored) << shift) & (0x8FFFFFFF if shift == 13 else 0xFFFFFFFF))
    )


@njit([types.float32(kind.copy(ndim=1), _F32, types.uint32) for kind in _KINDS], nogil=True, cache=True, fastmath=True)
def _dot(row, query, shift):  # type: ignore[no-untyped-def]
    total = np.float32(0)
    for d in range(len(query)):
        total += _value(row[d], shift) * query[d]
    return total


@njit([types.float64(kind.copy(ndim=1), _F64, types.uint32) for kind in _KINDS], nogil=True, cache=True)
def _exact_dot(row, query, shift):  # type: ignore[no-untyped-def]
    # Eight sums: in float64 the compiler may not reorder, and one sum would wait for itself.
    total = np.zeros(8)
    whole = len(query) // 8 * 8
    for d in range(0, whole, 8):
        for lane in range(8):
            total[lane] += np.float64(_value(row[np.uint64(d + lane)], shift)) * query[np.uint64(d + lane)]
    for d in range(whole, len(query)):
        total[0] += np.float64(_value(row[np.uint64(d)], shift)) * query[np.uint64(d)]
    return total.sum()


@njit(types.void(_F64, _I64, types.int64, types.float64, types.int64), nogil=True, cache=True)
def _sink(keys, values, size, key, value):  # type: ignore[no-untyped-def]
    """Replaces the root of a min-heap."""
    place = 0
    while True:
        child = 2 * place + 1
        if child >= size:
            break
        if child + 1 < size and keys[child + 1] < keys[child]:
            child += 1
        if keys[child] >= key:
            break
        keys[place], values[place] = keys[child], values[child]
        place = child
    keys[place], values[place] = key, value


@njit(types.int64(_F64, _I64, types.int64, types.int64, types.float64, types.int64), nogil=True, cache=True)
def _push(keys, values, size, room, key, value):  # type: ignore[no-untyped-def]
    """Keeps the `room` greatest keys in a min-heap of `size`; returns its new size."""
    if size == room:
        if room and key > keys[0]:
            _sink(keys, values, size, key, value)
        return size
    place = size
    while place and keys[(place - 1) // 2] > key:
        keys[place], values[place] = keys[(place - 1) // 2], values[(place - 1) // 2]
        place = (place - 1) // 2
    keys[place], values[place] = key, value
    return size + 1


@njit(
    [types.void(kind, types.uint32, _ASKED, _STATE, types.int64, types.int64) for kind in _KINDS],
    nogil=True,
    cache=True,
)
def _consider(rows, shift, asked, state, b, row):  # type: ignore[no-untyped-def]
    """Answers query b by a row, if it is allowed and better than the worst answer so far."""
    if asked.written_at[row] < asked.oldest or asked.group_of_row[row] == asked.excluded[b]:
        return
    similarity = _exact_dot(rows[row], asked.exact_query[b], shift)
    if similarity > state.floor[b] and similarity <= asked.below:
        heap = state.similarity[b]
        state.count[b] = _push(heap, state.row[b], state.count[b], state.room[b], similarity, row)
        if state.count[b] == state.room[b]:
            state.floor[b] = heap[0]


@njit([types.void(kind, types.uint32, _ASKED, _STATE, *3 * [types.int64]) for kind in _KINDS], nogil=True, cache=True)
def _visit(rows, shift, asked, state, b, start, end):  # type: ignore[no-untyped-def]
    """Answers query b by the rows from `start` to `end`."""
    query, slack, floor = asked.query[b], asked.slack[b], state.floor
    for row in range(start, end):
        if _dot(rows[row], query, shift) + slack > floor[b]:
            _consider(rows, shift, asked, state, b, row)


@njit(
    [types.void(kind, types.uint32, _ASKED, _STATE, types.int64[:, :, ::1]) for kind in _KINDS], nogil=True, cache=True
)
def visit_ranges(rows, shift, asked, state, ranges_BS2):  # type: ignore[no-untyped-def]
    """Answers each query by its own S ranges of rows, start and end."""
    for b in range(len(ranges_BS2)):
        for s in range(ranges_BS2.shape[1]):
            _visit(rows, shift, asked, state, b, ranges_BS2[b, s, 0], ranges_BS2[b, s, 1])


@njit(
    [
        types.void(kind, types.uint32, _ASKED, _STATE, _FLOATS, _I64, _I64, types.int32[::1], *3 * [types.int64])
        for kind in _KINDS
    ],
    nogil=True,
    cache=True,
)
def visit_best(rows, shift, asked, state, bound_BR, starts, newest, group, visits, first, last):  # type: ignore[no-untyped-def]
    """Answers the queries from `first` to `last` by the `visits` runs of the highest bounds each.

    The bound of a run that is done or holds no answer becomes -inf.
    """
    floor = state.floor
    for b in range(first, last):
        bound = bound_BR[b]
        keys, runs, size = np.empty(visits), np.empty(visits, np.int64), 0
        for run in range(len(newest)):
            if newest[run] < asked.oldest or group[run] == asked.excluded[b]:
                bound[run] = -np.inf
            elif size < visits or bound[run] > keys[0]:
                size = _push(keys, runs, size, visits, np.float64(bound[run]), run)
        for place in np.argsort(-keys[:size]):
            run = runs[place]
            if bound[run] > floor[b]:
                _visit(rows, shift, asked, state, b, starts[run], starts[run + 1])
            bound[run] = -np.inf


@njit(types.void(_FLOATS, _F64, types.int64[::1]), nogil=True, cache=True)
def count_open(bound_BR, floor, open_R):  # type: ignore[no-untyped-def]
    """Counts the queries that a run may still hold an answer to."""
    open_R[:] = 0
    for b in range(len(bound_BR)):
        bound, limit = bound_BR[b], floor[b]
        for run in range(len(open_R)):
            open_R[run] += bound[run] > limit


@njit(
    [types.void(kind, types.uint32, _ASKED, _STATE, _FLOATS, _I64, _I64, *2 * [types.int64]) for kind in _KINDS],
    nogil=True,
    cache=True,
)
def visit_open(rows, shift, asked, state, bound_BR, starts, spans, first, last):  # type: ignore[no-untyped-def]
    """Answers the queries from `first` to `last` by whatever runs may hold an answer.

    spans: runs as starts and ends in turn; each span's rows should fit the cache, for all queries visit them.
    """
    floor = state.floor
    for s in range(0, len(spans), 2):
        for b in range(first, last):
            bound = bound_BR[b]
            for run in range(spans[s], spans[s + 1]):
                if bound[run] > floor[b]:
                    _visit(rows, shift, asked, state, b, starts[run], starts[run + 1])


@njit(types.float32(types.float64, types.float64, types.float64), nogil=True, cache=True)
def _least_score(floor, error, rounding):  # type: ignore[no-untyped-def]
    """The score above which the exact product may be above `floor`: they differ by up to `error`, and by a share
    `rounding` of the score."""
    least = floor - error
    return np.float32(least / (1 + rounding) if least > 0 else least / (1 - rounding)) - np.float32(1e-6) * abs(
        np.float32(least)
    )


@njit([types.boolean(kind.copy(ndim=1), _F32) for kind in _KINDS], nogil=True, cache=True)
def _any_above(scores, least):  # type: ignore[no-untyped-def]
    above = np.uint32(0)
    for b in range(len(scores)):
        above |= np.uint32(_value(scores[b], np.uint32(16)) > least[b])
    return above != 0


@njit(
    [
        types.void(kind, types.uint32, _ASKED, _STATE, _FLOATS, _I64, *2 * [types.int64], scores, _F64, types.float64)
        for kind in _KINDS
        for scores in _KINDS
    ],
    nogil=True,
    cache=True,
)
def scan(rows, shift, asked, state, bound_BR, starts, first, last, scores_RB, error, rounding):  # type: ignore[no-untyped-def]
    """Answers all queries by the runs from `first` to `last`, given an approximate product of their rows with them.

    scores_RB: float32 or the bits of bfloat16; off the exact product by up to `error` `[B]` and a share `rounding`.
    """
    floor = state.floor
    queries = len(bound_BR)
    least = np.empty(queries, np.float32)
    for b in range(queries):
        least[b] = _least_score(floor[b], error[b], rounding)
    for run in range(first, last):
        for row in range(starts[run], starts[run + 1]):
            scores = scores_RB[row - starts[first]]
            if _any_above(scores, least):
                for b in range(queries):
                    if _value(scores[b], np.uint32(16)) > least[b] and bound_BR[b, run] > floor[b]:
                        _consider(rows, shift, asked, state, b, row)
                        least[b] = _least_score(floor[b], error[b], rounding)


@njit(
    [types.void(kind, types.uint32, types.float64, _I64, _I64, _I64, _FLOATS, _I64) for kind in _KINDS],
    nogil=True,
    cache=True,
)
def centroids(rows, shift, scale, written_at, starts, runs, centroid_SD, newest_S):  # type: ignore[no-untyped-def]
    """The mean of the written rows of each of S `runs`, and the latest step at which one was written (-1: never)."""
    total = np.empty(rows.shape[1])
    for place in range(len(runs)):
        total[:] = 0
        written, newest = 0, -1
        for row in range(starts[runs[place]], starts[runs[place] + 1]):
            if written_at[row] >= 0:
                newest = max(newest, written_at[row])
                written += 1
                stored = rows[row]
                for d in range(len(total)):
                    total[d] += scale * _value(stored[d], shift)
        newest_S[place] = newest
        centroid_SD[place] = total / max(1, written)


@njit(
    [types.void(kind, types.uint32, types.float64, _I64, _I64, _I64, _FLOATS, _F64, _F64) for kind in _KINDS],
    nogil=True,
    cache=True,
    fastmath=True,
)
def radii(rows, shift, scale, written_at, starts, runs, centroid_SD, radius_S, length_S):  # type: ignore[no-untyped-def]
    """How far the written rows of each of S `runs` lie from its centroid, and how long they are, at most."""
    for place in range(len(runs)):
        farthest = longest = 0.0
        centroid = centroid_SD[place]
        for row in range(starts[runs[place]], starts[runs[place] + 1]):
            if written_at[row] >= 0:
                stored = rows[row]
                away = length = 0.0
                for d in range(len(centroid)):
                    value = scale * _value(stored[d], shift)
                    away += (value - centroid[d]) ** 2
                    length += value * value
                farthest, longest = max(farthest, away), max(longest, length)
        radius_S[place], length_S[place] = np.sqrt(farthest), np.sqrt(longest)


@njit(_I64(_I64, types.int64), nogil=True, cache=True)
def cut(first_row, most):  # type: ignore[no-untyped-def]
    """Starts of runs of up to `most` rows, and the end of the last one. No run but the last is shorter than half of
    that: a run begins where a video does, unless the videos before it are too short."""
    starts = [np.int64(0)]
    for end in first_row[1:]:
        rows = end - starts[-1]
        if 2 * rows >= most or (end == first_row[-1] and rows):
            begin, parts = starts[-1], (rows + most - 1) // most
            for part in range(1, parts + 1):
                starts.append(begin + rows * part // parts)
    return np.array(starts)
