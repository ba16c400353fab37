"""Batches in, a backbone out.

recipes.py     the settings of a run, and the named ones
backbones.py   the networks that learn, by name
weights.py     backbones from elsewhere; exporting.py and formats.py, runs for elsewhere
encoder.py     backbone + projection head
method.py      what a method is: encoders, and what becomes of a batch
methods/       one file a method
losses.py      the contrastive loss of USUCL, on tensors
ranks.py       the processes that train together
mined_plans.py hard negatives from the bank into the plans to come
optimizer.py   optimisers, and the learning rate over a run
health.py      is the embedding collapsing, and is the bank filled and fresh?
watch.py       what a run says and writes while it goes on
run_folder.py  what lies in it, and whether a run may be written there
checkpoint.py  saved whole, the newest good one found again
engine.py      the loop: `train`
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
