"""What is known of each video, a column a field: a million of them open in a second."""

import io
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Self, overload

import numpy as np
from numpy.typing import NDArray

from usucl_fast.errors import DataError
from usucl_fast.files import write_whole
from usucl_fast.shards.npy import read_npy

VIDEOS = "videos.npz"


@dataclass(frozen=True, kw_only=True)
class VideoRecord:
    """What is known of one video."""

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


class Texts(Sequence[str]):
    """A column of strings in which each different one is stored once.

    codes: `[V]`, which of the different ones each is; they are numbered as they first appear.
    """

    def __init__(self, codes: NDArray[np.uint32], ends: NDArray[np.int64], utf8: NDArray[np.uint8]) -> None:
        self.codes = codes
        self._ends, self._utf8 = ends, utf8

    @classmethod
    def of(cls, texts: Iterable[str]) -> Self:
        """The column of some strings."""
        number: dict[str, int] = {}
        codes = np.array([number.setdefault(text, len(number)) for text in texts], "<u4")
        encoded = [text.encode() for text in number]
        ends = np.cumsum([len(text) for text in encoded], dtype="<i8")
        return cls(codes, ends, np.frombuffer(b"".join(encoded), np.uint8))

    def __len__(self) -> int:
        return len(self.codes)

    @overload
    def __getitem__(self, place: int) -> str: ...
    @overload
    def __getitem__(self, place: slice) -> Sequence[str]: ...
    def __getitem__(self, place: int | slice) -> str | Sequence[str]:
        if isinstance(place, slice):
            return [self._text(code) for code in self.codes[place].tolist()]
        return self._text(int(self.codes[place]))

    def __iter__(self) -> Iterator[str]:
        different = self.different
        return (different[code] for code in self.codes.tolist())

    @property
    def different(self) -> list[str]:
        """The different strings, by their codes."""
        return [self._text(code) for code in range(len(self._ends))]

    @property
    def is_empty(self) -> NDArray[np.bool_]:
        """`[V]`: whether a string is the empty one."""
        return (np.diff(self._ends, prepend=0) == 0)[self.codes]

    def _text(self, code: int) -> str:
        start = int(self._ends[code - 1]) if code else 0
        return self._utf8[start : int(self._ends[code])].tobytes().decode(errors="replace")

    def arrays(self) -> dict[str, NDArray[Any]]:
        """What the column is made of, by name."""
        return {"codes": self.codes, "ends": self._ends, "utf8": self._utf8}


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
        """The table of some records."""
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
        """Writes the table as an uncompressed NumPy archive, whole or not at all."""
        arrays: dict[str, NDArray[Any]] = {}
        for field in fields(self):
            column = getattr(self, field.name)
            parts = column.arrays() if isinstance(column, Texts) else {"": column}
            arrays |= {f"{field.name}.{part}".rstrip("."): array for part, array in parts.items()}
        with write_whole(path) as file:
            np.savez(file, allow_pickle=False, **arrays)

    @classmethod
    def read(cls, data: bytes, place: str) -> Self:
        """Reads what `save` wrote. Columns that are not known are passed over.

        place: the file, as messages name it.

        Raises:
            DataError: it is damaged.
        """
        try:
            with zipfile.ZipFile(io.BytesIO(data)) as archive:
                columns = {field.name: _read_column(archive, field.name) for field in fields(cls)}
            _check(columns)
        except (ValueError, LookupError, NotImplementedError, RuntimeError, EOFError, zipfile.BadZipFile) as error:
            raise DataError(f"{place} is damaged ({error}); restore it, or pack the videos again") from error
        return cls(**columns)


def _read_column(archive: zipfile.ZipFile, name: str) -> Any:
    if name in NUMBERS:
        return _read_array(archive, name, NUMBERS[name])
    codes = _read_array(archive, f"{name}.codes", np.dtype("<u4"))
    ends = _read_array(archive, f"{name}.ends", np.dtype("<i8"))
    utf8 = _read_array(archive, f"{name}.utf8", np.dtype("u1"))
    starts_and_ends = np.concatenate(([0], ends))
    if (np.diff(starts_and_ends) < 0).any() or starts_and_ends[-1] != len(utf8) or (codes >= len(ends)).any():
        raise ValueError(f"the texts of {name} reach out of its bytes")
    return Texts(codes, ends, utf8)


def _read_array(archive: zipfile.ZipFile, name: str, dtype: np.dtype[Any]) -> NDArray[Any]:
    member = archive.getinfo(f"{name}.npy")
    if member.compress_type != zipfile.ZIP_STORED:  # its bytes are then no more than the file's
        raise ValueError(f"{name} is compressed")
    array = read_npy(np.frombuffer(archive.read(member), np.uint8))
    if array.dtype != dtype or array.ndim != 1:
        raise ValueError(f"{name} is {array.dtype} {list(array.shape)}, not {dtype} [V]")
    return array


def _check(columns: dict[str, Any]) -> None:
    lengths = {len(column) for column in columns.values()}
    if len(lengths) > 1:
        raise ValueError(f"its columns have {sorted(lengths)} entries")
    for side in ("height", "width"):
        if not ((columns[side] >= SIDES[0]) & (columns[side] < SIDES[1])).all():
            raise ValueError(f"a {side} is not from {SIDES[0]} to {SIDES[1] - 1} pixels")
    if not (columns["frames"] > 0).all():
        raise ValueError("a video has no frames")
    if not (columns["frame_rate"] >= 0).all() or np.isinf(columns["frame_rate"]).any():
        raise ValueError("a frame_rate is no finite number from 0")
    if not set(columns["color"].different) <= {"grey", "rgb"}:
        raise ValueError(f"a color is neither grey nor rgb: {sorted(columns['color'].different)}")
