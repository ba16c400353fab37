"""DICOM files that say one thing and hold another, as machines and archives write them."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.pixels import apply_modality_lut, apply_voi_lut
from pydicom.sequence import Sequence as DicomSequence
from pydicom.uid import (
    MPEG4HP41,
    UID,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEGBaseline8Bit,
)

from tests.helpers.dicoms import write_dicom
from tests.helpers.videos import moving_texture, write_video
from usucl_fast.errors import DecodeError
from usucl_fast.pack.dicom import open_dicom
from usucl_fast.pack.picture import has_color

GREY = moving_texture(4, 32, 48, 0)[..., 0]


def shown(path: Path) -> tuple[np.ndarray, list[str]]:
    video = open_dicom(path)
    return np.stack([picture.to_ndarray(format="rgb24") for picture, _ in video.pictures]).astype(int), video.notes


def rewrite(path: Path, encapsulated: list[bytes] | None, syntax: pydicom.uid.UID, **changes: Any) -> None:
    found = pydicom.dcmread(path)
    if encapsulated is not None:
        found.PixelData = encapsulate(encapsulated)
        found["PixelData"].VR = "OB"
        found["PixelData"].is_undefined_length = True
    found.file_meta.TransferSyntaxUID = syntax
    for name, value in changes.items():
        setattr(found, name, value)
    found.save_as(path)


@pytest.mark.parametrize(
    ("label", "keep_rgb", "color"),
    [("RGB", False, True), ("RGB", False, False), ("YBR_FULL_422", True, True), ("YBR_FULL_422", False, True)],
)
def test_a_jpeg_knows_its_colours_better_than_the_header(
    tmp_path: Path, label: str, keep_rgb: bool, color: bool
) -> None:
    pictures = np.stack([GREY, GREY, GREY // 3 if color else GREY], axis=-1)
    write_dicom(tmp_path / "a.dcm", pictures, photometric="RGB")
    files = []
    for picture in pictures:
        file = io.BytesIO()
        Image.fromarray(picture).save(file, "jpeg", quality=95, subsampling=0, keep_rgb=keep_rgb)
        files.append(file.getvalue())
    rewrite(tmp_path / "a.dcm", files, JPEGBaseline8Bit, PhotometricInterpretation=label)
    found, _ = shown(tmp_path / "a.dcm")
    assert np.abs(found - pictures).max() <= 12
    first = next(iter(open_dicom(tmp_path / "a.dcm").pictures))[0]
    assert has_color(first, (0, 0, 48, 32)) == color


ADOBE = b"\xff\xee\0\x0eAdobe\0\x64\0\0\0\0"
JFIF = b"\xff\xe0\0\x10JFIF\0\1\1\0\0\1\0\1\0\0"


@pytest.mark.parametrize("label", ["RGB", "YBR_FULL", "YBR_FULL_422"])
@pytest.mark.parametrize(
    ("mark", "stores_rgb", "coarse"),
    [
        pytest.param(ADOBE + b"\1", False, False, id="Adobe's, YCbCr"),
        pytest.param(ADOBE + b"\0", True, False, id="Adobe's, RGB"),
        pytest.param(JFIF + ADOBE + b"\1", False, False, id="both"),
        pytest.param(b"", False, True, id="none, but coarser colours"),
    ],
)
def test_marks_of_a_jpeg(tmp_path: Path, label: str, mark: bytes, stores_rgb: bool, coarse: bool) -> None:
    picture = np.empty((32, 48, 3), np.uint8)
    picture[:, :24], picture[:, 24:] = (200, 60, 40), (40, 120, 160)
    # What is called YCbCr is stored as it is: so RGB is.
    image = Image.frombytes("YCbCr", (48, 32), picture.tobytes()) if stores_rgb else Image.fromarray(picture)
    file = io.BytesIO()
    image.save(file, "jpeg", quality=98, subsampling=2 if coarse else 0)
    assert file.getvalue()[2:20] == JFIF
    write_dicom(tmp_path / "a.dcm", np.stack([picture, picture]), photometric="RGB")
    stream = b"\xff\xd8" + mark + file.getvalue()[20:]
    rewrite(tmp_path / "a.dcm", [stream] * 2, JPEGBaseline8Bit, PhotometricInterpretation=label)
    assert np.abs(shown(tmp_path / "a.dcm")[0][:, :, [4, 43]] - picture[:, [4, 43]]).max() <= 6


@pytest.mark.parametrize(
    ("syntax", "name"),
    [("1.2.840.10008.1.2.4.110", "JPEG XL"), ("1.2.840.10008.1.2.4.999", "4.999"), ("1.2.3.4", "maker's own")],
)
def test_a_compression_that_nothing_reads_is_named(tmp_path: Path, syntax: str, name: str) -> None:
    write_dicom(tmp_path / "a.dcm", GREY)
    content, uid = (tmp_path / "a.dcm").read_bytes(), syntax.encode() + b"\0" * (len(syntax) % 2)
    before = b"\2\0\x10\0UI\x14\0" + ExplicitVRLittleEndian.encode() + b"\0"
    assert content.count(before) == 1
    (tmp_path / "a.dcm").write_bytes(content.replace(before, b"\2\0\x10\0UI" + bytes([len(uid), 0]) + uid))
    with pytest.raises(DecodeError, match=f"nothing here reads .*{name}"):
        shown(tmp_path / "a.dcm")


def test_the_range_is_that_of_all_pictures(tmp_path: Path) -> None:
    pictures = GREY.astype(np.uint16) * 200
    pictures[0] = 0
    write_dicom(tmp_path / "a.dcm", pictures, bits=16)
    found, _ = shown(tmp_path / "a.dcm")
    np.testing.assert_allclose(found[..., 0], pictures / pictures.max() * 255, atol=0.51)


@pytest.mark.parametrize("function", ["LINEAR", "LINEAR_EXACT", "SIGMOID"])
@pytest.mark.parametrize(("bits", "slope"), [(8, 1), (12, 2)])
def test_windows_are_pydicoms(tmp_path: Path, function: str, bits: int, slope: int) -> None:
    pictures = GREY.astype(np.uint16) << (bits - 8) if bits > 8 else GREY
    center, width = (100, 120) if bits == 8 else (3000, 2500)
    window: dict[str, Any] = {
        "WindowCenter": center,
        "WindowWidth": width,
        "VOILUTFunction": function,
        "RescaleSlope": slope,
    }
    write_dicom(tmp_path / "a.dcm", pictures, bits=bits, RescaleIntercept=-7, **window)
    ds = pydicom.dcmread(tmp_path / "a.dcm")
    expected = apply_voi_lut(apply_modality_lut(pictures, ds), ds).astype(np.float64)
    low, high = apply_modality_lut(np.array([0, (1 << bits) - 1]), ds)  # the range that it fills
    found, _ = shown(tmp_path / "a.dcm")
    np.testing.assert_allclose(found[..., 0], (expected - low) / (high - low) * 255, atol=0.6)


def test_tables_of_values_are_pydicoms(tmp_path: Path) -> None:
    write_dicom(tmp_path / "a.dcm", GREY)
    modality, interest = Dataset(), Dataset()
    modality.LUTDescriptor, modality.ModalityLUTType = [256, 0, 16], "US"
    modality.LUTData = (np.arange(256)[::-1] * 16).astype("<u2").tobytes()
    interest.LUTDescriptor = [4096, 0, 16]
    interest.LUTData = (np.sqrt(np.arange(4096) / 4095) * 65535).astype("<u2").tobytes()
    for sequences in (
        {"ModalityLUTSequence": [modality]},
        {"ModalityLUTSequence": [modality], "VOILUTSequence": [interest]},
    ):
        rewrite(
            tmp_path / "a.dcm",
            None,
            pydicom.uid.ExplicitVRLittleEndian,
            **{n: DicomSequence(s) for n, s in sequences.items()},
        )
        ds = pydicom.dcmread(tmp_path / "a.dcm")
        expected = apply_voi_lut(apply_modality_lut(GREY, ds), ds).astype(np.float64)
        found = shown(tmp_path / "a.dcm")[0][..., 0]
        if "VOILUTSequence" in sequences:
            np.testing.assert_allclose(found, expected / 65535 * 255, atol=0.6)
        else:  # the range that all pictures have
            expected -= expected.min()
            np.testing.assert_allclose(found, expected / expected.max() * 255, atol=0.6)


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ExplicitVRBigEndian, ImplicitVRLittleEndian])
@pytest.mark.parametrize("written", ["numbers", "words", "bytes"])
@pytest.mark.parametrize("bits", [8, 12])
def test_tables_are_read_however_they_are_written(tmp_path: Path, syntax: UID, written: str, bits: int) -> None:
    """pydicom knows tables of 8 and 16 bits, and no bytes."""
    if written == "bytes" and bits > 8:
        pytest.skip("12 bits are no byte")
    levels = np.linspace(0, (1 << bits) - 1, 200).astype(int)
    order = ">" if syntax == ExplicitVRBigEndian else "<"
    table = Dataset()
    table.add_new("LUTDescriptor", "US", [200, 20, bits])
    if written == "numbers":
        table.add_new("LUTData", "US", levels.tolist())
    else:
        words = levels.astype("u1").view("<u2") if written == "bytes" else levels
        table.add_new("LUTData", "OW", words.astype(f"{order}u2").tobytes())
    write_dicom(tmp_path / "a.dcm", GREY, syntax=syntax, VOILUTSequence=DicomSequence([table]))
    expected = levels[(GREY.astype(int) - 20).clip(0, 199)] / ((1 << bits) - 1) * 255
    np.testing.assert_allclose(shown(tmp_path / "a.dcm")[0][..., 0], expected, atol=0.6)


def test_a_modality_table_of_twelve_bits(tmp_path: Path) -> None:
    levels = (np.arange(256)[::-1] * 16).tolist()
    table = Dataset()
    table.ModalityLUTType = "US"
    table.add_new("LUTDescriptor", "US", [256, 0, 12])
    table.add_new("LUTData", "US", levels)
    write_dicom(tmp_path / "a.dcm", GREY, ModalityLUTSequence=DicomSequence([table]))
    inverted = GREY.max() - GREY.astype(float)
    np.testing.assert_allclose(shown(tmp_path / "a.dcm")[0][..., 0], inverted / inverted.max() * 255, atol=0.6)


def test_fewer_than_eight_bits_fill_the_range(tmp_path: Path) -> None:
    """6 bits in 8 came out four times too dark."""
    write_dicom(tmp_path / "a.dcm", GREY >> 2, bits=6)
    np.testing.assert_allclose(shown(tmp_path / "a.dcm")[0][..., 0], (GREY >> 2) * (255 / 63), atol=0.6)


def test_a_table_without_a_level_is_refused(tmp_path: Path) -> None:
    table = Dataset()
    table.add_new("LUTDescriptor", "US", [4, 0, 16])
    table.add_new("LUTData", "OW", b"")
    write_dicom(tmp_path / "a.dcm", GREY, VOILUTSequence=DicomSequence([table]))
    with pytest.raises(DecodeError, match="without a level"):
        shown(tmp_path / "a.dcm")


def test_wide_indices_of_a_palette_of_bytes(tmp_path: Path) -> None:
    """What lies before the first colour's index has that colour, and what lies behind the last one's has that."""
    colors = np.random.default_rng(0).integers(0, 256, (300, 3))
    palette: dict[str, Any] = {}
    for name, levels in zip(("Red", "Green", "Blue"), colors.T, strict=True):
        palette[f"{name}PaletteColorLookupTableDescriptor"] = [300, 40, 8]
        palette[f"{name}PaletteColorLookupTableData"] = levels.astype("u1").tobytes()
    indices = GREY.astype(np.uint16) * 2
    write_dicom(tmp_path / "a.dcm", indices, photometric="PALETTE COLOR", bits=12, **palette)
    assert np.array_equal(shown(tmp_path / "a.dcm")[0], colors[(indices.astype(int) - 40).clip(0, 299)])


@pytest.mark.parametrize("wide", [False, True])
@pytest.mark.parametrize("big", [False, True])
def test_palettes_of_eight_bits_in_words(tmp_path: Path, wide: bool, big: bool) -> None:
    """256 entries from 0 to 255, as words or, wide, as words of 16 bits in full."""
    ramp = np.arange(256)
    entries = {"Red": ramp, "Green": ramp[::-1], "Blue": ramp // 2}
    palette: dict[str, Any] = {}
    for color, values in entries.items():
        words = values * 257 if wide else values
        palette[f"{color}PaletteColorLookupTableDescriptor"] = [256, 0, 16]
        palette[f"{color}PaletteColorLookupTableData"] = words.astype(">u2" if big else "<u2").tobytes()
    write_dicom(tmp_path / "a.dcm", GREY, photometric="PALETTE COLOR", **palette)
    if big:
        ds = pydicom.dcmread(tmp_path / "a.dcm")
        ds.file_meta.TransferSyntaxUID = ExplicitVRBigEndian
        ds.PixelData = GREY.tobytes()
        ds["PixelData"].VR = "OB"
        pydicom.dcmwrite(tmp_path / "a.dcm", ds, implicit_vr=False, little_endian=False)
    found, _ = shown(tmp_path / "a.dcm")
    expected = np.stack([values[GREY] for values in entries.values()], axis=-1)
    assert np.abs(found - expected).max() <= 1


def test_a_palette_of_impossible_width_is_refused(tmp_path: Path) -> None:
    facts: dict[str, Any] = {f"{c}PaletteColorLookupTableDescriptor": [256, 0, 32] for c in ("Red", "Green", "Blue")}
    facts |= {f"{c}PaletteColorLookupTableData": bytes(512) for c in ("Red", "Green", "Blue")}
    write_dicom(tmp_path / "a.dcm", GREY, photometric="PALETTE COLOR", **facts)
    with pytest.raises(DecodeError, match="palette of 32 bits"):
        shown(tmp_path / "a.dcm")


def test_palette_indices_of_impossible_width_are_refused(tmp_path: Path) -> None:
    """A table of all that 32 bits can say would take 16 GiB."""
    facts: dict[str, Any] = {f"{c}PaletteColorLookupTableDescriptor": [256, 0, 16] for c in ("Red", "Green", "Blue")}
    facts |= {f"{c}PaletteColorLookupTableData": bytes(512) for c in ("Red", "Green", "Blue")}
    wide = np.repeat(GREY, 4, axis=-1)  # each value has the bytes of four
    write_dicom(tmp_path / "a.dcm", wide, photometric="PALETTE COLOR", Columns=GREY.shape[2], **facts, BitsAllocated=32)
    with pytest.raises(DecodeError, match="palette indices of 32 bits"):
        shown(tmp_path / "a.dcm")


def test_pictures_that_are_not_counted_are_all_found(tmp_path: Path) -> None:
    write_dicom(tmp_path / "a.dcm", GREY)
    ds = pydicom.dcmread(tmp_path / "a.dcm")
    del ds.NumberOfFrames
    ds.save_as(tmp_path / "a.dcm")
    found, notes = shown(tmp_path / "a.dcm")
    np.testing.assert_array_equal(found[..., 0], GREY)
    assert "there are bytes for 4" in notes[0]


def test_a_video_stream_inside(tmp_path: Path) -> None:
    pictures = moving_texture(6, 48, 64, 0)
    write_video(tmp_path / "v.mp4", pictures, "libx264")
    write_dicom(tmp_path / "a.dcm", pictures[..., 0], photometric="MONOCHROME2")
    rewrite(
        tmp_path / "a.dcm", [(tmp_path / "v.mp4").read_bytes()], MPEG4HP41, PhotometricInterpretation="YBR_PARTIAL_420"
    )
    found, _ = shown(tmp_path / "a.dcm")
    assert found.shape == (6, 48, 64, 3)
    assert np.abs(found - pictures).mean() < 6


def test_without_preamble_and_meta_header(tmp_path: Path) -> None:
    write_dicom(tmp_path / "a.dcm", GREY)
    whole = pydicom.dcmread(tmp_path / "a.dcm")
    bare = Dataset()
    bare.update(whole)
    bare.save_as(tmp_path / "b.dcm", implicit_vr=True, little_endian=True, enforce_file_format=False)
    assert (tmp_path / "b.dcm").read_bytes()[128:132] != b"DICM"
    np.testing.assert_array_equal(shown(tmp_path / "b.dcm")[0][..., 0], GREY)


@pytest.mark.parametrize(
    ("facts", "size"),
    [
        ({"PixelAspectRatio": [4, 2]}, (48, 64)),  # down, across
        ({"PixelSpacing": [0.1, 0.2]}, (96, 32)),
        ({"PixelSpacing": [0.2, 0.2]}, (48, 32)),
        ({"PixelSpacing": [0.1, 9]}, (48, 32)),  # no machine's
    ],
)
def test_pixels_that_are_not_square(tmp_path: Path, facts: dict[str, Any], size: tuple[int, int]) -> None:
    write_dicom(tmp_path / "a.dcm", GREY, **facts)
    found, notes = shown(tmp_path / "a.dcm")
    assert found.shape[1:3] == size[::-1]
    assert bool(notes) == (size != (48, 32))


def test_a_region_without_a_corner_is_passed_over(tmp_path: Path) -> None:
    write_dicom(tmp_path / "a.dcm", GREY, regions=[(2, 2, 40, 30)])
    ds = pydicom.dcmread(tmp_path / "a.dcm")
    del ds.SequenceOfUltrasoundRegions[0].RegionLocationMinX0
    ds.save_as(tmp_path / "a.dcm")
    header = open_dicom(tmp_path / "a.dcm").header
    assert header
    assert header.regions == ()
