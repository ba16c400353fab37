"""Exports shards as tars that carry their labels, for readers that know no manifest: WebDataset, DALI, Hugging Face."""

import contextlib
import itertools
import json
import shutil
import urllib.parse
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from usucl_fast.errors import UsageError
from usucl_fast.files import NewFolder
from usucl_fast.progress import Progress
from usucl_fast.shards.manifest import ShardRecord
from usucl_fast.shards.members import BLOCK, END_OF_ARCHIVE, MemberHeader, index_text
from usucl_fast.shards.store import ShardStore
from usucl_fast.shards.table import MEMBER_SUFFIX

NO_SPLIT = "unassigned"
"""The folder of videos without a split, where others have one."""
CLASSES = "classes"
"""A line for each label, in the order of their numbers. Hugging Face would read it if it ended in .txt or .json."""
SUFFIXES = (".tar", ".idx", "")


def export_webdataset(store: ShardStore, out: Path, sidecar: str = "json", overwrite: bool = False) -> dict[str, int]:
    """Writes all frames into the folder `out`, each with a member beside it that says what it shows; whole or not at
    all. Returns the number of frames by split.

    Where videos have splits, each split has a folder, and Hugging Face's `load_dataset` takes them for its splits.
    Members are `<video id>/<frame>.jpg` (or png) and `<video id>/<frame>.json` (or cls), in the order of frame ids;
    beside a tar lies DALI's index of it. Frames are not encoded again. The same shards give the same bytes.

    sidecar: `json`, an object with `video`, `frame`, `time` in seconds, `group`, `label`, `split`, and, where frames
        have labels, `frame_label` and `value` (null for none); or `cls`, the number of the video's label among all
        labels in alphabetical order, -1 for none: the file `classes` names them.

    Raises:
        UsageError: `out` is there and not to be overwritten, or `cls` is asked for and no video has a label.
        DataError: a frame is damaged; the message names it.
    """
    videos, table = store.table.videos, store.table
    classes = sorted(filter(None, videos.label.different))
    if sidecar == "cls" and not classes:
        raise UsageError(f"--sidecar cls: no video of {store.name} has a label; pack with --labels, or use json")
    folder = NewFolder(out, "usucl-export")
    _check_out(folder.out, overwrite)
    partial = folder.partial
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    beside = _Sidecars(store, sidecar, classes)
    has_splits, frames = any(videos.split.different), Counter[str]()
    with contextlib.ExitStack() as stack, Progress("videos", len(videos)) as progress:
        stack.callback(shutil.rmtree, partial, ignore_errors=True)
        writers: dict[str, _Tars] = {}
        for video in range(len(videos)):
            split = (videos.split[video] or NO_SPLIT) if has_splits else ""  # a folder, or none
            if split not in writers:
                writers[split] = stack.enter_context(contextlib.closing(_Tars(partial / _folder_name(split), store)))
            frame_ids = np.arange(table.first_row[video], table.first_row[video + 1])
            writers[split].append(video, frame_ids, beside)
            frames[split] += len(frame_ids)
            progress.advance(frames=int(frame_ids[-1]) + 1)
        for writer in writers.values():
            writer.close()
        (partial / CLASSES).write_text("".join(f"{name}\n" for name in classes), encoding="utf-8")
        folder.take_place()
    return dict(frames)


def _check_out(out: Path, overwrite: bool) -> None:
    if not out.exists():
        return
    if not (out / CLASSES).is_file() or any(file.suffix not in SUFFIXES for file in out.rglob("*") if file.is_file()):
        raise UsageError(f"OUT {out} is already there, and holds files that are not an export's; name a new folder")
    if not overwrite:
        raise UsageError(f"OUT {out} is already there: choose another, or replace it with --overwrite")


def _folder_name(split: str) -> str:
    """The split as the name of a folder, or nothing."""
    quoted = urllib.parse.quote(split, safe="")
    return quoted if quoted.strip(".") else quoted.replace(".", "%2E")  # . and .. are other folders


class _Sidecars:
    """What is written beside each frame."""

    def __init__(self, store: ShardStore, suffix: str, classes: list[str]) -> None:
        self.suffix = suffix
        self._table, self._number = store.table, {name: number for number, name in enumerate(classes)}

    def of(self, video: int, frame_ids: NDArray[np.int64]) -> Iterator[bytes]:
        """What lies beside each of some frames of a video."""
        record, labels = self._table.videos[video], self._table.labels
        if self.suffix == "cls":
            yield from itertools.repeat(str(self._number.get(record.label, -1)).encode(), len(frame_ids))
            return
        for frame_id, row in zip(frame_ids.tolist(), self._table.rows[frame_ids], strict=True):
            known: dict[str, Any] = {
                "video": record.name,
                "frame": int(row["frame"]),
                "time": float(row["time"]),
                "group": record.group,
                "label": record.label,
                "split": record.split,
            }
            if labels is not None:
                value = float(labels.value[frame_id])
                known |= {"frame_label": labels.label[frame_id], "value": None if np.isnan(value) else value}
            yield json.dumps(known, ensure_ascii=False).encode(errors="replace")


class _Tars:
    """Writes tars of frames and what lies beside them into a folder. A video is in one tar; a new one begins before a
    video that would make the present one longer than the setting `shard_mb`, sidecars not counted."""

    def __init__(self, folder: Path, store: ShardStore) -> None:
        folder.mkdir(exist_ok=True)
        self._folder, self._store, self._number = folder, store, 0
        self._suffix, self._most = MEMBER_SUFFIX[store.settings.codec], store.settings.shard_mb * 10**6
        self._begin()

    def _begin(self) -> None:
        self._tar: BinaryIO | None = None
        self._index: list[str] = []
        self._frames_length = self._length = 0

    @property
    def _path(self) -> Path:
        return self._folder / ShardRecord.name_of(self._number)

    def append(self, video: int, frame_ids: NDArray[np.int64], beside: _Sidecars) -> None:
        lengths = self._store.table.rows["length"][frame_ids].astype(np.int64)
        added = int((BLOCK + lengths + -lengths % BLOCK).sum())
        if self._frames_length and self._frames_length + added > self._most:
            self.close()
        self._tar = self._tar or self._path.open("wb")
        self._frames_length += added
        id = self._store.table.videos.id[video]
        suffixes = (self._suffix, beside.suffix)
        headers = [MemberHeader(id, suffix) for suffix in suffixes]
        for number, (frame_id, known) in enumerate(zip(frame_ids, beside.of(video, frame_ids), strict=True)):
            (frame,), line = self._store.read(np.array([frame_id])), []
            for suffix, header, content in zip(suffixes, headers, (frame.tobytes(), known), strict=True):
                line.append(f"{suffix} {self._length + BLOCK} {len(content)} {id}/{number:06d}.{suffix}")
                member = header.of(number, len(content)) + content + bytes(-len(content) % BLOCK)
                self._length += self._tar.write(member)
            self._index.append(" ".join(line))

    def close(self) -> None:
        """Finishes the present tar, if there is one; the next video begins another."""
        if self._tar is None:
            return
        with self._tar as tar:
            tar.write(END_OF_ARCHIVE)
        self._path.with_suffix(".idx").write_text(index_text(self._index))
        self._number += 1
        self._begin()
