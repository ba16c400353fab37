"""The video table: a column for each field, so that a million videos open in a second."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Self, overload

import numpy as np
from numpy.typing import NDArray

from usucl_fast.shards.columns import Columns, Texts, read_columns, read_numbers, read_texts, write_columns
from usucl_fast.shards.members import ID_LETTERS, LONGEST_ID

VIDEOS = "videos.npz"


@dataclass(frozen=True, kw_only=True)
class VideoRecord:
    """What the shards say of one video."""

    id: str
    """Escaped name: safe in tar paths and WebDataset keys, unique in the dataset."""
    name: str
    """Path of the source, relative to the folder it was found in; the id where names are hashed."""
    group: str
    """Patient or source; videos of one group never land on both sides of a split."""
    label: str
    """Class name, or empty."""
    split: str
    """`train`, `val`, `test`, or empty."""
    frames: int
    height: int
    width: int
    """Size of the stored frames in pixels."""
    color: str
    """`grey` or `rgb`."""
    frame_rate: float
    """Mean frames per second; 0 where the source does not say."""
    checksum: str
    """SHA-256 of the encoded frames, in order."""
    source: str
    """Digest of what is known of the source: its size and what a list says of it. Has it changed?"""


NUMBERS: dict[str, np.dtype[Any]] = {
    "frames": np.dtype("<u4"),
    "height": np.dtype("<u4"),
    "width": np.dtype("<u4"),
    "frame_rate": np.dtype("<f8"),
}
"""The fields that are numbers, and how they are stored; all others are texts."""
SIDES = (1, 1 << 16)
"""Pixels that a stored frame may have along a side: from, below."""


@dataclass(frozen=True, eq=False, kw_only=True)
class VideoTable(Sequence[VideoRecord]):
    """The videos of a dataset, in the order of their frames: `table[v]` is a record, `table.frames` a column `[V]`."""

    id: Texts
    name: Texts
    group: Texts
    label: Texts
    split: Texts
    frames: NDArray[np.uint32]
    height: NDArray[np.uint32]
    width: NDArray[np.uint32]
    color: Texts
    frame_rate: NDArray[np.float64]
    checksum: Texts
    source: Texts

    @classmethod
    def of(cls, records: Sequence[VideoRecord]) -> Self:
        """Makes the table of some records."""
        columns: dict[str, Any] = {}
        for field in fields(cls):
            values = [getattr(record, field.name) for record in records]
            columns[field.name] = np.array(values, NUMBERS[field.name]) if field.name in NUMBERS else Texts.of(values)
        return cls(**columns)

    def __len__(self) -> int:
        return len(self.frames)

    @overload
    def __getitem__(self, place: int) -> VideoRecord: ...
    @overload
    def __getitem__(self, place: slice) -> Sequence[VideoRecord]: ...
    def __getitem__(self, place: int | slice) -> VideoRecord | Sequence[VideoRecord]:
        if isinstance(place, slice):
            return [self[number] for number in range(*place.indices(len(self)))]
        values = {field.name: getattr(self, field.name)[place] for field in fields(self)}
        return VideoRecord(**{name: value.item() if name in NUMBERS else value for name, value in values.items()})

    def save(self, path: Path) -> None:
        """Writes the table, whole or not at all."""
        write_columns(path, {field.name: getattr(self, field.name) for field in fields(self)})

    @classmethod
    def read(cls, data: bytes, place: str) -> Self:
        """Reads what `save` wrote; unknown columns are ignored.

        place: the file, as messages name it.

        Raises:
            DataError: it is damaged.
        """

        def read(archive: Columns) -> dict[str, Any]:
            names = [field.name for field in fields(cls)]
            columns = {
                name: read_numbers(archive, name, NUMBERS[name]) if name in NUMBERS else read_texts(archive, name)
                for name in names
            }
            _check(columns)
            return columns

        return cls(**read_columns(data, place, read))


def _check(columns: dict[str, Any]) -> None:
    lengths = {len(column) for column in columns.values()}
    if len(lengths) > 1:
        raise ValueError(f"its columns have {sorted(lengths)} entries")
    for name in ("id", "group", "label", "split"):
        if not columns[name].is_distinct:
            raise ValueError(f"{name} has one text twice")
    if not columns["id"].consists_of(ID_LETTERS, LONGEST_ID) or (np.bincount(columns["id"].codes) > 1).any():
        raise ValueError(f"an id is not of 1 to {LONGEST_ID} letters of {ID_LETTERS}, or of two videos")
    for side in ("height", "width"):
        if not ((columns[side] >= SIDES[0]) & (columns[side] < SIDES[1])).all():
            raise ValueError(f"a {side} is not from {SIDES[0]} to {SIDES[1] - 1} pixels")
    if not (columns["frames"] > 0).all():
        raise ValueError("a video has no frames")
    if not (columns["frame_rate"] >= 0).all() or np.isinf(columns["frame_rate"]).any():
        raise ValueError("a frame_rate is not a finite number from 0")
    if not set(columns["color"].different) <= {"grey", "rgb"}:
        raise ValueError("a color is neither grey nor rgb")
