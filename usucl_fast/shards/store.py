"""Opens shards in a folder or at a URL: frame id -> encoded bytes, without copying."""

import functools
import hashlib
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from usucl_fast.errors import DataError, UsageError
from usucl_fast.files import CACHE_BYTES, is_url, read_small
from usucl_fast.shards.frame_labels import FRAME_LABELS, FrameLabels
from usucl_fast.shards.manifest import MANIFEST, MANIFEST_BYTES, FileRecord, Manifest, ShardRecord
from usucl_fast.shards.mapped import map_file
from usucl_fast.shards.npy import read_npy
from usucl_fast.shards.table import FRAMES, ROW, FrameTable
from usucl_fast.shards.videos import VIDEOS, VideoTable

TABLE_BYTES = 1 << 32
"""A larger table of videos or labels is refused: that of ten million videos is smaller. It is read into memory."""
Maps = Sequence[NDArray[np.uint8]] | Mapping[int, NDArray[np.uint8]]


class Shards(Protocol):
    """Where the bytes of the shards come from; thread-safe."""

    name: str
    """The folder or URL, as messages show it."""
    folder: Path
    """Where their files lie on this machine."""

    @property
    def room(self) -> int | None:
        """How many of them this machine keeps at a time for each rank; None for all."""
        ...

    def follow(self, steps: Iterator[Iterable[int]]) -> None:
        """Is told which shards a reader will need, step by step, to fetch them ahead and to keep them until then."""
        ...

    def passed(self) -> None:
        """Is told that the reader is done with another step."""
        ...

    def place(self, shard: int) -> str:
        """The shard's name in messages."""
        ...

    def path(self, shard: int) -> Path:
        """The tar file of a shard.

        Raises:
            UsageError: there is none on this machine.
        """
        ...

    def maps(self, shards: Iterable[int]) -> Maps:
        """At least these shards, memory-mapped; they stay valid as long as they are referenced.

        Raises:
            DataError: one cannot be read.
            StoppedError: one would have to be waited for, and `close` was called.
        """
        ...

    def close(self) -> None:
        """Ends all waiting for shards."""
        ...


class ShardStore:
    """The encoded frames of a dataset.

    table: the frames and videos.
    settings: how they were packed.
    name: the folder or URL, as messages show it.
    folder: where their files lie on this machine.
    room: how many shards this machine keeps at a time; None where all are here, or will be.
    fingerprint: hexadecimal digest of the frames, groups and splits: what a training depends on.
    """

    def __init__(self, shards: Shards, manifest: Manifest, table: FrameTable) -> None:
        self._shards = shards
        self.table, self.settings = table, manifest.settings
        self.name = shards.name
        self.folder = shards.folder
        self.room = None if shards.room is None or shards.room >= len(manifest.shards) else shards.room
        self._is_whole = np.zeros(len(table), bool)  # the frames whose CRC-32 was found right
        digest = hashlib.sha256("".join(record.sha256 for record in manifest.shards).encode())
        for column in (table.videos.id, table.videos.group, table.videos.split):
            for array in column.arrays().values():
                digest.update(array.tobytes())
        self.fingerprint = digest.hexdigest()

    def shard_path(self, shard: int) -> Path:
        """The tar file of a shard.

        Raises:
            UsageError: the shards are at a URL.
        """
        return self._shards.path(shard)

    def place(self, shard: int) -> str:
        """The tar file or URL of a shard, for messages."""
        return self._shards.place(shard)

    def follow(self, steps: Iterator[Iterable[int]]) -> None:
        """Begins to fetch ahead the shards that a reader will need in each of its steps, those at a URL."""
        self._shards.follow(steps)

    def passed(self) -> None:
        """Says that the reader is done with another of the steps that `follow` was told; thread-safe."""
        self._shards.passed()

    def close(self) -> None:
        """Ends all waiting for shards at a URL, for good; those already here can still be read.

        May be called from any thread and in a signal handler.
        """
        self._shards.close()

    def read(self, frame_ids: NDArray[np.int64]) -> list[NDArray[np.uint8]]:
        """The encoded frames, as read-only views of the mapped shards, one a frame id in flat order.

        Waits until the shards that they need are here.

        Raises:
            DataError: a shard is missing, has another length than the manifest says, or cannot be fetched; or a frame
                has other bytes than were packed, which is looked at when it is read first.
            StoppedError: a shard would have to be waited for, and `close` was called.
        """
        rows = self.table.rows[frame_ids.ravel()]
        starts, ends, shards = rows["offset"], rows["offset"] + rows["length"], rows["shard"].tolist()
        maps = self._shards.maps(shards)
        frames = [
            maps[shard][start:end] for shard, start, end in zip(shards, starts.tolist(), ends.tolist(), strict=True)
        ]
        fresh = np.flatnonzero(~self._is_whole[frame_ids.ravel()])
        for place in fresh.tolist():
            if zlib.crc32(frames[place].data) != rows["crc"][place]:
                frame_id = int(frame_ids.ravel()[place])
                raise DataError(
                    f"{self.frame_place(frame_id)} has other bytes than were packed; restore the shard, or pack the"
                    " videos again"
                )
        self._is_whole[frame_ids.ravel()[fresh]] = True
        return frames

    def frame_place(self, frame_id: int) -> str:
        """Where a frame lies, for messages: shard, member, frame id."""
        shard = self.place(int(self.table.rows[frame_id]["shard"]))
        return f"frame {self.table.name_of(frame_id)} (id {frame_id}) in {shard}"


