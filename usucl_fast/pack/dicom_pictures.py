"""Stored values of a DICOM file -> pictures: palettes, grey levels, windows."""

from collections.abc import Callable, Iterator
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue
from pydicom.pixels import apply_color_lut, apply_modality_lut

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
        colors = _palette(found)
        return lambda array: frame_of(colors[np.minimum(array, len(colors) - 1)], "rgb24")
    shift = max(0, int(found.BitsStored) - 8)
    if kind in ("YBR_FULL", "YBR_FULL_422"):
        return lambda array: frame_of(np.moveaxis((array >> shift).astype(np.uint8), -1, 0), "yuvj444p")
    if kind in ("RGB", "YBR_RCT", "YBR_ICT"):  # the last two are ways of JPEG 2000, undone by its decoder
        return lambda array: frame_of((array >> shift).astype(np.uint8), "rgb24")
    raise DecodeError("is in a colour space that is not supported")


def _palette(found: Dataset) -> NDArray[np.uint8]:
    """The colours, `[indices, 3]`.

    pydicom assumes that entries use all their stored bits; some machines store 8 bits in words of 16.
    """
    allocated = int(found.BitsAllocated)
    if allocated not in (8, 16):
        raise DecodeError(f"has palette indices of {allocated} bits; 8 and 16 are known")
    bits = int(found.RedPaletteColorLookupTableDescriptor[2])
    if bits not in (8, 16):
        raise DecodeError(f"has a palette of {bits} bits; 8 and 16 are known")
    indices = np.arange(1 << allocated, dtype=f"uint{allocated}")
    colors = apply_color_lut(indices[None], found)[0, :, :3]
    if colors.itemsize == 2 and colors.max() > 255:
        colors = colors >> 8
    return colors.astype(np.uint8)


class _Grey:
    """Converts stored values to grey levels 0 ... 255, alike for all pictures of a file.

    The modality's table or slope first, then the window or table of values of interest, as PS3.3 C.11 has them. Without
    these, 8 bits are unchanged, and of more bits the range of all pictures together is used.
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
        values = apply_modality_lut(stored, found).astype(np.float64)
        shown = _of_interest(found, values)
        if shown is None:
            low, high = 0.0, 255.0
            if int(found.BitsStored) > 8 or dtype.kind == "i" or not np.array_equal(values, stored):
                seen = [(int(array.min()), int(array.max())) for array, _ in self._again()]
                ends = values[[min(low for low, _ in seen), max(high for _, high in seen)]]
                low, high = float(ends.min()), float(max(ends.max(), ends.min() + 1))
            shown = (values - low) / (high - low)
        table = (shown * 255).round().clip(0, 255).astype(np.uint8)
        return 255 - table if found.PhotometricInterpretation == "MONOCHROME1" else table


def _of_interest(found: Dataset, values: NDArray[np.float64]) -> NDArray[np.float64] | None:
    """The values as the file's window or table shows them, 0 to 1; None where it has neither."""
    if found.get("VOILUTSequence"):
        table = found.VOILUTSequence[0]
        first, bits = int(table.LUTDescriptor[1]), int(table.LUTDescriptor[2])
        data = table.LUTData
        levels = np.asarray(data if isinstance(data, MultiValue) else np.frombuffer(data, "<u2"))
        places = (values - first).round().clip(0, len(levels) - 1).astype(np.int64)
        shown: NDArray[np.float64] = levels[places] / float((1 << bits) - 1)
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
