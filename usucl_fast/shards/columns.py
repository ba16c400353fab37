"""Columns of texts and numbers in an uncompressed NumPy archive: how the tables of the shards are stored."""

import io
import struct
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Self, TypeVar, overload

import numpy as np
from numpy.typing import NDArray

from usucl_fast.errors import DataError, first_line
from usucl_fast.files import write_whole
from usucl_fast.shards.npy import read_npy

Table = TypeVar("Table")


class Texts(Sequence[str]):
    """A column of strings in which each different one is stored once.

    codes: `[V]`, which of the different ones each is; they are numbered as they first appear.
    """

    def __init__(self, codes: NDArray[np.uint32], ends: NDArray[np.int64], utf8: NDArray[np.uint8]) -> None:
        self.codes = codes
        self._ends, self._utf8 = ends, utf8

    @classmethod
    def of(cls, texts: Iterable[str]) -> Self:
        """Makes a column of strings."""
        number: dict[str, int] = {}
        return cls.coded(np.array([number.setdefault(text, len(number)) for text in texts], "<u4"), list(number))

    @classmethod
    def coded(cls, codes: NDArray[np.uint32], different: Sequence[str]) -> Self:
        """Makes a column from codes `[V]` and the different strings that they stand for."""
        encoded = [text.encode() for text in different]
        ends = np.cumsum([len(text) for text in encoded], dtype="<i8")
        return cls(codes.astype("<u4"), ends, np.frombuffer(b"".join(encoded), np.uint8))

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
    def is_distinct(self) -> bool:
        """Whether each string has one code only, so that different codes are different strings."""
        utf8, ends = self._utf8.tobytes(), self._ends.tolist()
        return len({utf8[start:end] for start, end in zip([0, *ends], ends, strict=False)}) == len(ends)

    def consists_of(self, letters: str, most: int) -> bool:
        """Whether each string consists of 1 to `most` of these ASCII letters."""
        lengths = np.diff(self._ends, prepend=0)
        return bool(((lengths > 0) & (lengths <= most)).all()) and not self._utf8.tobytes().translate(
            None, letters.encode()
        )

    @property
    def is_empty(self) -> NDArray[np.bool_]:
        """`[V]`: whether each string is empty."""
        return (np.diff(self._ends, prepend=0) == 0)[self.codes]

    def _text(self, code: int) -> str:
        start = int(self._ends[code - 1]) if code else 0
        return self._utf8[start : int(self._ends[code])].tobytes().decode(errors="replace")

    def arrays(self) -> dict[str, NDArray[Any]]:
        """The arrays that the column consists of, by name."""
        return {"codes": self.codes, "ends": self._ends, "utf8": self._utf8}


def write_columns(path: Path, columns: Mapping[str, Texts | NDArray[Any]]) -> None:
    """Writes columns as an uncompressed NumPy archive, whole or not at all."""
    arrays: dict[str, NDArray[Any]] = {}
    for name, column in columns.items():
        parts = column.arrays() if isinstance(column, Texts) else {"": column}
        arrays |= {f"{name}.{part}".rstrip("."): array for part, array in parts.items()}
    with write_whole(path) as file:
        np.savez(file, allow_pickle=False, **arrays)


class Columns(zipfile.ZipFile):
    """An archive of columns in memory, which are read without a copy of them."""

    def __init__(self, data: bytes) -> None:
        super().__init__(io.BytesIO(data))
        self._data = data

    def bytes_of(self, name: str) -> NDArray[np.uint8]:
        """uint8 `[bytes]` of the file of that name in it. Raises ValueError where it is compressed or damaged."""
        member = self.getinfo(name)
        if member.compress_type != zipfile.ZIP_STORED:  # its bytes are then no more than the archive's
            raise ValueError(f"{name} is compressed")
        lengths = struct.unpack_from("<HH", self._data, member.header_offset + 26)  # of what stands before it
        start = member.header_offset + 30 + sum(lengths)
        if start + member.file_size > len(self._data):
            raise ValueError(f"{name} reaches out of its archive")
        return np.frombuffer(self._data, np.uint8, member.file_size, start)


def read_columns(data: bytes, place: str, read: Callable[[Columns], Table]) -> Table:
    """Opens an archive of columns for `read`, which takes them out with `read_texts` and `read_numbers`.

    place: the file, as messages name it.

    Raises:
        DataError: it is damaged, or `read` raises ValueError.
    """
    try:
        with Columns(data) as archive:
            return read(archive)
    except Exception as error:  # zipfile raises whatever damage leads it to
        raise DataError(f"{place} is damaged ({first_line(error)}); restore it, or pack the videos again") from error


def read_texts(archive: Columns, name: str) -> Texts:
    """A column of texts. Raises ValueError where it is damaged."""
    codes = read_numbers(archive, f"{name}.codes", np.dtype("<u4"))
    ends = read_numbers(archive, f"{name}.ends", np.dtype("<i8"))
    utf8 = read_numbers(archive, f"{name}.utf8", np.dtype("u1"))
    starts_and_ends = np.concatenate(([0], ends))
    is_in_order = (starts_and_ends[1:] >= starts_and_ends[:-1]).all()  # a difference might overflow
    if not is_in_order or starts_and_ends[-1] != len(utf8) or (codes >= len(ends)).any():
        raise ValueError(f"the texts of {name} reach out of its bytes")
    try:
        utf8.tobytes().decode()
        if (utf8[ends[ends < len(utf8)]] & 0xC0 == 0x80).any():
            raise ValueError("a text begins within a letter")
    except ValueError as error:
        raise ValueError(f"the texts of {name} are not UTF-8 ({error})") from error
    return Texts(codes, ends, utf8)


def read_numbers(archive: Columns, name: str, dtype: np.dtype[Any]) -> NDArray[Any]:
    """A column of numbers, or of records of them. Raises ValueError where it is damaged."""
    stored = archive.bytes_of(f"{name}.npy")
    try:
        return read_npy(stored, dtype)
    except ValueError as error:
        raise ValueError(f"{name} {error}") from error
