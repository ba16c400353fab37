"""A folder of verified files, named by their SHA-256, that stays below a given size.

    <sha256>                                whole, verified, on disk
    <sha256>.<length>.<unique>.partial      room taken by a download; `…partial-<n>` is its n-th attempt
    <sha256>.lock, cache.lock               held while a file is fetched, and while room is made

Several processes may share it. A file appears by a rename, so none ever sees half of one; the locks only save
processes from downloading the same file twice, so one that hangs while it holds a lock does not stop the others for
good. The least recently used files are removed first. A file removed while a process has it mapped stays readable
there, and its disk space is free once it is unmapped.
"""

import contextlib
import functools
import os
import re
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import platformdirs
from filelock import FileLock, Timeout
from numpy.typing import NDArray

from usucl_fast.errors import DataError, UsageError
from usucl_fast.shards.attempts import POLL_SECONDS
from usucl_fast.shards.mapped import map_file
from usucl_fast.shards.remote import Check, RemoteFolder, check_bytes

FORSAKEN_SECONDS = 120.0
"""A download without progress for this long belongs to a process that has ended or hangs."""
_NAME = re.compile(r"[0-9a-f]{64}(?:\.(\d+)\.\w+\.partial(-\d+)?)?")


def default_folder() -> Path:
    """The platform's folder for files that can be fetched again.

    Raises:
        UsageError: this user has none.
    """
    try:
        return platformdirs.user_cache_path("usucl_fast", appauthor=False)
    except RuntimeError:
        raise UsageError("--cache: this user has no home folder; name a folder") from None


class Cache:
    """A folder of verified files, as described at the top of this module.

    folder: made, readable by its owner only, if it is missing; other files in it are left alone.
    limit: bytes of all files together.

    Raises:
        UsageError: the folder cannot be made or written to.
    """

    def __init__(self, folder: Path, limit: int) -> None:
        self.folder = folder
        self.limit = limit
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise UsageError(f"--cache {folder}: {error.strerror}; name another folder") from error
        if not os.access(folder, os.W_OK | os.X_OK):
            raise UsageError(f"--cache {folder} may not be written to; name another folder")

    def check_room(self, place: str, length: int) -> None:
        """Raises UsageError where the file at `place` would not fit."""
        if length > self.limit:
            raise UsageError(
                f"--cache-gb {self.limit / 1e9:g} is less than the {length / 1e9:.3g} GB of {place}; give more"
            )

    def holds(self, sha256: str) -> bool:
        """Whether the file is in the cache; if so, it counts as just used."""
        try:
            os.utime(self.folder / sha256)
        except FileNotFoundError:
            return False
        return True

    def get(self, remote: RemoteFolder, name: str, sha256: str, length: int | None = None) -> NDArray[np.uint8]:
        """The bytes of a file, memory-mapped; it is fetched if it is not in the cache.

        length: bytes of the file. A file that is here is checked by its length, or, where that is not known, by its
            SHA-256.

        Raises:
            UsageError: it is larger than the cache.
            DataError, StoppedError: as `RemoteFolder.download`.
        """
        if not re.fullmatch("[0-9a-f]{64}", sha256):
            raise DataError(f"{remote.place(name)}: {sha256!r} in the manifest is not a SHA-256; pack the videos again")
        self.check_room(remote.place(name), length or 0)
        check = check_bytes(sha256, length)
        here = _has_length(length) if length is not None else check
        if (data := self._open(sha256, here)) is not None:
            return data
        stop = functools.partial(remote.stop_if_closed, name)
        with self._locked(sha256, stop):
            if (data := self._open(sha256, here)) is not None:  # from another process, meanwhile
                return data
            partial = self._take_room(sha256, length or 0, stop)
            try:
                remote.download(name, partial, check, length)
                with partial.open("rb") as file:
                    os.fsync(file.fileno())
                data = map_file(partial, self.folder / sha256)  # before others see it, who may need its room at once
                with FileLock(self.folder / "cache.lock"):  # so that no process counts it under neither name
                    partial.replace(self.folder / sha256)
                return data
            finally:
                partial.unlink(missing_ok=True)

    def _open(self, sha256: str, check: Check) -> NDArray[np.uint8] | None:
        path = self.folder / sha256
        try:
            os.utime(path)
            if not check(path):
                return map_file(path)
            path.unlink()  # damaged on disk: to be fetched again
        except FileNotFoundError:
            pass
        return None

    @contextlib.contextmanager
    def _locked(self, sha256: str, stop: Callable[[], None]) -> Iterator[None]:
        """Holds this file among all processes, unless another one that fetches it makes no progress."""
        lock, began = FileLock(self.folder / f"{sha256}.lock"), time.monotonic()
        while True:
            try:
                lock.acquire(timeout=POLL_SECONDS)
                break
            except Timeout:
                stop()
                partials = self.folder.glob(f"{sha256}.*.partial")
                if time.monotonic() - began > FORSAKEN_SECONDS and all(map(_is_forsaken, partials)):
                    break
        try:
            yield
        finally:
            lock.release()

    def _take_room(self, sha256: str, length: int, stop: Callable[[], None]) -> Path:
        """Makes room for a download and reserves it with an empty file; waits while other downloads leave too little.

        They all end, for none waits for a reader.
        """
        partial = self.folder / f"{sha256}.{length}.{uuid.uuid4().hex}.partial"
        while True:
            with FileLock(self.folder / "cache.lock"):
                taken, files = self._look()
                if taken == 0 or taken + length <= self.limit:
                    room = self.limit - taken - length - sum(size for _, size, _ in files)
                    for _, size, path in sorted(files):
                        if room >= 0:
                            break
                        path.unlink(missing_ok=True)
                        room += size
                    partial.touch()
                    return partial
            stop()
            time.sleep(POLL_SECONDS)

    def _look(self) -> tuple[int, list[tuple[float, int, Path]]]:
        """Bytes reserved for unfinished downloads, and the finished files: when they were last used, bytes, path."""
        taken, files = 0, []
        for path in self.folder.iterdir():
            match = _NAME.fullmatch(path.name)
            if not match:
                continue
            with contextlib.suppress(FileNotFoundError):
                if match[1] is None:
                    stat = path.stat()
                    files.append((stat.st_mtime, stat.st_size, path))
                elif _is_forsaken(path):
                    path.unlink()
                elif match[2] is None:
                    taken += int(match[1])
        return taken, files


def _is_forsaken(partial: Path) -> bool:
    try:
        return time.time() - partial.stat().st_mtime > FORSAKEN_SECONDS
    except FileNotFoundError:
        return True


def _has_length(length: int) -> Check:
    return lambda path: "" if path.stat().st_size == length else "it has another length"
