"""Shard folders, opened: frame id -> encoded bytes, without copying."""

import functools
import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from usucl_fast.errors import DataError, UsageError
from usucl_fast.frames import FORMAT, FORMAT_VERSION, FRAMES, MANIFEST, ROW, FrameTable, VideoRecord


class ShardStore:
    """The encoded frames of a shard folder, memory-mapped.

    table: the frames and videos.
    fingerprint: hexadecimal digest of the content; equal for byte-identical shards.
    """

    def __init__(self, folder: Path, table: FrameTable, shards: list[dict[str, Any]]) -> None:
        self.folder = folder
        self.table = table
        self._shards = shards
        checksums = "".join(shard["sha256"] for shard in shards)
        groups = json.dumps([[video.id, video.group] for video in table.videos])
        self.fingerprint = hashlib.sha256((checksums + groups).encode()).hexdigest()

    @functools.cached_property
    def _maps(self) -> list[NDArray[np.uint8]]:
        maps = []
        for shard in self._shards:
            path = self.folder / shard["name"]
            try:
                data = np.memmap(path, np.uint8, mode="r")
            except (OSError, ValueError) as error:
                raise DataError(
                    f"shard {path} cannot be read ({error}); restore it or pack the videos again"
                ) from error
            if len(data) != shard["bytes"]:
                raise DataError(
                    f"shard {path} has {len(data)} bytes where the manifest says {shard['bytes']};"
                    " restore it or pack the videos again"
                )
            maps.append(data.view(np.ndarray))
        return maps

    def shard_path(self, shard: int) -> Path:
        """The tar file of a shard."""
        return self.folder / str(self._shards[shard]["name"])

    def read(self, frame_ids: NDArray[np.int64]) -> list[NDArray[np.uint8]]:
        """The encoded frames, as read-only views of the mapped shards, one a frame id in flat order.

        Raises:
            DataError: a shard is missing or has another length than the manifest says.
        """
        maps = self._maps
        rows = self.table.rows[frame_ids.ravel()]
        starts, ends = rows["offset"], rows["offset"] + rows["length"]
        return [
            maps[shard][start:end]
            for shard, start, end in zip(rows["shard"].tolist(), starts.tolist(), ends.tolist(), strict=True)
        ]


def open_shards(folder: Path) -> ShardStore:
    """Opens a folder written by `usucl-shard`.

    Raises:
        UsageError: it is no shard folder, or one of another format version.
        DataError: its manifest or frame table is damaged.
    """
    path = folder / MANIFEST
    if not path.is_file():
        raise UsageError(f"SHARDS {folder} is not a shard folder (it has no {MANIFEST}); make one with usucl-shard")
    try:
        manifest = json.loads(path.read_bytes())
        format, version = manifest["format"], manifest["version"]
    except (ValueError, LookupError, TypeError) as error:
        raise UsageError(
            f"SHARDS {folder} is not a shard folder: its {MANIFEST} is damaged or of another program"
        ) from error
    if format != FORMAT:
        raise UsageError(f"SHARDS {folder} is not a shard folder: its {MANIFEST} is of format {format!r}")
    if version != FORMAT_VERSION:
        raise UsageError(
            f"SHARDS {folder} is of format version {version}, this usucl_fast reads {FORMAT_VERSION};"
            " pack the videos again, or use the release that packed them"
        )
    try:
        videos = tuple(VideoRecord(**video) for video in manifest["videos"])
        rows = np.load(folder / FRAMES, mmap_mode="r")
        shards = manifest["shards"]
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise DataError(f"SHARDS {folder}: manifest or {FRAMES} is damaged ({error}); pack the videos again") from error
    if rows.dtype != ROW or len(rows) != sum(video.frames for video in videos):
        raise DataError(f"SHARDS {folder}: {FRAMES} does not match the manifest; pack the videos again")
    return ShardStore(folder, FrameTable(rows, videos), shards)
