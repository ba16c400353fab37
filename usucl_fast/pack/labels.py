"""Reads labels, groups and splits of the videos from tables, annotation files, names and folders."""

import itertools
import math
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any

from usucl_fast.errors import UsageError
from usucl_fast.pack.annotations import read_cvat, read_label_studio
from usucl_fast.pack.kinds import Source
from usucl_fast.pack.label_tables import SEGMENTS, Entries, read_number
from usucl_fast.pack.segments import Segment
from usucl_fast.pack.tables import FACTS, SUFFIXES, one_form, read_rows

PLACES = ("frame", "first", "last", "start", "end")
COLUMNS = ("video", *FACTS, "value", *PLACES)
FOLDER = "folder"
"""The word for labels that are the names of folders."""


@dataclass
class Labels:
    """What files say of the videos.

    facts: by video, its label, group and split.
    segments: by video, labels and values of its frames.
    notes: how each file was understood, for a person to read.
    """

    facts: defaultdict[str, dict[str, str]] = field(default_factory=lambda: defaultdict(dict))
    segments: defaultdict[str, list[Segment]] = field(default_factory=lambda: defaultdict(list))
    notes: list[str] = field(default_factory=list)


def read_labels(
    paths: Iterable[Path], sources: list[Source], fps: float | None = None
) -> tuple[list[Source], list[str]]:
    """Adds the labels, groups and splits in files to the sources; returns these, and notes on how the files were read.

    A file is a table (see `read_rows`) with any of

        video               path relative to SOURCE; where there is no such column, the table is of the one video whose
                            name its own begins with (`video01-phase.txt`)
        label, value        a class, a number
        group, split        of the whole video
        first, last         frames of the source from 0, both included; without `last`, up to the next row
        start, end          the same in seconds; `end` is not included
        frame               one frame

    or Label Studio's JSON, or CVAT's XML. A row without a place is of the whole video. Videos that no file names keep
    what they have.

    Args:
        paths: files, folders of such, or the word `folder`: the label is the name of the folder in SOURCE.
        fps: frame rate that was set in Label Studio.

    Raises:
        UsageError: a file is none of these, contradicts itself or another one, or names a video that is not there.
    """
    labels = Labels()
    find = _Finder(sources)
    for path in paths:
        if str(path) == FOLDER:
            _label_by_folder(sources, labels)
        for file in [] if str(path) == FOLDER else _files(path):
            suffix = file.suffix.lower()
            if suffix in (".json", ".xml"):
                read = read_cvat(file) if suffix == ".xml" else read_label_studio(file, fps)
                for name, segments in read.items():
                    labels.segments[find(name, f"--labels {file}")] += segments
                labels.notes.append(f"{file}: {sum(map(len, read.values()))} labelled segments of {len(read)} videos")
            else:
                _add_table(file, find, labels)
    labels.notes += find.notes()
    for name, segments in labels.segments.items():
        labels.segments[name] = _in_order(segments, name)
    told = []
    for source in sources:
        facts: dict[str, Any] = labels.facts.get(source.name, {})
        told.append(replace(source, segments=tuple(labels.segments.get(source.name, ())), **facts))
    return told, labels.notes


def by_name(sources: list[Source], fact: str, pattern: str) -> list[Source]:
    """Takes the group or label of every source that has none from its name: what the first parentheses of `pattern`
    match, or all of the match if there are none.

    Raises:
        UsageError: `pattern` is not a regular expression, or finds nothing in a name.
    """
    option = f"--{fact}-regex {pattern!r}"
    try:
        regex = re.compile(pattern)
    except re.error as error:
        raise UsageError(f"{option} is not a regular expression ({error})") from error
    told = []
    for source in sources:
        if not getattr(source, fact):
            match = regex.search(source.name)
            found = (match[1] if regex.groups else match[0]) if match else ""
            if not found:
                raise UsageError(f"{option} finds no {fact} in {source.name!r}; every name must have one")
            source = replace(source, **{fact: found})  # type: ignore[arg-type]
        told.append(source)
    return told


class _MissingError(UsageError):
    """There is no such source."""


