"""Batches in, a backbone out.

recipes.py     the settings of a run, and the named ones
backbones.py   the networks that learn, by name
weights.py     backbones from elsewhere; export.py, runs for elsewhere
encoder.py     backbone + projection head
method.py      what a method is: encoders, and what becomes of a batch
methods/       one file a method
losses.py      the contrastive loss of USUCL, on tensors
ranks.py       the processes that train together
mined_plans.py hard negatives from the bank into the plans to come
optimizer.py   optimisers, and the learning rate over a run
health.py      is the embedding collapsing, and is the bank filled and fresh?
watch.py       what a run says and writes while it goes on
checkpoint.py  saved whole, the newest good one found again
engine.py      the loop: `train`
"""

from usucl_fast.learn.engine import Execution, train
from usucl_fast.learn.losses import usucl_loss
from usucl_fast.learn.recipes import RECIPES, TrainConfig

__all__ = ["RECIPES", "Execution", "TrainConfig", "train", "usucl_loss"]
