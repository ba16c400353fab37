"""The shard format in code, without torch; in words it is `shards/README.md` beside the package.

settings.py       how videos are packed
manifest.py       `manifest.json`: what a person reads, and the checksums
videos.py         `videos.npz`: what is known of each video
table.py          `frames.npy`: one integer names a frame
frame_labels.py   `frame_labels.npz`: labels and values of single frames
columns.py        columns of texts and numbers, as these tables are stored
npy.py            NumPy's files, read with care
members.py        a frame -> its header in a tar
mapped.py         files mapped into memory, and what is said where one is cut off
store.py          shards, opened: frame ids -> encoded bytes
remote_shards.py  those at a URL; cache.py keeps them
remote.py         files at a URL; attempts.py begins their transfers anew
verification.py   is every byte what was written?
webdataset.py     tars with labels beside the frames, for readers that know no manifest
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
