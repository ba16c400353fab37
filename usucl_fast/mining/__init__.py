"""Embeddings in, hard negatives out.

curriculum.py   how far from the anchor to look, as training goes on
bank.py         one embedding a frame: `write`, `intra`, `cross`
distributed.py  the bank over the ranks of a process group: replicas, or rows spread over the ranks
selection.py    from the nearest few to the one hard negative n̂
"""

from usucl_fast.mining.bank import MemoryBank, Nearest
from usucl_fast.mining.curriculum import CURRICULA, Stage, window_bounds
from usucl_fast.mining.distributed import PartitionedBank, ReplicatedBank
from usucl_fast.mining.selection import nearest_in, soft_negative

__all__ = [
    "CURRICULA",
    "MemoryBank",
    "Nearest",
    "PartitionedBank",
    "ReplicatedBank",
    "Stage",
    "nearest_in",
    "soft_negative",
    "window_bounds",
]
