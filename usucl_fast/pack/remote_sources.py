"""Videos at a URL: which there are, and their files, for as long as each is packed."""

import contextlib
import functools
import hashlib
import re
import shutil
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from usucl_fast.errors import DecodeError, MissingFileError, UsageError, shown
from usucl_fast.pack.kinds import (
    CONTAINERS,
    DICOM,
    DICOM_START,
    IMAGES,
    LITTER,
    Kind,
    Source,
    is_start_of_dicom,
    kind_of,
    may_be_dicom,
    natural,
    videos_among,
)

if TYPE_CHECKING:
    from usucl_fast.shards.remote import RemoteFile, RemoteFolder

SIDE_BY_SIDE = 8
"""Files that are fetched, or looked into, at a time."""
MD5 = re.compile('"?[0-9a-f]{32}"?')
ONE_FILE = CONTAINERS | DICOM | IMAGES
"""How the URL of a single file ends; another is a folder's."""


@functools.lru_cache(64)
def _open(url: str) -> "RemoteFolder":
    if url.startswith("memory://"):
        raise UsageError(f"SOURCE {shown(url)}: the processes that decode share no memory; give another URL")
    from usucl_fast.shards.remote import RemoteFolder  # fsspec takes long to import, and most sources are here

    return RemoteFolder(url, "SOURCE", "")


def find_at(url: str, others: Counter[str]) -> list[Source]:
    """Finds the videos at a URL by the rules of `find_sources`; `others` counts what else there is, by kind.

    Raises:
        UsageError: such URLs cannot be read.
        DataError: this one cannot.
    """
    if Path(url.partition("?")[0]).suffix.lower() in ONE_FILE:
        return [source_at(url)]
    if "?" in url:
        raise UsageError(
            f"SOURCE {shown(url)}: a URL with a query is that of a file; list such in a table's column path"
        )
    url = url.rstrip("/")
    remote = _open(url)
    folders = _by_folder(remote.files(), others)
    unclear = [file for files in folders.values() for path, file in files.items() if may_be_dicom(path)]
    with ThreadPoolExecutor(SIDE_BY_SIDE) as pool:
        starts = pool.map(lambda file: remote.start_of(file.name, DICOM_START), unclear)
        dicom = {Path(file.shown) for file, start in zip(unclear, starts, strict=True) if is_start_of_dicom(start)}
    found = []
    for folder, files in folders.items():
        videos, images = videos_among(list(files), dicom.__contains__, others)
        for path in videos:
            found.append(_source(url, path.as_posix(), [files[path]], kind_of(path, dicom.__contains__)))
        if images:
            name = remote.name.rpartition("/")[2] if folder == Path() else folder.as_posix()
            found.append(_source(url, name, [files[path] for path in sorted(images, key=natural)], "images"))
    return found


def source_at(url: str, name: str = "") -> Source:
    """The video that is the one file at a URL, under its file's name unless another is given.

    Raises:
        DataError: it cannot be read.
    """
    base, mark, query = url.partition("?")
    folder, _, file_name = base.rpartition("/")
    remote = _open(f"{folder}{mark}{query}")
    file = remote.file(file_name)
    path = Path(file.shown)

    def is_dicom(_: Path) -> bool:
        return may_be_dicom(path) and is_start_of_dicom(remote.start_of(file_name, DICOM_START))

    kind: Kind = "images" if path.suffix.lower() in IMAGES else kind_of(path, is_dicom)
    return _source(f"{folder}{mark}{query}", name or path.name, [file], kind)


@contextlib.contextmanager
def on_disk(source: Source, folder: Path) -> Iterator[Source]:
    """The source with its files on this machine: those of one at a URL are in `folder` while the block runs.

    Raises:
        DecodeError: a file is no longer there.
        DataError: one cannot be fetched.
    """
    if not source.url:
        yield source
        return
    remote = _open(source.url)
    shutil.rmtree(folder, ignore_errors=True)  # of a process that was killed
    folder.mkdir()
    # The numbers in the names of images are times; a longer name may be more than a file system takes.
    names = [remote.readable(file.name) if source.kind == "images" else f"video{file.suffix}" for file in source.files]
    files = [folder / name for name in names]

    def fetch(file: Path, to: Path, version: str) -> None:
        length = source.bytes if len(files) == 1 else 0
        remote.download(file.as_posix(), to, _Check(length, version), source.bytes or None)

    try:
        try:
            with ThreadPoolExecutor(SIDE_BY_SIDE) as pool:
                list(pool.map(fetch, source.files, files, source.versions))
        except MissingFileError as error:
            raise DecodeError("is no longer at its URL") from error
        if source.bytes not in (0, sum(file.stat().st_size for file in files)):
            raise DecodeError("has changed at its URL since the packing began")
        yield replace(source, url="", files=tuple(files))
    finally:
        shutil.rmtree(folder, ignore_errors=True)


class _Check:
    """Finds what is wrong with a video that has come; see `usucl_fast.shards.remote.Check`.

    By its length, unless that is 0, and by the version that the server gives it, where that is an MD5 as most stores of
    objects give one. Some give other digits, for what is encrypted: then the same bytes come twice.
    """

    def __init__(self, length: int, version: str) -> None:
        self._length, self._md5 = length, version.strip('"') if MD5.fullmatch(version) else ""
        self._came_before = ""

    def __call__(self, path: Path) -> str:
        came = path.stat().st_size
        if self._length not in (0, came):
            return f"{came} of its {self._length} bytes came"
        if not self._md5:
            return ""
        with path.open("rb") as file:
            found = hashlib.file_digest(file, "md5").hexdigest()
        if found in (self._md5, self._came_before):
            return ""
        self._came_before = found
        return "the bytes that came are not those of its checksum"


def _by_folder(files: Sequence["RemoteFile"], others: Counter[str]) -> dict[Path, dict[Path, "RemoteFile"]]:
    """The files by folder and path; not hidden ones, nor those of systems or in folders of shards."""
    shards = {Path(file.shown).parent for file in files if Path(file.shown).match("usucl-*.tar")} - {Path()}
    litter = set()
    folders: defaultdict[Path, dict[Path, RemoteFile]] = defaultdict(dict)
    for file in files:
        path = Path(file.shown)
        if any(part.startswith(".") for part in path.parts) or shards.intersection(path.parents):
            continue
        if strange := [parent for parent in path.parents if parent.name.lower() in LITTER]:
            litter.add(strange[-1])
            continue
        folders[path.parent][path] = file
    others.update(["folders of shards"] * len(shards) + ["folders of the system's"] * len(litter))
    return folders


def _source(url: str, name: str, files: Sequence["RemoteFile"], kind: Kind) -> Source:
    paths, versions = tuple(Path(file.name) for file in files), tuple(file.version for file in files)
    return Source(name, paths, sum(file.bytes for file in files), kind, url=url, versions=versions)
