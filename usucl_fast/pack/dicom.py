"""One DICOM file -> its pictures, frame by frame.

Nothing but pixels leaves this module, and what `Header` has; messages name no attribute's value.
"""

import contextlib
import io
import itertools
import logging
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import av
import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import generate_fragments, generate_frames, parse_basic_offsets
from pydicom.multival import MultiValue
from pydicom.pixels import apply_color_lut, apply_modality_lut, get_decoder, iter_pixels, pixel_array
from pydicom.uid import (
    UID,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLSLossless,
    JPEGLSNearLossless,
    MPEGTransferSyntaxes,
    RLELossless,
)

from usucl_fast.errors import DecodeError
from usucl_fast.pack.container import open_stream
from usucl_fast.pack.sector import Box
from usucl_fast.pack.upright import Upright
from usucl_fast.pack.video import MOST_PIXELS, Header, Video, frame_of

# Messages of pydicom quote attributes.
pydicom.config.settings.reading_validation_mode = pydicom.config.IGNORE
warnings.filterwarnings("ignore", module=r"pydicom\..*")
logging.getLogger("pydicom").setLevel(logging.CRITICAL + 1)

TISSUE = 1  # RegionSpatialFormat: a 2-D image, not an M-mode, a spectrum or a curve
PLUGINS = {"JPEG-LS": "pyjpegls", "JPEG 2000": "pylibjpeg-openjpeg", "JPEG": "python-gdcm"}
# pydicom would take the first in the alphabet, which needs six and two times as long.
FASTEST = {JPEGBaseline8Bit: "pillow", JPEGLSLossless: "pyjpegls", JPEGLSNearLossless: "pyjpegls"}
STREAMS = frozenset(MPEGTransferSyntaxes)
"""Ways of compression that are those of video files: MPEG-2, H.264, HEVC."""
CODESTREAMS = (b"\xff\xd8", b"\xff\x4f")
"""How a picture in JPEG, JPEG-LS and JPEG 2000 begins."""
CENTIMETRES = 3  # PhysicalUnitsXDirection
WANTED = [
    *("PatientID", "BurnedInAnnotation", "SequenceOfUltrasoundRegions", "NumberOfFrames"),
    *("FrameTime", "FrameTimeVector", "CineRate", "RecommendedDisplayFrameRate", "Rows", "Columns", "SamplesPerPixel"),
    *("PhotometricInterpretation", "BitsAllocated", "BitsStored", "PixelRepresentation", "RescaleSlope"),
    *("RescaleIntercept", "WindowCenter", "WindowWidth", "VOILUTFunction", "VOILUTSequence", "ModalityLUTSequence"),
    *("PixelAspectRatio", "PixelSpacing", "HighBit", "PlanarConfiguration"),
    *(f"{color}PaletteColorLookupTable{what}" for color in ("Red", "Green", "Blue") for what in ("Descriptor", "Data")),
    *(f"Segmented{color}PaletteColorLookupTableData" for color in ("Red", "Green", "Blue")),
]


def open_dicom(path: Path, damaged: str = "refuse") -> Video:
    """Opens a DICOM file.

    damaged: what becomes of damaged pictures: `refuse`, `drop` or `warn`.

    Raises:
        DecodeError: it is no DICOM file, or holds no picture.
    """
    with _faults():
        found = _read(path)
        header = _header(found)
        upright = Upright(_aspect(found))
    if found.file_meta.TransferSyntaxUID in STREAMS:
        video = open_stream(_stream(path, found), damaged)
        return replace(video, header=header, frame_rate=header.frame_rate or video.frame_rate)
    return Video(upright.each(decode(path, upright.notes)), header.frame_rate, header, upright.notes)


def read_header(path: Path) -> Header:
    """Reads all but the pixels.

    Raises:
        DecodeError: it is no DICOM file, or holds no picture.
    """
    with _faults():
        return _header(_read(path))


def _header(found: Dataset) -> Header:
    return Header(
        patient=str(found.get("PatientID") or "").strip(),
        frame_rate=_frame_rate(found),
        burned_in=str(found.get("BurnedInAnnotation") or "").strip().upper() == "YES",
        regions=tuple(_regions(found)),
    )


