"""Folders of videos -> the list of videos to pack."""

import csv
import os
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from usucl_fast.errors import UsageError

# fmt: off
CONTAINERS = frozenset((
    ".3gp", ".asf", ".avi", ".flv", ".gif", ".m2v", ".m4v", ".mjpeg", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg",
    ".mts", ".mxf", ".ogv", ".ts", ".vob", ".webm", ".wmv",
))
IMAGES = frozenset((".bmp", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"))
# fmt: on


@dataclass(frozen=True)
class Source:
    """One video to pack.

    name: path relative to the folder it was found in, with `/`; for a file given by itself, its file name.
    files: the video file, or the images of a frame folder in order.
    bytes: their total size.
    """

    name: str
    files: tuple[Path, ...]
    bytes: int
    group: str = ""
    label: str = ""
    split: str = ""


def find_sources(roots: Iterable[Path]) -> tuple[list[Source], Counter[str]]:
    """Finds the videos in files and folders, sorted by name.

    A file whose extension is in `CONTAINERS` is a video; a folder that holds images and no such file is a
    video too, its images being the frames. Hidden files are passed over.

    Returns the sources and, by extension, how many files were none.

    Raises:
        UsageError: a root does not exist or holds no video, or two videos have one name.
    """
    found: dict[str, Source] = {}
    others: Counter[str] = Counter()
    for root in roots:
        if not root.exists():
            raise UsageError(f"SOURCE {root} does not exist")
        before = len(found)
        for source in _find_in(root, others) if root.is_dir() else [_source(root.name, [root])]:
            if source.name in found:
                raise UsageError(
                    f"two videos are named {source.name}: {found[source.name].files[0]} and {source.files[0]};"
                    " give the folder above both as the one SOURCE"
                )
            found[source.name] = source
        if len(found) == before:
            raise UsageError(
                f"SOURCE {root} holds no video (looked for {' '.join(sorted(CONTAINERS))} and folders of images)"
            )
    return [found[name] for name in sorted(found)], others


def _find_in(root: Path, others: Counter[str]) -> Iterable[Source]:
    for folder, folders, names in os.walk(root, onerror=_raise):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        here = Path(folder)
        files = [here / name for name in names if not name.startswith(".")]
        containers = [file for file in files if file.suffix.lower() in CONTAINERS]
        images = [file for file in files if file.suffix.lower() in IMAGES]
        if containers:
            others.update(file.suffix.lower() for file in images)
            images = []
        others.update(file.suffix.lower() for file in files if file.suffix.lower() not in CONTAINERS | IMAGES)
        for file in containers:
            yield _source(file.relative_to(root).as_posix(), [file])
        if images:
            name = root.name if here == root else here.relative_to(root).as_posix()
            yield _source(name, sorted(images, key=_natural))


def _raise(error: OSError) -> None:
    # os.walk would pass over a folder that it cannot read, and its videos would be missed.
    raise error


def _source(name: str, files: list[Path]) -> Source:
    return Source(name, tuple(files), sum(file.stat().st_size for file in files))


def _natural(path: Path) -> tuple[tuple[int, str], ...]:
    """Sorts `9.jpg` before `10.jpg`."""
    return tuple((int(part), "") if part.isdigit() else (0, part) for part in re.split(r"(\d+)", path.name))


def read_labels(path: Path, sources: list[Source]) -> list[Source]:
    """Adds what a CSV with the columns `video` and any of `label`, `group`, `split` says of the sources.

    Videos that it does not name keep empty fields.

    Raises:
        UsageError: the file is no such CSV, names a video twice, or names one that is not among `sources`.
    """
    known = {source.name: source for source in sources}
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            columns = set(reader.fieldnames or ())
            if "video" not in columns or not columns & {"label", "group", "split"}:
                raise UsageError(
                    f"--labels {path}: needs a column video and label, group or split, has {sorted(columns)}"
                )
            rows = list(reader)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UsageError(f"--labels {path}: not a readable CSV file in UTF-8 ({error})") from error
    missing = [row["video"] for row in rows if row["video"] not in known]
    if missing:
        raise UsageError(
            f"--labels {path}: {len(missing)} of its {len(rows)} videos are not in SOURCE, first {missing[0]!r};"
            " names are paths relative to SOURCE"
        )
    twice = [name for name, count in Counter(row["video"] for row in rows).items() if count > 1]
    if twice:
        raise UsageError(f"--labels {path}: names {twice[0]!r} more than once")
    for row in rows:
        label, group, split = ((row.get(column) or "").strip() for column in ("label", "group", "split"))
        known[row["video"]] = replace(known[row["video"]], label=label, group=group, split=split)
    return [known[source.name] for source in sources]
