"""All of it beside its peers.

harness.py       alternating runs of named arms; table, JSON, plot
usage.py         CPU and memory of a run; dropping files from the page cache
feed.py          frames/s of the loaders and of the published way of loading
stock.py         what WebDataset and DALI make of the shards
ffcv_arm.py, spdl_arm.py, torchcodec_arm.py     what these make of shards or videos
published.py     that way: original-size JPEG files, PIL, torchvision, worker processes
shard.py         frames/s of packing: our command, decoding alone, FFmpeg with tar
decode_floor.py  decoding alone
"""
