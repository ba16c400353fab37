"""Videos in, shards out.

sources.py   folders -> the list of videos, with labels and groups
decode.py    one video -> its pictures and their times
spool.py     one video -> its encoded frames as tar members in a spool file (in a worker process)
writer.py    spool files -> shards, indexes, frame table, manifest
job.py       all of it: `pack`
"""

from usucl_fast.pack.job import PackSettings, pack
from usucl_fast.pack.sources import Source, find_sources, read_labels

__all__ = ["PackSettings", "Source", "find_sources", "pack", "read_labels"]
