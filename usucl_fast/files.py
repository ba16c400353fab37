"""Reading and writing files: whole or not at all, and by one process at a time."""

import contextlib
import errno
import io
import json
import os
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from usucl_fast.errors import DataError, UsageError, first_line, shown

CACHE_BYTES = 50 * 10**9
"""Disk space that files fetched from a URL may take by default."""

NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""What the system says when a file cannot grow."""

JSON_BYTES = 1 << 28
"""A larger JSON file is refused: that of the sectors of a million videos is smaller."""
SMALL_JSON_BYTES = 1 << 20
"""The same of one that says a few things."""


def is_url(place: str | Path) -> bool:
    """Whether `place` is a URL rather than a path."""
    return "://" in str(place)


def shown_place(place: str) -> str:
    """A path as it is, or a URL without what it keeps secret."""
    return shown(place) if is_url(place) else place


@contextlib.contextmanager
def naming(path: Path) -> Iterator[None]:
    """Names the file in errors of the system that do not, as when no space is left.

    Raises:
        OSError: with the name.
    """
    try:
        yield
    except OSError as error:
        if error.filename is not None:
            raise
        raise OSError(error.errno or errno.EIO, error.strerror or first_line(error), str(path)) from error


@contextlib.contextmanager
def write_whole(path: Path) -> Iterator[BinaryIO]:
    """Opens a temporary file beside `path` and renames it to `path` when the block ends without an error.

    The data is on disk before the rename, so after a crash `path` holds either the old or the new content.
    """
    temporary = path.with_name(f".{path.name}.partial")
    try:
        with naming(path), temporary.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def link_or_copy(source: Path, target: Path) -> None:
    """Gives a finished file a second name, `target`; where the file system has no hard links, a copy of it."""
    target.unlink(missing_ok=True)
    try:
        target.hardlink_to(source)
    except OSError:
        with source.open("rb") as old, write_whole(target) as new:
            shutil.copyfileobj(old, new)


class NewFolder:
    """A folder that is made as `partial`, beside `out`, and takes its place once it is whole.

    Ends what was begun where a process was killed while the two changed places.

    maker: what makes it; another maker's unfinished folder beside the same `out` is not touched.
    """

    def __init__(self, out: Path, maker: str = "usucl") -> None:
        self.out = out.absolute()
        self.partial, self._replaced = (
            self.out.with_name(f".{self.out.name}.{maker}-{state}") for state in ("partial", "replaced")
        )
        if self._replaced.exists():
            if not self.out.exists():
                self.partial.rename(self.out)
            shutil.rmtree(self._replaced)

    def take_place(self) -> None:
        """Replaces `out`, if it is there."""
        if self.out.exists():
            self.out.rename(self._replaced)
        self.partial.rename(self.out)
        shutil.rmtree(self._replaced, ignore_errors=True)


@contextlib.contextmanager
def locked(path: Path, refusal: str) -> Iterator[None]:
    """Holds the lock file `path` while the block runs. The system releases it, however this process ends.

    On a network file system that passes locks on (NFS does, unless it is mounted with `nolock`) this excludes processes
    on other machines too; elsewhere only those on this one. Where there are no locks at all, filelock warns and the
    file itself serves as the lock: it stays behind when a process is killed, and has to be removed.

    Raises:
        UsageError: it is held; `refusal` is the message.
    """
    from filelock import FileLock, Timeout  # takes longer to import than all else here

    lock = FileLock(path, timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise UsageError(refusal) from None
    try:
        yield
    finally:
        with contextlib.suppress(
            OSError
        ):  # on Windows it cannot be removed while it is held; there filelock removes it
            path.unlink()
        lock.release()


def holds_only(folder: Path, patterns: Iterable[str]) -> bool:
    """Whether every entry of `folder` matches one of the glob patterns: nothing else is lost if it goes."""
    return all(any(entry.match(pattern) for pattern in patterns) for entry in folder.iterdir())


def check_file_out(option: str, out: Path, overwrite: bool) -> None:
    """Raises UsageError where the file that `option` names must not be written: it exists, or is a folder."""
    if out.is_dir() or (out.exists() and not overwrite):
        hint = "it is a folder; name a file" if out.is_dir() else "choose another, or replace it with --overwrite"
        raise UsageError(f"{option} {out} is already there: {hint}")


def check_folder_out(out: Path, what: str, entries: Iterable[str], last: str, overwrite: bool) -> None:
    """Raises UsageError where `what`, as in "an evaluation", must not be written to the folder `out`.

    entries: glob patterns of all that such an output consists of; a folder with anything else is never written to.
    last: name of the file that is there once the output is complete; it is replaced only with `overwrite`.
    """
    if out.exists() and (not out.is_dir() or not holds_only(out, entries)):
        raise UsageError(f"--out {out} holds files that are not {what}'s; name a new or empty folder")
    if (out / last).exists() and not overwrite:
        raise UsageError(f"--out {out} holds {what}; name another folder or add --overwrite")


def open_file(path: Path) -> io.BufferedReader:
    """Opens a file to read.

    Raises:
        OSError: it is not there, or no plain file: of a pipe, even the opening would wait.
    """
    if path.exists() and not path.is_file():
        raise OSError(errno.EINVAL, "is not a file", str(path))
    return path.open("rb")


def read_small(path: Path, most_bytes: int) -> bytes:
    """Reads a file of at most `most_bytes` bytes.

    Raises:
        DataError: it cannot be read, or is larger.
    """
    try:
        with open_file(path) as file:
            content = file.read(most_bytes + 1)
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror})") from error
    if len(content) > most_bytes:
        raise DataError(f"{path} has more than {most_bytes} bytes, more than any such file of ours has")
    return content


def read_json(path: Path, most_bytes: int = JSON_BYTES) -> Any:
    """Reads what `write_json` wrote.

    Raises:
        DataError: it cannot be read, is not JSON, or larger than `most_bytes`.
    """
    try:
        return json.loads(read_small(path, most_bytes))
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} is damaged ({first_line(error)})") from error


def write_json(path: Path, value: Any) -> None:
    """Writes `value` as indented JSON, whole or not at all."""
    with write_whole(path) as file:
        file.write(json.dumps(value, indent=1, ensure_ascii=False).encode() + b"\n")
