"""The most similar rows to many queries: on a CPU compiled and with bounds, elsewhere in torch. Nothing is `[B, N]`.

On a CPU, in this order, each step sparing the following ones work:

1. Bounds on all runs of rows, by one product with their centroids (`Runs.bounds`).
2. For each query, the runs of the highest bounds. An approximate search ends here.
3. Blocks of rows in which many runs may still exceed what was found: one product of the block with all queries, in
   bfloat16 where the processor computes in it; what may be better than the answers so far, for all the rounding, is
   multiplied again in float64.
4. In the other blocks, those runs alone, each with those queries that it may hold answers to.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import torch

from usucl_fast.mining import scan
from usucl_fast.mining.runs import COARSE, ROUNDING, RUN, Runs

BLOCK_RUNS = 256
"""Runs of one product on a CPU: with their scores they stay in its cache."""
SPAN_RUNS = 32
"""Runs that every query visits before the next ones: they stay in a core's cache."""
BLOCK_SCORES = 1 << 22
"""Similarities held at once by a search in torch: 16 MiB."""
LEAST_BLOCK = 1024
"""Rows at once in torch, at least."""
BLOCK_QUERIES = 256
"""Queries searched for at once on a CPU, at most."""
HELD = 1 << 25
"""Bounds and answers held at once: 128 and 512 MiB. Where they would be more, there are fewer queries at once."""
SEEDS = 8
"""Runs that an exact search visits first for each query."""
VISITS = 64
"""Runs that an approximate search visits for each query, at least."""
PAIR_COST = 4
"""How many times longer a row and a query take on their own than in a product of a block with all queries."""


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


def search_cpu(
    rows: Rows, runs: Runs, query: torch.Tensor, allowed: Allowed, room: torch.Tensor, approximate: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """The `room` int64 `[B]` most similar of the allowed rows to each query float32 `[B, D]`.

    Returns:
        Their similarities float64 and rows int64, `[B, K]`, K the greatest room; -inf and -1 where there are fewer.
    """
    runs.refresh()
    visits = VISITS if approximate else SEEDS
    at_once = max(1, min(BLOCK_QUERIES, HELD // max(1, len(runs.newest), int(room.max()))))
    parts = []
    for first in range(0, len(query), at_once):
        part = slice(first, first + at_once)
        asked = _Search(
            rows, query[part], allowed._replace(excluded=allowed.excluded[part]), room[part], runs.longest()
        )
        asked.visit_runs(runs, visits, approximate)
        parts.append(asked.answers())
    return torch.cat([similarity for similarity, _ in parts]), torch.cat([found for _, found in parts])


def search_ranges(
    rows: Rows, query: torch.Tensor, allowed: Allowed, room: torch.Tensor, ranges_BS2: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """As `search_cpu`, among S ranges of rows for each query, int64 `[B, S, 2]`: starts and ends."""
    asked = _Search(rows, query, allowed, room, torch.finfo(torch.float32).max)
    scan.visit_ranges(*asked.stored, asked.asked, asked.state, ranges_BS2.numpy())
    return asked.answers()


class _Search:
    """One search on a CPU, for as many queries as are held at once.

    longest: no row is longer than this.
    """

    def __init__(self, rows: Rows, query: torch.Tensor, allowed: Allowed, room: torch.Tensor, longest: float) -> None:
        self._rows, self._query = rows, query
        self.stored = scan.stored(rows.embeddings)
        scaled = query * scan.SCALE[rows.embeddings.dtype]
        norm = query.double().norm(dim=1)
        # float32 sums of D products are off by up to D 2^-24 |q||x|, in any order.
        self._slack = (query.shape[1] + 8) * 2.0**-23 * longest * norm
        self._longest = longest
        self.asked = scan.Asked(
            scaled.numpy(),
            scaled.double().numpy(),
            self._slack.numpy(),
            allowed.excluded.numpy(),
            rows.written_at.numpy(),
            rows.group.numpy(),
            allowed.oldest,
            allowed.below,
        )
        most = int(room.max())
        self.state = scan.State(
            np.full((len(query), most), -np.inf),
            np.full((len(query), most), -1, np.int64),
            np.zeros(len(query), np.int64),
            room.numpy(),
            np.where(room.numpy() > 0, -np.inf, np.inf),
        )

    def answers(self) -> tuple[torch.Tensor, torch.Tensor]:
        similarity, order = torch.from_numpy(self.state.similarity).sort(dim=1, descending=True, stable=True)
        return similarity, torch.from_numpy(self.state.row).gather(1, order)

    def visit_runs(self, runs: Runs, visits: int, approximate: bool) -> None:
        bound_BR = runs.bounds(self._query).numpy()
        visits = max(visits, 2 * self.state.similarity.shape[1] // RUN)
        self._by_threads(
            lambda first, last: scan.visit_best(
                *self.stored,
                self.asked,
                self.state,
                bound_BR,
                runs.starts,
                runs.newest,
                runs.group,
                visits,
                first,
                last,
            )
        )
        if approximate:
            return
        open_R = np.empty(len(runs.newest), np.int64)
        scan.count_open(bound_BR, self.state.floor, open_R)
        sparse = []
        for first in range(0, len(open_R), BLOCK_RUNS):
            last = min(first + BLOCK_RUNS, len(open_R))
            pairs = int(open_R[first:last] @ np.diff(runs.starts[first : last + 1]))
            if pairs * PAIR_COST > (runs.starts[last] - runs.starts[first]) * len(self._query):
                self._multiply(runs, bound_BR, first, last)
            elif pairs:
                sparse += [(at, min(at + SPAN_RUNS, last)) for at in range(first, last, SPAN_RUNS)]
        if sparse:
            spans = np.array(sparse, np.int64).reshape(-1)
            self._by_threads(
                lambda first, last: scan.visit_open(
                    *self.stored, self.asked, self.state, bound_BR, runs.starts, spans, first, last
                )
            )

    def _multiply(self, runs: Runs, bound_BR: np.ndarray, first: int, last: int) -> None:
        query = self._query.to(COARSE)
        block = self._rows.embeddings[runs.starts[first] : runs.starts[last]]
        scores, _ = scan.stored(torch.mm(block.to(COARSE), query.T))
        # Off by the rounding of the query, of the rows unless they are stored so, and of the sums.
        error = (query.double() - self._query.double()).norm(dim=1) * self._longest + 2 * self._slack
        if block.dtype != COARSE:
            error += ROUNDING * self._longest * query.double().norm(dim=1)
        scan.scan(
            *self.stored, self.asked, self.state, bound_BR, runs.starts, first, last, scores, error.numpy(), ROUNDING
        )

    def _by_threads(self, work: Callable[[int, int], None]) -> None:
        """Shares the queries out: `work` does those from its first to its second argument."""
        queries, threads = len(self._query), min(torch.get_num_threads(), len(self._query))
        if threads <= 1:
            work(0, queries)
            return
        cuts = [queries * n // threads for n in range(threads + 1)]
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(work, cuts[:-1], cuts[1:]))


def search_torch(
    rows: Rows, query: torch.Tensor, allowed: Allowed, room: torch.Tensor, ranges_BS2: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """As `search_cpu` or, where ranges are given, as `search_ranges`; on any device, similarities in float32."""
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
