"""Stored values of a DICOM file -> pictures: palettes, grey levels, windows."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Self

import av
import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue
from pydicom.pixels import apply_color_lut

from usucl_fast.errors import DecodeError
from usucl_fast.pack.video import frame_of

Arrays = Iterator[tuple[NDArray[Any], str]]
"""Stored values, `[rows, columns]` or `[rows, columns, 3]`, and their colour space."""


class Converter:
    """Converts the arrays of a file, `[rows, columns]` or `[rows, columns, 3]`, to pictures.

    again: iterates over all arrays anew, where all of them have to be seen first.
    """

    def __init__(self, found: Dataset, again: Callable[[], Arrays]) -> None:
        self._found, self._again = found, again
        self._of: dict[str, Callable[[NDArray[Any]], av.VideoFrame]] = {}

    def __call__(self, array: NDArray[Any], kind: str) -> av.VideoFrame:
        """Converts an array in a colour space, which a JPEG may state more reliably than the header."""
        if array.ndim == 2 and kind not in ("MONOCHROME1", "MONOCHROME2", "PALETTE COLOR"):
            kind = "MONOCHROME2"
        if kind not in self._of:
            self._of[kind] = _converter(self._found, kind, self._again)
        return self._of[kind](array)


def _converter(found: Dataset, kind: str, again: Callable[[], Arrays]) -> Callable[[NDArray[Any]], av.VideoFrame]:
    if kind in ("MONOCHROME1", "MONOCHROME2"):
        return _Grey(found, again)
    if kind == "PALETTE COLOR":
        first, colors = _palette(found)
        last = len(colors) - 1
        return lambda array: frame_of(colors[(array.astype(np.int64) - first).clip(0, last)], "rgb24")
    shift = max(0, int(found.BitsStored) - 8)
    if kind in ("YBR_FULL", "YBR_FULL_422"):
        return lambda array: frame_of(np.moveaxis((array >> shift).astype(np.uint8), -1, 0), "yuvj444p")
    if kind in ("RGB", "YBR_RCT", "YBR_ICT"):  # the last two are ways of JPEG 2000, undone by its decoder
        return lambda array: frame_of((array >> shift).astype(np.uint8), "rgb24")
    raise DecodeError("is in a colour space that is not supported")


def _palette(found: Dataset) -> tuple[int, NDArray[np.uint8]]:
    """The index that the first colour is of, and the colours, `[count, 3]`: PS3.3 C.7.6.3.1.5."""
    allocated = int(found.BitsAllocated)
    if allocated not in (8, 16):
        raise DecodeError(f"has palette indices of {allocated} bits; 8 and 16 are known")
    descriptor = found.RedPaletteColorLookupTableDescriptor
    if int(descriptor[2]) not in (8, 16):
        raise DecodeError(f"has a palette of {int(descriptor[2])} bits; 8 and 16 are known")
    if "SegmentedRedPaletteColorLookupTableData" in found:
        first, indices = 0, np.arange(1 << allocated, dtype=f"uint{allocated}")
        colors = apply_color_lut(indices[None], found)[0, :, :3].astype(np.int64)
    else:
        first, count = int(descriptor[1]) & 0xFFFF, int(descriptor[0])
        data = (found[f"{color}PaletteColorLookupTableData"].value for color in ("Red", "Green", "Blue"))
        colors = np.stack([_levels(one, count, found) for one in data], axis=-1)
    # Some machines store 8 bits in words that the table says are full.
    return first, (colors >> 8 if colors.max() > 255 else colors).astype(np.uint8)


def _levels(data: Any, count: int, found: Dataset) -> NDArray[np.int64]:
    """The levels of a lookup table, which has them as numbers, as words, or as bytes, two in a word (PS3.3 C.11.1.1.1).

    count: how many there are; 0 for 65,536.
    """
    count = count & 0xFFFF or 1 << 16
    if data is None or isinstance(data, bytes):
        data = data or b""
        order = "<" if found.file_meta.TransferSyntaxUID.is_little_endian else ">"
        words = np.frombuffer(data[: len(data) // 2 * 2], f"{order}u2")
        data = words if len(words) >= count else words.astype("<u2").view(np.uint8)
    levels = np.atleast_1d(np.asarray(data, np.int64))[:count]
    if not len(levels):
        raise DecodeError("has a lookup table without a level")
    return levels


class _Grey:
    """Converts stored values to grey levels 0 ... 255, alike for all pictures of a file.

    The modality's table or slope first, then the window or table of values of interest, as PS3.3 C.11 has them. Without
    these, 8 bits are unchanged, fewer fill the range, and of more bits the range of all pictures together is used.
    """

    def __init__(self, found: Dataset, again: Callable[[], Arrays]) -> None:
        self._found, self._again = found, again
        self._table: NDArray[np.uint8] | None = None

    def __call__(self, array: NDArray[Any]) -> av.VideoFrame:
        if self._table is None:
            self._table = self._make_table(array.dtype)
        # A negative value is an index from the end, where the table has it.
        return frame_of(self._table[array], "gray")

    def _make_table(self, dtype: np.dtype[Any]) -> NDArray[np.uint8]:
        found = self._found
        if dtype.itemsize > 2:
            raise DecodeError("has samples of more than 16 bits")
        stored = np.arange(1 << 8 * dtype.itemsize, dtype=np.int64)
        if dtype.kind == "i":
            stored[len(stored) // 2 :] -= len(stored)
        values = _of_modality(found, stored)
        shown = _of_interest(found, values)
        if shown is None:
            low, high = 0.0, float((1 << min(8, int(found.BitsStored))) - 1)
            if int(found.BitsStored) > 8 or dtype.kind == "i" or not np.array_equal(values, stored):
                seen = [(int(array.min()), int(array.max())) for array, _ in self._again()]
                ends = values[[min(low for low, _ in seen), max(high for _, high in seen)]]
                low, high = float(ends.min()), float(max(ends.max(), ends.min() + 1))
            shown = (values - low) / (high - low)
        table = (shown * 255).round().clip(0, 255).astype(np.uint8)
        return 255 - table if found.PhotometricInterpretation == "MONOCHROME1" else table


def _of_modality(found: Dataset, stored: NDArray[np.int64]) -> NDArray[np.float64]:
    """What the stored values stand for: PS3.3 C.11.1."""
    if found.get("ModalityLUTSequence"):
        table = _Table.of(found.ModalityLUTSequence[0], found, signed=bool(found.get("PixelRepresentation")))
        return table(stored)
    slope, intercept = (_first(found.get(f"Rescale{name}")) for name in ("Slope", "Intercept"))
    return stored.astype(np.float64) * (1 if slope is None else slope) + (intercept or 0)


@dataclass(frozen=True)
class _Table:
    """A lookup table (PS3.3 C.11.1.1.1): the first value that it has a level for, its levels, and the greatest one.

    What lies before or behind it has its first or last level.
    """

    first: int
    levels: NDArray[np.float64]
    most: int

    @classmethod
    def of(cls, item: Dataset, found: Dataset, signed: bool) -> Self:
        """Reads an item of a sequence.

        signed: whether there are values below 0.
        """
        count, first, bits = (int(number) & 0xFFFF for number in item.LUTDescriptor)
        if not 8 <= bits <= 16:
            raise DecodeError(f"has a table of {bits} bits; 8 to 16 are known")
        levels = _levels(item.LUTData, count, found).astype(np.float64)
        # Levels of 8 bits may stand in words that the table says are full.
        most = (1 << bits) - 1 if levels.max() > 255 else 255
        return cls(first - (1 << 16) if signed and first > 0x7FFF else first, levels, most)

    def __call__(self, values: NDArray[Any]) -> NDArray[np.float64]:
        places = (values - self.first).round().clip(0, len(self.levels) - 1).astype(np.int64)
        return self.levels[places]


def _of_interest(found: Dataset, values: NDArray[np.float64]) -> NDArray[np.float64] | None:
    """The values as the file's window or table shows them, 0 to 1; None where it has neither."""
    if found.get("VOILUTSequence"):
        table = _Table.of(found.VOILUTSequence[0], found, signed=bool(values.min() < 0))
        shown: NDArray[np.float64] = table(values) / table.most
        return shown
    center, width = (_first(found.get(f"Window{name}")) for name in ("Center", "Width"))
    if center is None or width is None or width <= 0:
        return None
    function = str(found.get("VOILUTFunction") or "LINEAR").upper()
    if function == "SIGMOID":
        return 1 / (1 + np.exp(-4 * (values - center) / width))
    if function == "LINEAR_EXACT" or width <= 1:
        return ((values - center) / width + 0.5).clip(0, 1)
    return ((values - (center - 0.5)) / (width - 1) + 0.5).clip(0, 1)


def _first(value: Any) -> float | None:
    if isinstance(value, MultiValue):
        value = value[0] if value else None
    return None if value in (None, "") else float(value)
