"""Frame ids in, device tensors out.

store.py            shard folders, memory-mapped: `open_shards`
plan.py             which frames and crops a step uses: `Planner`, `BatchPlan`
loader.py           what a loader is, and choosing one: `choose_loader`, `make_loader`
dali_loader.py      NVIDIA DALI
threaded.py         what the two that follow have in common
torch_loader.py     libjpeg-turbo in threads
resident_loader.py  decoded frames kept in memory; cut.py, its compiled part
beton.py            FFCV's files: exporting shards, decoding with FFCV's decoder
normalise.py        uint8 pictures -> what a network takes
"""

from usucl_fast.feed.loader import LOADERS, RESIDENT_BYTES, Batch, Delivery, Loader, choose_loader, make_loader
from usucl_fast.feed.normalise import Normaliser
from usucl_fast.feed.plan import BatchPlan, Crop, Planner, whole_frames
from usucl_fast.feed.store import ShardStore, open_shards

__all__ = [
    "LOADERS",
    "RESIDENT_BYTES",
    "Batch",
    "BatchPlan",
    "Crop",
    "Delivery",
    "Loader",
    "Normaliser",
    "Planner",
    "ShardStore",
    "choose_loader",
    "make_loader",
    "open_shards",
    "whole_frames",
]
