"""Files, folders and lists -> the videos to pack."""

import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from usucl_fast.errors import UsageError

if TYPE_CHECKING:
    from usucl_fast.pack.segments import Segment

# fmt: off
CONTAINERS = frozenset((
    ".3gp", ".asf", ".avi", ".flv", ".gif", ".m2v", ".m4v", ".mjpeg", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg",
    ".mts", ".mxf", ".ogv", ".ts", ".vob", ".webm", ".wmv",
))
IMAGES = frozenset((".bmp", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"))
DICOM = frozenset((".dcm", ".dicom"))
# fmt: on

LITTER = frozenset(
    (
        *("__macosx", "@eadir", "@recycle", "#recycle", "$recycle.bin", "lost+found", "system volume information"),
        *("@recently-snapshot", "#snapshot"),
    )
)
"""Folders that operating systems leave behind, in lower case."""

Kind = Literal["container", "images", "dicom"]


@dataclass(frozen=True)
class Source:
    """One video to pack.

    name: path relative to the folder it was found in, with `/`; for a file given by itself, its file name; from a
        list, its `id` or else its `path`.
    files: the video file, or the images of a frame folder in order.
    bytes: their total size.
    segments: labels and values of its frames.
    """

    name: str
    files: tuple[Path, ...]
    bytes: int
    kind: Kind
    group: str = ""
    label: str = ""
    split: str = ""
    segments: "tuple[Segment, ...]" = ()


def find_sources(roots: Iterable[Path], *, follow_links: bool = False) -> tuple[list[Source], Counter[str]]:
    """Finds the videos in files and folders, sorted by name.

    A file whose extension is in `CONTAINERS` is a video, and so is a DICOM file of any name; a folder that holds
    images and none of these is a video too, its images being the frames. Hidden files, what systems leave behind,
    shards and folders that may not be read are skipped, and so are symbolic links that lead out of the folder they
    were found in, unless `follow_links`.

    Returns the sources and, by kind, how many files were none.

    Raises:
        UsageError: a root does not exist or holds no video, or two videos have one name.
    """
    found: dict[str, Source] = {}
    others: Counter[str] = Counter()
    for root in roots:
        if not root.exists():
            raise UsageError(f"SOURCE {root} does not exist")
        before = len(found)
        for source in _find_in(root, follow_links, others) if root.is_dir() else [source_of(root, root.name)]:
            if source.name in found:
                raise UsageError(
                    f"two videos are named {source.name}: {found[source.name].files[0]} and {source.files[0]};"
                    " give the folder above both as the one SOURCE"
                )
            found[source.name] = source
        if len(found) == before:
            raise UsageError(
                f"SOURCE {root} holds no video (looked for {' '.join(sorted(CONTAINERS))}, DICOM files and folders of"
                " images)"
            )
    return [found[name] for name in sorted(found)], others


def source_of(path: Path, name: str) -> Source:
    """The video that is one file, or the images of one folder.

    Raises:
        UsageError: `path` is a folder without images.
    """
    if path.is_dir():
        images = [file for file in path.iterdir() if _is_image(file) and not file.name.startswith(".")]
        if not images:
            raise UsageError(f"{path} is a folder without images")
        return _frame_folder(images, name)
    if _is_image(path):
        return _frame_folder([path], name)
    kind: Kind = "dicom" if path.suffix.lower() in DICOM or is_dicom(path) else "container"
    return Source(name, (path,), path.stat().st_size, kind)


def _frame_folder(images: list[Path], name: str) -> Source:
    return Source(name, tuple(sorted(images, key=_natural)), sum(file.stat().st_size for file in images), "images")


def _find_in(root: Path, follow_links: bool, others: Counter[str]) -> Iterator[Source]:
    for folder, files in _walk(root, root.resolve(), follow_links, others, ()):
        videos = [file for file in files if _is_video(file)]
        images = [file for file in files if file not in videos and _is_image(file)]
        others.update(
            file.suffix.lower() or "without extension" for file in files if file not in videos and file not in images
        )
        for file in videos:
            yield source_of(file, _name(file, root))
        if videos:
            others.update(file.suffix.lower() for file in images)
        elif images:
            yield _frame_folder(images, root.name if folder == root else _name(folder, root))


def _walk(
    folder: Path, root: Path, follow_links: bool, others: Counter[str], above: tuple[Path, ...]
) -> Iterator[tuple[Path, list[Path]]]:
    """Yields every folder with its files. `root` and `above`, the folders on the way down, are resolved paths."""
    here = folder.resolve()
    files, folders = [], []
    try:
        entries = sorted(folder.iterdir())
    except OSError as error:  # costs itself alone
        others[f"folder {folder} ({error.strerror})"] += 1
        return
    for entry in entries:
        if entry.name.startswith("."):
            continue
        if entry.is_symlink():
            try:
                target = entry.resolve(strict=True)
            except (OSError, RuntimeError):  # it leads nowhere, or to itself
                others["broken links"] += 1
                continue
            if not follow_links and not target.is_relative_to(root):
                others["links out of SOURCE"] += 1
                continue
            if target in (*above, here):  # it leads back to where we came from
                continue
        if entry.is_dir():
            if entry.name.lower() in LITTER:
                others["folders of the system's"] += 1
            elif any(entry.glob("usucl-*.tar")):
                others["folders of shards"] += 1  # OUT, from the last time
            else:
                folders.append(entry)
        elif entry.is_file():
            files.append(entry)
    yield folder, files
    for entry in folders:
        yield from _walk(entry, root, follow_links, others, (*above, here))


def _name(path: Path, root: Path) -> str:
    # A file name need not be UTF-8, what is written about it must.
    return os.fsencode(path.relative_to(root).as_posix()).decode("utf-8", "backslashreplace")


def _is_video(file: Path) -> bool:
    suffix = file.suffix.lower()
    if suffix in CONTAINERS | DICOM:
        return True
    # Hospitals export DICOM without extension, or with the end of an UID for one. A DICOMDIR is only a table.
    return suffix not in IMAGES and file.name != "DICOMDIR" and is_dicom(file)


def is_dicom(path: Path) -> bool:
    """Whether the file starts as DICOM files do, whatever its name; one that cannot be read does not."""
    try:
        with path.open("rb") as file:
            return file.read(132)[128:] == b"DICM"
    except OSError:
        return False


def _is_image(file: Path) -> bool:
    return file.suffix.lower() in IMAGES


def _natural(path: Path) -> tuple[tuple[int, str], ...]:
    """A sort key by which `9.jpg` comes before `10.jpg`."""
    return tuple((int(part), "") if part.isdecimal() else (0, part) for part in re.split(r"(\d+)", path.name))
