"""One DICOM file -> its pictures, frame by frame.

Nothing but pixels leaves this module, and what `Header` has; messages name no attribute's value.
"""

import contextlib
import itertools
import logging
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np
import pydicom
from av.video.reformatter import ColorRange
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue
from pydicom.pixels import apply_color_lut, get_decoder, iter_pixels, pixel_array
from pydicom.uid import UID, JPEGBaseline8Bit, JPEGExtended12Bit, JPEGLSLossless, JPEGLSNearLossless

from usucl_fast.errors import DecodeError
from usucl_fast.pack.sector import Box
from usucl_fast.pack.video import MOST_PIXELS, Header, Video

# Messages of pydicom quote attributes.
pydicom.config.settings.reading_validation_mode = pydicom.config.IGNORE
warnings.filterwarnings("ignore", module=r"pydicom\..*")
logging.getLogger("pydicom").setLevel(logging.CRITICAL + 1)

TISSUE = 1  # RegionSpatialFormat: a 2-D image, not an M-mode, a spectrum or a curve
PLUGINS = {"JPEG-LS": "pyjpegls", "JPEG 2000": "pylibjpeg-openjpeg", "JPEG": "python-gdcm"}
# pydicom would take the first in the alphabet, which needs six and two times as long.
FASTEST = {JPEGBaseline8Bit: "pillow", JPEGLSLossless: "pyjpegls", JPEGLSNearLossless: "pyjpegls"}
WANTED = [
    *("PatientID", "BurnedInAnnotation", "SequenceOfUltrasoundRegions", "NumberOfFrames"),
    *("FrameTime", "FrameTimeVector", "CineRate", "RecommendedDisplayFrameRate", "Rows", "Columns", "SamplesPerPixel"),
    *("PhotometricInterpretation", "BitsAllocated", "BitsStored", "PixelRepresentation", "RescaleSlope"),
    *("RescaleIntercept", "WindowCenter", "WindowWidth"),
    *(f"{color}PaletteColorLookupTable{what}" for color in ("Red", "Green", "Blue") for what in ("Descriptor", "Data")),
    *(f"Segmented{color}PaletteColorLookupTableData" for color in ("Red", "Green", "Blue")),
]


def open_dicom(path: Path) -> Video:
    """Opens a DICOM file.

    Raises:
        DecodeError: it is no DICOM file, or holds no picture.
    """
    header = read_header(path)
    return Video(decode(path), header.frame_rate, header)


def read_header(path: Path) -> Header:
    """Reads all but the pixels.

    Raises:
        DecodeError: it is no DICOM file, or holds no picture.
    """
    with _faults():
        found = _read(path)
        return Header(
            patient=str(found.get("PatientID") or "").strip(),
            frame_rate=_frame_rate(found),
            burned_in=str(found.get("BurnedInAnnotation") or "").strip().upper() == "YES",
            regions=tuple(_regions(found)),
        )


def decode(path: Path) -> Iterator[tuple[av.VideoFrame, float]]:
    """Yields every picture with its time in seconds from the first; without a frame rate, its number for it.

    A grey picture comes as `gray`, one in YBR_FULL as `yuvj444p`, which it is, any other as `rgb24`.

    Raises:
        DecodeError: it does not decode to its end, or a plugin is missing for its compression.
    """
    with _faults():
        found = _read(path)
        to_frame = _converter(found)
        times = _times(found)
        _check_plugin(found.file_meta.TransferSyntaxUID, int(found.BitsStored))
        arrays = _arrays(path, found, len(times))
    for number, time in enumerate(times):
        with _faults(number):
            array = next(arrays, None)
            if array is None:
                raise DecodeError(f"ends after {number} of its {len(times)} pictures")
            picture = to_frame(array)
        yield picture, time