def decode(path: Path, notes: list[str] | None = None) -> Iterator[tuple[av.VideoFrame, float]]:
    """Yields every picture with its time in seconds from the first; without a frame rate, its number for it.

    notes: gets what was guessed, for a person to read.

    A grey picture comes as `gray`, one in YBR_FULL as `yuvj444p`, which it is, any other as `rgb24`.

    Raises:
        DecodeError: it does not decode to its end, or a plugin is missing for its compression.
    """
    with _faults():
        found = _read(path)
        _check_plugin(found.file_meta.TransferSyntaxUID)
        source = _source(path, found, [] if notes is None else notes)
        times = _times(found)
        to_frame = _Converter(found, lambda: _arrays(source, found, len(times)))
        arrays = _arrays(source, found, len(times))
    for number, time in enumerate(times):
        with _faults(number):
            array = next(arrays, None)
            if array is None:
                raise DecodeError(f"ends after {number} of its {len(times)} pictures")
            picture = to_frame(*array)
        yield picture, time


def _source(path: Path, found: Dataset, notes: list[str]) -> Path | Dataset:
    """What the pixels are read from: the file, or, where that cannot be read piece by piece, the whole of it."""
    syntax = found.file_meta.TransferSyntaxUID
    uncounted = not found.get("NumberOfFrames")
    # Compressed, it is small, and only so pydicom says what colour space a JPEG is in.
    if not (uncounted or syntax.is_compressed or syntax.is_deflated or found.get("guessed_syntax")):
        return path
    whole = pydicom.dcmread(path, force=True)
    if not hasattr(whole, "file_meta"):
        whole.file_meta = FileMetaDataset()
    whole.file_meta.TransferSyntaxUID = syntax
    if uncounted:
        found.NumberOfFrames = whole.NumberOfFrames = frames = _count(whole, syntax)
        if frames > 1:
            notes.append(f"says nothing of how many pictures it holds; there are bytes for {frames}")
    return whole


def _count(whole: Dataset, syntax: UID) -> int:
    """How many pictures a file that does not say it has bytes for."""
    if syntax.is_encapsulated:
        stream = io.BytesIO(whole.PixelData)
        parse_basic_offsets(stream)  # stands before the first fragment
        starts = [fragment[:2] for fragment in generate_fragments(stream)]
        return max(1, len(starts) if syntax == RLELossless else sum(start in CODESTREAMS for start in starts))
    samples = max(1, int(whole.get("SamplesPerPixel") or 1))
    bits = int(whole.Rows) * int(whole.Columns) * samples * int(whole.BitsAllocated)
    if whole.PhotometricInterpretation == "YBR_FULL_422":
        bits = bits * 2 // 3
    return max(1, len(whole.PixelData) * 8 // bits)


def _stream(path: Path, found: Dataset) -> bytes:
    """The video file that is inside one of a syntax in `STREAMS`."""
    with _faults():
        whole = pydicom.dcmread(path, force=True)
        return next(generate_frames(whole.PixelData, number_of_frames=1))


def _arrays(source: Path | Dataset, found: Dataset, frames: int) -> Iterator[tuple[NDArray[Any], str]]:
    """The stored values, read frame by frame, and the colour space that they are in: of a JPEG, its own."""
    syntax, kind = found.file_meta.TransferSyntaxUID, str(found.PhotometricInterpretation)
    if not syntax.is_compressed and kind == "YBR_FULL_422":
        # pydicom 3.0 looks for the second frame in the wrong place when it iterates over these.
        return ((pixel_array(source, index=number, raw=True), kind) for number in range(frames))
    if isinstance(source, Path):
        return ((array, kind) for array in iter_pixels(source, raw=True))
    return _decoded(source, syntax)


def _decoded(source: Dataset, syntax: UID) -> Iterator[tuple[NDArray[Any], str]]:
    """By the fastest plugin, and what it does not decode by one of the others after the other."""
    decoder = get_decoder(syntax)
    plugins = sorted(decoder.available_plugins, key=lambda name: name != FASTEST.get(syntax)) or [""]
    number = 0
    for plugin in plugins:
        try:
            pictures = decoder.iter_array(source, raw=True, decoding_plugin=plugin)
            for array, facts in itertools.islice(pictures, number, None):
                yield array, str(facts["photometric_interpretation"])
                number += 1
            return
        except Exception:  # pydicom and its plugins raise everything
            if plugin != plugins[-1]:
                continue
            if syntax == JPEGExtended12Bit and int(source.BitsStored) > 8 and "pylibjpeg" not in plugins:
                needed = f"needs another plugin for {syntax.name} of {source.BitsStored} bits"
                raise DecodeError(f"{needed}: pip install pylibjpeg-libjpeg") from None
            raise


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
    found = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=WANTED, force=True)
    if not hasattr(found, "file_meta") or "TransferSyntaxUID" not in found.file_meta:
        implicit = found.original_encoding[0] is not False
        found.file_meta = FileMetaDataset()
        found.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian if implicit else ExplicitVRLittleEndian
        found.guessed_syntax = True
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
        if any(region.get(f"RegionLocation{corner}") is None for corner in ("MinX0", "MinY0", "MaxX1", "MaxY1")):
            continue
        left, top = max(0, int(region.RegionLocationMinX0)), max(0, int(region.RegionLocationMinY0))
        right = min(int(found.Columns), int(region.RegionLocationMaxX1) + 1)
        bottom = min(int(found.Rows), int(region.RegionLocationMaxY1) + 1)
        if left < right and top < bottom:
            yield left, top, right, bottom


