"""Frame ids in, device tensors out.

store.py            shards in a folder, memory-mapped, or at a URL: `open_shards`
remote_shards.py    those at a URL; remote.py fetches their files, cache.py keeps them
augmentation.py     what may be done to a picture: `Augmentation`
plan.py             which frames a step uses, and what is done to them: `Planner`, `BatchPlan`
loader.py           what a loader is, and choosing one: `choose_loader`, `make_loader`
decode.py           one encoded frame -> its pixels
dali_loader.py      NVIDIA DALI
threaded.py         what the others have in common
torch_loader.py     libjpeg-turbo in threads
ffcv_loader.py      FFCV's decoder in threads
resident_loader.py  decoded frames kept in memory
render.py           decoded pictures -> those of the plan, compiled, on the CPU
develop.py          the same for pictures on a GPU, in tensor operations; gather.py, crops there
beton.py            FFCV's files: exporting shards, decoding with FFCV's decoder
normalise.py        uint8 pictures -> what a network takes
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
