"""Writes DICOM files of random settings, and looks whether their pictures come out as the standard says.

    python -m tools.fuzz_dicom --count 2000 --seed 0
    python -m tools.fuzz_dicom --only 317                 the same file again, alone

File n of a seed is always the same: a kind of colours, bits, signs, planes, palettes, windows, tables, and a syntax.
What is right is worked out here value by value as DICOM's PS3.3 has it (C.7.6.3 for colours, C.11.1 and C.11.2 for grey
levels), from the values that were written; GDCM or pydicom has to find those same values there. A file ends

    right       every picture is nearer than a grey level, in the mean, 2.5 where it was compressed with loss
    refused     it is said in one line that it cannot be read
    different, traceback, crash, hang, memory     as none should

The last five, and a file that is refused, are faults: the exit status is then 1.
"""

import io
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import click
import gdcm
import numpy as np
import simplejpeg
from numpy.typing import NDArray
from pydicom import dcmread
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.filewriter import dcmwrite
from pydicom.pixels import pixel_array
from pydicom.sequence import Sequence
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
    UltrasoundMultiFrameImageStorage,
    generate_uid,
)

from tools.campaign import Outcome, attempt_all, check_line, show
from usucl_fast.errors import DecodeError
from usucl_fast.pack.dicom import decode

KINDS = ("MONOCHROME2", "MONOCHROME1", "PALETTE COLOR", "RGB", "YBR_FULL", "YBR_FULL_422")
NATIVE = (ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian)
FRAMES, HEIGHT, WIDTH = 3, 34, 38
Stored = NDArray[np.int64]
Shown = NDArray[np.float64]


class File(NamedTuple):
    """stored: values as written `[frames, rows, columns]`, with colours `[..., 3]`; shown: the picture, 0 to 255."""

    ds: Dataset
    syntax: UID
    stored: Stored
    shown: Shown


def make_file(number: int, seed: int) -> File:
    """File `number` of the seed."""
    rng = np.random.default_rng([seed, number])
    ds = Dataset()
    ds.PhotometricInterpretation = kind = KINDS[number % len(KINDS)]
    ds.Rows, ds.Columns, ds.NumberOfFrames, ds.FrameTime, ds.Modality = HEIGHT, WIDTH, FRAMES, "40", "US"
    if kind in ("MONOCHROME1", "MONOCHROME2"):
        return _grey(ds, rng)
    return _palette(ds, rng) if kind == "PALETTE COLOR" else _colors(ds, rng)


def _layout(ds: Dataset, stored_bits: int, allocated: int, signed: bool = False, samples: int = 1) -> None:
    ds.BitsAllocated, ds.BitsStored, ds.HighBit = allocated, stored_bits, stored_bits - 1
    ds.PixelRepresentation, ds.SamplesPerPixel = int(signed), samples


