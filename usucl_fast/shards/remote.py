"""Downloads files from a URL, whole and verified, or says in one line why not.

Whatever fsspec opens is read: http, https, s3, gs, … A download that drops, stalls, comes short or comes wrong is begun
anew a few times. No message holds what a URL may keep secret: user, password and query.
"""

import errno
import hashlib
import http
import re
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, wait
from pathlib import Path
from typing import Any

import fsspec
import fsspec.config
from fsspec.callbacks import Callback

from usucl_fast.errors import LONGEST_LINE, DataError, StoppedError, UsageError, UsuclError, printable

ATTEMPTS = 4
BACKOFF_SECONDS = 1.0
"""Wait before the second attempt; it doubles before each further one."""
STALL_SECONDS = 20.0
STALL_BYTES = 1 << 12
"""An attempt is given up when fewer bytes than these have come in that time: a drop now and then would never end."""
POLL_SECONDS = 0.1
Check = Callable[[Path], str]
"""What is wrong with a file that has come, in words; empty, if nothing is."""


class MissingFileError(DataError):
    """The server answers that it has no such file."""


class RemoteFolder:
    """The files in a folder at a URL.

    name: the URL as it may be shown.
    closed: set it, and whatever waits for a download gives up.

    Raises:
        UsageError: fsspec does not know such URLs, or the package is missing that reads them.
    """

    def __init__(self, url: str) -> None:
        self.name = shown(url).rstrip("/")
        self.closed = False
        base, mark, query = url.partition("?")
        self._query = mark + query
        try:
            self._files, self._root = fsspec.url_to_fs(base.rstrip("/"), **_options(url.partition(":")[0]))
        except ImportError as error:
            raise UsageError(f"SHARDS {self.name}: a package is missing for such a URL ({error}); install it") from None
        except Exception as error:
            reason = _words(error)
            raise UsageError(f"SHARDS {self.name} cannot be opened ({reason}); give a folder or another URL") from None

    def place(self, name: str) -> str:
        """The URL of a file as it may be shown."""
        return f"{self.name}/{name}"

    def download(self, name: str, to: Path, check: Check, most_bytes: int | None = None) -> None:
        """Downloads a file to `to`, which is touched whenever bytes arrive; it never exists in part.

        most_bytes: an attempt that brings more is given up.

        Raises:
            MissingFileError: there is no such file.
            DataError: it did not arrive whole in `ATTEMPTS` attempts, or there is no room for it here.
            StoppedError: the folder was closed meanwhile.
        """
        reason = ""
        for number in range(ATTEMPTS):
            if number:
                self._pause(name, BACKOFF_SECONDS * 2 ** (number - 1))
            # Each attempt has a file of its own: an abandoned one may still write to it.
            attempt = to.with_name(f"{to.name}-{number}")
            try:
                self._attempt(name, attempt, to, most_bytes)
                reason = check(attempt)
                if not reason:
                    attempt.replace(to)
                    return
            except UsuclError:
                raise
            except Exception as error:  # each backend has errors of its own
                reason = self._reason(name, attempt, error)
            finally:
                attempt.unlink(missing_ok=True)
        raise self._failed(name, f"{reason}; {ATTEMPTS} attempts")

    def _attempt(self, name: str, to: Path, alive: Path, most_bytes: int | None) -> None:
        """Downloads in a thread that can be abandoned, because not every backend respects time limits."""
        progress = _Progress(most_bytes)
        outcome: Future[None] = Future()
        url = f"{self._root.rstrip('/')}/{name}{self._query}"

        def work() -> None:
            try:
                self._files.get_file(url, str(to), callback=progress)
            except BaseException as error:
                outcome.set_exception(error)
            else:
                outcome.set_result(None)
            if progress.given_up:
                to.unlink(missing_ok=True)

        threading.Thread(target=work, name="usucl-download", daemon=True).start()
        try:
            came, last = 0, time.monotonic()
            while not wait([outcome], timeout=POLL_SECONDS).done:
                self.stop_if_closed(name)
                now = max(progress.value, to.stat().st_size if to.exists() else 0)
                if now - came >= STALL_BYTES:
                    came, last = now, time.monotonic()
                    alive.touch()
                elif time.monotonic() - last > STALL_SECONDS:
                    raise TimeoutError(f"only {now - came} bytes came in {STALL_SECONDS:g} s")
            outcome.result()
        finally:
            progress.given_up = True

    def _reason(self, name: str, to: Path, error: Exception) -> str:
        """The reason of a failure that another attempt may overcome.

        Raises:
            DataError: none will.
        """
        if isinstance(error, OSError) and (
            error.filename == str(to) or error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
        ):
            raise DataError(
                f"{self.place(name)} cannot be kept in the cache {to.parent} ({error.strerror});"
                " make room there, or name another folder with --cache"
            ) from None
        if isinstance(error, FileNotFoundError):
            raise MissingFileError(
                f"{self.place(name)} is not there; restore it, or pack the videos again and copy all files"
            ) from None
        status = _status(error)
        refused = status is not None and 400 <= status < 500 and status not in (408, 429)
        if refused or isinstance(error, PermissionError):
            raise self._failed(name, _words(error)) from None  # their texts may hold the whole URL
        return _words(error)

    def _failed(self, name: str, reason: str) -> DataError:
        return DataError(
            f"{self.place(name)} cannot be fetched ({reason}); see that it is whole and within reach, then run the same"
            " command again"
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


class _Progress(Callback):
    """Counts the bytes of a download, and stops it if it was given up or exceeds the expected size."""

    def __init__(self, most_bytes: int | None) -> None:
        super().__init__()
        self.given_up = False
        self._most = most_bytes

    def call(self, *_: Any, **__: Any) -> None:
        if self.given_up:
            raise TimeoutError("given up")
        if self._most is not None and self.value > self._most:
            raise ValueError(f"more than its {self._most} bytes came")


def _options(scheme: str) -> dict[str, Any]:
    """Options for fsspec, besides those in the user's configuration."""
    if scheme not in ("http", "https"):
        return {}
    import aiohttp

    configured = fsspec.config.conf.get(scheme, {}).get("client_kwargs", {})
    # Its own limit is five minutes for a whole file, however well it comes. This one frees what an attempt that was
    # given up still holds.
    timeout = aiohttp.ClientTimeout(total=None, sock_read=2 * STALL_SECONDS)
    # A page that is compressed would grow without limit while it is unpacked: bytes are taken as they come.
    headers = {"Accept-Encoding": "identity", **configured.get("headers", {})}
    return {"client_kwargs": {"timeout": timeout, "auto_decompress": False, **configured, "headers": headers}}


def check_bytes(sha256: str, length: int | None = None) -> Check:
    """Makes a check for a file whose SHA-256, and perhaps length, is known."""

    def check(path: Path) -> str:
        came = path.stat().st_size
        if length is not None and came != length:
            return f"{came} of its {length} bytes came"
        with path.open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != sha256:
                return "the bytes that came are not those of its checksum"
        return ""

    return check


def shown(url: str) -> str:
    """A URL, or a text with URLs, without users, passwords, queries and fragments."""
    return re.sub(r"[?#][^\s'\"]*", "", re.sub(r"://[^/\s]*@", "://", url))


def _words(error: Exception) -> str:
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
