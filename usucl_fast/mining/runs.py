"""Rows in runs: the balls they lie in, and their codes."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from usucl_fast.mining.levels import ZERO, Codes, Level, cut, encode, surround
from usucl_fast.mining.tile import ROWS


class Runs:
    """Rows in runs of up to `RUN`, each with the ball that its written rows lie in.

    `q . x = q . c + q . (x - c)`, so no row x within r of the centroid c is more similar to the query q than
    `q . c + |q| r` (Cauchy-Schwarz). Neighbouring frames of a video are alike, so r is small, and a run spans several
    videos only where they are short. The centroids are rows themselves, to the level above.

    Args:
        rows: `[N, D]`, as `stored` has them; scale: what their values are to be multiplied by.
        written_at: int64 `[N]`; -1 for rows never written, which take no part.
        group: int32 `[N]`.
        first_row: int64 `[videos + 1]`.
    """

    def __init__(
        self,
        rows: NDArray[Any],
        scale: float,
        written_at: NDArray[np.int64],
        group: NDArray[np.int32],
        first_row: NDArray[np.int64],
    ) -> None:
        self.rows, self.scale, self.written_at, self.group_of_row = rows, scale, written_at, group
        starts = cut(first_row)
        count = len(starts) - 1
        lowest, highest = (
            reduce.reduceat(group, starts[:-1]) if count else group for reduce in (np.minimum, np.maximum)
        )
        self.level = Level(
            starts,
            np.where(lowest == highest, lowest, -2).astype(np.int32),
            np.full(count, -1, np.int64),
            np.zeros((count, rows.shape[1]), np.float32),
            np.zeros(count),
            np.zeros(count),
        )
        self._codes: Codes | None = None
        self._stale = np.zeros(count, np.bool_)

    def above(self) -> "Runs":
        """The centroids, in runs."""
        level = self.level
        rows = np.array([0, len(level.group)])
        return Runs(level.centroid, 1.0, level.newest, level.group, rows)

    def touch(self, rows: NDArray[np.int64] | None = None) -> None:
        """Says that rows have changed, all of them if none are named."""
        if rows is None:
            self._stale[:] = True
        else:
            self._stale[np.searchsorted(self.level.starts, rows, side="right") - 1] = True

    def refresh(self) -> NDArray[np.int64]:
        """Brings the runs of changed rows up to date, and returns them."""
        runs = np.flatnonzero(self._stale)
        surround(self.rows, self.scale, self.written_at, self.level, runs)
        if self._codes:
            encode(self.rows, self.scale, self.written_at, self.level, self._codes, runs)
        self._stale[:] = False
        return runs

    def codes(self) -> Codes:
        """The codes of all rows, after `refresh`. They take D bytes a row, from the first call on."""
        if self._codes is None:
            count, (rows, dim) = len(self.level.group), self.rows.shape
            code = np.full((rows + ROWS, -(-dim // 4) * 4), ZERO, np.uint8)
            self._codes = Codes(code, np.ones(count), np.zeros(count), np.zeros(count))
            encode(self.rows, self.scale, self.written_at, self.level, self._codes, np.arange(count))
        return self._codes

    def longest(self) -> float:
        """No row is longer than this."""
        return float(self.level.length.max(initial=0))
