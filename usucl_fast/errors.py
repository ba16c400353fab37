"""Every error the package raises on purpose.

UsuclError            one line: what is wrong with which file, video or option, and the way out
├── UsageError        the request cannot be carried out; nothing was written       (exit 2)
├── DataError         a file that should be readable is not                        (exit 1)
│   ├── DecodeError       a video or a frame that does not decode
│   └── MissingFileError  a server answers that it has no such file
├── ResourceError     memory or disk ran out                                       (exit 1)
└── StoppedError      a stop was requested, or another process has ended         (exit 1)
"""

import re


class UsuclError(Exception):
    """Base of all errors of this package; `str(error)` is one line fit for a terminal."""

    exit_code = 1


class UsageError(UsuclError):
    """Wrong option, missing input, or an output that would be overwritten."""

    exit_code = 2


class DataError(UsuclError):
    """A shard, manifest or checkpoint is damaged or missing."""


class DecodeError(DataError):
    """A video or a frame cannot be decoded."""


class MissingFileError(DataError):
    """The server answers that it has no such file."""


class ResourceError(UsuclError):
    """Memory or disk ran out."""


class StoppedError(UsuclError):
    """A stop was requested while waiting for data, or another process of the run has ended."""


LONGEST_LINE = 300
"""Letters of another library's error that are shown: some show the file that they could not read."""


def first_line(error: BaseException) -> str:
    """The first line of an error's text, cut where it is long, or the name of its type where it has none."""
    return (str(error).strip() or type(error).__name__).splitlines()[0][:LONGEST_LINE]


def printable(text: str) -> str:
    """The text in one line, with what a terminal would obey (control characters, newlines) as Python escapes it."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def shown(url: str) -> str:
    """A URL, or a text with URLs, without users, passwords, queries and fragments."""
    return re.sub(r"[?#][^\s'\"]*", "", re.sub(r"://[^/\s]*@", "://", url))
