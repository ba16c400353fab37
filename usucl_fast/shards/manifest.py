"""The manifest: a description of a dataset for a person to read, and a checksum of every file."""

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Self

from usucl_fast.errors import DataError, UsageError, first_line
from usucl_fast.files import write_json
from usucl_fast.shards.settings import PackSettings
from usucl_fast.shards.videos import VideoRecord

FORMAT = "usucl-shards"
FORMAT_VERSION = 3
MANIFEST = "manifest.json"
MANIFEST_BYTES = 1 << 26
"""A larger manifest is refused: 200,000 shards, or videos that were left out, take less."""
MANIFEST_VALUES = 1 << 22
"""One with more values is refused as well: once it is parsed, `[]` takes twenty times as much memory."""

LISTED = 1000
"""Videos that a manifest lists, at most."""
FILE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}")
SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, kw_only=True)
class ShardRecord:
    """One tar file."""

    name: str
    frames: int
    bytes: int
    sha256: str
    index_sha256: str
    """Of its `.idx` file."""

    @staticmethod
    def name_of(number: int) -> str:
        """The name of the tar of that number, from 0."""
        return f"usucl-{number:06d}.tar"

    @classmethod
    def read(cls, record: Any, number: int) -> Self:
        """Reads the record of shard `number`; raises ValueError if it is malformed."""
        return cls(
            name=_text(record, "name", re.compile(re.escape(cls.name_of(number)))),
            frames=_number(record, "frames"),
            bytes=_number(record, "bytes"),
            sha256=_text(record, "sha256", SHA256),
            index_sha256=_text(record, "index_sha256", SHA256),
        )


@dataclass(frozen=True, kw_only=True)
class FileRecord:
    """A file beside the tars."""

    bytes: int
    sha256: str

    @classmethod
    def of(cls, path: Path) -> Self:
        """Makes the record of an existing file."""
        with path.open("rb") as file:
            return cls(bytes=path.stat().st_size, sha256=hashlib.file_digest(file, "sha256").hexdigest())


@dataclass(frozen=True, kw_only=True)
class LeftOut:
    """A video that is not in the shards."""

    source: str
    """Its name."""
    reason: str
    digest: str
    """As `VideoRecord.source`."""

    @classmethod
    def read(cls, record: Any) -> Self:
        """Reads the record; raises ValueError if it is malformed."""
        return cls(**{field.name: _text(record, field.name) for field in fields(cls)})


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """The content of `manifest.json`; the videos are in the video table."""

    settings: PackSettings
    salt: str = ""
    """Tells secrets for hashing apart; empty where nothing is hashed."""
    quarantined: tuple[LeftOut, ...] = ()
    """Videos that could not be packed."""
    left_out: tuple[LeftOut, ...] = ()
    """Videos that are too short."""
    totals: Mapping[str, int]
    """How many `videos`, `frames` and `bytes` there are."""
    files: Mapping[str, FileRecord]
    """The files beside the tars, by name."""
    shards: tuple[ShardRecord, ...]

    def write(self, folder: Path, videos: Sequence[VideoRecord]) -> None:
        """Writes `manifest.json`, whole or not at all.

        videos: those of the video table; if they are few, they are listed too, only for people who open the file.
        """
        content = {"format": FORMAT, "version": FORMAT_VERSION, **asdict(self)}
        if len(videos) <= LISTED:
            content["videos"] = [asdict(video) for video in videos]
        write_json(folder / MANIFEST, {**content, "sha256": _checksum(content)})
        if (folder / MANIFEST).stat().st_size > MANIFEST_BYTES:
            (folder / MANIFEST).unlink()
            raise DataError(
                f"{folder / MANIFEST} would have more than {MANIFEST_BYTES} bytes, for {len(self.shards)} shards and"
                f" {len(self.quarantined) + len(self.left_out)} videos that were left out; give a larger --shard-mb"
            )

    @classmethod
    def read(cls, text: bytes, place: str) -> Self:
        """Reads what `write` wrote.

        place: the folder or URL of the shards, as messages name it.

        Raises:
            UsageError: it is not a manifest, or of another format version.
            DataError: it was changed or damaged since it was written.
        """
        content = _parse(text, place)
        damaged = f"SHARDS {place}: {MANIFEST}"
        try:
            if content.get("sha256") != _checksum(content):
                raise DataError(f"{damaged} was changed since it was written; restore it, or pack the videos again")
            return cls(
                settings=PackSettings.read(_dict(content, "settings")),
                salt=_text(content, "salt"),
                quarantined=tuple(map(LeftOut.read, _list(content, "quarantined"))),
                left_out=tuple(map(LeftOut.read, _list(content, "left_out"))),
                totals={name: _number(_dict(content, "totals"), name) for name in ("videos", "frames", "bytes")},
                files=dict(_read_files(_dict(content, "files"))),
                shards=tuple(ShardRecord.read(one, number) for number, one in enumerate(_list(content, "shards"))),
            )
        except (ValueError, RecursionError) as error:
            raise DataError(f"{damaged} is damaged ({first_line(error)}); restore it, or pack again") from error


