"""Reads a shard folder again in full, and checks that every byte is as it was written."""

import hashlib
import zlib
from pathlib import Path

import numpy as np

from usucl_fast.errors import DataError
from usucl_fast.files import open_file
from usucl_fast.progress import Progress
from usucl_fast.shards.manifest import ShardRecord
from usucl_fast.shards.mapped import map_file
from usucl_fast.shards.members import BLOCK, MemberHeader
from usucl_fast.shards.store import ShardStore, open_shards, read_manifest
from usucl_fast.shards.table import FRAMES, MEMBER_SUFFIX

INDEX_LINE = 200
"""Bytes of a line of an `.idx` file, at most."""


def verify(folder: Path) -> list[str]:
    """Checks every file that the manifest lists, and returns a line for each fault.

    A damaged frame is named by shard, video and frame.

    Raises:
        UsageError: `folder` is not a shard folder, or of another format version.
    """
    try:
        manifest = read_manifest(folder)
    except DataError as error:
        return [str(error)]
    faults = []
    for name, file in manifest.files.items():
        faults += _verify_file(folder / name, file.sha256, range(file.bytes, file.bytes + 1))
    try:
        store = open_shards(folder)
    except DataError as error:  # without the tables the tars cannot be checked
        return faults or [str(error)]
    if any(fault.startswith(str(folder / FRAMES)) for fault in faults):
        return faults
    suffix = MEMBER_SUFFIX[manifest.settings.codec]
    with Progress("shards", len(manifest.shards)) as progress:
        frames = 0
        for number, shard in enumerate(manifest.shards):
            faults += _verify_shard(store, number, shard, suffix)
            frames += shard.frames
            progress.advance(frames=frames)
    return faults


def _verify_file(path: Path, checksum: str, lengths: range) -> list[str]:
    try:
        with open_file(path) as file:
            if path.stat().st_size in lengths and hashlib.file_digest(file, "sha256").hexdigest() == checksum:
                return []
    except OSError as error:
        return [f"{path}: {error.strerror}"]
    return [f"{path}: changed since it was written"]


def _verify_shard(store: ShardStore, number: int, shard: ShardRecord, suffix: str) -> list[str]:
    path = store.shard_path(number)
    faults = _verify_file(path.with_suffix(".idx"), shard.index_sha256, range(INDEX_LINE * (shard.frames + 1)))
    try:
        content = map_file(path).data
    except (OSError, ValueError) as error:
        return [*faults, f"{path}: cannot be read ({error})"]
    if len(content) > shard.bytes:
        return [*faults, f"{path}: has {len(content)} bytes, and not {shard.bytes}"]
    if hashlib.sha256(content).hexdigest() == shard.sha256:
        return faults
    bad = []
    for frame_id in np.flatnonzero(store.table.rows["shard"] == number).tolist():
        row = store.table.rows[frame_id]
        video = store.table.videos[row["video"]]
        start, length = int(row["offset"]), int(row["length"])
        header = MemberHeader(video.id, suffix).of(int(row["frame"]), length)
        place = f"{path}: frame {row['frame']} of video {video.name} (frame id {frame_id})"
        if zlib.crc32(content[start : start + length]) != row["crc"]:
            bad.append(f"{place} is damaged")
        elif content[start - BLOCK : start] != header or any(
            content[start + length : start + length + -length % BLOCK]
        ):
            bad.append(f"{place} is whole, but its tar header or padding is damaged")
    return faults + (bad or [f"{path}: changed at its end, after the last frame"])
