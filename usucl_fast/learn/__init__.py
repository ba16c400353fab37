"""Batches in, a backbone out.

recipes.py     the settings of a run, and the named ones
encoder.py     torchvision ResNet + projection head, and its momentum copy
losses.py      the contrastive loss, on tensors
usucl.py       the USUCL step: encode, mine, contrast, remember
health.py      is the embedding collapsing?
checkpoint.py  saved whole, the newest good one found again
engine.py      the loop: `train`
"""

from usucl_fast.learn.engine import Execution, train
from usucl_fast.learn.losses import usucl_loss
from usucl_fast.learn.recipes import RECIPES, TrainConfig

__all__ = ["RECIPES", "Execution", "TrainConfig", "train", "usucl_loss"]
