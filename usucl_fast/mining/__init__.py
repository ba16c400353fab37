"""Embeddings in, hard negatives out.

curriculum.py   which negatives are asked for, as training goes on: how far from the anchor, how many, how hard
bank.py         one embedding a frame: `write`, `intra`, `cross`
distributed.py  the bank over the ranks of a process group: replicas, or rows spread over the ranks
selection.py    the hardest frames of a window; from the nearest few to the one hard negative n̂
search.py       the most similar rows: by what steps
runs.py         rows in runs, kept up to date as rows change
levels.py       the balls they lie in and their codes, compiled
scan.py         the loops of a search on a CPU, compiled
tile.py         the innermost of them
stored.py       rows as they are stored, in compiled code
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
