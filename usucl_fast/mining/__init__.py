"""Embeddings in, hard negatives out.

curriculum.py  which negatives are asked for, as training goes on: how far from the anchor, how many, how hard
bank.py        one embedding a frame: `write`, `intra`, `cross`
selection.py   the hardest frames of a window; from the nearest few to the one hard negative n̂
"""

from usucl_fast.mining.bank import MemoryBank, Nearest
from usucl_fast.mining.curriculum import CURRICULA, Curriculum, Stage, window_bounds
from usucl_fast.mining.selection import hardest_in_window, nearest_in, soft_negative

__all__ = [
    "CURRICULA",
    "Curriculum",
    "MemoryBank",
    "Nearest",
    "Stage",
    "hardest_in_window",
    "nearest_in",
    "soft_negative",
    "window_bounds",
]