class _Finder:
    """Finds the source that a list names: by its path in SOURCE, or else its file name with or without the suffix."""

    def __init__(self, sources: list[Source]) -> None:
        names = [source.name for source in sources]
        self._by: list[dict[str, list[str]]] = []
        for key in (one_form, _base, _stem):
            self._by.append(defaultdict(list))
            for name in names:
                self._by[-1][key(name)].append(name)
        self._guessed: dict[str, str] = {}

    def __call__(self, name: str, what: str) -> str:
        """The name of the source. Raises UsageError where there is none, or more than one."""
        for guess, (key, known) in enumerate(zip((one_form, _base, _stem), self._by, strict=True)):
            found = known.get(key(name), [])
            if len(found) > 1:
                raise UsageError(f"{what}: {name!r} may be {' or '.join(found[:3])}; name it by its path in SOURCE")
            if found:
                if guess:
                    self._guessed[name] = found[0]
                return found[0]
        raise _MissingError(f"{what}: {name!r} is not in SOURCE; names are paths relative to SOURCE")

    def all(self, names: Iterable[str], what: str) -> dict[str, str]:
        """The sources by the names in a list. Raises UsageError as for one, and says how many are missing."""
        found, missing = {}, []
        for name in dict.fromkeys(names):
            try:
                found[name] = self(name, what)
            except _MissingError:
                missing.append(name)
        if missing:
            raise UsageError(
                f"{what}: {len(missing)} of its {len(missing) + len(found)} videos are not in SOURCE, first"
                f" {missing[0]!r}; names are paths relative to SOURCE"
            )
        return found

    def of_table(self, path: Path) -> str:
        """The source that a table without names is of. Raises UsageError where there is none, or more than one."""
        stems = self._by[-1]
        fits = [stem for stem in stems if re.match(re.escape(stem) + r"(?![^\W_])", one_form(path.stem))]
        found = stems[max(fits, key=len)] if fits else []
        if len(found) != 1:
            raise UsageError(
                f"--labels {path}: needs a column video; the file's own name begins with that of"
                f" {len(found) or 'no'} video{'s' * (len(found) > 1)} in SOURCE"
            )
        self._guessed[path.name] = found[0]
        return found[0]

    def notes(self) -> list[str]:
        """What was guessed."""
        if not self._guessed:
            return []
        name, source = next(iter(self._guessed.items()))
        return [f"{len(self._guessed)} names of labels are not paths in SOURCE, such as {name!r}, taken for {source!r}"]


def _base(name: str) -> str:
    return one_form(name).replace("\\", "/").rstrip("/").rpartition("/")[2]


def _stem(name: str) -> str:
    return PurePosixPath(_base(name)).stem


def _files(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    files = sorted(file for file in path.iterdir() if file.suffix.lower() in SUFFIXES | {".json", ".xml"})
    if not files:
        raise UsageError(f"--labels {path}: is a folder without tables ({' '.join(sorted(SUFFIXES))})")
    return files


def _label_by_folder(sources: list[Source], labels: Labels) -> None:
    bare = 0
    for source in sources:
        folder, slash, _ = source.name.partition("/")
        if slash:
            _add_facts(labels, source.name, {"label": one_form(folder)}, f"--labels {FOLDER}")
        bare += not slash
    if bare == len(sources):
        raise UsageError(f"--labels {FOLDER}: no video lies in a folder of SOURCE; make one for each class")
    if bare:
        labels.notes.append(f"{bare} videos lie in no folder of SOURCE, and have no label")


def _add_facts(labels: Labels, name: str, facts: dict[str, str], what: str) -> None:
    known = labels.facts[name]
    for fact, text in facts.items():
        if known.setdefault(fact, text) != text:
            raise UsageError(f"{what}: says that {name} is of {fact} {text!r}, and {known[fact]!r} before; correct one")


def _add_table(path: Path, find: _Finder, labels: Labels) -> None:
    what = f"--labels {path}"
    rows = read_rows(path, what, (), COLUMNS)
    columns = set(rows.meant.values())
    if not columns & {*FACTS, "value"}:
        raise UsageError(f"{what}: has none of the columns {', '.join((*FACTS, 'value'))}")
    both = sorted(columns & {"first", "start", "frame"})
    if len(both) > 1:
        raise UsageError(f"{what}: has the columns {' and '.join(both)}; keep one of them")
    if missing := next(
        (a for a, b in (("first", "last"), ("start", "end")) if b in columns and a not in columns), None
    ):
        raise UsageError(f"{what}: needs a column {missing}, has {sorted(rows.meant)}")
    labels.notes.append(f"{path} {rows}")
    only = "" if "video" in columns else find.of_table(path)
    found = {} if only else find.all((row["video"] for row in rows.texts), what)
    by_video: defaultdict[str, Entries] = defaultdict(list)
    for number, row in enumerate(rows.texts, 1):
        by_video[only or found[row["video"]]].append((number, row))
    for name, entries in by_video.items():
        placed = [(number, row) for number, row in entries if both and row.get(both[0])]
        whole = [row for _, row in entries if not both or not row.get(both[0])]
        if len(whole) > 1:
            raise UsageError(f"{what}: names {name!r} more than once, without saying which frames it means")
        for row in whole:
            _add_facts(labels, name, {fact: row[fact] for fact in FACTS if row.get(fact)}, what)
            if row.get("value"):
                labels.segments[name].append(Segment(0, math.inf, value=read_number(row["value"], what, 0)))
        for _, row in placed:
            _add_facts(labels, name, {fact: row[fact] for fact in ("group", "split") if row.get(fact)}, what)
        if placed:
            labels.segments[name] += SEGMENTS[both[0]](placed, what)


def _in_order(segments: Sequence[Segment], name: str) -> list[Segment]:
    """The segments with a label or value, sorted by their start.

    Raises:
        UsageError: two overlap.
    """
    said = sorted((one for one in segments if one.label or not math.isnan(one.value)), key=lambda one: one.start)
    for has in (lambda one: bool(one.label), lambda one: not math.isnan(one.value)):
        for seconds in (False, True):
            kind = [one for one in said if has(one) and one.seconds == seconds]
            for before, after in itertools.pairwise(kind):
                if after.start < before.end or after.start == before.start:
                    raise UsageError(
                        f"--labels: {name} is labelled more than once at {after}, {before.label or before.value} and"
                        f" {after.label or after.value}; a frame has one label and one value"
                    )
    return said
