"""Spool files -> shards: tars, DALI indexes, frame table. The format: `shards/README.md` beside the package."""

import hashlib
import os
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from usucl_fast.errors import DataError
from usucl_fast.files import SMALL_JSON_BYTES, open_file, read_json, write_json, write_whole
from usucl_fast.pack.output import Output
from usucl_fast.pack.segments import VideoLabels
from usucl_fast.pack.spool import Spooled
from usucl_fast.shards import (
    END_OF_ARCHIVE,
    FRAME_LABELS,
    FRAMES,
    ROW,
    SEGMENT,
    VIDEOS,
    FrameLabels,
    FrameTable,
    ShardRecord,
    Texts,
    VideoRecord,
    VideoTable,
    index_text,
)


class ShardWriter:
    """Appends spooled videos to the shards of `out`, a video's frames together and in order.

    A new shard begins when the next video would make the current one longer than `shard_bytes`; a video is
    never cut, so one that is longer has a shard of its own.

    Beside every finished shard lies its **receipt**: when the same videos are appended again after an
    interruption, these shards are not written again, and need no spool files, which are deleted.

    shards, videos: records of everything appended so far.
    """

    def __init__(
        self,
        out: Output,
        shard_bytes: int,
        suffix: str,
        shards: Iterable[ShardRecord] = (),
        table: FrameTable | None = None,
    ) -> None:
        """shards, table: of an earlier packing that is added to, and whose files lie elsewhere."""
        self.folder = out.partial
        self._out = out
        self.shard_bytes = shard_bytes
        self.suffix = suffix
        self.shards = list(shards)
        self.videos: list[VideoRecord] = list(table.videos) if table else []
        self._rows = [np.array(table.rows) if table else np.empty(0, ROW)]
        self._labels = _LabelColumns(table.labels if table else None, len(self._rows[0]))
        self._begin()

    def _begin(self) -> None:
        self._length = 0
        self._index: list[str] = []
        self._spools: list[Path] = []
        self._tar: BinaryIO | None = None
        self._checksum = hashlib.sha256()

    @property
    def _path(self) -> Path:
        return self.folder / ShardRecord.name_of(len(self.shards))

    @property
    def _receipt(self) -> Path:
        return self._path.with_suffix(".receipt")

    def append(self, video: Spooled, spool: Path) -> None:
        """Copies a video's spool file into the current shard, or the next.

        Raises:
            DataError: it is damaged.
        """
        if self._length and self._length + video.length > self.shard_bytes:
            self._close_shard()
        if not self._length and not self._receipt.exists():
            self._tar = self._path.open("wb")
        if self._tar:
            copied = 0
            with open_file(spool) as file:
                while chunk := file.read(1 << 20):
                    copied += self._tar.write(chunk)
                    self._checksum.update(chunk)
            if copied != video.length:
                remedy = f"remove it and {spool.name}.npz, and run the same command again"
                raise DataError(f"{spool} has {copied} bytes, not {video.length}; {remedy}")
        self._spools.append(spool)
        rows = video.rows.copy()
        rows["offset"] += self._length
        rows["shard"] = len(self.shards)
        rows["video"] = len(self.videos)
        self._index += [
            f"{self.suffix} {row['offset']} {row['length']} {video.record.id}/{row['frame']:06d}.{self.suffix}"
            for row in rows
        ]
        self._rows.append(rows)
        self._labels.append(video.labels, len(rows), len(self.videos))
        self.videos.append(video.record)
        self._length += video.length

    def _close_shard(self) -> None:
        if self._tar:
            self._tar.write(END_OF_ARCHIVE)
            self._checksum.update(END_OF_ARCHIVE)
            index = index_text(self._index).encode()
            self._path.with_suffix(".idx").write_bytes(index)
            self._tar.flush()
            os.fsync(self._tar.fileno())
            self._tar.close()
            self._out.keep(self._path.with_suffix(".idx"))
            self._out.keep(self._path)
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
        self.shards.append(self._read_receipt())
        self._begin()

    def _read_receipt(self) -> ShardRecord:
        """The receipt of the current shard.

        Raises:
            DataError: it is damaged, or the tar is not there as it says.
        """
        try:
            record = ShardRecord.read(read_json(self._receipt, SMALL_JSON_BYTES), len(self.shards))
            if not self._out.holds(self._path, record.bytes):
                raise ValueError(f"{self._path.name} does not have its {record.bytes} bytes")
        except (ValueError, DataError) as error:
            raise DataError(
                f"{self._receipt} is damaged ({error}); remove {self.folder} and run the same command again"
            ) from error
        return record

    def finish(self) -> NDArray[np.void]:
        """Closes the last shard, writes the video table and the frame table, and returns the latter's rows."""
        if self._length:
            self._close_shard()
        rows = np.concatenate(self._rows)
        VideoTable.of(self.videos).save(self.folder / VIDEOS)
        with write_whole(self.folder / FRAMES) as file:
            np.save(file, rows)
        if labels := self._labels.joined():
            labels.save(self.folder / FRAME_LABELS)
        return rows


class _LabelColumns:
    """The labels of all frames, appended video by video."""

    def __init__(self, known: FrameLabels | None, frames: int) -> None:
        self._codes = {name: code for code, name in enumerate(known.label.different if known else [""])}
        self._parts: list[tuple[NDArray[np.uint32], NDArray[np.float32], NDArray[np.void]]] = []
        if known:
            self._parts.append((known.label.codes, known.value, known.segments))
        else:
            self.append(None, frames, 0)
        self._is_any = known is not None

    def append(self, labels: VideoLabels | None, frames: int, video: int) -> None:
        if not labels:
            none = np.full(frames, self._codes.setdefault("", len(self._codes)), np.uint32)
            self._parts.append((none, np.full(frames, np.nan, np.float32), np.empty(0, SEGMENT)))
            return
        codes = np.array([self._codes.setdefault(name, len(self._codes)) for name in labels.names], np.uint32)
        segments = labels.segments.copy()
        segments["video"], segments["label"] = video, codes[segments["label"]]
        self._parts.append((codes[labels.label], labels.value, segments))
        self._is_any = True

    def joined(self) -> FrameLabels | None:
        """All of them; None where no frame has one."""
        if not self._is_any:
            return None
        codes, values, segments = (np.concatenate(part) for part in zip(*self._parts, strict=True))
        return FrameLabels(Texts.coded(codes, list(self._codes)), values, segments)
