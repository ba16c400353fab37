"""Frame ids in, device tensors out.

store.py            shards in a folder, memory-mapped, or at a URL: `open_shards`
remote_shards.py    those at a URL; remote.py fetches their files, cache.py keeps them
augmentation.py     what may be done to a picture: `Augmentation`
plan.py             which frames a step uses, and what is done to them: `Planner`, `BatchPlan`
batch.py            what a loader is told and hands out: `Delivery`, `Batch`, `Loader`
registry.py         loaders by name: `choose_loader`, `make_loader`
loaders/            one file a loader
decode.py           one encoded frame -> its pixels
render_cpu.py       decoded pictures -> those of the plan, compiled
render_gpu.py       the same in tensor operations, on any device
beton.py            FFCV's files: exporting shards, decoding with FFCV's decoder
normalise.py        uint8 pictures -> what a network takes
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
