"""Blocks of rows, kept up to date as rows change."""

import numpy as np
from numpy.typing import NDArray

from usucl_fast.mining.cpu.bounds import BALL, ZERO
from usucl_fast.mining.cpu.levels import Level, Vectors, cut, encode, surround
from usucl_fast.mining.cpu.tile import ROWS


class Blocks:
    """Rows in blocks of up to `BLOCK`, each with the ball that its written rows lie in.

    Neighbouring frames of a video are alike, so balls are small, and a block spans several videos only where they are
    short. The centroids are rows themselves, to the level above.

    Args:
        rows: values as `stored` has them.
        scale: what the values are to be multiplied by.
        first_row: int64 `[videos + 1]`.
    """

    def __init__(self, rows: Vectors, scale: float, first_row: NDArray[np.int64]) -> None:
        self.rows, self.scale = rows, scale
        starts = cut(first_row)
        count, dim = len(starts) - 1, rows.values.shape[1]
        lowest, highest = (
            reduce.reduceat(rows.group, starts[:-1]) if count else rows.group for reduce in (np.minimum, np.maximum)
        )
        self.level = Level(
            starts,
            group=np.where(lowest == highest, lowest, -2).astype(np.int32),
            newest=np.full(count, -1, np.int64),
            centroid=np.zeros((count, dim), np.float32),
            ball=np.zeros(count, BALL),
            code=np.empty((0, -(-dim // 4) * 4), np.uint8),
        )
        self._stale = np.zeros(count, np.bool_)

    def above(self) -> "Blocks":
        """The centroids, in blocks."""
        level = self.level
        return Blocks(Vectors(level.centroid, level.newest, level.group), 1.0, np.array([0, len(level.group)]))

    def touch(self, rows: NDArray[np.int64] | None = None) -> None:
        """Says that rows have changed, all of them if none are named."""
        if rows is None:
            self._stale[:] = True
        else:
            self._stale[np.searchsorted(self.level.starts, rows, side="right") - 1] = True

    def refresh(self) -> NDArray[np.int64]:
        """Brings the blocks of changed rows up to date, and returns them."""
        blocks = np.flatnonzero(self._stale)
        surround(self.rows, self.scale, self.level, blocks)
        if len(self.level.code):
            encode(self.rows, self.scale, self.level, blocks)
        self._stale[:] = False
        return blocks

    def coded(self) -> Level:
        """The level with the codes of all rows, after `refresh`. They take D bytes a row, from the first call on."""
        if not len(self.level.code):
            count, (rows, dim) = len(self.level.group), (len(self.rows.values), self.level.code.shape[1])
            self.level = self.level._replace(code=np.full((rows + ROWS, dim), ZERO, np.uint8))
            encode(self.rows, self.scale, self.level, np.arange(count))
        return self.level

    def longest(self) -> float:
        """No row is longer than this."""
        return float(self.level.ball["length"].max(initial=0))
