"""Exact top-k inner-product search over the rows of a bank: what a search is, and one in torch, for any device.

A bank notifies its search of every change and asks it for the most similar rows. `usucl_fast.mining.cpu` has the one
that is compiled for a CPU.
"""

from typing import NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

BLOCK_SCORES = 1 << 22
"""Similarities held at once: 16 MiB."""
LEAST_BLOCK = 1024
"""Rows at once, at least."""


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


class Search(Protocol):
    """Finds the rows most similar to queries float32 `[B, D]`, by dot product.

    Both searches take `k` int64 `[B]`, the answers that each query asks for, none above `most`, and return similarities
    and rows int64, `[B, most]`: the most similar first; -inf and -1 where there are fewer.
    """

    def touch(self, rows: torch.Tensor | None = None) -> None:
        """Says that rows have changed, all of them if none are named."""

    def nearest(
        self, query: torch.Tensor, allowed: Allowed, k: torch.Tensor, most: int, approximate: bool
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The most similar of all allowed rows; if `approximate`, some may be missed."""

    def among(
        self, query: torch.Tensor, allowed: Allowed, k: torch.Tensor, most: int, ranges_BS2: NDArray[np.int64]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The most similar of the allowed rows in S ranges for each query, `[B, S, 2]`: starts and ends."""


class MakeSearch(Protocol):
    """Makes a search of rows that lie in videos, first_row int64 `[videos + 1]`."""

    def __call__(self, rows: Rows, first_row: NDArray[np.int64]) -> Search: ...


class TorchSearch:
    """Searches in torch, on any device, with similarities in float32; nothing is `[B, N]`."""

    def __init__(self, rows: Rows, first_row: NDArray[np.int64]) -> None:
        self._rows = rows

    def touch(self, rows: torch.Tensor | None = None) -> None:
        pass

    def nearest(
        self, query: torch.Tensor, allowed: Allowed, k: torch.Tensor, most: int, approximate: bool
    ) -> tuple[torch.Tensor, torch.Tensor]:
        query, best = scaled(query, allowed, k, most, self._rows)
        count = len(self._rows.embeddings)
        block = max(LEAST_BLOCK, BLOCK_SCORES // len(query))
        for start in range(0, count, block):
            row = torch.arange(start, min(start + block, count), device=query.device)[None]
            best.update(query @ self._rows.embeddings[start : start + block].float().T, row, None)
        return best.answers()

    def among(
        self, query: torch.Tensor, allowed: Allowed, k: torch.Tensor, most: int, ranges_BS2: NDArray[np.int64]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        query, best = scaled(query, allowed, k, most, self._rows)
        sizes = np.maximum(ranges_BS2[:, :, 1] - ranges_BS2[:, :, 0], 0)
        count, block = int(sizes.sum(axis=1).max()), self._columns(query)
        starts, lengths = torch.from_numpy(np.stack((ranges_BS2[:, :, 0], sizes))).to(query.device, non_blocking=True)
        ends = lengths.cumsum(dim=1)
        for start in range(0, count, block):
            place = torch.arange(start, min(start + block, count), device=query.device).expand(len(query), -1)
            part = torch.searchsorted(ends, place.contiguous(), right=True).clamp_max(ends.shape[1] - 1)
            row = starts.gather(1, part) + place - (ends - lengths).gather(1, part)
            past_end = place >= ends[:, -1:]
            self._look(query, row.masked_fill(past_end, 0), past_end, best)
        return best.answers()

    def _columns(self, query: torch.Tensor) -> int:
        """How many rows of its own each query `[B, D]` can be compared with at once."""
        return max(LEAST_BLOCK, BLOCK_SCORES // query.numel())

    def _look(self, query: torch.Tensor, row: torch.Tensor, hidden: torch.Tensor, best: "Best") -> None:
        """Compares each query `[B, D]` with rows of its own `[B, R]`, but for those hidden."""
        best.update(torch.einsum("bd,brd->br", query, self._rows.embeddings[row].float()), row, hidden)


def scaled(
    query: torch.Tensor, allowed: Allowed, k: torch.Tensor, most: int, rows: Rows
) -> "tuple[torch.Tensor, Best]":
    """The queries brought to about 1, by powers of two, so that no product leaves float32; and their top k, of which
    none is found yet."""
    scale = torch.frexp(query.abs().amax(dim=1)).exponent.double().exp2()
    return (query.double() / scale[:, None]).float(), Best(scale, allowed, k, most, rows)


class Best:
    """The top k of each query so far.

    scale: what similarities are to be multiplied by, float64 `[B]`.
    below: float32 `[B, 1]`, the greatest similarity that is allowed, before it is multiplied.
    """

    def __init__(self, scale: torch.Tensor, allowed: Allowed, k: torch.Tensor, most: int, rows: Rows) -> None:
        self._allowed, self._k, self._rows, self._most = allowed, k, rows, most
        self._scale, self.below = scale, (allowed.below / scale).float()[:, None]
        self._similarity = torch.full((len(scale), self._most), -torch.inf, device=scale.device)
        self._row = torch.full((len(scale), self._most), -1, dtype=torch.int64, device=scale.device)

    def update(self, similarity: torch.Tensor, row: torch.Tensor, hidden: torch.Tensor | None) -> None:
        """Takes in rows `[B or 1, R]` and their similarities `[B, R]`, but for those hidden."""
        allowed, rows = self._allowed, self._rows
        refused = (rows.written_at[row] < allowed.oldest) | (rows.group[row] == allowed.excluded[:, None])
        refused = refused | (similarity > self.below)
        if hidden is not None:
            refused = refused | hidden
        top, place = similarity.masked_fill(refused, -torch.inf).topk(min(self._most, similarity.shape[1]), dim=1)
        self._similarity, order = torch.cat([self._similarity, top], dim=1).topk(self._most, dim=1)
        self._row = torch.cat([self._row, row.expand_as(similarity).gather(1, place)], dim=1).gather(1, order)

    def answers(self) -> tuple[torch.Tensor, torch.Tensor]:
        none = self._similarity.isneginf()
        none |= torch.arange(self._most, device=none.device) >= self._k[:, None]
        similarity = (self._similarity.double() * self._scale[:, None]).float()
        return similarity.masked_fill(none, -torch.inf), self._row.masked_fill(none, -1)
