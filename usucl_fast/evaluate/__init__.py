"""A backbone and labelled frames or images in, figures with intervals out.

job.py          `evaluate`, the whole of it: the names of a model and of data -> an evaluation for each protocol
protocols.py    the protocols: what is done with a backbone on each fold
samples.py      what is evaluated, how it is split, what was predicted
embedding.py    backbone + frames -> features, through the loaders
images.py       lists of images, and GBCU with its folds -> pictures; pocus.py the same of POCUS
folds.py        samples -> splits that never cut a group
probes.py       features -> predictions, fold by fold; logistic.py of a linear classifier
finetuning.py   pictures -> predictions of networks trained whole
metrics.py      predictions -> figures with intervals; presence.py of whole videos, values.py of numbers
folders.py      the folders of evaluations and comparisons
comparison.py   predictions of several models -> paired differences; comparison_page.py shows them
table.py, page.py, mistakes.py, plots.py, retrieval.py    what a person looks at
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
