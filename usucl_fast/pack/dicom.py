"""One DICOM file -> its pictures, frame by frame.

Nothing but pixels leaves this module, and what `Header` has; messages name no attribute's value.
"""

import contextlib
import io
import itertools
import logging
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pydicom
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import generate_fragments, generate_frames, parse_basic_offsets
from pydicom.multival import MultiValue
from pydicom.pixels import get_decoder, iter_pixels, pixel_array
from pydicom.uid import (
    UID,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLSLossless,
    JPEGLSNearLossless,
    JPEGTransferSyntaxes,
    MPEGTransferSyntaxes,
    RLELossless,
)

from usucl_fast.errors import DecodeError
from usucl_fast.pack.container import open_stream
from usucl_fast.pack.dicom_pictures import Arrays, Converter
from usucl_fast.pack.jpeg import space_of
from usucl_fast.pack.sector import Box
from usucl_fast.pack.upright import Upright
from usucl_fast.pack.video import MOST_PIXELS, Header, Video

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
JPEG_XL = tuple(f"1.2.840.10008.1.2.4.{number}" for number in (110, 111, 112))  # pydicom has no name for it
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

    damaged: what to do about damaged pictures: `refuse`, `drop` or `warn`.

    Raises:
        DecodeError: it is not a DICOM file, or holds no picture.
    """
    with _faults():
        found = _read(path)
        header = _header(found)
        upright = Upright(_aspect(found))
    if found.file_meta.TransferSyntaxUID in STREAMS:
        video = open_stream(_stream(path, found), damaged)
        return replace(video, header=header, frame_rate=header.frame_rate or video.frame_rate)
    return Video(upright.each(decode(path, upright.notes)), header.frame_rate, header, upright.notes)


def _header(found: Dataset) -> Header:
    return Header(
        patient=str(found.get("PatientID") or "").strip(),
        frame_rate=_frame_rate(found),
        burned_in=str(found.get("BurnedInAnnotation") or "").strip().upper() == "YES",
        regions=tuple(_regions(found)),
    )


def decode(path: Path, notes: list[str] | None = None) -> Iterator[tuple[av.VideoFrame, float]]:
    """Yields every picture with its time in seconds from the first, or its number if there is no frame rate.

    notes: receives what was guessed, for a person to read.

    A grey picture comes as `gray`, one in YBR_FULL as `yuvj444p`, which it is, any other as `rgb24`.

    Raises:
        DecodeError: it does not decode to its end, or a plugin is missing for its compression.
    """
    with _faults():
        found = _read(path)
        _check_plugin(found.file_meta.TransferSyntaxUID)
        source = _source(path, found, [] if notes is None else notes)
        times = _times(found)
        to_frame = Converter(found, lambda: _arrays(source, found, len(times)))
        arrays = _arrays(source, found, len(times))
    for number, time in enumerate(times):
        with _faults(number):
            array = next(arrays, None)
            if array is None:
                raise DecodeError(f"ends after {number} of its {len(times)} pictures")
            picture = to_frame(*array)
        yield picture, time


def _source(path: Path, found: Dataset, notes: list[str]) -> Path | Dataset:
    """What the pixels are read from: the file, or all of its content where it cannot be read piece by piece."""
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
            notes.append(f"does not say how many pictures it holds; there are bytes for {frames}")
    return whole


def _count(whole: Dataset, syntax: UID) -> int:
    """How many pictures the bytes of a file make up, if it does not say."""
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
    """The video file inside a DICOM file whose transfer syntax is in `STREAMS`."""
    with _faults():
        whole = pydicom.dcmread(path, force=True)
        return next(generate_frames(whole.PixelData, number_of_frames=1))


def _arrays(source: Path | Dataset, found: Dataset, frames: int) -> Arrays:
    """The stored values, read frame by frame, and their colour space, which a JPEG may state itself."""
    syntax, kind = found.file_meta.TransferSyntaxUID, str(found.PhotometricInterpretation)
    if not syntax.is_compressed and kind == "YBR_FULL_422":
        # pydicom 3.0 looks for the second frame in the wrong place when it iterates over these.
        return ((pixel_array(source, index=number, raw=True), kind) for number in range(frames))
    if isinstance(source, Path):
        return ((array, kind) for array in iter_pixels(source, raw=True))
    return _decoded(source, syntax)


def _decoded(source: Dataset, syntax: UID) -> Arrays:
    """Decodes with the fastest plugin, and what it cannot decode with each of the others in turn."""
    decoder = get_decoder(syntax)
    plugins = sorted(decoder.available_plugins, key=lambda name: name != FASTEST.get(syntax)) or [""]
    number = 0
    for plugin in plugins:
        try:
            pictures = decoder.iter_array(source, raw=True, decoding_plugin=plugin)
            space = _space(source, syntax, plugin)
            for array, facts in itertools.islice(pictures, number, None):
                yield array, space or str(facts["photometric_interpretation"])
                number += 1
            return
        except Exception:  # pydicom and its plugins raise everything
            if plugin != plugins[-1]:
                continue
            if syntax == JPEGExtended12Bit and int(source.BitsStored) > 8 and "pylibjpeg" not in plugins:
                needed = f"needs another plugin for {syntax.name} of {source.BitsStored} bits"
                raise DecodeError(f"{needed}: pip install pylibjpeg-libjpeg") from None
            raise


def _space(source: Dataset, syntax: UID, plugin: str) -> str | None:
    """The colour space that the first picture, a JPEG, says that it is in; None where it does not."""
    if syntax not in JPEGTransferSyntaxes:
        return None
    stream = io.BytesIO(source.PixelData)
    parse_basic_offsets(stream)
    return space_of(next(generate_fragments(stream)), converts=plugin == "pillow")


@contextlib.contextmanager
def _faults(number: int = 0) -> Iterator[None]:
    """Turns whatever pydicom and its plugins raise into DecodeError."""
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
    if not syntax.is_transfer_syntax:  # newer than pydicom, or one machine's own
        name = "one of its maker's own" if syntax.is_private else "JPEG XL" if syntax in JPEG_XL else str(syntax)
        raise DecodeError(f"is compressed in a way that nothing here reads ({name})")
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
    """Time of every picture in seconds; its number where the file has no times."""
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
    """Width of a pixel divided by its height."""
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
