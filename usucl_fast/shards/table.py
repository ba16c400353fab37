"""The frame table: one integer names a frame, everywhere.

A **frame id** is a row of this table. The same integer finds the encoded bytes in a shard, the slot in a
decoded cache and the row in the memory bank. A video is a contiguous run of rows.

Shape legend, used as suffixes of tensors and arrays throughout the package:

    N  frames of the dataset        V  views of a tuple (anchor, positive, negatives)
    B  tuples of a batch            C, H, W  channels, height, width
    D  embedding dimension          K  answers of a query
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from usucl_fast.shards.frame_labels import FrameLabels
from usucl_fast.shards.mapped import release
from usucl_fast.shards.videos import VideoTable

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

FRAMES = "frames.npy"
DECODED = "decoded-{}.raw"
"""The file of decoded frames that runs leave beside the shards, by the number of channels; `feed/decoded.py`."""
MEMBER_SUFFIX = {"jpeg": "jpg", "png": "png"}
"""File name extension of the frames, by codec."""

CHECKED_ROWS = 1 << 15
"""Rows that are looked at together when a table is opened: they stay in the cache of the processor."""


@dataclass(frozen=True, eq=False)
class FrameTable:
    """All frames and videos of a dataset.

    rows: structured array `[N]` of `ROW`, possibly memory-mapped.
    videos: what is known of each video, in the order of their rows.
    labels: labels and values of single frames; None where there are none.
    """

    rows: NDArray[np.void]
    videos: VideoTable
    labels: FrameLabels | None = None

    def __len__(self) -> int:
        return len(self.rows)

    def check(self, shard_bytes: NDArray[np.int64]) -> None:
        """Checks every row once, so that reading a frame needs no checks.

        shard_bytes: `[shards]`, the length of each tar.

        Raises:
            ValueError: a row is of another video or frame than its place says, points out of its shard, or has no
                finite time.
        """
        if not len(shard_bytes):
            raise ValueError("there is no shard")
        shard_lengths = shard_bytes.astype(np.uint64)
        for start in range(0, len(self), CHECKED_ROWS):
            rows = self.rows[start : start + CHECKED_ROWS]
            first, last = np.searchsorted(self.first_row, [start, start + len(rows) - 1], side="right") - 1
            bounds = np.clip(self.first_row[first : last + 2], start, start + len(rows))
            video = np.repeat(np.arange(first, last + 1), np.diff(bounds))
            frame_ids = np.arange(start, start + len(rows))
            length = rows["length"].astype(np.uint64)
            lengths = shard_lengths[np.minimum(rows["shard"], len(shard_bytes) - 1)]
            is_right = {
                "video": rows["video"] == video,
                "frame": rows["frame"] == frame_ids - self.first_row[video],
                "time": np.isfinite(rows["time"]),
                "shard": rows["shard"] < len(shard_bytes),
                "length": (length > 0) & (length <= lengths),
                "offset": rows["offset"] <= lengths - np.minimum(length, lengths),
            }
            for field, right in is_right.items():
                if not right.all():
                    place = int(np.argmin(right))
                    raise ValueError(f"{field} of frame {start + place} is {rows[field][place]}")
            release(rows)  # it may be larger than memory

    @cached_property
    def first_row(self) -> NDArray[np.int64]:
        """`[videos + 1]`: video v owns the frame ids `first_row[v] : first_row[v + 1]`."""
        return np.concatenate(([0], np.cumsum(self.videos.frames, dtype=np.int64)))

    @cached_property
    def size(self) -> NDArray[np.int64]:
        """`[videos, 2]`: height and width of the stored frames in pixels."""
        return np.stack((self.videos.height, self.videos.width), axis=1).astype(np.int64)

    def size_of(self, frame_ids: NDArray[np.int64]) -> NDArray[np.int64]:
        """`[..., 2]`: height and width in pixels of the frames `[...]`."""
        return self.size[self.rows["video"][frame_ids]]

    @cached_property
    def group(self) -> NDArray[np.int64]:
        """`[videos]`: the number of each video's group; a video without a group is one of its own."""
        groups = self.videos.group
        keys = np.where(groups.is_empty, len(groups) + np.arange(len(groups)), groups.codes)
        _, first, number = np.unique(keys, return_index=True, return_inverse=True)
        in_order = np.empty(len(first), np.int64)
        in_order[np.argsort(first)] = np.arange(len(first))  # numbered as they first appear
        return in_order[number]

    def name_of(self, frame_id: int) -> str:
        """The frame's name in its shard, `<video>/<frame>`, for messages."""
        row = self.rows[frame_id]
        return f"{self.videos.id[row['video']]}/{row['frame']:06d}"


def read_members(file: Path, rows: Iterable[NDArray[np.void]]) -> Iterator[bytes]:
    """The encoded frames of some rows of the frame table, read from their shard, or a file that begins as one."""
    with file.open("rb") as members:
        for row in rows:
            members.seek(int(row["offset"]))
            yield members.read(int(row["length"]))
