"""Frame ids in, device tensors out.

augmentation.py     what may be done to a picture: `Augmentation`
tuples.py           which frames of a video make up a tuple
order.py            the order of an epoch
plan.py             which frames a step uses, and what is done to them: `Planner`, `BatchPlan`
batch.py            the interface of loaders: `Delivery`, `Batch`, `Loader`
registry.py         loaders by name: `choose_loader`, `make_loader`
loaders/            one file a loader
decoded.py          decoded frames in a file that all processes share
decode.py           one encoded frame -> its pixels
render_cpu.py       decoded pictures -> those of the plan, compiled
render_gpu.py       the same in tensor operations, on any device
fused_gather.py     its cropping and resizing in Triton
beton.py            FFCV's files: exporting shards, decoding with FFCV's decoder
normalise.py        uint8 pictures -> what a network takes
"""

from typing import Any

import lazy_loader

_get, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)


def __getattr__(name: str) -> Any:
    if name == "open_shards":  # where it lay before: others have it from here
        from usucl_fast.shards import open_shards

        return open_shards
    return _get(name)