def _arrays(path: Path, found: Dataset, frames: int) -> Iterator[NDArray[Any]]:
    """The stored values, read from the file frame by frame."""
    syntax = found.file_meta.TransferSyntaxUID
    if syntax.is_deflated:  # one stream
        return iter_pixels(pydicom.dcmread(path), raw=True)
    if not syntax.is_compressed and found.PhotometricInterpretation == "YBR_FULL_422":
        # pydicom 3.0 looks for the second frame in the wrong place when it iterates over these.
        return (pixel_array(path, index=number, raw=True) for number in range(frames))
    return _decoded(path, FASTEST.get(syntax, ""))


def _decoded(path: Path, plugin: str) -> Iterator[NDArray[Any]]:
    """By `plugin`, and what it does not decode by any other."""
    number = 0
    try:
        for array in iter_pixels(path, raw=True, decoding_plugin=plugin):
            yield array
            number += 1
    except Exception:  # pydicom and its plugins raise everything
        if not plugin:  # any other has been tried
            raise
        yield from itertools.islice(iter_pixels(path, raw=True), number, None)


@contextlib.contextmanager
def _faults(number: int = 0) -> Iterator[None]:
    """What pydicom and its plugins raise, and that is everything, as DecodeError."""
    try:
        yield
    except DecodeError:
        raise
    except Exception as error:
        where = f"stops decoding at picture {number}" if number else "does not decode"
        raise DecodeError(f"{where}: damaged DICOM, or of an unknown kind ({type(error).__name__})") from error


