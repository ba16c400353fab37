"""What a list says of the videos: which they are, their labels, groups and splits."""

import csv
import difflib
import json
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from usucl_fast.errors import UsageError
from usucl_fast.pack.sources import Source, source_of

LISTS = frozenset((".csv", ".jsonl"))
FACTS = ("label", "group", "split")
NOTHING = frozenset(("na", "nan", "n/a"))
"""Texts that programs write where there is nothing."""


def read_list(path: Path) -> list[Source]:
    """Reads a list of videos in place of a folder, sorted by name.

    A CSV file with a header, or a JSONL file with an object a line: `path` (of the video file or frame folder,
    relative to the list), and any of `id` (the video's name; the path where there is none), `label`, `group`, `split`.

    Raises:
        UsageError: the file is no such list, or names a video that does not exist, or one name twice.
    """
    sources: dict[str, Source] = {}
    for number, row in enumerate(read_rows(path, f"SOURCE {path}", {"path"}, ("path", "id", *FACTS)), 1):
        file = path.parent / row["path"]
        if not row["path"] or not file.exists():
            raise UsageError(f"SOURCE {path}: entry {number}, {row['path']!r}, does not exist beside the list")
        name = row.get("id") or row["path"]
        if name in sources:
            raise UsageError(f"SOURCE {path}: names {name!r} more than once; tell its videos apart by a column id")
        sources[name] = replace(source_of(file, name), **_facts(row))
    if not sources:
        raise UsageError(f"SOURCE {path} lists no video")
    return [sources[name] for name in sorted(sources)]


def read_labels(path: Path, sources: list[Source]) -> list[Source]:
    """Adds what a CSV or JSONL file with `video` and any of `label`, `group`, `split` says of the sources.

    Videos that it does not name keep what they have.

    Raises:
        UsageError: the file is no such table, names a video twice, or names one that is not among `sources`.
    """
    known = {_one_form(source.name): source for source in sources}
    rows = read_rows(path, f"--labels {path}", {"video"}, ("video", *FACTS))
    if not any(row.keys() & set(FACTS) for row in rows):
        raise UsageError(f"--labels {path}: has none of the columns {', '.join(FACTS)}")
    names = [_one_form(row["video"]) for row in rows]
    missing = [name for name in names if name not in known]
    if missing:
        raise UsageError(
            f"--labels {path}: {len(missing)} of its {len(rows)} videos are not in SOURCE, first {missing[0]!r};"
            " names are paths relative to SOURCE"
        )
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise UsageError(f"--labels {path}: names {twice[0]!r} more than once")
    for name, row in zip(names, rows, strict=True):
        known[name] = replace(known[name], **_facts(row))
    return [known[_one_form(source.name)] for source in sources]


def group_by_name(sources: list[Source], pattern: str) -> list[Source]:
    """Takes the group of every source that has none from its name: the first bracket of `pattern`, or all it matches.

    Raises:
        UsageError: `pattern` is no regular expression, or finds nothing in a name.
    """
    try:
        regex = re.compile(pattern)
    except re.error as error:
        raise UsageError(f"--group-regex {pattern!r} is not a regular expression ({error})") from error
    grouped = []
    for source in sources:
        if not source.group:
            match = regex.search(source.name)
            group = (match[1] if regex.groups else match[0]) if match else ""
            if not group:
                raise UsageError(
                    f"--group-regex {pattern!r} finds no group in {source.name!r}; every name must have one"
                )
            source = replace(source, group=group)
        grouped.append(source)
    return grouped


def _facts(row: dict[str, str]) -> dict[str, Any]:
    return {column: row[column] for column in FACTS if column in row}


def read_rows(path: Path, what: str, needed: Iterable[str], known: Iterable[str]) -> list[dict[str, str]]:
    """The rows of a CSV file with a header, or of a JSONL file, as texts by column; empty where there is none.

    Column names are taken without capitals and the spaces around them. A label, group or split `NA` or `nan` stands for
    none, and they are brought into one form of Unicode (NFC): letters may be written in several ways that look alike.

    Args:
        path: the file.
        what: what it is, for messages.
        needed: columns that it must have.
        known: columns that it may have. Others are passed over.

    Raises:
        UsageError: it is no such file, lacks a column, has one twice, or one that is nearly called like a known one.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            is_jsonl = path.suffix.lower() == ".jsonl"
            if is_jsonl:
                rows = [json.loads(line) for line in file if line.strip()]
                if not all(isinstance(row, dict) for row in rows):
                    raise ValueError("a line is not a JSON object")
                columns = list(dict.fromkeys(column for row in rows for column in row))
            else:
                reader = csv.DictReader(file)
                columns = list(reader.fieldnames or ())
                rows = list(reader)
    except (OSError, ValueError, RecursionError, csv.Error) as error:
        raise UsageError(f"{what}: not a readable CSV or JSONL file in UTF-8 ({error})") from error
    meant = _columns(columns, what, needed if columns or not is_jsonl else (), known)
    texts = []
    for number, row in enumerate(rows, 1):
        if None in row:
            raise UsageError(f"{what}: entry {number} has more fields than the header")
        text = {meant[column]: _text(meant[column], value) for column, value in row.items() if column in meant}
        absent = set(needed) - text.keys()
        if absent:
            raise UsageError(f"{what}: entry {number} has no {min(absent)}")
        for column, value in text.items():
            if "\0" in value:
                raise UsageError(f"{what}: entry {number} holds a zero byte")
            if not value.isascii() and any("\ud800" <= letter <= "\udfff" for letter in value):
                raise UsageError(f"{what}: entry {number}, {column} {value!r}, is no Unicode text (half a letter)")
        texts.append(text)
    return texts


def _columns(columns: list[str], what: str, needed: Iterable[str], known: Iterable[str]) -> dict[str, str]:
    """What each column is, by its name as written."""
    meant: dict[str, str] = {}
    for column in columns:
        name = _one_form(str(column)).strip().lower()
        if name in meant.values():
            raise UsageError(f"{what}: has the column {name!r} more than once; remove all but one")
        near = difflib.get_close_matches(name, set(known) - {name}, 1, cutoff=0.8)
        if name not in known and near:
            raise UsageError(f"{what}: has a column {column!r}; if {near[0]} is meant, rename it, or else remove it")
        meant[column] = name
    absent = set(needed) - set(meant.values())
    if absent:
        raise UsageError(f"{what}: needs a column {min(absent)}, has {sorted(columns)}")
    return meant


def _text(column: str, value: Any) -> str:
    text = "" if value is None else str(value).strip()
    if column not in FACTS:  # a name is as its file has it
        return text
    return "" if text.lower() in NOTHING else _one_form(text)


def _one_form(name: str) -> str:
    """A text in one form of Unicode: it may be written in several ways that look alike."""
    return unicodedata.normalize("NFC", name)
