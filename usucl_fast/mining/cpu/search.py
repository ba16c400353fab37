"""The stages of a search. Nothing is `[B, N]`.

The rows lie in blocks, and the centroids of the blocks, the level above, in blocks too (`Blocks`). In this order:

1. The blocks of the centroids most similar to each query: their rows are visited first. An approximate search ends
   here.
2. Which centroids are so near that their block may hold an answer; most are not, where the rows of a video are alike.
3. Of those blocks, products in int8, sixteen queries and eight rows at once (`tile`).
4. Of rows that may still be an answer, the product in float32; if they pass that as well, in float64.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property, partial

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from usucl_fast.mining.cpu import bounds, scan
from usucl_fast.mining.cpu.blocks import Blocks
from usucl_fast.mining.cpu.levels import BLOCK, Vectors
from usucl_fast.mining.cpu.scan import Queries, Share, TopK
from usucl_fast.mining.cpu.stored import SCALE, stored
from usucl_fast.mining.cpu.tile import LANES
from usucl_fast.mining.search import Allowed, Rows

BLOCK_QUERIES = 256
"""Queries searched for at once, at most."""
SEEDS = 8
"""Blocks that an exact search visits first for each query."""
VISITS = 24
"""Blocks that an approximate search visits for each query, at least."""
THREAD_PRODUCTS = 1 << 22
"""Rows times queries that are worth another thread."""


class CompiledSearch:
    """Searches compiled and with bounds, see `Search`; similarities are in float64."""

    def __init__(self, rows: Rows, first_row: NDArray[np.int64]) -> None:
        vectors = Vectors(stored(rows.embeddings), rows.written_at.numpy(), rows.group.numpy())
        blocks = Blocks(vectors, SCALE[rows.embeddings.dtype], first_row)
        # The rows in blocks, the centroids of the blocks in blocks, and so on once more.
        self.levels = [blocks, above := blocks.above(), above.above()]

    def touch(self, rows: torch.Tensor | None = None) -> None:
        self.levels[0].touch(None if rows is None else rows.numpy())

    def nearest(
        self, query: torch.Tensor, allowed: Allowed, k: torch.Tensor, most: int, approximate: bool
    ) -> tuple[torch.Tensor, torch.Tensor]:
        self._refresh()
        parts = []
        for first in range(0, len(query), BLOCK_QUERIES):
            part = slice(first, first + BLOCK_QUERIES)
            queries = _Queries(query[part], allowed._replace(excluded=allowed.excluded[part]))
            parts.append(self._nearest(queries, k[part], most, approximate))
        return torch.cat([similarity for similarity, _ in parts]), torch.cat([found for _, found in parts])

    def among(
        self, query: torch.Tensor, allowed: Allowed, k: torch.Tensor, most: int, ranges_BS2: NDArray[np.int64]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        self._refresh()
        queries, blocks = _Queries(query, allowed), self.levels[0]
        topk = queries.nothing_found(k, most)
        scan.visit_ranges(blocks.rows, queries.of(blocks, queries.below), topk, np.ascontiguousarray(ranges_BS2))
        return queries.best([topk])

    def _refresh(self) -> None:
        changed = self.levels[0].refresh()
        for level in self.levels[1:]:
            level.touch(changed)
            changed = level.refresh()

    def _nearest(
        self, queries: "_Queries", k: torch.Tensor, most: int, approximate: bool
    ) -> tuple[torch.Tensor, torch.Tensor]:
        blocks, above, top = self.levels
        shares = _Shares(len(queries.norm) // LANES, len(blocks.rows.values) * len(queries.norm))
        visits = max(VISITS if approximate else SEEDS, 2 * most // BLOCK)
        topk = queries.nothing_found(torch.full_like(k, visits), visits)
        of_above = queries.of(above, np.inf, coded=True)
        found = _search(shares, above, top, of_above, topk, queries.none_done(above))
        promising = queries.best(found)[1].numpy()

        of_rows, topk, done = (
            queries.of(blocks, queries.below, coded=True),
            queries.nothing_found(k, most),
            queries.none_done(blocks),
        )
        shares.of_queries(
            lambda *part: scan.visit_blocks(blocks.rows, of_rows, topk, blocks.level, promising, done, *part)
        )
        return queries.best([topk] if approximate else _search(shares, blocks, above, of_rows, topk, done))


def _search(
    shares: "_Shares", blocks: Blocks, above: Blocks, queries: Queries, topk: TopK, done: NDArray[np.uint16]
) -> list[TopK]:
    level, upper = blocks.coded(), above.coded()
    return shares.of_all(
        lambda topk, share: scan.search(blocks.rows, queries, topk, level, upper, done, share), len(upper.group), topk
    )


class _Queries:
    """Queries float32 `[B, D]`, brought up to a multiple of `LANES` by some that find nothing. Their numbers are
    brought to about 1 by powers of two, so that no product leaves float32."""

    def __init__(self, query: torch.Tensor, allowed: Allowed) -> None:
        self._count = len(query)
        given = F.pad(query, (0, 0, 0, -len(query) % LANES))
        self._exponent = np.frexp(given.abs().amax(dim=1).numpy())[1]
        self._query = np.ldexp(given.double().numpy(), -self._exponent[:, None])
        self.below = np.ldexp(allowed.below, -self._exponent)
        self.norm = np.sqrt(np.einsum("bd,bd->b", self._query, self._query))
        self._asked = np.zeros(len(self.norm), bounds.QUERY)
        self._asked["excluded"], self._asked["oldest"] = self._pad(allowed.excluded).numpy(), allowed.oldest
        self._asked["norm"] = self.norm

    @cached_property
    def _code(self) -> NDArray[np.int8]:
        """The queries in int8, as `tile` takes them; what is left over goes into `_asked`."""
        # In numpy: some of torch's threads spin on after such an operation, on the cores that the search needs.
        exact = np.pad(self._query, ((0, 0), (0, -self._query.shape[1] % 4)))
        step = np.maximum(np.abs(exact).max(axis=1), 1e-30) / 127
        code = np.rint(exact / step[:, None])
        residual = np.linalg.norm(exact - step[:, None] * code, axis=1) * (1 + bounds.ROUNDING)
        self._asked["per_step"], self._asked["residual"] = 1 / step, residual
        self._asked["shift"] = bounds.ZERO * code.sum(axis=1) - bounds.CODE_ROUNDING
        packed = code.astype(np.int8).reshape(-1, LANES, exact.shape[1] // 4, 4).transpose(0, 2, 1, 3)
        return np.ascontiguousarray(packed)

    def _pad(self, one_a_query: torch.Tensor) -> torch.Tensor:
        return F.pad(one_a_query, (0, -len(one_a_query) % LANES))

    def of(self, blocks: Blocks, below: NDArray[np.float64] | float, coded: bool = False) -> Queries:
        """The queries as they are asked of the rows in `blocks`; rows more similar than `below` are no answers."""
        exact = self._query * blocks.scale
        code = self._code if coded else np.empty((0, 0, LANES, 4), np.int8)
        asked = self._asked.copy()
        asked["below"] = below
        asked["float32_error"] = bounds.float32_error(exact.shape[1], blocks.longest(), self.norm)
        return Queries(self._query.astype(np.float32), exact.astype(np.float32), exact, asked, code)

    def nothing_found(self, k: torch.Tensor, most: int) -> TopK:
        """No answers yet; k is up to `most`."""
        return _empty(self._pad(k).numpy(), np.full(len(self.norm), -np.inf), most)

    def none_done(self, blocks: Blocks) -> NDArray[np.uint16]:
        """`[R, B / LANES]`, for each block a bit a query: whether the query has been answered by the block's rows."""
        return np.zeros((len(blocks.level.group), len(self.norm) // LANES), np.uint16)

    def best(self, parts: list[TopK]) -> tuple[torch.Tensor, torch.Tensor]:
        """Similarities float64 and rows int64 `[B, K]`, the most similar first, of what parts of a search found."""
        similarity = np.concatenate([part.similarity for part in parts], axis=1)[: self._count]
        row = np.concatenate([part.row for part in parts], axis=1)[: self._count]
        most, k = parts[0].row.shape[1], parts[0].state["k"][: self._count, None]
        order = np.lexsort((row, -similarity))[:, :most]
        similarity, row = (np.take_along_axis(part, order, axis=1) for part in (similarity, row))
        too_many = np.arange(most) >= k
        similarity[too_many], row[too_many] = -np.inf, -1
        similarity = np.ldexp(similarity, self._exponent[: self._count, None])
        return torch.from_numpy(similarity), torch.from_numpy(row)


def _empty(k: NDArray[np.int64], threshold: NDArray[np.float64], most: int) -> TopK:
    state = np.zeros(len(k), scan.TOP)
    # A query that asks for no answers gets none.
    state["k"], state["threshold"] = k, np.where(k > 0, threshold, np.inf)
    return TopK(np.full((len(k), most), -np.inf), np.full((len(k), most), -1, np.int64), state)


class _Shares:
    """Shares of a search for threads: of its groups of `LANES` queries and, where these are fewer than the threads, of
    its blocks as well; products: its rows times its queries."""

    def __init__(self, groups: int, products: int) -> None:
        self._threads = min(torch.get_num_threads(), 1 + products // THREAD_PRODUCTS)
        self._queries = [(LANES * first, LANES * last) for first, last in _cut(groups, self._threads)]

    def of_queries(self, work: Callable[[int, int], None]) -> None:
        """work: of the queries from its first to its second argument."""
        _by_threads([partial(work, *queries) for queries in self._queries])

    def of_all(self, work: Callable[[TopK, Share], None], blocks: int, topk: TopK) -> list[TopK]:
        """What is found, one top k a share of the blocks; work: on a top k and a share."""
        parts = _cut(blocks, -(-self._threads // len(self._queries)))
        # What is found already limits all shares, and is kept by the first.
        k, threshold, most = topk.state["k"], topk.state["threshold"], topk.row.shape[1]
        found = [topk, *(_empty(k, threshold, most) for _ in parts[1:])]
        _by_threads(
            [
                partial(work, of_part, Share(*part, *queries))
                for of_part, part in zip(found, parts, strict=True)
                for queries in self._queries
            ]
        )
        return found


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
