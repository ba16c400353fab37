"""Shards at a URL: downloaded into a cache in the background, those asked for first, and memory-mapped."""

import atexit
import json
import tempfile
import threading
import time
import weakref
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, wait
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from usucl_fast.errors import DataError, MissingFileError, UsageError
from usucl_fast.machine import ranks_here
from usucl_fast.shards.attempts import POLL_SECONDS, STALL_SECONDS
from usucl_fast.shards.cache import Cache
from usucl_fast.shards.manifest import MANIFEST, MANIFEST_BYTES, Manifest, ShardRecord
from usucl_fast.shards.remote import RemoteFolder

SIDE_BY_SIDE = 8
"""Shards that are downloaded at a time because a reader waits for them."""
AHEAD = 2
"""Shards that are fetched at a time because they will be needed."""


class RemoteShards:
    """The shards of a dataset at a URL; see `usucl_fast.shards.store.Shards`.

    What `follow` says is fetched ahead as far as the cache has room; without it the first `maps` starts with all
    shards in their order. Reading waits for the shards it needs and for no other, and downloads wait for no reader: a
    batch that needs more shards than the cache holds gets them one after the other, and the maps it has stay valid.
    """

    def __init__(self, remote: RemoteFolder, cache: Cache, records: Sequence[ShardRecord]) -> None:
        self.name = remote.name
        self.folder = cache.folder
        self._remote = remote
        self._cache = cache
        self._room = cache.limit // ranks_here()  # bytes of it for this rank
        self._records = records
        self._lock = threading.Lock()
        self._maps: dict[int, Future[NDArray[np.uint8]]] = {}  # those in the cache, and those on their way to it
        self._side_by_side = threading.Semaphore(SIDE_BY_SIDE)
        self._waiting = 0  # readers
        self._threads: weakref.WeakSet[threading.Thread] = weakref.WeakSet()
        self._ahead: _Ahead | None = None
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

    @property
    def room(self) -> int:
        """How many shards the cache holds at a time, for this rank."""
        return self._room // max(record.bytes for record in self._records)

    def follow(self, steps: Iterator[Iterable[int]]) -> None:
        """Begins to fetch the shards that a reader will need, step by step; `passed` tells when one is done."""
        with self._lock:
            if self._ahead is not None:
                self._ahead.end()
            self._fetch_ahead(_Ahead(steps, self._records, self._room, waits=True))

    def passed(self) -> None:
        """Says that the reader is done with another of the steps that `follow` was told."""
        if self._ahead is not None:
            self._ahead.passed()

    def maps(self, shards: Iterable[int]) -> dict[int, NDArray[np.uint8]]:
        """The bytes of these shards, once all have arrived.

        Raises:
            DataError: one cannot be fetched.
            StoppedError: one is not here, and `close` was called.
        """
        # Those that are here count as just used before others are fetched, for which something has to go.
        futures = {shard: here for shard in set(shards) if (here := self._here(shard))}
        futures |= {shard: self._ask(shard, self._side_by_side) for shard in set(shards) - futures.keys()}
        with self._lock:
            self._waiting += 1
            if self._ahead is None:
                in_order = ([shard] for shard in range(len(self._records)))
                self._fetch_ahead(_Ahead(in_order, self._records, self._cache.limit, waits=False))
        try:
            return {shard: self._wait(shard, future) for shard, future in futures.items()}
        finally:
            with self._lock:
                self._waiting -= 1

    def close(self) -> None:
        """Stops all downloads, and all waiting for them, for good; may be called in a signal handler."""
        self._remote.closed = True
        if self._ahead is not None:
            self._ahead.end()

    def join(self, seconds: float) -> None:
        """Waits until the downloading threads have ended and cleaned up, at most for `seconds`."""
        end = time.monotonic() + seconds
        for thread in list(self._threads):
            thread.join(max(0.0, end - time.monotonic()))

    def _here(self, shard: int) -> "Future[NDArray[np.uint8]] | None":
        """The shard's bytes, if they are in the cache; they then count as just used."""
        future = self._maps.get(shard)
        is_here = future is not None and future.done() and self._cache.holds(self._records[shard].sha256)
        return future if is_here else None

    def _ask(self, shard: int, turn: threading.Semaphore) -> "Future[NDArray[np.uint8]]":
        """The shard's bytes, or a future of them; `turn` is held while it is downloaded."""
        with self._lock:
            future = self._maps.get(shard)
            if future is None or (future.done() and not self._here(shard)):
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
                for other in self._ahead.needed() if self._ahead else ():
                    self._cache.holds(self._records[other].sha256)  # so that it is not what has to make room
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

    def _fetch_ahead(self, ahead: "_Ahead") -> None:
        self._ahead, turns = ahead, threading.Semaphore(AHEAD)
        if self._remote.closed:  # before `close` could end it
            ahead.end()
        for _ in range(AHEAD):
            self._start(self._fetch_next, ahead, turns)

    def _fetch_next(self, ahead: "_Ahead", turns: threading.Semaphore) -> None:
        for shard in ahead:
            while self._waiting and not self._remote.closed:
                time.sleep(POLL_SECONDS)
            try:
                self._wait(shard, self._ask(shard, turns))
            except Exception:  # a reader that needs the shard asks again, and gets the error
                ahead.rest(STALL_SECONDS)