def _read(path: Path) -> Dataset:
    found = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=WANTED)
    if not found.get("Rows") or not found.get("Columns") or not found.get("PhotometricInterpretation"):
        raise DecodeError("holds no picture (a DICOM report or table)")
    samples = max(1, int(found.get("SamplesPerPixel") or 1))
    pixels = int(found.Rows) * int(found.Columns) * samples
    syntax = found.file_meta.TransferSyntaxUID
    # What a picture takes at least; two pixels share their colour in YBR_FULL_422, and compression can do anything.
    bits = (
        0
        if syntax.is_compressed or syntax.is_deflated
        else pixels * int(found.BitsAllocated) * (2 if samples == 3 else 3) // 3
    )
    frames = int(found.get("NumberOfFrames") or 1)
    if pixels > MOST_PIXELS or frames * max(1, bits // 8) > path.stat().st_size:
        raise DecodeError("claims to hold larger or more pictures than it has bytes for")
    return found


def _times(found: Dataset) -> list[float]:
    """Seconds of every picture; their numbers where the file says nothing."""
    frames = max(1, int(found.get("NumberOfFrames") or 1))
    vector = found.get("FrameTimeVector")
    if isinstance(vector, MultiValue) and len(vector) == frames:
        elapsed = np.cumsum(np.asarray(vector, float)) / 1e3
        return [float(time) for time in elapsed - elapsed[0]]
    rate = _frame_rate(found) or 1.0
    return [number / rate for number in range(frames)]


def _frame_rate(found: Dataset) -> float:
    if found.get("FrameTime"):
        return 1e3 / float(found.FrameTime)
    vector = found.get("FrameTimeVector")
    if isinstance(vector, MultiValue) and len(vector) > 1 and sum(map(float, vector[1:])) > 0:
        return 1e3 * (len(vector) - 1) / sum(map(float, vector[1:]))
    return float(found.get("CineRate") or found.get("RecommendedDisplayFrameRate") or 0)


def _regions(found: Dataset) -> Iterator[Box]:
    for region in found.get("SequenceOfUltrasoundRegions") or ():
        if region.get("RegionSpatialFormat") != TISSUE:
            continue
        # DICOM's corners are part of the region (PS3.3 C.8.5.5).
        left, top = max(0, int(region.RegionLocationMinX0)), max(0, int(region.RegionLocationMinY0))
        right = min(int(found.Columns), int(region.RegionLocationMaxX1) + 1)
        bottom = min(int(found.Rows), int(region.RegionLocationMaxY1) + 1)
        if left < right and top < bottom:
            yield left, top, right, bottom


def _check_plugin(syntax: UID, bits: int) -> None:
    if not get_decoder(syntax).is_available:
        package = next((package for name, package in PLUGINS.items() if name in syntax.name), "python-gdcm")
        raise DecodeError(f"needs a plugin for {syntax.name}: pip install {package}")
    if syntax == JPEGExtended12Bit and bits > 8 and "pylibjpeg" not in get_decoder(syntax).available_plugins:
        raise DecodeError(f"needs another plugin for {syntax.name} of {bits} bits: pip install pylibjpeg-libjpeg")


def _converter(found: Dataset) -> Callable[[NDArray[Any]], av.VideoFrame]:
    """How the arrays of this file, `[rows, columns]` or `[rows, columns, 3]`, become pictures."""
    kind = found.PhotometricInterpretation
    if kind in ("MONOCHROME1", "MONOCHROME2"):
        return _Grey(found)
    if kind == "PALETTE COLOR":
        indices = np.arange(1 << int(found.BitsAllocated), dtype=f"uint{int(found.BitsAllocated)}")
        colors = apply_color_lut(indices[None], found)[0, :, :3]
        colors = (colors >> (8 * colors.itemsize - 8)).astype(np.uint8)
        return lambda array: _frame(colors[array], "rgb24")
    shift = max(0, int(found.BitsStored) - 8)
    if kind in ("YBR_FULL", "YBR_FULL_422"):
        return lambda array: _frame(np.moveaxis((array >> shift).astype(np.uint8), -1, 0), "yuvj444p")
    if kind in ("RGB", "YBR_RCT", "YBR_ICT"):  # the last two are ways of JPEG 2000, undone by its decoder
        return lambda array: _frame((array >> shift).astype(np.uint8), "rgb24")
    raise DecodeError("is in a colour space that is not supported")


class _Grey:
    """Stored values -> grey levels 0 .. 255, the same for all pictures of a file.

    8 bits are taken as they are. More are windowed; without a window, the first picture's range is taken.
    """

    def __init__(self, found: Dataset) -> None:
        self._found = found
        self._table: NDArray[np.uint8] | None = None

    def __call__(self, array: NDArray[Any]) -> av.VideoFrame:
        if self._table is None:
            self._table = self._make_table(array)
        # A negative value is an index from the end, where the table has it.
        return _frame(self._table[array], "gray")

    def _make_table(self, first: NDArray[Any]) -> NDArray[np.uint8]:
        found = self._found
        bits, signed = int(found.BitsStored), bool(found.get("PixelRepresentation"))
        if first.dtype.itemsize > 2:
            raise DecodeError("has samples of more than 16 bits")
        values = np.arange(1 << 8 * first.dtype.itemsize, dtype=np.float64)
        if signed:
            values[len(values) // 2 :] -= len(values)
        low = -(2.0 ** (bits - 1)) if signed else 0.0
        high = low + 2.0**bits - 1
        if bits > 8:
            slope, intercept = float(found.get("RescaleSlope") or 1), float(found.get("RescaleIntercept") or 0)
            center, width = (_first(found.get(f"Window{name}")) for name in ("Center", "Width"))
            if center is not None and width is not None and width > 1:
                # The linear function of PS3.3 C.11.2.1.2, of rescaled values.
                values = values * slope + intercept
                low, high = center - 0.5 - (width - 1) / 2, center - 0.5 + (width - 1) / 2
            else:
                low, high = float(first.min()), max(float(first.max()), float(first.min()) + 1)
        table = ((values - low) / (high - low) * 255).round().clip(0, 255).astype(np.uint8)
        return 255 - table if found.PhotometricInterpretation == "MONOCHROME1" else table


def _first(value: Any) -> float | None:
    if isinstance(value, MultiValue):
        value = value[0] if value else None
    return None if value in (None, "") else float(value)


def _frame(array: NDArray[Any], format: str) -> av.VideoFrame:
    frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(array, np.uint8), format=format)
    frame.color_range = ColorRange.JPEG
    return frame
