"""Shards at a URL: downloaded into a cache in the background, those asked for first, and memory-mapped."""

import atexit
import json
import tempfile
import threading
import time
import weakref
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, wait
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from usucl_fast.errors import DataError, UsageError
from usucl_fast.shards.cache import Cache
from usucl_fast.shards.manifest import MANIFEST, MANIFEST_BYTES, Manifest, ShardRecord
from usucl_fast.shards.remote import POLL_SECONDS, MissingFileError, RemoteFolder

SIDE_BY_SIDE = 8
"""Shards that are downloaded at a time because a reader waits for them."""
AHEAD = 2
"""Shards that are fetched at a time because they will be needed."""


class RemoteShards:
    """The shards of a dataset at a URL; see `usucl_fast.feed.store.Shards`.

    The first `maps` starts fetching ahead, in the order of the shards, as long as all that was asked for fits into the
    cache. Reading waits for the shards it needs and for no other, and downloads wait for no reader: a batch that needs
    more shards than the cache holds gets them one after the other, and the maps it has stay valid.
    """

    def __init__(self, remote: RemoteFolder, cache: Cache, records: Sequence[ShardRecord]) -> None:
        self.name = remote.name
        self.folder = cache.folder
        self._remote = remote
        self._cache = cache
        self._records = records
        self._lock = threading.Lock()
        self._maps: dict[int, Future[NDArray[np.uint8]]] = {}  # those in the cache, and those on their way to it
        self._side_by_side = threading.Semaphore(SIDE_BY_SIDE)
        self._waiting = 0  # readers
        self._threads: weakref.WeakSet[threading.Thread] = weakref.WeakSet()
        self._ahead: Iterator[int] | None = None
        for record in records:
            cache.check_room(remote.place(record.name), record.bytes)
        _OPEN.add(self)

    def place(self, shard: int) -> str:
        """The URL of a shard, for messages."""
        return self._remote.place(self._records[shard].name)

    def path(self, shard: int) -> Path:
        """There is none.

        Raises:
            UsageError: always.
        """
        raise UsageError(f"{self.place(shard)} is at a URL, and files are needed; copy the shards to a folder first")

    def maps(self, shards: Iterable[int]) -> dict[int, NDArray[np.uint8]]:
        """The bytes of these shards, once all have arrived.

        Raises:
            DataError: one cannot be fetched.
            StoppedError: one is not here, and `close` was called.
        """
        futures = {shard: self._ask(shard, self._side_by_side) for shard in set(shards)}
        with self._lock:
            self._waiting += 1
            if self._ahead is None:
                self._ahead = iter(range(len(self._records)))
                for _ in range(AHEAD):
                    self._start(self._fetch_ahead)
        try:
            return {shard: self._wait(shard, future) for shard, future in futures.items()}
        finally:
            with self._lock:
                self._waiting -= 1

    def close(self) -> None:
        """Stops all downloads, and all waiting for them, for good; may be called in a signal handler."""
        self._remote.closed = True

    def join(self, seconds: float) -> None:
        """Waits until the downloading threads have ended and cleaned up, at most for `seconds`."""
        end = time.monotonic() + seconds
        for thread in list(self._threads):
            thread.join(max(0.0, end - time.monotonic()))

    def _ask(self, shard: int, turn: threading.Semaphore) -> "Future[NDArray[np.uint8]]":
        """The shard's bytes, or a future of them; `turn` is held while it is downloaded."""
        with self._lock:
            future = self._maps.get(shard)
            if future is None or (future.done() and not self._cache.holds(self._records[shard].sha256)):
                self._remote.stop_if_closed(self._records[shard].name)
                future = self._maps[shard] = Future()
                self._start(self._fetch, shard, future, turn)
        return future

    def _wait(self, shard: int, future: "Future[NDArray[np.uint8]]") -> NDArray[np.uint8]:
        while not wait([future], timeout=POLL_SECONDS).done:
            self._remote.stop_if_closed(self._records[shard].name)
        return future.result()

    def _start(self, work: Any, *arguments: Any) -> None:
        thread = threading.Thread(target=work, args=arguments, name="usucl-fetch", daemon=True)
        self._threads.add(thread)
        thread.start()

    def _fetch(self, shard: int, future: "Future[NDArray[np.uint8]]", turn: threading.Semaphore) -> None:
        record = self._records[shard]
        try:
            with turn:
                data = self._cache.get(self._remote, record.name, record.sha256, record.bytes)
        except BaseException as error:
            with self._lock:
                del self._maps[shard]  # the next request tries it again
            future.set_exception(error)
            return
        future.set_result(data)
        with self._lock:  # a map that is kept would keep the room on disk of a file that had to go
            for other, done in list(self._maps.items()):
                if done.done() and not (self._cache.folder / self._records[other].sha256).exists():
                    del self._maps[other]

    def _fetch_ahead(self) -> None:
        assert self._ahead is not None
        turn = threading.Semaphore()
        for shard in self._ahead:
            while self._waiting and not self._remote.closed:
                time.sleep(POLL_SECONDS)
            with self._lock:
                asked = sum(self._records[other].bytes for other in {*self._maps, shard})
            if asked > self._cache.limit:
                return
            try:
                self._wait(shard, self._ask(shard, turn))
            except Exception:  # a reader that needs the shard asks again, and gets the error
                return


_OPEN: "weakref.WeakSet[RemoteShards]" = weakref.WeakSet()


@atexit.register
def _close_all() -> None:
    """At the end of the process, lets unfinished downloads remove their partial files."""
    for shards in list(_OPEN):
        shards.close()
    for shards in list(_OPEN):
        shards.join(0.5)


def fetch_manifest(remote: RemoteFolder) -> bytes:
    """Downloads the manifest, anew each time, because it says what all other files must be.

    Raises:
        UsageError: there is none, or it cannot be fetched.
    """
    try:
        with tempfile.TemporaryDirectory(prefix="usucl-", ignore_cleanup_errors=True) as folder:
            path = Path(folder) / MANIFEST
            remote.download(MANIFEST, path, _check_manifest, MANIFEST_BYTES)
            return path.read_bytes()
    except MissingFileError:
        raise UsageError(
            f"SHARDS {remote.name} is not a shard folder (it has no {MANIFEST}); make one with usucl-shard"
        ) from None
    except DataError as error:
        raise UsageError(f"SHARDS {error}") from error


def _check_manifest(path: Path) -> str:
    """What is wrong with a downloaded manifest, if another attempt may help."""
    try:
        Manifest.read(path.read_bytes(), "")
    except UsageError as error:
        return "it did not come as JSON" if isinstance(error.__cause__, json.JSONDecodeError) else ""
    except DataError:
        return "what came is not what its checksum says"
    return ""
