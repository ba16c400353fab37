"""Embeddings in, hard negatives out.

bank.py         one embedding a frame: `write`, `intra`, `cross`
distributed.py  the bank with its rows spread over the ranks of a process group
selection.py    the hardest frames of a window; from the nearest few to the one hard negative n̂
search.py       what a search of a bank is, and one in torch
fused.py        the search on a GPU, in Triton
cpu/            the search that is compiled for a CPU
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
