"""Plans in, batches out; a loader only executes plans.

torch.py     libjpeg-turbo in threads
dali.py      NVIDIA DALI
ffcv.py      FFCV's decoder in threads
resident.py  decoded frames kept in memory
threaded.py  what all have in common
"""
