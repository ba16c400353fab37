"""Embeddings in, hard negatives out.

curriculum.py  how far from the anchor to look, as training goes on
bank.py        one embedding a frame: `write`, `intra`, `cross`
selection.py   from the nearest few to the one hard negative n̂
"""

from usucl_fast.mining.bank import MemoryBank, Nearest
from usucl_fast.mining.curriculum import CURRICULA, Stage, window_bounds
from usucl_fast.mining.selection import nearest_in, soft_negative

__all__ = ["CURRICULA", "MemoryBank", "Nearest", "Stage", "nearest_in", "soft_negative", "window_bounds"]