def is_manifest(text: bytes) -> bool:
    """Whether a text says that it is a manifest of shards, be it of another version or changed since."""
    try:
        return bool(_load(text, "")["format"] == FORMAT)
    except (DataError, ValueError, LookupError, TypeError, RecursionError):
        return False


def _load(text: bytes, place: str) -> Any:
    if sum(map(text.count, (b",", b"[", b"{"))) > MANIFEST_VALUES:
        raise DataError(
            f"SHARDS {place}: {MANIFEST} has more than {MANIFEST_VALUES} values, which no manifest of ours has"
        )
    return json.loads(text)


def _parse(text: bytes, place: str) -> dict[str, Any]:
    try:
        content = _load(text, place)
        format, version = content["format"], content["version"]
    except (ValueError, LookupError, TypeError, RecursionError) as error:
        raise UsageError(
            f"SHARDS {place} is not a shard folder: {MANIFEST} is damaged or of another program"
        ) from error
    if format != FORMAT:
        raise UsageError(f"SHARDS {place} is not a shard folder: its {MANIFEST} is of format {_shown(format)}")
    if version != FORMAT_VERSION:
        raise UsageError(
            f"SHARDS {place} is of format version {_shown(version)}, this usucl_fast reads {FORMAT_VERSION}; pack the"
            " videos again, with usucl-shard SOURCE... OUT --overwrite, or use the release that packed them"
        )
    assert isinstance(content, dict)
    return content


def _checksum(content: Mapping[str, Any]) -> str:
    """SHA-256 of a manifest without its own `sha256`, as JSON with sorted keys and no spaces."""
    rest = {key: value for key, value in content.items() if key != "sha256"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def _read_files(files: dict[str, Any]) -> Iterable[tuple[str, FileRecord]]:
    for name, record in files.items():
        if not FILE_NAME.fullmatch(name):
            raise ValueError(f"files names {_shown(name)}")
        yield name, FileRecord(bytes=_number(record, "bytes"), sha256=_text(record, "sha256", SHA256))


def _value(record: Any, field: str) -> Any:
    if not isinstance(record, dict) or field not in record:
        raise ValueError(f"{field} is missing")
    return record[field]


def _text(record: Any, field: str, pattern: re.Pattern[str] | None = None) -> str:
    value = _value(record, field)
    if not isinstance(value, str) or (pattern and not pattern.fullmatch(value)):
        raise ValueError(f"{field} is {_shown(value)}")
    value.encode()  # half a surrogate pair could not be written again
    return value


def _number(record: Any, field: str) -> int:
    value = _value(record, field)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 1 << 62:
        raise ValueError(f"{field} is {_shown(value)}")
    return value


def _shown(value: Any) -> str:
    """A value, for a message, cut where it is long."""
    return repr(value)[:80]


def _list(record: Any, field: str) -> list[Any]:
    value = _value(record, field)
    if not isinstance(value, list):
        raise ValueError(f"{field} is not a list")
    return value


def _dict(record: Any, field: str) -> dict[str, Any]:
    value = _value(record, field)
    if not isinstance(value, dict):
        raise ValueError(f"{field} is not an object")
    return value