class _Ahead:
    """The shards to fetch for the next steps of a reader, as long as all between it and them fit; thread-safe.

    steps: the shards that each step needs.
    room: bytes that those of the steps in between may take.
    waits: whether it waits for the reader where there is no more room, or ends.
    """

    def __init__(
        self, steps: Iterator[Iterable[int]], records: Sequence[ShardRecord], room: int, *, waits: bool
    ) -> None:
        self._steps, self._records, self._room, self._waits = enumerate(steps), records, room, waits
        self._done = 0  # steps that the reader is done with
        self._between: deque[tuple[int, list[int]]] = deque()  # from the step that it is in to the last one taken
        self._uses: Counter[int] = Counter()  # how many of these steps need a shard
        self._new: deque[int] = deque()
        self._ended = False
        self._taking, self._moved = threading.Lock(), threading.Condition()

    def __iter__(self) -> Iterator[int]:
        while (shard := self._next()) is not None:
            yield shard

    def needed(self) -> list[int]:
        """The shards of the steps in between."""
        with self._moved:
            return list(self._uses)

    def passed(self) -> None:
        """Takes the reader to its next step."""
        with self._moved:
            self._done += 1
            if self._between and self._between[0][0] < self._done:
                for shard in self._between.popleft()[1]:
                    self._uses[shard] -= 1
                    if not self._uses[shard]:
                        del self._uses[shard]
            self._moved.notify_all()

    def end(self) -> None:
        """Ends the iteration."""
        self._ended = True

    def rest(self, seconds: float) -> None:
        """Waits before the next shard is tried, where it waits at all."""
        end = time.monotonic() + seconds
        if not self._waits:
            self.end()
        while not self._ended and time.monotonic() < end:
            time.sleep(POLL_SECONDS)

    def _next(self) -> int | None:
        with self._taking:  # one thread at a time goes to the next step
            while not self._new and not self._ended:
                number, step = next(self._steps, (0, None))
                if step is None or len(self._uses) == len(self._records):  # at the end; or all fit
                    self.end()
                else:
                    self._take(number, [int(shard) for shard in step])
            return self._new.popleft() if self._new and not self._ended else None

    def _take(self, number: int, step: list[int]) -> None:
        """Takes a step, once there is room for it, or the reader has come to it; none that it is done with."""
        with self._moved:
            while not self._ended and number >= self._done:
                taken = sum(self._records[shard].bytes for shard in {*self._uses, *step})
                if taken <= self._room or (self._waits and number == self._done):
                    self._new.extend(shard for shard in step if shard not in self._uses)
                    self._between.append((number, step))
                    self._uses.update(step)
                    return
                if not self._waits:
                    self.end()
                self._moved.wait(POLL_SECONDS)  # `end` may be called in a signal handler, and wakes nobody


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
