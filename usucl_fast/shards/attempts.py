"""Attempts at a transfer: what drops, stalls, comes short or comes wrong is begun anew a few times, or told in a line.

No message holds what a URL may keep secret: user, password and query.
"""

import errno
import http
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, wait
from pathlib import Path
from typing import Any, TypeVar

from fsspec.callbacks import Callback

from usucl_fast.errors import LONGEST_LINE, DataError, MissingFileError, StoppedError, UsuclError, printable, shown

ATTEMPTS = 4
BACKOFF_SECONDS = 1.0
"""Wait before the second attempt; it doubles before each further one."""
STALL_SECONDS = 20.0
STALL_BYTES = 1 << 12
"""A download is given up when fewer bytes than these have come in that time: a drop now and then would never end."""
ANSWER_SECONDS = 120.0
"""An attempt is given up when a block that is sent, or a short answer, takes longer."""
POLL_SECONDS = 0.1
T = TypeVar("T")


class Attempts:
    """Attempts at transfers from and to one URL.

    Args:
        room: for messages: the option that names the folder on this machine that files are kept in, if there is one.

    name: the URL as it may be shown.
    closed: set it, and whatever waits for a transfer gives up.
    """

    def __init__(self, url: str, room: str) -> None:
        self.name = shown(url).rstrip("/")
        self.closed = False
        self._room = room

    def place(self, name: str) -> str:
        """The URL of a file as it may be shown."""
        return f"{self.name}/{name}" if name else self.name

    def tried(self, name: str, verb: str, attempt: Callable[[int], T], here: Path | None = None) -> T:
        """What an attempt, which is told its number, returns; `verb`, as in "cannot be fetched", for messages.

        here: the folder on this machine that it writes to.
        """
        reason = ""
        for number in range(ATTEMPTS):
            if number:
                self._pause(name, BACKOFF_SECONDS * 2 ** (number - 1))
            try:
                return attempt(number)
            except UsuclError:
                raise
            except Exception as error:  # each backend has errors of its own
                reason = self._reason(name, verb, error, here)
        raise self._failed(name, verb, f"{reason}; {ATTEMPTS} attempts")

    def watched(
        self,
        name: str,
        work: Callable[[], T],
        moved: "Moved | None" = None,
        least: tuple[int, float] = (1, ANSWER_SECONDS),
        alive: Callable[[], None] = lambda: None,
    ) -> T:
        """Does `work` in a thread that can be abandoned, because not every backend respects time limits.

        moved: counts bytes, and is told when the work is given up, because fewer than `least` moved in so many seconds.
        alive: called whenever that many have.
        """
        outcome: Future[T] = Future()

        def run() -> None:
            try:
                outcome.set_result(work())
            except BaseException as error:
                outcome.set_exception(error)

        threading.Thread(target=run, name="usucl-transfer", daemon=True).start()
        try:
            before, last = 0, time.monotonic()
            while not wait([outcome], timeout=POLL_SECONDS).done:
                self.stop_if_closed(name)
                now = moved.bytes() if moved else 0
                if now - before >= least[0]:
                    before, last = now, time.monotonic()
                    alive()
                elif time.monotonic() - last > least[1]:
                    raise TimeoutError(f"only {now - before} bytes came in {least[1]:g} s")
            return outcome.result()
        finally:
            if moved:
                moved.given_up = True

    def _reason(self, name: str, verb: str, error: Exception, here: Path | None) -> str:
        """The reason of a failure that another attempt may overcome.

        Raises:
            DataError: none will.
        """
        if here and isinstance(error, OSError):
            is_here = isinstance(error.filename, str) and Path(error.filename).parent == here
            if is_here or error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS):
                raise DataError(
                    f"{self.place(name)} cannot be kept in {here} ({error.strerror});"
                    f" make room there{f', or name another folder with {self._room}' if self._room else ''}"
                ) from None
        if isinstance(error, FileNotFoundError):
            raise MissingFileError(
                f"{self.place(name)} is not there; restore it, or pack the videos again and copy all files"
            ) from None
        status = _status(error)
        refused = status is not None and 400 <= status < 500 and status not in (408, 429)
        if refused or isinstance(error, PermissionError):
            raise self._failed(name, verb, words(error)) from None  # their texts may hold the whole URL
        return words(error)

    def _failed(self, name: str, verb: str, reason: str) -> DataError:
        return DataError(
            f"{self.place(name)} cannot be {verb} ({reason}); see that it is whole and within reach, then run"
            " the same command again"
        )

    def _pause(self, name: str, seconds: float) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self.stop_if_closed(name)
            time.sleep(min(POLL_SECONDS, seconds))

    def stop_if_closed(self, name: str) -> None:
        """Raises StoppedError if the store was closed."""
        if self.closed:
            raise StoppedError(f"stopped while {self.place(name)} was fetched")


class Moved(Callback):
    """Counts the bytes of a transfer, and stops it if it was given up or exceeds the expected size.

    file: what it is written to; not every backend counts.
    """

    def __init__(self, file: Path | None = None, most_bytes: int | None = None) -> None:
        super().__init__()
        self.given_up = False
        self._file, self._most = file, most_bytes

    def bytes(self) -> int:
        """How many have moved."""
        return max(self.value, self._file.stat().st_size if self._file and self._file.exists() else 0)

    def call(self, *_: Any, **__: Any) -> None:
        if self.given_up:
            raise TimeoutError("given up")
        if self._most is not None and self.value > self._most:
            raise ValueError(f"more than its {self._most} bytes came")


def words(error: Exception) -> str:
    """What failed, fit to be shown: of the server's answer only its status code."""
    status = _status(error)
    if status is not None:
        known = status in set(http.HTTPStatus)
        return f"the server answers {status}{f' {http.HTTPStatus(status).phrase}' if known else ''}"
    if hasattr(error, "status"):
        return "the server's answer is not HTTP"
    lines = shown(str(error)).strip().splitlines()  # first of all: what is cut short may not be known for a secret
    return printable(lines[0])[:LONGEST_LINE] if lines else type(error).__name__


def _status(error: Exception) -> int | None:
    """The status code of a server's answer; aiohttp gives its own, and a cause, to what it could not parse."""
    status = getattr(error, "status", None)
    return status if isinstance(status, int) and error.__cause__ is None else None
