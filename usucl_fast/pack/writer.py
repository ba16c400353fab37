"""Spool files -> shards: tars, DALI indexes, frame table. The format: `shards/README.md`."""

import hashlib
import json
import os
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from usucl_fast.files import write_json, write_whole
from usucl_fast.pack.spool import Spooled
from usucl_fast.shards import FRAMES, VIDEOS, ShardRecord, VideoRecord, VideoTable

END_OF_ARCHIVE = bytes(1024)


class ShardWriter:
    """Appends spooled videos to `folder`'s shards, a video's frames together and in order.

    A new shard begins when the next video would make the present one longer than `shard_bytes`; a video is
    never cut, so one that is longer than that has a shard of its own.

    Beside every finished shard lies its **receipt**: whoever appends the same videos again, after an
    interruption, does not write these shards again, and no longer needs the spool files, which are deleted.

    shards, videos, rows: what is known of all that is appended so far. They may begin with
    the shards of an earlier packing, whose files lie elsewhere.
    """

    def __init__(
        self,
        folder: Path,
        shard_bytes: int,
        suffix: str,
        shards: Iterable[ShardRecord],
        videos: Iterable[VideoRecord],
        rows: NDArray[np.void],
    ) -> None:
        self.folder = folder
        self.shard_bytes = shard_bytes
        self.suffix = suffix
        self.shards = list(shards)
        self.videos = list(videos)
        self._rows = [rows]
        self._begin()

    def _begin(self) -> None:
        self._length = 0
        self._index: list[str] = []
        self._spools: list[Path] = []
        self._tar: BinaryIO | None = None
        self._checksum = hashlib.sha256()

    @property
    def _path(self) -> Path:
        return self.folder / f"usucl-{len(self.shards):06d}.tar"

    @property
    def _receipt(self) -> Path:
        return self._path.with_suffix(".receipt")

    def append(self, video: Spooled, spool: Path) -> None:
        """Copies a video's spool file into the present shard, or the next."""
        if self._length and self._length + video.length > self.shard_bytes:
            self._close_shard()
        if not self._length and not self._receipt.exists():
            self._tar = self._path.open("wb")
        if self._tar:
            with spool.open("rb") as file:
                while chunk := file.read(1 << 20):
                    self._tar.write(chunk)
                    self._checksum.update(chunk)
        self._spools.append(spool)
        rows = video.rows.copy()
        rows["offset"] += self._length
        rows["shard"] = len(self.shards)
        rows["video"] = len(self.videos)
        self._index += [
            f"{self.suffix} {row['offset']} {row['length']} {video.record.id}/{row['frame']:06d}.{self.suffix}\n"
            for row in rows
        ]
        self._rows.append(rows)
        self.videos.append(video.record)
        self._length += video.length

    def _close_shard(self) -> None:
        if self._tar:
            self._tar.write(END_OF_ARCHIVE)
            self._checksum.update(END_OF_ARCHIVE)
            # The format of DALI's wds2idx, version 1.2.
            index = (f"v1.2 {len(self._index)}\n" + "".join(self._index)).encode()
            self._path.with_suffix(".idx").write_bytes(index)
            self._tar.flush()
            os.fsync(self._tar.fileno())
            self._tar.close()
            receipt = ShardRecord(
                name=self._path.name,
                frames=len(self._index),
                bytes=self._length + len(END_OF_ARCHIVE),
                sha256=self._checksum.hexdigest(),
                index_sha256=hashlib.sha256(index).hexdigest(),
            )
            write_json(self._receipt, asdict(receipt))
        for spool in self._spools:
            spool.unlink(missing_ok=True)
        self.shards.append(ShardRecord.read(json.loads(self._receipt.read_bytes())))
        self._begin()

    def finish(self) -> NDArray[np.void]:
        """Closes the last shard, writes the video table and the frame table, and returns the latter's rows."""
        if self._length:
            self._close_shard()
        rows = np.concatenate(self._rows)
        VideoTable.of(self.videos).save(self.folder / VIDEOS)
        with write_whole(self.folder / FRAMES) as file:
            np.save(file, rows)
        return rows
