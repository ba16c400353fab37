"""Files, folders and lists -> the videos to pack."""

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from usucl_fast.errors import UsageError
from usucl_fast.files import is_url, shown_place
from usucl_fast.pack.kinds import (
    CONTAINERS,
    DICOM_START,
    LITTER,
    Kind,
    Source,
    is_image,
    is_start_of_dicom,
    kind_of,
    natural,
    videos_among,
)
from usucl_fast.pack.remote_sources import find_at


def find_sources(roots: Iterable[Path | str], *, follow_links: bool = False) -> tuple[list[Source], Counter[str]]:
    """Finds the videos in files and folders, here or at URLs, sorted by name.

    A file whose extension is in `CONTAINERS` is a video, and so is a DICOM file of any name; a folder that holds
    images and none of these is a video too, its images being the frames. Hidden files, what systems leave behind,
    shards and folders that may not be read are skipped, and so are symbolic links that lead out of the folder they
    were found in, unless `follow_links`.

    Returns the sources and, by kind, how many files were none.

    Raises:
        UsageError: a root does not exist or holds no video, or two videos have one name.
        DataError: a URL cannot be read.
    """
    found: dict[str, Source] = {}
    others: Counter[str] = Counter()
    for root in roots:
        before = len(found)
        for source in _find(root, follow_links, others):
            if source.name in found:
                raise UsageError(
                    f"two videos are named {source.name}: {found[source.name].files[0]} and {source.files[0]};"
                    " give the folder above both as the one SOURCE"
                )
            found[source.name] = source
        if len(found) == before:
            raise UsageError(
                f"SOURCE {shown_place(str(root))} holds no video (looked for {' '.join(sorted(CONTAINERS))}, DICOM"
                " files and folders of images)"
            )
    return [found[name] for name in sorted(found)], others


def _find(root: Path | str, follow_links: bool, others: Counter[str]) -> Iterable[Source]:
    if is_url(root):
        return find_at(str(root), others)
    root = Path(root)
    if not root.exists():
        raise UsageError(f"SOURCE {root} does not exist")
    return _find_in(root, follow_links, others) if root.is_dir() else [source_of(root, root.name)]


def source_of(path: Path, name: str) -> Source:
    """The video that is one file, or the images of one folder.

    Raises:
        UsageError: `path` is a folder without images.
    """
    if path.is_dir():
        images = [file for file in path.iterdir() if is_image(file) and not file.name.startswith(".")]
        if not images:
            raise UsageError(f"{path} is a folder without images")
        return _frame_folder(images, name)
    if is_image(path):
        return _frame_folder([path], name)
    return _source(name, [path], kind_of(path, is_dicom))


def _frame_folder(images: list[Path], name: str) -> Source:
    return _source(name, sorted(images, key=natural), "images")


def _source(name: str, files: Sequence[Path], kind: Kind) -> Source:
    stats = [file.stat() for file in files]
    versions = tuple(str(stat.st_mtime_ns) for stat in stats)
    return Source(name, tuple(files), sum(stat.st_size for stat in stats), kind, versions=versions)


def _find_in(root: Path, follow_links: bool, others: Counter[str]) -> Iterator[Source]:
    for folder, files in _walk(root, root.resolve(), follow_links, others, ()):
        videos, images = videos_among(files, is_dicom, others)
        for file in videos:
            yield source_of(file, _name(file, root))
        if images:
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


def is_dicom(path: Path) -> bool:
    """Whether the file starts as DICOM files do, whatever its name; one that cannot be read does not."""
    try:
        with path.open("rb") as file:
            return is_start_of_dicom(file.read(DICOM_START))
    except OSError:
        return False
