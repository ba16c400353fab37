"""Batches in, a backbone out.

config.py      the settings that all runs have
splits.py      which videos are trained on
method.py      what a method is: its settings, its head, its loss
methods/       one file a method, with its recipes
recipes.py     all methods and recipes by name
network.py     what is trained: the encoders of a method, its bank
encoder.py     backbone + projection head
backbones.py   the networks that learn, by name
imagenet.py    the weights that a backbone's publishers offer
weights.py     backbones from elsewhere; exporting.py and formats.py, runs for elsewhere
losses.py      the contrastive loss of USUCL, on tensors
contrast.py    the loss of a batch of USUCL
ranks.py       the processes that train together; heartbeat.py, which of them live
mined_plans.py hard negatives from the bank into the plans to come
optimizer.py   optimisers, and the learning rate over a run
health.py      the metrics of a step; whether embeddings collapse, and how full and fresh the bank is
watch.py       what a run reports and writes as it trains
snapshots.py   what is mined for some anchors, at some moments
page/          the page of a run, to look at
origin.py      the command, versions and commit of a run
run_folder.py  every file in it, and whether a run may be written there
checkpoint.py  what it holds; saved whole, the newest good one found again
arithmetic.py  the numbers that the device computes in, and whether always in the same order
execution.py   how a run is carried out, as opposed to what it learns
preflight.py   whether it can be carried out so
engine.py      the loop: plans, batches, steps, checkpoints
result.py      what a run leaves behind
job.py         `train`: all of that, in order
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
