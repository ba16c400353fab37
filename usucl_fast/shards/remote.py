"""Files at a URL: listed, downloaded and uploaded, whole, or one line says why not.

Whatever fsspec opens is read, http, https, s3, gs, …, and written, but for http. A transfer that drops, stalls, comes
short or comes wrong is begun anew a few times. No message holds what a URL may keep secret: user, password and query.
"""

import contextlib
import hashlib
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import fsspec
import fsspec.config

from usucl_fast.errors import MissingFileError, UsageError
from usucl_fast.shards.attempts import STALL_BYTES, STALL_SECONDS, Attempts, Moved, words

BLOCK_BYTES = 1 << 23
"""Bytes that an upload sends at a time, and keeps in memory."""
LISTING_SECONDS = 3600.0
"""A listing is given up when it takes longer: a thousand names come at a time."""
LISTED_BY_FOLDER = (("file", "local"), "memory")
LOOKS = 16
"""Requests side by side for what a listing does not tell."""
Check = Callable[[Path], str]
"""What is wrong with a file that has come, in words; empty, if nothing is."""


@dataclass(frozen=True)
class RemoteFile:
    """A file in a listing.

    name: relative to the folder, as it is asked for.
    shown: the name as a person writes it.
    bytes: 0 where the server does not say.
    version: changes with the content, as far as the server tells.
    """

    name: str
    shown: str
    bytes: int
    version: str


class RemoteFolder(Attempts):
    """The files in a folder at a URL.

    Args:
        what: the argument that the URL was given as, for messages.
        room: see `Attempts`.

    All methods raise DataError where the server refuses, or gives no right answer in `ATTEMPTS` attempts, and
    StoppedError where the folder was closed meanwhile.

    Raises:
        UsageError: fsspec does not know such URLs, or the package is missing that reads them.
    """

    def __init__(self, url: str, what: str = "SHARDS", room: str = "--cache") -> None:
        super().__init__(url, room)
        base, mark, query = url.partition("?")
        self._query = mark + query
        self._is_http = url.startswith(("http://", "https://"))
        try:
            self._files, root = fsspec.url_to_fs(base.rstrip("/"), **_options(url.partition(":")[0]))
        except ImportError as error:
            raise UsageError(f"{what} {self.name}: a package is missing for such a URL ({error}); install it") from None
        except Exception as error:
            reason = words(error)
            raise UsageError(f"{what} {self.name} cannot be opened ({reason}); give a folder or another URL") from None
        self._root = root.rstrip("/")

    def readable(self, name: str) -> str:
        """A file's name as a person writes it."""
        return unquote(name) if self._is_http else name

    def _url(self, name: str) -> str:
        return f"{self._root}/{name}{self._query}"

    def files(self) -> list[RemoteFile]:
        """All files below the folder, sorted by name; none where there is no such folder."""

        # Where folders are walked through, one that cannot be read would be passed over; stores list all at once.
        loud = {"on_error": "raise"} if self._is_http or self._files.protocol in LISTED_BY_FOLDER else {}

        def look() -> dict[str, Any]:
            self._files.invalidate_cache()
            try:
                found: dict[str, Any] = self._files.find(f"{self._root}/", detail=True, **loud)
            except FileNotFoundError:
                return {}
            return {path: facts for path, facts in found.items() if path.startswith(f"{self._root}/")}

        found = self.tried("", "listed", lambda _: self.watched("", look, least=(1, LISTING_SECONDS)))
        names = [path.removeprefix(f"{self._root}/") for path in found]
        # A page of links may have some that sort it.
        names = sorted(name for name in names if not name.endswith("/") and not (self._is_http and "?" in name))
        facts = [found[f"{self._root}/{name}"] for name in names]
        if all(one.get("size") is not None for one in facts):
            return [_file(name, name, one) for name, one in zip(names, facts, strict=True)]
        with ThreadPoolExecutor(LOOKS) as pool:
            return list(pool.map(self.file, names))

    def file(self, name: str) -> RemoteFile:
        """What the server tells of one file.

        Raises:
            MissingFileError: there is no such file.
        """
        facts = self.tried(name, "read", lambda _: self.watched(name, lambda: self._files.info(self._url(name))))
        return _file(name, self.readable(name), facts)

    def start_of(self, name: str, length: int) -> bytes:
        """The first bytes of a file."""

        def read(_: int) -> bytes:
            start: bytes = self.watched(name, lambda: self._files.cat_file(self._url(name), 0, length))
            return start[:length]

        return self.tried(name, "read", read)

    def remove(self, names: Iterable[str]) -> None:
        """Removes files, if they are there."""

        def remove(name: str) -> None:
            self.tried(name, "removed", lambda _: self.watched(name, lambda: self._files.rm_file(self._url(name))))

        for name in names:
            with contextlib.suppress(MissingFileError):
                remove(name)

    def download(self, name: str, to: Path, check: Check, most_bytes: int | None = None) -> None:
        """Downloads a file to `to`, which is touched whenever bytes arrive; it never exists in part.

        most_bytes: an attempt that brings more is given up.

        Raises:
            MissingFileError: there is no such file.
            DataError: there is no room for it here.
        """

        def attempt(number: int) -> None:
            # Each attempt has a file of its own: an abandoned one may still write to it.
            path = to.with_name(f"{to.name}-{number}")
            moved = Moved(path, most_bytes)

            def get() -> None:
                self._files.get_file(self._url(name), str(path), callback=moved)
                if moved.given_up:
                    path.unlink(missing_ok=True)

            try:
                self.watched(name, get, moved, (STALL_BYTES, STALL_SECONDS), to.touch)
                if reason := check(path):
                    raise ValueError(reason)
                path.replace(to)
            finally:
                path.unlink(missing_ok=True)

        self.tried(name, "fetched", attempt, to.parent)

    def upload(self, path: Path, name: str) -> None:
        """Uploads a file; under its name there is nothing, or what was there before, until it is whole."""

        def attempt(_: int) -> None:
            moved = Moved()
            self.watched(name, lambda: self._put(path, self._url(name), moved), moved)
            self._files.invalidate_cache()
            there, length = self.file(name).bytes, path.stat().st_size
            if there != length:
                raise ValueError(f"{there} of its {length} bytes are there")

        self.tried(name, "written", attempt)

    def _put(self, path: Path, url: str, moved: "Moved") -> None:
        # Not `put_file`: that of S3 has the whole file in memory, or tells of its progress every 50 MB.
        file = self._files.open(url, "wb", block_size=BLOCK_BYTES)
        try:
            with path.open("rb") as here:
                while block := here.read(BLOCK_BYTES):
                    file.write(block)
                    moved.relative_update(len(block))
        except BaseException:
            with contextlib.suppress(Exception):
                file.discard()
            file.forced = True  # or it would be completed when it is closed
            raise
        file.close()


def _options(scheme: str) -> dict[str, Any]:
    """Options for fsspec, besides those in the user's configuration."""
    if scheme in ("file", "local"):
        return {"auto_mkdir": True}
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


def _file(name: str, shown: str, facts: dict[str, Any]) -> RemoteFile:
    told = {key.lower(): value for key, value in facts.items()}
    versions = (told.get(key) for key in ("etag", "md5hash", "content-md5", "lastmodified", "last-modified", "mtime"))
    return RemoteFile(name, shown, int(told.get("size") or 0), next((str(one) for one in versions if one), ""))


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
