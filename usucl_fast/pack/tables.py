"""Reads a table (CSV, TSV, JSONL, Excel): its rows as texts, and what its columns mean."""

import csv
import difflib
import json
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from usucl_fast.errors import UsageError
from usucl_fast.optional import needed as package_needed

SUFFIXES = frozenset((".csv", ".tsv", ".txt", ".jsonl", ".xlsx"))
FACTS = ("label", "group", "split")
NOTHING = frozenset(("na", "nan", "n/a", "<na>", "#n/a", "#na"))
"""Texts that programs write where there is nothing."""

SPLITS = frozenset(("train", "val", "test"))
"""Splits that may be written in capitals."""

SYNONYMS = {
    "video": ("filename", "file name", "file", "media file name", "media file"),
    "label": ("class", "behavior", "phase"),
    "value": ("ef",),
    "start": ("start (s)",),
    "end": ("stop (s)", "end (s)", "stop"),
}
"""By column, what other programs call it: BORIS, EchoNet-Dynamic, Cholec80."""


@dataclass(frozen=True)
class Rows:
    """The rows of a table.

    texts: by column, of each row; empty where there is nothing.
    meant: what each column of the file is taken for, by its name there.
    ignored: the other columns.
    """

    texts: list[dict[str, str]]
    meant: dict[str, str]
    ignored: list[str]

    def __str__(self) -> str:
        used = (f"{meant} (column {name!r})" if meant != name else meant for name, meant in self.meant.items())
        others = f"; ignores {', '.join(self.ignored)}" if self.ignored else ""
        return f"uses {', '.join(used)}{others}"


def read_rows(path: Path, what: str, needed: Iterable[str], known: Sequence[str]) -> Rows:
    """Reads a table with a header, or a JSONL file with an object a line.

    Columns may be parted by commas, tabs or semicolons. Their names are taken without capitals and the spaces around
    them, and those of `SYNONYMS` for what they mean. A label, group or split `NA` or `nan` stands for none, and they
    are brought into one form of Unicode (NFC): letters may be written in several ways that look alike.

    Args:
        path: the file.
        what: what it is, for messages.
        needed: columns that it must have.
        known: columns that it may have. Others are ignored.

    Raises:
        UsageError: it is not such a file, lacks a column, has one twice, or one with nearly the name of a known one.
    """
    try:
        columns, rows = _read(path)
    except (OSError, ValueError, RecursionError, csv.Error) as error:
        raise UsageError(f"{what}: not a readable table in UTF-8, of commas, tabs or JSON lines ({error})") from error
    is_empty = path.suffix.lower() == ".jsonl" and not columns
    meant = _columns(columns, what, () if is_empty else needed, known)
    rows = [row for row in rows if any(map(_holds, row.values()))]  # spreadsheets write rows of commas alone
    texts = [_texts(row, number, what, needed, meant) for number, row in enumerate(rows, 1)]
    return Rows(texts, meant, [column for column in columns if column not in meant])


def one_form(name: str) -> str:
    """A text in one normal form of Unicode, which can write it in several ways that look alike."""
    return unicodedata.normalize("NFC", name)


def _read(path: Path) -> tuple[list[str], list[dict[Any, Any]]]:
    """The names of the columns, and the rows by column; cells beyond the header are under None."""
    suffix = path.suffix.lower()
    if suffix == ".xlsx":
        return _read_excel(path)
    with path.open(newline="", encoding="utf-8-sig") as file:
        if suffix == ".jsonl":
            rows = [json.loads(line) for line in file if line.strip()]
            if not all(isinstance(row, dict) for row in rows):
                raise ValueError("a line is not a JSON object")
            return list(dict.fromkeys(str(column) for row in rows for column in row)), rows
        header = file.readline()
        file.seek(0)
        reader = csv.DictReader(file, delimiter=max(",;\t", key=header.count))
        return list(reader.fieldnames or ()), list(reader)


def _read_excel(path: Path) -> tuple[list[str], list[dict[Any, Any]]]:
    """The rows of the first sheet."""
    with package_needed("openpyxl", f"{path.name}, an Excel file,", "excel"):
        import openpyxl
    try:
        book = openpyxl.load_workbook(path, read_only=True, data_only=True)
    except Exception as error:  # of many kinds, its own and zipfile's
        raise ValueError(f"no Excel file: {error}") from error
    lines = list(book.worksheets[0].iter_rows(values_only=True))
    book.close()
    header = [str(name) for name in lines[0] if name is not None] if lines else []
    rows: list[dict[Any, Any]] = []
    for line in lines[1:]:
        cells = [int(cell) if isinstance(cell, float) and cell.is_integer() else cell for cell in line]
        if any(cell is not None for cell in cells):
            row: dict[str | None, Any] = dict(zip(header, cells, strict=False))
            if any(cell is not None for cell in cells[len(header) :]):
                row[None] = cells[len(header) :]
            rows.append(row)
    return header, rows


def _columns(columns: list[str], what: str, needed: Iterable[str], known: Sequence[str]) -> dict[str, str]:
    """The meaning of each column by its name as written; unknown ones have no entry."""
    plain = [one_form(column).strip().lower() for column in columns]
    twice = next((name for name in plain if name and plain.count(name) > 1), None)
    if twice:
        raise UsageError(f"{what}: has the column {twice!r} more than once; remove all but one")
    meant = {column: name for column, name in zip(columns, plain, strict=True) if name in known}
    for name in known:
        also = [column for column, text in zip(columns, plain, strict=True) if text in SYNONYMS.get(name, ())]
        if also and name not in meant.values():
            if len(also) > 1:
                raise UsageError(f"{what}: {' and '.join(map(repr, also))} may both be {name}; rename one to {name}")
            meant[also[0]] = name
    for column, name in zip(columns, plain, strict=True):
        near = difflib.get_close_matches(name, known, 1, cutoff=0.8)
        if column not in meant and near and name not in SYNONYMS.get(near[0], ()):
            raise UsageError(f"{what}: has a column {column!r}; if {near[0]} is meant, rename it, or else remove it")
    absent = set(needed) - set(meant.values())
    if absent:
        raise UsageError(f"{what}: needs a column {min(absent)}, has {sorted(columns)}")
    return {column: meant[column] for column in columns if column in meant}


def _texts(row: dict[Any, Any], number: int, what: str, needed: Iterable[str], meant: dict[str, str]) -> dict[str, str]:
    if _holds(row.get(None)):
        raise UsageError(f"{what}: entry {number} has more fields than the header")
    text = {meant[column]: _text(meant[column], value) for column, value in row.items() if column in meant}
    absent = set(needed) - text.keys()
    if absent:
        raise UsageError(f"{what}: entry {number} has no {min(absent)}")
    for column, value in text.items():
        if "\0" in value:
            raise UsageError(f"{what}: entry {number} holds a zero byte")
        if not value.isascii() and any("\ud800" <= letter <= "\udfff" for letter in value):
            raise UsageError(f"{what}: entry {number}, {column} {value!r}, is not a Unicode text (half a letter)")
    return text


def _holds(value: Any) -> bool:
    """Whether a cell, or one of several, holds something."""
    return (
        any(map(_holds, value))
        if isinstance(value, list | tuple)
        else bool(str("" if value is None else value).strip())
    )


def _text(column: str, value: Any) -> str:
    text = "" if value is None else str(value).strip()
    if column in ("path", "id", "video"):  # a name is as its file has it
        return text
    if column == "split" and text.lower() in SPLITS:
        return text.lower()
    return "" if text.lower() in NOTHING else one_form(text)