def _grey(ds: Dataset, rng: np.random.Generator) -> File:
    stored_bits = int(rng.choice([1, 6, 8, 8, 8, 9, 10, 12, 12, 15, 16, 16]))
    allocated = 16 if stored_bits > 8 else int(rng.choice([8, 8, 16]))
    signed = stored_bits > 6 and rng.integers(3) == 0
    _layout(ds, stored_bits, allocated, signed)
    low = -(1 << stored_bits - 1) if signed else 0
    # A cine that begins dark, or hardly uses its bits, or all of them.
    span = max(2, int((1 << stored_bits) * rng.choice([0.05, 0.5, 1])))
    first = low + int(rng.integers((1 << stored_bits) - span + 1))
    stored = first + _pattern(rng, span, (FRAMES, HEIGHT, WIDTH))
    stored[0] = np.minimum(stored[0], first + span // 8)
    values, changed = _modality(ds, rng, stored)
    shown = _of_interest(ds, rng, values)
    if shown is None:
        least, most = 0.0, float((1 << min(8, stored_bits)) - 1)
        if stored_bits > 8 or signed or changed:
            least, most = float(values.min()), float(max(values.max(), values.min() + 1))
        shown = ((values - least) / (most - least)).clip(0, 1)
    if ds.PhotometricInterpretation == "MONOCHROME1":
        shown = 1 - shown
    syntaxes = [*NATIVE, *((JPEGLSLossless, JPEG2000Lossless) if stored_bits > 1 else ())]
    if stored_bits > 8 or allocated == 8:  # pydicom writes others that nothing reads
        syntaxes += [RLELossless, *((JPEGLosslessSV1,) if stored_bits >= 8 else ())]
    if (
        stored_bits == allocated == 8 and not signed and np.array_equal(shown, stored / 255)
    ):  # nothing enlarges the loss
        syntaxes.append(JPEGBaseline8Bit)
    return File(ds, _pick(rng, syntaxes), stored, 255 * shown)


def _modality(ds: Dataset, rng: np.random.Generator, stored: Stored) -> tuple[Shown, bool]:
    """PS3.3 C.11.1: a table, or a slope and an intercept. Whether there is one."""
    how = int(rng.integers(4))
    if how < 2:
        return stored.astype(np.float64), False
    if how == 2:
        ds.RescaleSlope, ds.RescaleIntercept = str(rng.choice([1, 2, 0.5, 3.25])), str(rng.choice([0, -1024, 100]))
        changed = (float(ds.RescaleSlope), float(ds.RescaleIntercept)) != (1, 0)
        return stored.astype(np.float64) * float(ds.RescaleSlope) + float(ds.RescaleIntercept), changed
    table = Dataset()
    first, levels = _table(table, rng, stored, signed=bool(ds.PixelRepresentation))
    table.ModalityLUTType = "US"
    ds.ModalityLUTSequence = Sequence([table])
    values = levels[(stored - first).clip(0, len(levels) - 1)].astype(np.float64)
    return values, True


def _table(item: Dataset, rng: np.random.Generator, values: NDArray[Any], signed: bool) -> tuple[int, NDArray[Any]]:
    """Writes a table over the middle of the values, so that some lie before it and some behind it."""
    low, high = int(values.min()), int(values.max())
    first, count = low + (high - low) // 8, max(2, (high - low) * 3 // 4)
    count = min(count, 0xFFFF)
    first = int(np.clip(first, *((-32768, 32767) if signed else (0, 65535))))
    bits = int(rng.choice([8, 10, 12, 16]))
    levels = np.sort(rng.integers(0, 1 << bits, count)).astype(np.uint16)
    if signed and count > 32767:  # all three are of one representation
        count, levels = 32767, levels[:32767]
    item.add_new("LUTDescriptor", "SS" if signed else "US", [count, first, bits])
    item.add_new("LUTData", "US", levels.tolist())
    return first, levels


def _of_interest(ds: Dataset, rng: np.random.Generator, values: Shown) -> Shown | None:
    """PS3.3 C.11.2: a window of one of three forms, or a table; 0 to 1."""
    how = int(rng.integers(5))
    if how == 0:
        return None
    if how == 1:
        whole = np.floor(values).astype(np.int64)
        if (values != whole).any() or whole.min() < -32768 or whole.max() > 65535:
            return None
        table = Dataset()
        first, levels = _table(table, rng, whole, signed=bool(whole.min() < 0))
        ds.VOILUTSequence = Sequence([table])
        bits = int(table.LUTDescriptor[2])
        return levels[(whole - first).clip(0, len(levels) - 1)] / float((1 << bits) - 1)
    low, high = float(values.min()), float(values.max())
    center, width = rng.uniform(low, high), max(1.5, rng.uniform(0.2, 1.5) * (high - low))
    center, width = round(center, 1), round(width, 1)
    ds.WindowCenter, ds.WindowWidth = str(center), str(width)
    if rng.integers(3) == 0:  # several; the first is shown
        ds.WindowCenter, ds.WindowWidth = [str(center), "1"], [str(width), "2"]
    function = str(rng.choice(["", "LINEAR", "LINEAR_EXACT", "SIGMOID"]))
    if function:
        ds.VOILUTFunction = function
    if function == "SIGMOID":
        return 1 / (1 + np.exp(-4 * (values - center) / width))
    if function == "LINEAR_EXACT":
        return ((values - center) / width + 0.5).clip(0, 1)
    return ((values - (center - 0.5)) / (width - 1) + 0.5).clip(0, 1)


def _palette(ds: Dataset, rng: np.random.Generator) -> File:
    """PS3.3 C.7.6.3.1.5: an index before or behind the table has its first or last colour."""
    wide = rng.integers(2) == 1
    stored_bits = int(rng.choice([9, 12, 16])) if wide else 8
    _layout(ds, stored_bits, 16 if wide else 8)
    stored = _pattern(rng, 1 << stored_bits, (FRAMES, HEIGHT, WIDTH))
    count = int(rng.choice([100, 256, *((4096, 65536) if wide else ())]))
    first = int(rng.choice([0, 0, 40]))
    bits = int(rng.choice([8, 16]))
    in_words = bits == 16 or bool(rng.integers(2))
    colors = rng.integers(0, 1 << bits, (count, 3))
    colors[0], colors[1] = 0, (1 << bits) - 1
    syntax = _pick(rng, [*NATIVE, RLELossless, JPEGLSLossless])
    order = ">" if syntax == ExplicitVRBigEndian else "<"
    for name, levels in zip(("Red", "Green", "Blue"), colors.T, strict=True):
        setattr(ds, f"{name}PaletteColorLookupTableDescriptor", [count % 65536, first, bits])
        if in_words:
            data = levels.astype(f"{order}u2")
        else:  # two in a word, the first in its lower half (PS3.3 C.7.6.3.1.6)
            data = np.append(levels, [0] * (count % 2)).astype("u1").view("<u2").astype(f"{order}u2")
        setattr(ds, f"{name}PaletteColorLookupTableData", data.tobytes())
    shown = colors[(stored - first).clip(0, count - 1)]
    return File(ds, syntax, stored, (shown >> 8 if bits == 16 else shown).astype(np.float64))


def _colors(ds: Dataset, rng: np.random.Generator) -> File:
    """PS3.3 C.7.6.3.1.2."""
    kind = str(ds.PhotometricInterpretation)
    deep = kind == "RGB" and rng.integers(4) == 0
    stored_bits = int(rng.choice([10, 12, 16])) if deep else 8
    _layout(ds, stored_bits, 16 if deep else 8, samples=3)
    ds.PlanarConfiguration = 0 if kind == "YBR_FULL_422" else int(rng.integers(2))
    stored = _pattern(rng, 1 << stored_bits, (FRAMES, HEIGHT, WIDTH, 3))
    if kind == "YBR_FULL_422":
        stored[..., 1::2, 1:] = stored[..., ::2, 1:]  # two pixels share their colour
        syntaxes = list(NATIVE)
    elif kind == "YBR_FULL":
        syntaxes = [*NATIVE, RLELossless]
    else:
        syntaxes = [*NATIVE, RLELossless, JPEGLSLossless, JPEG2000Lossless, *(() if deep else (JPEGBaseline8Bit,))]
    syntax = _pick(rng, syntaxes)
    if syntax.is_compressed:
        ds.PlanarConfiguration = int(syntax == RLELossless)
    values = (stored >> stored_bits - 8).astype(np.float64)
    if kind != "RGB":
        y, cb, cr = np.moveaxis(values - [0, 128, 128], -1, 0)
        values = np.stack([y + 1.402 * cr, y - 0.344136 * cb - 0.714136 * cr, y + 1.772 * cb], axis=-1).clip(0, 255)
    return File(ds, syntax, stored, values)


def _pattern(rng: np.random.Generator, span: int, shape: tuple[int, ...]) -> Stored:
    """Values from 0 below `span`: a ramp over the picture, moving on from frame to frame, and a little noise."""
    ramp = np.linspace(0, 1, HEIGHT * WIDTH).reshape(HEIGHT, WIDTH)
    moving = np.stack([np.roll(ramp, 5 * frame) for frame in range(FRAMES)])
    values = (moving[..., None] * rng.uniform(0.5, 1, shape[3]) if len(shape) > 3 else moving) * (span - 1)
    noisy = values.round() + rng.integers(-span // 32, span // 32 + 1, shape)
    return noisy.clip(0, span - 1).astype(np.int64)


def _pick(rng: np.random.Generator, syntaxes: list[UID]) -> UID:
    return syntaxes[int(rng.integers(len(syntaxes)))]


def write_file(path: Path, file: File, rng: np.random.Generator) -> None:
    """Writes it with this syntax; native words have bits of no meaning above those stored."""
    ds, syntax, stored = file.ds, file.syntax, file.stored
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = UltrasoundMultiFrameImageStorage, generate_uid()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian if syntax.is_compressed else syntax
    whole = FileDataset(str(path), ds, file_meta=meta, preamble=b"\0" * 128)
    whole.SOPClassUID, whole.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
    allocated, signed = int(ds.BitsAllocated), bool(ds.PixelRepresentation)
    words = stored & (1 << int(ds.BitsStored)) - 1
    if signed:  # the sign fills the word
        words = stored & (1 << allocated) - 1
    elif not syntax.is_compressed:
        words = words | (int(rng.integers(2)) << allocated - 1 if allocated > int(ds.BitsStored) else 0)
    if ds.PhotometricInterpretation == "YBR_FULL_422":
        pairs = words.reshape(FRAMES, HEIGHT, -1, 2, 3)
        words = np.concatenate([pairs[..., 0], pairs[..., 0, 1:]], axis=-1)
    elif ds.get("PlanarConfiguration") and not syntax.is_compressed:
        words = np.moveaxis(words, -1, 1)
    order = ">" if syntax == ExplicitVRBigEndian else "<"
    data = np.ascontiguousarray(words).astype(f"{order}u{allocated // 8}").tobytes()
    whole.PixelData = data + b"\0" * (len(data) % 2)
    whole["PixelData"].VR = "OW" if allocated > 8 else "OB"
    if syntax == JPEGBaseline8Bit:
        space = "RGB" if stored.ndim == 4 else "GRAY"  # libjpeg stores RGB as YCbCr
        shaped = words.astype(np.uint8).reshape(FRAMES, HEIGHT, WIDTH, -1)
        whole.PixelData = encapsulate(
            [simplejpeg.encode_jpeg(np.ascontiguousarray(x), 98, space, "444") for x in shaped]
        )
        whole["PixelData"].is_undefined_length = True
        meta.TransferSyntaxUID = syntax
        if stored.ndim == 4:
            whole.PhotometricInterpretation = "YBR_FULL"
    elif syntax == JPEGLosslessSV1:
        whole.save_as(path, enforce_file_format=True)
        _to_lossless_jpeg(path)
        return
    elif syntax.is_compressed:
        whole.compress(syntax, generate_instance_uid=False)
    dcmwrite(
        path,
        whole,
        force_encoding=True,
        implicit_vr=syntax.is_implicit_VR,
        little_endian=syntax.is_little_endian,
    )


def _to_lossless_jpeg(path: Path) -> None:
    reader, change, writer = gdcm.ImageReader(), gdcm.ImageChangeTransferSyntax(), gdcm.ImageWriter()
    reader.SetFileName(str(path))
    assert reader.Read()
    change.SetTransferSyntax(gdcm.TransferSyntax(gdcm.TransferSyntax.JPEGLosslessProcess14_1))
    change.SetInput(reader.GetImage())
    assert change.Change()
    writer.SetFileName(str(path))
    writer.SetFile(reader.GetFile())
    writer.SetImage(change.GetOutput())
    assert writer.Write()


def stored_values(path: Path, file: File) -> Iterator[Stored]:
    """What other programs find in the file: GDCM, and pydicom, as GDCM misreads colours of 16 bits in RLE."""
    reader = gdcm.ImageReader()
    reader.SetFileName(str(path))
    # GDCM ends the process over tables and bits that it does not expect.
    kind, few = file.ds.PhotometricInterpretation, file.ds.BitsStored < min(9, file.ds.BitsAllocated)
    if kind not in ("PALETTE COLOR", "YBR_FULL_422") and not few and reader.Read():
        image = reader.GetImage()
        signed, allocated = bool(file.ds.PixelRepresentation), int(file.ds.BitsAllocated)
        data = (image.GetBuffer() or "").encode("utf-8", errors="surrogateescape")
        values = np.frombuffer(data, f"<{'i' if signed else 'u'}{allocated // 8}").astype(np.int64)
        if values.size == file.stored.size:
            planes = image.GetPlanarConfiguration()
            yield (
                np.moveaxis(values.reshape(FRAMES, 3, HEIGHT, WIDTH), 1, -1)
                if planes
                else values.reshape(file.stored.shape)
            )
    yield pixel_array(dcmread(path), raw=True).astype(np.int64)


def attempt(number: int, seed: int) -> Outcome:
    """Writes file `number` and reads it."""
    file = make_file(number, seed)
    with tempfile.TemporaryDirectory(prefix="usucl-fuzz-") as folder:
        path = Path(folder) / "a.dcm"
        write_file(path, file, np.random.default_rng([seed, number, 1]))
        lossy = file.syntax == JPEGBaseline8Bit
        what = f"{file.syntax.name}, {_settings(file.ds)}"
        if not lossy:
            mask = (1 << int(file.ds.BitsStored)) - 1
            if not any(np.array_equal(found & mask, file.stored & mask) for found in stored_values(path, file)):
                return "different", f"no other program finds the values that were written ({what})"
        try:
            pictures = [frame.to_ndarray(format="rgb24") for frame, _ in decode(path)]
        except DecodeError as error:
            return "refused", check_line(f"{error} ({what})")
    shown = file.shown if file.shown.ndim == 4 else np.repeat(file.shown[..., None], 3, axis=-1)
    if len(pictures) != FRAMES:
        return "different", f"{len(pictures)} pictures ({what})"
    off = np.abs(np.stack(pictures).astype(np.float64) - shown).mean(axis=(1, 2, 3)).max()
    return ("right" if off < (2.5 if lossy else 1) else "different"), f"{off:.3f} grey levels off ({what})"


def _settings(ds: Dataset) -> str:
    out = io.StringIO()
    for element in ds:
        if element.keyword not in ("PixelData", "Rows", "Columns", "NumberOfFrames", "FrameTime", "Modality"):
            out.write(f"{element.keyword}={str(element.value)[:40]} ".replace("\n", " "))
    return out.getvalue()


def worst(outcomes: list[tuple[int, str, Outcome]]) -> str:
    """The largest mean error of a picture, without loss and with."""
    errors: dict[bool, list[float]] = {False: [0.0], True: [0.0]}
    for _, _, (_, said) in outcomes:
        if "grey levels off" in said:
            errors["JPEG Baseline" in said].append(float(said.split()[0]))
    return (
        f"largest mean error of a picture: {max(errors[False]):.2f} grey levels, JPEG baseline {max(errors[True]):.2f}"
    )


@click.command()
@click.option("--count", default=2000, show_default=True, type=click.IntRange(1), help="Files.")
@click.option("--seed", default=0, show_default=True, help="Of all files.")
@click.option("--only", type=click.IntRange(0), help="File of this number alone, and what came of it.")
def main(count: int, seed: int, only: int | None) -> None:
    """Writes and reads DICOM files of random settings; exits with 1 where one does not come out right."""
    if only is not None:
        click.echo(": ".join(attempt(only, seed)))
        return
    table, outcomes = attempt_all(range(count), KINDS, lambda number: attempt(number, seed), "files")
    for number, _, (end, said) in outcomes:
        if end == "refused":
            click.echo(f"{number} refused: {said}")
    fine = show(table)
    click.echo(worst(outcomes))
    sys.exit(0 if fine and not sum((counts for counts in table.values()), Counter[str]())["refused"] else 1)


if __name__ == "__main__":
    main()
