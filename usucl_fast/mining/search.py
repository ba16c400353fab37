"""The most similar rows to many queries: on a CPU compiled and with bounds, elsewhere in torch. Nothing is `[B, N]`.

On a CPU the rows lie in runs, and the centroids of the runs, the level above, in runs too (`Runs`). In this order:

1. The runs of the centroids most similar to each query: their rows are visited first. An approximate search ends here.
2. Which centroids are so near that their run may hold an answer; most are not, where the rows of a video are alike.
3. Of those runs, products in bytes, sixteen queries and eight rows at once (`tile`).
4. Of rows that may for all that be an answer, the product in float32; if they still may, in float64.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property, partial
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from usucl_fast.mining import scan
from usucl_fast.mining.levels import RUN, ZERO
from usucl_fast.mining.runs import Runs
from usucl_fast.mining.scan import Asked, Packed, State
from usucl_fast.mining.stored import SCALE, stored
from usucl_fast.mining.tile import LANES

BLOCK_SCORES = 1 << 22
"""Similarities held at once by a search in torch: 16 MiB."""
LEAST_BLOCK = 1024
"""Rows at once in torch, at least."""
BLOCK_QUERIES = 256
"""Queries searched for at once on a CPU, at most."""
SEEDS = 8
"""Runs that an exact search visits first for each query."""
VISITS = 24
"""Runs that an approximate search visits for each query, at least."""
THREAD_PRODUCTS = 1 << 22
"""Rows times queries that are worth another thread."""


class Rows(NamedTuple):
    """What is searched: embeddings `[N, D]`, written_at int64 `[N]` (-1: never), group int32 `[N]`."""

    embeddings: torch.Tensor
    written_at: torch.Tensor
    group: torch.Tensor


class Allowed(NamedTuple):
    """Which rows may be answers: written at the step `oldest` or later, of similarity up to `below`, and not of the
    group `excluded` int64 `[B]` (-1: of any)."""

    excluded: torch.Tensor
    oldest: int
    below: float


class CpuSearch:
    """Searches among rows on a CPU, which may change if `touch` is told of it; first_row: int64 `[videos + 1]`."""

    def __init__(self, rows: Rows, first_row: NDArray[np.int64]) -> None:
        runs = Runs(
            stored(rows.embeddings),
            SCALE[rows.embeddings.dtype],
            rows.written_at.numpy(),
            rows.group.numpy(),
            first_row,
        )
        # The rows in runs, the centroids of the runs in runs, and so on once more.
        self._levels = [runs, above := runs.above(), above.above()]

    def touch(self, frame_ids: torch.Tensor | None = None) -> None:
        """Says that rows have changed, all of them if none are named."""
        self._levels[0].touch(None if frame_ids is None else frame_ids.numpy())

    def nearest(
        self, query: torch.Tensor, allowed: Allowed, room: torch.Tensor, approximate: bool
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The `room` int64 `[B]` most similar of the allowed rows to each query float32 `[B, D]`.

        Returns:
            Their similarities float64 and rows int64, `[B, K]`, K the greatest room; -inf and -1 where there are fewer.
        """
        self._refresh()
        parts = []
        for first in range(0, len(query), BLOCK_QUERIES):
            part = slice(first, first + BLOCK_QUERIES)
            queries = _Queries(query[part], allowed.excluded[part], allowed.oldest)
            parts.append(self._nearest(queries, allowed.below, room[part], int(room.max()), approximate))
        return torch.cat([similarity for similarity, _ in parts]), torch.cat([found for _, found in parts])

    def among(
        self, query: torch.Tensor, allowed: Allowed, room: torch.Tensor, ranges_BS2: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """As `nearest`, among S ranges of rows for each query, int64 `[B, S, 2]`: starts and ends."""
        self._refresh()
        queries = _Queries(query, allowed.excluded, allowed.oldest)
        state = queries.nothing_found(room, int(room.max()))
        scan.visit_ranges(self._levels[0].rows, queries.of(self._levels[0], allowed.below), state, ranges_BS2.numpy())
        return queries.best([state])

    def _refresh(self) -> None:
        changed = self._levels[0].refresh()
        for level in self._levels[1:]:
            level.touch(changed)
            changed = level.refresh()

    def _nearest(
        self, queries: "_Queries", below: float, room: torch.Tensor, most: int, approximate: bool
    ) -> tuple[torch.Tensor, torch.Tensor]:
        runs, above, top = self._levels
        shares = _Shares(len(queries.norm) // LANES, len(runs.rows) * len(queries.norm))
        visits = max(VISITS if approximate else SEEDS, 2 * most // RUN)
        asked, state = queries.of(above, np.inf), queries.nothing_found(torch.full_like(room, visits), visits)
        states = self._search(queries, shares, above, top, asked, state, queries.none_done(above))
        promising = queries.best(states)[1].numpy()

        asked, state, done = queries.of(runs, below), queries.nothing_found(room, most), queries.none_done(runs)
        shares.of_queries(lambda *part: scan.visit_runs(runs.rows, asked, state, runs.level, promising, done, *part))
        states = [state] if approximate else self._search(queries, shares, runs, above, asked, state, done)
        return queries.best(states)

    def _search(
        self,
        queries: "_Queries",
        shares: "_Shares",
        runs: Runs,
        above: Runs,
        asked: Asked,
        state: State,
        done: NDArray[np.uint16],
    ) -> list[State]:
        of_all = (queries.packed, runs.level, runs.codes(), above.level, above.codes(), done)
        return shares.of_all(
            lambda state, *part: scan.search(runs.rows, asked, state, *of_all, *part),
            *(len(above.level.group), state),
        )


class _Queries:
    """Queries float32 `[B, D]`, brought up to a multiple of `LANES` by some that find nothing.

    excluded: int64 `[B]`; oldest: see `Allowed`.
    """

    def __init__(self, query: torch.Tensor, excluded: torch.Tensor, oldest: int) -> None:
        self._count, self._oldest = len(query), oldest
        self._excluded = self._pad(excluded).numpy()
        self._query = F.pad(query, (0, 0, 0, -len(query) % LANES))
        self.norm = self._query.double().norm(dim=1).numpy()

    @cached_property
    def packed(self) -> Packed:
        """The queries in bytes."""
        # In numpy: some of torch's own threads go on spinning after such an operation, where the search wants to be.
        return _pack(self._query.numpy())

    def _pad(self, one_a_query: torch.Tensor) -> torch.Tensor:
        return F.pad(one_a_query, (0, -len(one_a_query) % LANES))

    def of(self, runs: Runs, below: float) -> Asked:
        """What is asked of the rows in `runs`; below: see `Allowed`."""
        scaled = self._query * runs.scale
        # float32 sums of D products are off by up to D 2^-24 |q||x|, in any order.
        slack = (scaled.shape[1] + 8) * 2.0**-23 * runs.longest() * self.norm
        return Asked(
            self._query.numpy(),
            scaled.numpy(),
            scaled.double().numpy(),
            self.norm,
            slack,
            self._excluded,
            runs.written_at,
            runs.group_of_row,
            self._oldest,
            below,
        )

    def nothing_found(self, room: torch.Tensor, most: int) -> State:
        """No answers yet, with room for some of up to `most`."""
        return _empty(self._pad(room).numpy(), np.full(len(self.norm), -np.inf), most)

    def none_done(self, runs: Runs) -> NDArray[np.uint16]:
        """`[R, B / LANES]`, for each run a bit a query, of whether the query has been answered by the run's rows."""
        return np.zeros((len(runs.level.group), len(self.norm) // LANES), np.uint16)

    def best(self, states: list[State]) -> tuple[torch.Tensor, torch.Tensor]:
        """Similarities float64 and rows int64 `[B, K]`, the most similar first, of what parts of a search found."""
        similarity, row = (np.concatenate([state[n] for state in states], axis=1)[: self._count] for n in (0, 1))
        most, room = states[0].similarity.shape[1], states[0].room[: self._count, None]
        order = np.lexsort((row, -similarity))[:, :most]
        similarity, row = (np.take_along_axis(part, order, axis=1) for part in (similarity, row))
        too_many = np.arange(most) >= room
        similarity[too_many], row[too_many] = -np.inf, -1
        return torch.from_numpy(similarity), torch.from_numpy(row)


def _empty(room: NDArray[np.int64], floor: NDArray[np.float64], most: int) -> State:
    # A query that has room for none takes none.
    return State(
        np.full((len(room), most), -np.inf),
        np.full((len(room), most), -1, np.int64),
        np.zeros(len(room), np.int64),
        room,
        np.where(room > 0, floor, np.inf),
    )


def _pack(query: NDArray[np.float32]) -> Packed:
    """Queries `[B, D]` in bytes, B a multiple of `LANES`."""
    exact = np.pad(query, ((0, 0), (0, -query.shape[1] % 4))).astype(np.float64)
    step = np.maximum(np.abs(exact).max(axis=1), 1e-30) / 127
    code = np.rint(exact / step[:, None])
    rest = np.linalg.norm(exact - step[:, None] * code, axis=1) * (1 + 1e-9)
    with np.errstate(invalid="ignore"):  # whoever made a query that is not finite will say so
        packed = code.astype(np.int8).reshape(-1, LANES, exact.shape[1] // 4, 4).transpose(0, 2, 1, 3)
    return Packed(np.ascontiguousarray(packed), 1 / step, rest, ZERO * code.sum(axis=1))


class _Shares:
    """Shares of a search for threads: of its groups of `LANES` queries and, where these are fewer than the threads, of
    its blocks of runs as well; products: its rows times its queries."""

    def __init__(self, groups: int, products: int) -> None:
        self._threads = min(torch.get_num_threads(), 1 + products // THREAD_PRODUCTS)
        self._queries = [(LANES * first, LANES * last) for first, last in _cut(groups, self._threads)]

    def of_queries(self, work: Callable[[int, int], None]) -> None:
        """work: of the queries from its first to its second argument."""
        _by_threads([partial(work, *queries) for queries in self._queries])

    def of_all(self, work: Callable[..., None], blocks: int, state: State) -> list[State]:
        """What is found, one state a share of the blocks; work: on a state, the blocks and the queries from and to."""
        parts = _cut(blocks, -(-self._threads // len(self._queries)))
        # What is found already limits all shares, and is kept by the first.
        others = [_empty(state.room, state.floor, state.similarity.shape[1]) for _ in parts[1:]]
        states = [state, *others]
        _by_threads(
            [
                partial(work, state, *part, *queries)
                for state, part in zip(states, parts, strict=True)
                for queries in self._queries
            ]
        )
        return states


def _cut(count: int, parts: int) -> list[tuple[int, int]]:
    parts = max(1, min(parts, count))
    return [(count * n // parts, count * (n + 1) // parts) for n in range(parts)]


def _by_threads(work: list[Callable[[], None]]) -> None:
    first, *others = work
    if not others:
        first()
        return
    with ThreadPoolExecutor(len(others)) as pool:
        begun = [pool.submit(one) for one in others]
        first()
        for one in begun:
            one.result()


def search_torch(
    rows: Rows, query: torch.Tensor, allowed: Allowed, room: torch.Tensor, ranges_BS2: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """As `CpuSearch.nearest` or, where ranges are given, `CpuSearch.among`; on any device, similarities in float32."""
    device, most = query.device, int(room.max())
    best = torch.full((len(query), most), -torch.inf, device=device)
    found = torch.full((len(query), most), -1, dtype=torch.int64, device=device)
    if ranges_BS2 is None:
        columns, block = len(rows.embeddings), BLOCK_SCORES // len(query)
    else:
        lengths = (ranges_BS2[:, :, 1] - ranges_BS2[:, :, 0]).clamp_min(0)
        ends = lengths.cumsum(dim=1)
        columns, block = int(ends[:, -1].max()), BLOCK_SCORES // query.numel()
    for start in range(0, columns, max(LEAST_BLOCK, block)):
        at = torch.arange(start, min(start + max(LEAST_BLOCK, block), columns), device=device)[None]
        if ranges_BS2 is None:
            scores = query @ rows.embeddings[at[0, 0] : at[0, -1] + 1].float().T
            hidden = torch.zeros_like(at, dtype=torch.bool)
        else:
            hidden = at >= ends[:, -1:]
            part = torch.searchsorted(ends, at.expand(len(query), -1).contiguous(), right=True)
            part = part.clamp_max(ends.shape[1] - 1)
            at = ranges_BS2[:, :, 0].gather(1, part) + at - (ends - lengths).gather(1, part)
            at = at.masked_fill(hidden, 0)
            scores = torch.einsum("bd,brd->br", query, rows.embeddings[at].float())
        hidden = hidden | (rows.written_at[at] < allowed.oldest) | (rows.group[at] == allowed.excluded[:, None])
        scores = scores.masked_fill(hidden | (scores > allowed.below), -torch.inf)
        top, place = scores.topk(min(most, scores.shape[1]), dim=1)
        best, order = torch.cat([best, top], dim=1).topk(most, dim=1)
        found = torch.cat([found, at.expand_as(scores).gather(1, place)], dim=1).gather(1, order)
    hidden = best.isneginf() | (torch.arange(most, device=device) >= room[:, None])
    return best.masked_fill(hidden, -torch.inf), found.masked_fill(hidden, -1)
