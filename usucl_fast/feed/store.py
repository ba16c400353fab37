"""Shards, opened, in a folder or at a URL: frame id -> encoded bytes, without copying."""

import functools
import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from usucl_fast.errors import DataError, UsageError
from usucl_fast.files import CACHE_BYTES
from usucl_fast.frames import FORMAT, FORMAT_VERSION, FRAMES, MANIFEST, ROW, FrameTable, VideoRecord

Maps = Sequence[NDArray[np.uint8]] | Mapping[int, NDArray[np.uint8]]


class Shards(Protocol):
    """Where the bytes of the shards come from. May be used by several threads at a time."""

    name: str
    """The folder or URL, as messages show it."""
    folder: Path
    """Where their files lie on this machine."""

    def place(self, shard: int) -> str:
        """A shard, as messages name it."""
        ...

    def path(self, shard: int) -> Path:
        """The tar file of a shard.

        Raises:
            UsageError: there is none on this machine.
        """
        ...

    def maps(self, shards: Iterable[int]) -> Maps:
        """At least these shards, mapped; they stay valid as long as somebody has them.

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
    name: the folder or URL, as messages show it.
    folder: where their files lie on this machine.
    fingerprint: hexadecimal digest of the content; equal for byte-identical shards.
    """

    def __init__(self, shards: Shards, table: FrameTable, records: list[dict[str, Any]]) -> None:
        self._shards = shards
        self.table = table
        self.name = shards.name
        self.folder = shards.folder
        checksums = "".join(record["sha256"] for record in records)
        groups = json.dumps([[video.id, video.group] for video in table.videos])
        self.fingerprint = hashlib.sha256((checksums + groups).encode()).hexdigest()

    def shard_path(self, shard: int) -> Path:
        """The tar file of a shard.

        Raises:
            UsageError: the shards are at a URL.
        """
        return self._shards.path(shard)

    def place(self, shard: int) -> str:
        """The tar file or URL of a shard, for messages."""
        return self._shards.place(shard)

    def close(self) -> None:
        """Ends all waiting for shards at a URL, for good; what is at hand can still be read.

        May be called from any thread and in a signal handler.
        """
        self._shards.close()

    def read(self, frame_ids: NDArray[np.int64]) -> list[NDArray[np.uint8]]:
        """The encoded frames, as read-only views of the mapped shards, one a frame id in flat order.

        Waits until the shards that they need are here.

        Raises:
            DataError: a shard is missing, has another length than the manifest says, or cannot be fetched.
            StoppedError: a shard would have to be waited for, and `close` was called.
        """
        rows = self.table.rows[frame_ids.ravel()]
        starts, ends, shards = rows["offset"], rows["offset"] + rows["length"], rows["shard"].tolist()
        maps = self._shards.maps(shards)
        return [
            maps[shard][start:end] for shard, start, end in zip(shards, starts.tolist(), ends.tolist(), strict=True)
        ]


class LocalShards:
    """The shards in a folder; see `Shards`. Nothing is copied, and nothing waited for."""

    def __init__(self, folder: Path, records: list[dict[str, Any]]) -> None:
        self.name = str(folder)
        self.folder = folder
        self._records = records

    @functools.cached_property
    def _maps(self) -> list[NDArray[np.uint8]]:
        maps = []
        for shard, record in enumerate(self._records):
            path = self.path(shard)
            try:
                data = np.memmap(path, np.uint8, mode="r")
            except (OSError, ValueError) as error:
                raise DataError(
                    f"shard {path} cannot be read ({error}); restore it or pack the videos again"
                ) from error
            if len(data) != record["bytes"]:
                raise DataError(
                    f"shard {path} has {len(data)} bytes where the manifest says {record['bytes']};"
                    " restore it or pack the videos again"
                )
            maps.append(data.view(np.ndarray))
        return maps

    def place(self, shard: int) -> str:
        return str(self.path(shard))

    def path(self, shard: int) -> Path:
        return self.folder / str(self._records[shard]["name"])

    def maps(self, shards: Iterable[int]) -> Maps:
        return self._maps

    def close(self) -> None:
        pass


def is_url(shards: str | Path) -> bool:
    """Whether SHARDS are at a URL rather than in a folder."""
    return "://" in str(shards)


def open_shards(shards: str | Path, cache: Path | None = None, cache_bytes: int = CACHE_BYTES) -> ShardStore:
    """Opens what `usucl-shard` wrote.

    shards: the folder, or a URL that fsspec opens (http, https, s3, gs, …).
    cache: where files from a URL are kept; the platform's place for such if None.
    cache_bytes: what they may take there; those that were used longest ago go first.

    Raises:
        UsageError: they are no shards, of another format version, or cannot be reached; or the cache cannot be used.
        DataError: the manifest or the frame table is damaged.
    """
    if is_url(shards):
        from usucl_fast.feed.cache import Cache, default_folder
        from usucl_fast.feed.remote import RemoteFolder
        from usucl_fast.feed.remote_shards import RemoteShards, fetch_frames, fetch_manifest

        remote = RemoteFolder(str(shards))
        kept = Cache(cache or default_folder(), cache_bytes)
        return _open(
            fetch_manifest(remote),
            remote.name,
            functools.partial(fetch_frames, remote, kept),
            functools.partial(RemoteShards, remote, kept),
        )
    folder = Path(shards)
    path = folder / MANIFEST
    if not path.is_file():
        raise UsageError(f"SHARDS {folder} is not a shard folder (it has no {MANIFEST}); make one with usucl-shard")
    return _open(
        path.read_bytes(),
        str(folder),
        lambda _: np.load(folder / FRAMES, mmap_mode="r"),
        functools.partial(LocalShards, folder),
    )


def _open(
    text: bytes,
    name: str,
    load_frames: Callable[[str], NDArray[np.void]],
    make_shards: Callable[[list[dict[str, Any]]], Shards],
) -> ShardStore:
    """Opens the shards called `name`, from the `text` of their manifest; `load_frames` is given the table's SHA-256."""
    try:
        manifest = json.loads(text)
        format, version = manifest["format"], manifest["version"]
    except (ValueError, LookupError, TypeError) as error:
        raise UsageError(
            f"SHARDS {name} is not a shard folder: its {MANIFEST} is damaged or of another program"
        ) from error
    if format != FORMAT:
        raise UsageError(f"SHARDS {name} is not a shard folder: its {MANIFEST} is of format {format!r}")
    if version != FORMAT_VERSION:
        raise UsageError(
            f"SHARDS {name} is of format version {version}, this usucl_fast reads {FORMAT_VERSION};"
            " pack the videos again, or use the release that packed them"
        )
    try:
        videos = tuple(VideoRecord(**video) for video in manifest["videos"])
        rows = load_frames(manifest["files"][FRAMES])
        records = manifest["shards"]
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise DataError(f"SHARDS {name}: manifest or {FRAMES} is damaged ({error}); pack the videos again") from error
    if rows.dtype != ROW or len(rows) != sum(video.frames for video in videos):
        raise DataError(f"SHARDS {name}: {FRAMES} does not match the manifest; pack the videos again")
    return ShardStore(make_shards(records), FrameTable(rows, videos), records)
