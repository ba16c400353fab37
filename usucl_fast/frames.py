"""The frame table: one integer names a frame, everywhere.

A **frame id** is a row of this table. The same integer finds the encoded bytes in a shard, the slot in a
decoded cache and the row in the memory bank. A video is a contiguous run of rows.

Shape legend, used as suffixes of tensors and arrays throughout the package:

    N  frames of the dataset        V  views of a tuple (anchor, positive, negatives)
    B  tuples of a batch            C, H, W  channels, height, width
    D  embedding dimension          K  answers of a query
"""

import hashlib
import json
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

ROW = np.dtype(
    [
        ("offset", "<u8"),  # first byte of the encoded frame in its shard
        ("time", "<f8"),  # seconds since the start of the video
        ("length", "<u4"),  # bytes of the encoded frame
        ("shard", "<u4"),
        ("video", "<u4"),
        ("frame", "<u4"),  # number of the frame in its video, from 0
        ("crc", "<u4"),  # CRC-32 of the encoded frame
    ]
)
"""One row of `frames.npy`, 36 bytes."""

FORMAT = "usucl-shards"
FORMAT_VERSION = 2
MANIFEST = "manifest.json"
FRAMES = "frames.npy"
MEMBER_SUFFIX = {"jpeg": "jpg", "png": "png"}
"""File name extension of the frames, by codec."""


@dataclass(frozen=True)
class VideoRecord:
    """What the manifest knows of one video."""

    id: str
    """Escaped name: safe in tar paths and WebDataset keys, unique in the dataset."""
    name: str
    """Path of the source, relative to the folder it was found in; the id where names are hashed."""
    group: str
    """Patient or source; videos of one group never land on both sides of a split."""
    label: str
    """Class name, or empty."""
    split: str
    """`train`, `val`, `test`, or empty."""
    frames: int
    height: int
    width: int
    """Size of the stored frames in pixels."""
    color: str
    """`grey` or `rgb`."""
    frame_rate: float
    """Mean frames per second; 0 where the source does not say."""
    checksum: str
    """SHA-256 of the encoded frames, in order."""
    source: str
    """Digest of what is known of the source: its size and what a list says of it. Has it changed?"""


@dataclass(frozen=True, eq=False)
class FrameTable:
    """All frames and videos of a dataset.

    rows: structured array `[N]` of `ROW`, possibly memory-mapped.
    videos: one record a video, in the order of their rows.
    """

    rows: NDArray[np.void]
    videos: tuple[VideoRecord, ...]

    def __len__(self) -> int:
        return len(self.rows)

    @cached_property
    def first_row(self) -> NDArray[np.int64]:
        """`[videos + 1]`: video v owns the frame ids `first_row[v] : first_row[v + 1]`."""
        return np.cumsum([0] + [video.frames for video in self.videos], dtype=np.int64)

    @cached_property
    def size(self) -> NDArray[np.int64]:
        """`[videos, 2]`: height and width of the stored frames in pixels."""
        return np.array([(video.height, video.width) for video in self.videos], np.int64).reshape(-1, 2)

    def size_of(self, frame_ids: NDArray[np.int64]) -> NDArray[np.int64]:
        """`[..., 2]`: height and width in pixels of the frames `[...]`."""
        return self.size[self.rows["video"][frame_ids]]

    @cached_property
    def group(self) -> NDArray[np.int64]:
        """`[videos]`: a number a group; a video without a group is a group of its own."""
        codes: dict[tuple[str, str], int] = {}
        keys = [(video.group, "" if video.group else video.id) for video in self.videos]
        return np.array([codes.setdefault(key, len(codes)) for key in keys], np.int64)

    def name_of(self, frame_id: int) -> str:
        """The frame as its shard calls it, `<video>/<frame>`, for messages."""
        row = self.rows[frame_id]
        return f"{self.videos[row['video']].id}/{row['frame']:06d}"


def manifest_checksum(manifest: dict[str, Any]) -> str:
    """SHA-256 of a manifest without its own `sha256`, as JSON with sorted keys and no spaces."""
    content = {key: value for key, value in manifest.items() if key != "sha256"}
    return hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
