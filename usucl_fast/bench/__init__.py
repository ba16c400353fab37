"""Measures the package beside its peers.

arms.py          the names of all that is compared
harness.py       alternating runs of named arms; table, JSON, plot
usage.py         CPU and memory of a run; dropping files from the page cache
feed.py          frames/s of the loaders and of the published way of loading
stock.py         what WebDataset and DALI make of the shards
ffcv_arm.py, datasets_arm.py, spdl_arm.py, torchcodec_arm.py     what these make of shards or videos
published.py     the published way of loading: original-size JPEG files, PIL, torchvision, worker processes
mining.py        queries/s of the memory bank, FAISS and the published search
train.py         tuples/s of training: end to end, the step alone, the published manner
published_step.py   a training step in that manner
shard.py         frames/s of packing: our command, decoding alone, FFmpeg with tar
decode_floor.py  decoding alone
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
