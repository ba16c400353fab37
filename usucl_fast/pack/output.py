"""OUT, where the shards go: a folder here, or one at a URL."""

import hashlib
import shutil
import tempfile
from pathlib import Path, PurePosixPath
from typing import Protocol

from usucl_fast.errors import DataError, UsageError
from usucl_fast.files import NewFolder, is_url
from usucl_fast.pack.existing import OUTPUT, Existing, check_addable, open_existing
from usucl_fast.pack.identity import Pseudonyms
from usucl_fast.pack.summary import SUMMARY, PackSummary, read_summary
from usucl_fast.shards import MANIFEST, Manifest, PackSettings, is_manifest, open_shards, read_manifest

EXCHANGE = ".usucl-spool"
"""The folder at the URL through which spool files travel where machines share none."""


class Output(Protocol):
    """Where shards go.

    name: the folder or URL, as messages show it.
    partial: the folder on this machine that everything is made in.
    url: where it is at a URL; else empty.
    """

    name: str
    partial: Path
    url: str

    def existing(self, settings: PackSettings, pseudonyms: Pseudonyms | None, overwrite: bool) -> Existing | None:
        """The shards there; None where there are none, or they are to be replaced.

        Raises:
            UsageError: anything else is there, or shards that nothing can be added to.
            DataError: they are damaged, or cannot be read.
        """
        ...

    def keep(self, path: Path) -> None:
        """Takes a finished file of a shard."""
        ...

    def holds(self, path: Path, length: int) -> bool:
        """Whether it has this file, of this length."""
        ...

    def publish(self) -> None:
        """Makes the shards in `partial` those that are there, all at once, now that they are whole."""
        ...

    def summary(self) -> PackSummary:
        """The summary of what is there."""
        ...


def open_output(out: Path | str, work: Path | None) -> Output:
    """OUT, as the user gave it.

    work: folder on this machine for what is not uploaded yet; None for the platform's folder for caches.

    Raises:
        UsageError: nothing can be written there.
    """
    return UrlOutput(str(out), work) if is_url(out) else FolderOutput(Path(out))


class FolderOutput:
    """A folder on this machine, or one that it mounts. See `Output`."""

    url = ""

    def __init__(self, out: Path) -> None:
        self._new = NewFolder(out)
        self._out, self.partial, self.name = self._new.out, self._new.partial, str(self._new.out)

    def existing(self, settings: PackSettings, pseudonyms: Pseudonyms | None, overwrite: bool) -> Existing | None:
        """See `Output`."""
        return open_existing(self._out, settings, pseudonyms, overwrite)

    def keep(self, path: Path) -> None:
        """It is in `partial` and stays there."""

    def holds(self, path: Path, length: int) -> bool:
        """See `Output`."""
        return path.is_file() and path.stat().st_size == length

    def publish(self) -> None:
        """See `Output`."""
        self._new.take_place()

    def summary(self) -> PackSummary:
        """See `Output`."""
        return read_summary(self._out)


class UrlOutput:
    """A folder at a URL. See `Output`.

    Each shard is uploaded when it is finished, and gone from this machine; the manifest comes last, so that no reader
    sees a part. Where finished shards are replaced, their manifest goes first.
    """

    def __init__(self, url: str, work: Path | None) -> None:
        from usucl_fast.shards.cache import default_folder
        from usucl_fast.shards.remote import RemoteFolder  # fsspec takes long to import

        if url.startswith(("http://", "https://")):
            raise UsageError("OUT is at a web server, which takes no files; name a folder or an object store's URL")
        self.url = url
        self._remote = RemoteFolder(url, "OUT", "--work")
        self.name = self._remote.name
        own = hashlib.sha256(self.name.encode()).hexdigest()[:16]
        self.partial = ((work or default_folder() / "packing") / own).absolute()
        self._there: dict[str, int] = {}
        self._summary: PackSummary | None = None

    def existing(self, settings: PackSettings, pseudonyms: Pseudonyms | None, overwrite: bool) -> Existing | None:
        """See `Output`. To shards at a URL no videos can be added."""
        from usucl_fast.shards.remote_shards import fetch_manifest

        self._there = {file.name: file.bytes for file in self._remote.files()}
        for name in self._there:
            if not name.startswith(EXCHANGE) and ("/" in name or not any(map(PurePosixPath(name).match, OUTPUT))):
                raise UsageError(
                    f"OUT {self.name} holds {name}, which is not of shards: move it away, or name another URL"
                )
        if MANIFEST in self._there:
            text = fetch_manifest(self._remote)
            if not is_manifest(text):
                raise UsageError(f"OUT {self.name} holds a {MANIFEST} that is not of shards; name another URL")
            if not overwrite:
                here = self.partial / MANIFEST
                if here.exists() and here.read_bytes() == text:  # killed after the last upload
                    shutil.rmtree(self.partial)
                manifest = Manifest.read(text, self.name)
                check_addable(manifest, self.name, settings, pseudonyms)
                return Existing(manifest, open_shards(self.url).table, None)
        self.partial.mkdir(mode=0o700, parents=True, exist_ok=True)  # videos of patients will lie in it
        return None

    def keep(self, path: Path) -> None:
        """Uploads the file and removes it here."""
        if MANIFEST in self._there:
            self._remote.remove([MANIFEST])
            del self._there[MANIFEST]
        self._upload(path)
        path.unlink()

    def holds(self, path: Path, length: int) -> bool:
        """See `Output`."""
        return self._there.get(path.name) == length

    def publish(self) -> None:
        """Uploads what is beside the shards, then the manifest, and removes what is in `partial`.

        Raises:
            DataError: a shard that was uploaded is no longer there.
        """
        manifest = self.partial / MANIFEST
        beside = sorted(path for path in self.partial.iterdir() if path != manifest)
        for path in beside:
            self._upload(path)
        there = {file.name: file.bytes for file in self._remote.files()}
        wanted = {path.name for path in beside} | {MANIFEST}
        for shard in read_manifest(self.partial).shards:
            index = PurePosixPath(shard.name).with_suffix(".idx").name
            if there.get(shard.name) != shard.bytes or index not in there:
                raise DataError(
                    f"{self._remote.place(shard.name)} was uploaded and is no longer there; remove {self.partial}, and"
                    " run the same command again to pack all of it"
                )
            wanted |= {shard.name, index}
        self._remote.remove(there.keys() - wanted)
        self._upload(manifest)
        self._summary = read_summary(self.partial)
        shutil.rmtree(self.partial)

    def summary(self) -> PackSummary:
        """See `Output`."""
        if self._summary is None:
            with tempfile.TemporaryDirectory(prefix="usucl-") as folder:
                self._remote.download(SUMMARY, Path(folder) / SUMMARY, lambda _: "")
                self._summary = read_summary(Path(folder))
        return self._summary

    def _upload(self, path: Path) -> None:
        self._remote.upload(path, path.name)
        self._there[path.name] = path.stat().st_size
