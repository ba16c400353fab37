"""Videos in, shards out.

kinds.py         what a video to pack is, and which files are one
sources.py       files and folders -> the list of videos
remote_sources.py   the same at a URL, and their files while they are packed
lists.py         a list of videos in place of a folder
labels.py        what is known of them: labels, also of single frames, groups, splits
label_tables.py  rows of a table of labels -> labelled segments
tables.py        a table in a file -> its rows; annotations.py the files of Label Studio and CVAT
segments.py      labelled segments of a video -> a label of each frame
identity.py      what videos and patients are called in the shards
outlines.py      the sector of each video, as a person says
video.py         what an opened source is: pictures and their times
container.py     a video file, dicom.py a DICOM file, images.py a folder of images -> that
dicom_pictures.py   stored values of a DICOM file -> pictures; jpeg.py the colours of a JPEG among them
damage.py        what FFmpeg decodes of it, and which pictures are damaged
depth.py         pictures of 16 bits -> of 8
upright.py       pictures as they are meant to be seen: upright, with square pixels, opaque
decode.py        any of these: `open_video`
ahead.py         its pictures, decoded ahead in a thread
sector.py        pictures -> where the ultrasound sector is
picture.py       one picture -> the pixels and bytes that are stored
task.py          one video to pack, and the packed video: what passes between the main process and its workers
spool.py         one video -> its encoded frames as tar members in a spool file (in a worker process)
limits.py        the time and the memory that one video may take
workers.py       all videos -> spool files, in processes that may crash; on_ray.py, on the machines of a cluster
writer.py        spool files -> shards, indexes, tables
motion.py        pictures -> which pixels move, and the sector around them
fan.py           live cells of a grid -> the outline of a probe's sector
splits.py        groups -> splits
contact_sheet.py pictures before and after, for a person to look at
sectors_page.py  `sectors.html`: the same as a page to filter, with stored frames
duplicates.py    encoded frames -> videos that are there twice
existing.py      the shards that OUT already holds, and which videos are new
output.py        OUT: a folder here, or one at a URL
summary.py       `summary.json`: what a packing did
job.py           all of it: `pack`
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
