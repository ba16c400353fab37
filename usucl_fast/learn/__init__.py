"""Batches in, a backbone out.

recipes.py     the settings of a run, and the named ones
backbones.py   the networks that learn, by name
encoder.py     backbone + projection head, and its momentum copy
losses.py      the contrastive loss, on tensors
usucl.py       the USUCL step: encode, mine, contrast, remember
mined_plans.py hard negatives from the bank into the plans to come
health.py      is the embedding collapsing, and is the bank filled and fresh?
checkpoint.py  saved whole, the newest good one found again
engine.py      the loop: `train`
weights.py     backbones from elsewhere
export.py      runs for elsewhere
"""

from usucl_fast.learn.engine import Execution, train
from usucl_fast.learn.losses import usucl_loss
from usucl_fast.learn.recipes import RECIPES, TrainConfig

__all__ = ["RECIPES", "Execution", "TrainConfig", "train", "usucl_loss"]