def _aspect(found: Dataset) -> float:
    """Width of a pixel by its height."""
    # PixelSpacing and PixelAspectRatio are down, then across (PS3.3 10.7.1, C.7.6.3.1.7).
    for name in ("PixelSpacing", "PixelAspectRatio"):
        pair = found.get(name)
        if isinstance(pair, MultiValue) and len(pair) == 2 and float(pair[0]) > 0 and float(pair[1]) > 0:
            return float(pair[1]) / float(pair[0])
    for region in found.get("SequenceOfUltrasoundRegions") or ():
        across, down = region.get("PhysicalDeltaX"), region.get("PhysicalDeltaY")
        same = region.get("PhysicalUnitsXDirection") == region.get("PhysicalUnitsYDirection") == CENTIMETRES
        if region.get("RegionSpatialFormat") == TISSUE and same and across and down:
            return abs(float(across) / float(down))
    return 1.0


def _check_plugin(syntax: UID) -> None:
    try:
        available = get_decoder(syntax).is_available
    except NotImplementedError as error:
        raise DecodeError(f"is compressed in a way that nothing here reads ({syntax.name})") from error
    if not available:
        package = next((package for name, package in PLUGINS.items() if name in syntax.name), "python-gdcm")
        raise DecodeError(f"needs a plugin for {syntax.name}: pip install {package}")


class _Converter:
    """How the arrays of a file, `[rows, columns]` or `[rows, columns, 3]`, become pictures.

    again: iterates over all arrays anew, for who must see all of them first.
    """

    def __init__(self, found: Dataset, again: Callable[[], Iterator[tuple[NDArray[Any], str]]]) -> None:
        self._found, self._again = found, again
        self._of: dict[str, Callable[[NDArray[Any]], av.VideoFrame]] = {}

    def __call__(self, array: NDArray[Any], kind: str) -> av.VideoFrame:
        """The picture of an array in a colour space, which a JPEG may know better than the header."""
        if array.ndim == 2 and kind not in ("MONOCHROME1", "MONOCHROME2", "PALETTE COLOR"):
            kind = "MONOCHROME2"
        if kind not in self._of:
            self._of[kind] = _converter(self._found, kind, self._again)
        return self._of[kind](array)


def _converter(
    found: Dataset, kind: str, again: Callable[[], Iterator[tuple[NDArray[Any], str]]]
) -> Callable[[NDArray[Any]], av.VideoFrame]:
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

    pydicom takes entries for as wide as they are stored; some machines store 8 bits in words of 16.
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
    """Stored values -> grey levels 0 .. 255, the same for all pictures of a file.

    The modality's table or slope first, then the window or table of values of interest, as PS3.3 C.11 has them. Without
    such, 8 bits are taken as they are, and of more the range that all pictures together have.
    """

    def __init__(self, found: Dataset, again: Callable[[], Iterator[tuple[NDArray[Any], str]]]) -> None:
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
        levels = np.asarray(
            table.LUTData if isinstance(table.LUTData, MultiValue) else np.frombuffer(table.LUTData, "<u2")
        )
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
