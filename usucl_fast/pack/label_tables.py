"""Rows of a table of labels, each with a place in a video -> labelled segments."""

import math
from collections.abc import Callable

from usucl_fast.errors import UsageError
from usucl_fast.pack.segments import Segment, joined

Entries = list[tuple[int, dict[str, str]]]
"""Rows of one video with their numbers in the table, for messages."""


def _frames(entries: Entries, what: str) -> list[Segment]:
    """Rows of one frame each."""
    by_frame: dict[int, tuple[str, float]] = {}
    for number, row in entries:
        frame, said = _whole(row["frame"], what, number), _said(row, what, number)
        if repr(by_frame.setdefault(frame, said)) != repr(said):
            raise UsageError(f"{what}: entry {number}, frame {frame}, has two labels or values; a frame has one")
    return joined(by_frame)


def _ranges(first: str, last: str, entries: Entries, what: str) -> list[Segment]:
    """Rows with a first and a last frame or time; without a last one, each row reaches to the next."""
    seconds = first == "start"
    read: Callable[[str, str, int], float] = _time if seconds else _whole
    placed = sorted((read(row[first], what, number), number, row) for number, row in entries)
    segments = []
    for (start, number, row), (following, _, _) in zip(placed, [*placed[1:], (math.inf, 0, {})], strict=True):
        end = following
        if row.get(last):
            end = read(row[last], what, number) + (not seconds)
        elif last in row:
            raise UsageError(f"{what}: entry {number} has a {first} and no {last}")
        if end < start or (end == start and not (seconds and row.get(last))):
            raise UsageError(f"{what}: entry {number} ends before it begins ({row[first]}, {row.get(last, following)})")
        label, value = _said(row, what, number)
        segments.append(Segment(start, end, seconds, label, value))
    return segments


def _said(row: dict[str, str], what: str, number: int) -> tuple[str, float]:
    value = row.get("value", "")
    return row.get("label", ""), read_number(value, what, number) if value and value.lower() != "nan" else math.nan


def read_number(text: str, what: str, number: int) -> float:
    """A number, which may have a decimal comma."""
    try:
        value = float(text.replace(",", ".") if text.count(",") == 1 and "." not in text else text)
        if math.isfinite(value):
            return value
    except ValueError:
        pass
    raise UsageError(f"{what}: entry {number}, {text!r}, is not a number")


def _whole(text: str, what: str, number: int) -> int:
    value = read_number(text, what, number)
    if value < 0 or value != int(value):
        raise UsageError(f"{what}: entry {number}, {text!r}, is not the number of a frame; frames count from 0")
    return int(value)


def _time(text: str, what: str, number: int) -> float:
    """Seconds, or hours:minutes:seconds."""
    seconds = 0.0
    for part in text.split(":"):
        seconds = seconds * 60 + read_number(part, what, number)
    if seconds < 0:
        raise UsageError(f"{what}: entry {number}, {text!r}, is before the video begins")
    return seconds


SEGMENTS: dict[str, Callable[[Entries, str], list[Segment]]] = {
    "frame": _frames,
    "first": lambda entries, what: _ranges("first", "last", entries, what),
    "start": lambda entries, what: _ranges("start", "end", entries, what),
}
"""What reads the rows, by the column that says where each begins."""
