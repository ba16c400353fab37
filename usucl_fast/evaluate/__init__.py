"""A backbone and labelled shards in, figures out.

embed.py    backbone + frames -> features, through the loaders
probes.py   features + labels -> predictions, on folds that never cut a group
metrics.py  predictions -> figures with intervals
"""

from usucl_fast.evaluate.embed import embed, load_backbone
from usucl_fast.evaluate.metrics import Figure, summarise
from usucl_fast.evaluate.probes import PROTOCOLS, predict

__all__ = ["PROTOCOLS", "Figure", "embed", "load_backbone", "predict", "summarise"]
