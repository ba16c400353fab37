"""Reads a list of videos, given in place of a folder of them."""

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

from usucl_fast.errors import UsageError, shown
from usucl_fast.files import is_url
from usucl_fast.pack.kinds import Source
from usucl_fast.pack.remote_sources import source_at
from usucl_fast.pack.sources import source_of
from usucl_fast.pack.tables import FACTS, one_form, read_rows

LISTS = frozenset((".csv", ".tsv", ".jsonl", ".xlsx"))
SIDE_BY_SIDE = 16
"""Entries that are looked up at a time."""


def read_list(path: Path) -> tuple[list[Source], str]:
    """Reads a list of videos; returns them, sorted by name, and a note on how the list was read.

    A table with a header, or a JSONL file with an object a line: `path` (of the video file or frame folder, relative
    to the list; or a file's URL), and any of `id` (the video's name; the path where there is none), `label`, `group`,
    `split`.

    Raises:
        UsageError: the file is not such a list, or names a video that does not exist, or one name twice.
        DataError: a URL cannot be read.
    """
    sources: dict[str, Source] = {}
    rows = read_rows(path, f"SOURCE {path}", {"path"}, ("path", "id", *FACTS))
    with ThreadPoolExecutor(SIDE_BY_SIDE) as pool:  # a URL is asked for the file's size
        found = pool.map(lambda entry: _source(path, *entry), enumerate(rows.texts, 1))
        for row, source in zip(rows.texts, found, strict=True):
            if source.name in sources:
                raise UsageError(
                    f"SOURCE {path}: names {source.name!r} more than once; tell its videos apart by a column id"
                )
            facts: dict[str, Any] = {fact: row[fact] for fact in FACTS if fact in row}
            sources[source.name] = replace(source, **facts)
    if not sources:
        raise UsageError(f"SOURCE {path} lists no video")
    return [sources[name] for name in sorted(sources)], f"{path} {rows}"


def _source(path: Path, number: int, row: Mapping[str, str]) -> Source:
    if is_url(row["path"]):
        return source_at(row["path"], row.get("id") or shown(row["path"]).partition("://")[2])
    file = _find(path.parent, row["path"])
    if not row["path"] or not file.exists():
        raise UsageError(f"SOURCE {path}: entry {number}, {row['path']!r}, does not exist beside the list")
    return source_of(file, row.get("id") or row["path"])


def _find(folder: Path, name: str) -> Path:
    """The file of a name, which its folder may write in another form of Unicode."""
    file = folder / name
    if name.isascii() or file.exists():
        return file
    for part in Path(name).parts:
        if not (folder / part).exists() and folder.is_dir():
            part = next((one.name for one in folder.iterdir() if one_form(one.name) == one_form(part)), part)
        folder /= part
    return folder
