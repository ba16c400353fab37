"""One video to pack, and the packed video: what goes to a worker process, and what comes back."""

import hashlib
import json
import zipfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from usucl_fast.errors import first_line
from usucl_fast.files import write_whole
from usucl_fast.pack.identity import Pseudonyms, escape
from usucl_fast.pack.kinds import Source
from usucl_fast.pack.sector import Polygon
from usucl_fast.pack.segments import VideoLabels
from usucl_fast.shards import PackSettings, VideoRecord


@dataclass(frozen=True)
class Task:
    """One video to pack.

    id, name, group: what the video and its group are called in the shards.
    digest: a hash of the source's size, labels and outline; a change of it is noticed when videos are added.
    outline: polygons to keep of its pictures, where a file gives them.
    pseudonyms: hashes the patient of a DICOM file, who is its group unless another is given.
    time_limit: seconds that a picture may take before the process ends itself.
    path: the spool file.
    ahead: whether there is a core for decoding alone.
    """

    source: Source
    id: str
    name: str
    group: str
    digest: str
    outline: tuple[Polygon, ...]
    pseudonyms: Pseudonyms | None
    settings: PackSettings
    time_limit: float
    path: Path
    ahead: bool = False

    @property
    def facts(self) -> Path:
        """The file of what `Spooled.save` keeps beside the spool file; it says that the video is packed."""
        return self.path.with_suffix(".npz")


def make_task(
    source: Source,
    settings: PackSettings,
    pseudonyms: Pseudonyms | None,
    outline: tuple[Polygon, ...],
    time_limit: float,
    spools: Path,
) -> Task:
    """Plans the packing of one video: what it is called in the shards, and which file in `spools` it is packed into."""
    group, id, name = source.group, escape(source.name), source.name
    if pseudonyms and is_hashed(source, settings):
        id = name = pseudonyms.of("video", name)
    if pseudonyms and group and settings.names == "hash":
        group = pseudonyms.of("group", group)
    facts = json.dumps([source.bytes, group, source.label, source.split, outline, *map(asdict, source.segments)])
    # Keyed where the name is: to somebody who has the files, the size of one tells which it is.
    if pseudonyms and is_hashed(source, settings):
        digest = pseudonyms.of("source", facts)
    else:
        digest = hashlib.sha256(facts.encode()).hexdigest()[:16]
    # Not the id itself: two that differ in case alone would share a file on Windows and macOS.
    path = spools / hashlib.sha256(id.encode()).hexdigest()[:32]
    return Task(source, id, name, group, digest, outline, pseudonyms, settings, time_limit, path)


def is_hashed(source: Source, settings: PackSettings) -> bool:
    """Whether the source's name is replaced by a hash."""
    return settings.names == "hash" or (settings.names == "auto" and source.kind == "dicom")


ARRAYS = ("rows", "pair", "look")
"""The fields of `Spooled` that are arrays."""


@dataclass(frozen=True)
class Spooled:
    """A video packed into a spool file.

    length: bytes of the spool file.
    rows: `[frames]` of `ROW`, offsets from the start of the spool file; shard and video are left at 0.
    sector: what was kept of the pictures: `how` it was found, size of the `picture` (width, height), `polygons`; empty
        where no sector was looked for.
    pair: uint8 `[h, w, 3]`, a frame before and after; without pixels where no sector was looked for.
    stored: number and thumbnail, as a URL, of some frames as they are stored; none where no sector was looked for.
    look: float32, a vector that is close to those of videos that show the same.
    warning: what a person should look at.
    labels: those of its frames; None where no frame has one.
    stages: seconds spent in each stage.
    """

    record: VideoRecord
    length: int
    rows: NDArray[np.void]
    sector: dict[str, Any]
    pair: NDArray[np.uint8]
    stored: list[tuple[int, str]]
    look: NDArray[np.float32]
    warning: str
    labels: VideoLabels | None
    stages: dict[str, float]

    def save(self, path: Path) -> None:
        """Writes all but the frames, whole or not at all."""
        arrays: dict[str, Any] = {name: getattr(self, name) for name in ARRAYS}
        facts = {**vars(self), "record": asdict(self.record), **dict.fromkeys(ARRAYS)}
        if self.labels:
            facts["labels"] = self.labels.names
            arrays |= {"label": self.labels.label, "value": self.labels.value, "segments": self.labels.segments}
        with write_whole(path) as file:
            np.savez(file, facts=np.frombuffer(json.dumps(facts).encode(), np.uint8), **arrays)

    @staticmethod
    def load(path: Path) -> "Spooled":
        """Reads what `save` wrote.

        Raises:
            FileNotFoundError: it is not there.
            zipfile.BadZipFile: it is damaged.
        """
        try:
            with np.load(path) as file:
                facts = json.loads(file["facts"].tobytes())
                facts |= {"record": VideoRecord(**facts["record"]), **{name: file[name] for name in ARRAYS}}
                if facts["labels"]:
                    facts["labels"] = VideoLabels(facts["labels"], file["label"], file["value"], file["segments"])
                return Spooled(**facts)
        except FileNotFoundError:
            raise
        except Exception as error:  # NumPy and zipfile raise whatever damage leads them to
            raise zipfile.BadZipFile(f"{path} is damaged ({first_line(error)})") from error