class LocalShards:
    """The shards in a folder; see `Shards`. Nothing is copied, and nothing has to be waited for."""

    room: int | None = None

    def __init__(self, folder: Path, records: Sequence[ShardRecord]) -> None:
        self.name = str(folder)
        self.folder = folder
        self._records = records

    @functools.cached_property
    def _maps(self) -> list[NDArray[np.uint8]]:
        return [_map(self.folder / record.name, record.bytes) for record in self._records]

    def follow(self, steps: Iterator[Iterable[int]]) -> None:
        pass

    def passed(self) -> None:
        pass

    def place(self, shard: int) -> str:
        return str(self.path(shard))

    def path(self, shard: int) -> Path:
        return self.folder / self._records[shard].name

    def maps(self, shards: Iterable[int]) -> Maps:
        return self._maps

    def close(self) -> None:
        pass


def open_shards(shards: str | Path, cache: Path | None = None, cache_bytes: int = CACHE_BYTES) -> ShardStore:
    """Opens what `usucl-shard` wrote.

    shards: the folder, or a URL that fsspec opens (http, https, s3, gs, …).
    cache: where files from a URL are kept; the platform's place for such if None.
    cache_bytes: what they may take there; those that were used longest ago go first.

    Raises:
        UsageError: they are not shards, of another format version, or cannot be reached; or the cache cannot be used.
        DataError: the manifest, the video table or the frame table is damaged.
    """
    if is_url(shards):
        from usucl_fast.shards.cache import Cache, default_folder
        from usucl_fast.shards.remote import RemoteFolder
        from usucl_fast.shards.remote_shards import RemoteShards, fetch_manifest

        remote = RemoteFolder(str(shards))
        kept = Cache(cache or default_folder(), cache_bytes)
        manifest = Manifest.read(fetch_manifest(remote), remote.name)

        def get(name: str, file: FileRecord) -> NDArray[np.uint8]:
            return kept.get(remote, name, file.sha256, file.bytes)

        table = _open_table(manifest, remote.name, get, lambda name, file: get(name, file).tobytes())
        return ShardStore(RemoteShards(remote, kept, manifest.shards), manifest, table)
    folder = Path(shards)
    manifest = read_manifest(folder)
    table = _open_table(
        manifest,
        str(folder),
        lambda name, file: _map(folder / name, file.bytes),
        lambda name, file: read_small(folder / name, file.bytes),
    )
    return ShardStore(LocalShards(folder, manifest.shards), manifest, table)


def read_manifest(folder: Path) -> Manifest:
    """The manifest of the shards in a folder.

    Raises:
        UsageError, DataError: as `open_shards`.
    """
    path = folder / MANIFEST
    if not path.is_file():
        raise UsageError(f"SHARDS {folder} is not a shard folder (it has no {MANIFEST}); make one with usucl-shard")
    return Manifest.read(read_small(path, MANIFEST_BYTES), str(folder))


def _open_table(
    manifest: Manifest,
    place: str,
    get: Callable[[str, FileRecord], NDArray[np.uint8]],
    get_bytes: Callable[[str, FileRecord], bytes],
) -> FrameTable:
    """Opens the tables of the shards at `place`; `get` maps a file of the shards, `get_bytes` reads one."""
    for name in (VIDEOS, FRAMES):
        if name not in manifest.files:
            raise DataError(f"SHARDS {place}: {MANIFEST} does not name {name}; pack the videos again")

    def read(name: str) -> bytes:
        if manifest.files[name].bytes > TABLE_BYTES:
            raise DataError(f"SHARDS {place}: {MANIFEST} says that {name} has more than {TABLE_BYTES} bytes")
        stored = get_bytes(name, manifest.files[name])
        if hashlib.sha256(stored).hexdigest() != manifest.files[name].sha256:
            raise DataError(f"{place}/{name} was changed since it was written; restore it, or pack the videos again")
        return stored

    videos = VideoTable.read(read(VIDEOS), f"{place}/{VIDEOS}")
    frames = int(videos.frames.sum(dtype=np.int64))
    try:
        rows = read_npy(get(FRAMES, manifest.files[FRAMES]), ROW)
        if len(rows) != frames or not frames:
            raise ValueError(f"{len(rows)} rows for the {frames} frames in {VIDEOS}")
        table = FrameTable(rows, videos)
        table.check(np.array([shard.bytes for shard in manifest.shards], np.int64))
    except ValueError as error:
        raise DataError(f"{place}/{FRAMES} is damaged ({error}); restore it, or pack the videos again") from error
    found = {"videos": len(videos), "frames": frames, "bytes": sum(shard.bytes for shard in manifest.shards)}
    if manifest.totals != found or sum(shard.frames for shard in manifest.shards) != frames:
        raise DataError(
            f"SHARDS {place}: {MANIFEST} is damaged (totals is {manifest.totals}, where {found} are); restore it, or"
            " pack the videos again"
        )
    if FRAME_LABELS not in manifest.files:
        return table
    labels = FrameLabels.read(read(FRAME_LABELS), f"{place}/{FRAME_LABELS}", frames, len(videos))
    return replace(table, labels=labels)


def _map(path: Path, length: int) -> NDArray[np.uint8]:
    """The bytes of a file, mapped.

    Raises:
        DataError: it cannot be read, or has another length.
    """
    try:
        data = map_file(path)
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read ({error}); restore it or pack the videos again") from error
    if len(data) != length:
        raise DataError(f"{path} has {len(data)} bytes, not {length} as in the manifest; restore it or pack again")
    return data
