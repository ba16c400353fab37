"""Spool files -> shards: tars, DALI indexes, frame table and manifest. The format: `shards/README.md`."""

import dataclasses
import hashlib
import io
import json
import urllib.parse
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from usucl_fast.files import write_json, write_whole
from usucl_fast.frames import FORMAT, FORMAT_VERSION, FRAMES, MANIFEST, ROW, VideoRecord
from usucl_fast.pack.spool import Spooled

END_OF_ARCHIVE = bytes(1024)
LONGEST_ID = 85  # <id>/000000.jpg stays within the 100 bytes of a plain tar header


def escape(name: str) -> str:
    """A video's name, percent-encoded down to letters, digits, `-`, `_` and `~`: one path component, no dot.

    Different names give different ids; a long one is cut and ends in a hash of the whole.
    """
    escaped = urllib.parse.quote(name, safe="").replace(".", "%2E")
    if len(escaped) > LONGEST_ID:
        digest = hashlib.sha256(name.encode()).hexdigest()[:16]
        escaped = f"{escaped[: LONGEST_ID - 17]}~{digest}"
    return escaped


class ShardWriter:
    """Appends spooled videos to `folder`'s shards, a video's frames together and in order.

    A new shard begins when the next video would make the present one longer than `shard_bytes`; a video is
    never cut, so one that is longer than that has a shard of its own.
    """

    def __init__(self, folder: Path, shard_bytes: int) -> None:
        self.folder = folder
        self.shard_bytes = shard_bytes
        self.videos: list[VideoRecord] = []
        self.shards: list[dict[str, Any]] = []
        self._rows: list[np.ndarray] = []
        self._index: list[str] = []
        self._tar: BinaryIO | None = None
        self._checksum = hashlib.sha256()

    def append(self, video: Spooled) -> None:
        """Copies a video into the present shard, or the next."""
        length = video.path.stat().st_size
        if self._tar is not None and self._tar.tell() + length > self.shard_bytes:
            self._close_shard()
        if self._tar is None:
            self._tar = (self.folder / f"usucl-{len(self.shards):06d}.tar").open("wb")
            self._checksum = hashlib.sha256()
        start = self._tar.tell()
        with video.path.open("rb") as file:
            while chunk := file.read(1 << 20):
                self._tar.write(chunk)
                self._checksum.update(chunk)
        rows = video.rows.copy()
        rows["offset"] += start
        rows["shard"] = len(self.shards)
        rows["video"] = len(self.videos)
        self._index += [
            f"jpg {row['offset']} {row['length']} {video.record.id}/{row['frame']:06d}.jpg\n" for row in rows
        ]
        self._rows.append(rows)
        self.videos.append(video.record)

    def _close_shard(self) -> None:
        assert self._tar is not None
        self._tar.write(END_OF_ARCHIVE)
        self._checksum.update(END_OF_ARCHIVE)
        path = Path(self._tar.name)
        # The format of DALI's wds2idx, version 1.2.
        index = (f"v1.2 {len(self._index)}\n" + "".join(self._index)).encode()
        path.with_suffix(".idx").write_bytes(index)
        self.shards.append(
            {
                "name": path.name,
                "frames": len(self._index),
                "bytes": self._tar.tell(),
                "sha256": self._checksum.hexdigest(),
                "index_sha256": hashlib.sha256(index).hexdigest(),
            }
        )
        self._tar.close()
        self._tar = None
        self._index = []

    def finish(self, header: dict[str, Any]) -> None:
        """Closes the last shard and writes the frame table and, last, the manifest with `header` in front."""
        if self._tar is not None:
            self._close_shard()
        table = io.BytesIO()
        np.save(table, np.concatenate([np.empty(0, ROW), *self._rows]))
        with write_whole(self.folder / FRAMES) as file:
            file.write(table.getbuffer())
        manifest = {
            "format": FORMAT,
            "version": FORMAT_VERSION,
            **header,
            "frames_sha256": hashlib.sha256(table.getbuffer()).hexdigest(),
            "shards": self.shards,
            "videos": [dataclasses.asdict(video) for video in self.videos],
        }
        write_json(self.folder / MANIFEST, {**manifest, "sha256": manifest_checksum(manifest)})


def manifest_checksum(manifest: dict[str, Any]) -> str:
    """SHA-256 of a manifest without its own `sha256`, as JSON with sorted keys and no spaces."""
    content = {key: value for key, value in manifest.items() if key != "sha256"}
    return hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
