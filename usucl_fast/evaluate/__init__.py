"""A backbone and labelled frames or images in, figures with intervals out.

samples.py    what is evaluated, how it is split, what was predicted
embed.py      backbone + frames -> features, through the loaders
images.py     lists of images, and published data with their folds -> pictures
folds.py      samples -> splits that never cut a group
probes.py     features -> predictions
finetune.py   pictures -> predictions of networks trained whole
metrics.py    predictions -> figures with intervals
compare.py    predictions of several models -> paired differences
table.py, page.py, retrieval.py    what a person looks at
"""

from usucl_fast.evaluate.compare import compare, show_comparison, write_comparison
from usucl_fast.evaluate.embed import embed, labelled_frames, load_backbone, load_frames
from usucl_fast.evaluate.finetune import GBCU, FineTune, finetune
from usucl_fast.evaluate.folds import make_folds
from usucl_fast.evaluate.images import has_covid_pickles, has_gbcu, read_covid_pickles, read_gbcu, read_image_list
from usucl_fast.evaluate.metrics import Figure, summarise
from usucl_fast.evaluate.page import write_page
from usucl_fast.evaluate.probes import PROTOCOLS, predict
from usucl_fast.evaluate.retrieval import write_embeddings
from usucl_fast.evaluate.samples import Predictions, Samples, Split, shuffled_by_group
from usucl_fast.evaluate.table import show

__all__ = [
    "GBCU",
    "PROTOCOLS",
    "Figure",
    "FineTune",
    "Predictions",
    "Samples",
    "Split",
    "compare",
    "embed",
    "finetune",
    "has_covid_pickles",
    "has_gbcu",
    "labelled_frames",
    "load_backbone",
    "load_frames",
    "make_folds",
    "predict",
    "read_covid_pickles",
    "read_gbcu",
    "read_image_list",
    "show",
    "show_comparison",
    "shuffled_by_group",
    "summarise",
    "write_comparison",
    "write_embeddings",
    "write_page",
]
