"""Rows in runs, and bounds on how similar the rows of a run can be to a query."""

import numpy as np
import torch
from numpy.typing import NDArray

from usucl_fast.machine import computes_in_bf16
from usucl_fast.mining import scan

RUN = 64
"""Rows that share a bound, at most."""
COARSE = torch.bfloat16 if computes_in_bf16(torch.device("cpu")) else torch.float32
"""The arithmetic of products that only bound others: the faster one."""
ROUNDING = 2.0**-8 if COARSE.itemsize == 2 else 0.0
"""How far rounding to COARSE changes a number, as a share of it."""


class Runs:
    """The rows of a bank on a CPU in runs of up to `RUN`, each with the ball that its written rows lie in.

    `q . x = q . c + q . (x - c)`, so no row x within r of the centroid c is more similar to the query q than
    `q . c + |q| r` (Cauchy-Schwarz). Neighbouring frames of a video are alike, so r is small, and a run spans several
    videos only where they are short.

    Args:
        rows: `[N, D]`, as stored.
        written_at: int64 `[N]`; -1 for rows never written, which take no part.
        group: int32 `[N]`.
        first_row: int64 `[videos + 1]`.

    Attributes:
        starts: int64 `[R + 1]`, first rows of the runs, and N.
        group: int64 `[R]`, the group of all rows of a run; -2 where they have several.
        newest: int64 `[R]`, the latest step at which a row of the run was written; -1 where none was.
    """

    def __init__(
        self, rows: torch.Tensor, written_at: torch.Tensor, group: torch.Tensor, first_row: NDArray[np.int64]
    ) -> None:
        self._rows, self._written_at = rows, written_at.numpy()
        self.starts = scan.cut(first_row, RUN)
        count = len(self.starts) - 1
        of_row = group.numpy()
        lowest, highest = (
            reduce.reduceat(of_row, self.starts[:-1]) if count else of_row for reduce in (np.minimum, np.maximum)
        )
        self.group = np.where(lowest == highest, lowest, -2).astype(np.int64)
        self.newest = np.full(count, -1, np.int64)
        self._centroid = torch.zeros(count, rows.shape[1], dtype=COARSE)
        self._radius, self._length = torch.zeros(count, dtype=torch.float64), torch.zeros(count, dtype=torch.float64)
        self._stale = np.zeros(count, bool)

    def touch(self, frame_ids: NDArray[np.int64] | None = None) -> None:
        """Says that rows have changed, all of them if none are named."""
        if frame_ids is None:
            self._stale[:] = True
        else:
            self._stale[np.searchsorted(self.starts, frame_ids, side="right") - 1] = True

    def refresh(self) -> None:
        """Brings the runs of changed rows up to date."""
        runs = np.flatnonzero(self._stale)
        if not len(runs):
            return
        of = (*scan.stored(self._rows), scan.SCALE[self._rows.dtype], self._written_at, self.starts, runs)
        centroid, newest = np.empty((len(runs), self._rows.shape[1]), np.float32), np.empty(len(runs), np.int64)
        scan.centroids(*of, centroid, newest)
        # The ball is around the centroid as it is kept, so that its rounding is no error.
        kept = torch.from_numpy(centroid).to(COARSE)
        radius, length = np.empty(len(runs)), np.empty(len(runs))
        scan.radii(*of, kept.float().numpy(), radius, length)
        self._centroid[runs], self.newest[runs] = kept, newest
        self._radius[runs], self._length[runs] = torch.from_numpy(radius), torch.from_numpy(length)
        self._stale[:] = False

    def longest(self) -> float:
        """The greatest length of a row."""
        return float(self._length.max()) if len(self._length) else 0.0

    def bounds(self, query: torch.Tensor) -> torch.Tensor:
        """float32 `[B, R]`, what the similarity of no row of each run to each query `[B, D]` exceeds."""
        # Rounded are the query and the product; float32 sums are off by up to 2^-24 an addend; the rest is margin.
        off = 2.01 * ROUNDING + (query.shape[1] + 8) * 2.0**-22
        reach = (self._radius + off * self._length) * (1 + 2.0**-20)
        product = torch.mm(query.to(COARSE), self._centroid.T).float()
        return product.addr_(query.norm(dim=1), reach.float())
