"""DICOM files of all usual kinds: their pictures, against what they were made of or another way of decoding."""

import contextlib
import random
import time
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from pydicom.data import get_testdata_file
from pydicom.pixels import apply_color_lut, pixel_array
from pydicom.uid import (
    JPEG2000,
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
)

from tests.helpers.dicoms import write_dicom
from tests.helpers.videos import moving_texture
from usucl_fast.errors import DecodeError
from usucl_fast.pack import dicom
from usucl_fast.pack.sources import is_dicom
from usucl_fast.pack.video import Header

COLOR = moving_texture(4, 48, 64, seed=3, color=True)
GREY = moving_texture(4, 48, 64, seed=3)[..., 0]
LOSSLESS = (
    ImplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    DeflatedExplicitVRLittleEndian,
    RLELossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEG2000Lossless,
)


def decoded(path: Path, format: str = "rgb24") -> np.ndarray:
    return np.stack([picture.to_ndarray(format=format) for picture, _ in dicom.decode(path)])


@pytest.mark.parametrize(
    ("photometric", "syntax"),
    [
        pytest.param(photometric, syntax, id=f"{photometric}-{syntax.name}")
        for photometric in ("MONOCHROME1", "MONOCHROME2", "RGB", "PALETTE COLOR")
        for syntax in LOSSLESS
        if photometric != "PALETTE COLOR" or syntax not in (JPEGLosslessSV1, JPEG2000Lossless)  # no encoder writes it
    ],
)
def test_lossless_files_decode_exactly(tmp_path: Path, photometric: str, syntax: UID) -> None:
    palette: dict[str, Any] = {
        f"{name}PaletteColorLookupTable{what}": value
        for name, shift in (("Red", 0), ("Green", 85), ("Blue", 170))
        for what, value in (
            ("Descriptor", [256, 0, 16]),
            ("Data", (np.roll(np.arange(256), shift).astype("<u2") << 8).tobytes()),
        )
    }
    stored = COLOR if photometric == "RGB" else GREY
    write_dicom(
        tmp_path / "x", stored, syntax=syntax, photometric=photometric, **palette if "PALETTE" in photometric else {}
    )
    expected = {
        "MONOCHROME1": np.repeat(255 - GREY[..., None], 3, -1),
        "MONOCHROME2": np.repeat(GREY[..., None], 3, -1),
        "RGB": COLOR,
        "PALETTE COLOR": np.stack([np.roll(np.arange(256), shift)[GREY] for shift in (0, 85, 170)], -1),
    }[photometric]
    assert is_dicom(tmp_path / "x")
    assert np.array_equal(decoded(tmp_path / "x"), expected)


@pytest.mark.parametrize("syntax", [JPEGBaseline8Bit, JPEGLSNearLossless, JPEG2000], ids=lambda syntax: syntax.name)
@pytest.mark.parametrize("color", [False, True])
def test_lossy_files_decode_nearly(tmp_path: Path, syntax: UID, color: bool) -> None:
    kinds = {JPEGBaseline8Bit: "YBR_FULL", JPEGLSNearLossless: "RGB", JPEG2000: "RGB"}
    if syntax == JPEG2000:
        pytest.importorskip("openjpeg")
        path = Path(str(get_testdata_file("SC_rgb_gdcm_KY.dcm", download=False)))
        assert np.abs(decoded(path)[0].astype(float) - pixel_array(path)).mean() <= 2
        return
    pictures = moving_texture(4, 48, 64, seed=3, color=color) if color else GREY
    path = tmp_path / "x.dcm"
    write_dicom(path, pictures, syntax=syntax, photometric=kinds[syntax] if color else "MONOCHROME2")
    expected = pictures if color else np.repeat(pictures[..., None], 3, -1)
    assert np.abs(decoded(path).astype(float) - expected).mean() <= 2


def test_ybr_is_not_converted_on_the_way(tmp_path: Path) -> None:
    """Its planes are taken as they are, and what FFmpeg makes RGB of them agrees with pydicom's formula."""
    rng = np.random.default_rng(0)
    ybr = np.repeat(rng.integers(40, 200, (2, 16, 16, 3), dtype=np.uint8), 2, axis=2)
    for photometric in ("YBR_FULL", "YBR_FULL_422"):
        path = tmp_path / photometric
        write_dicom(path, ybr, photometric=photometric)
        first, _ = next(dicom.decode(path))
        assert first.format.name == "yuvj444p"
        assert np.array_equal(np.moveaxis(first.to_ndarray(), 0, -1), ybr[0])
        expected = pixel_array(pydicom.dcmread(path))
        assert np.abs(decoded(path).astype(float) - expected).mean() <= 2


def test_planes_one_after_the_other(tmp_path: Path) -> None:
    write_dicom(tmp_path / "x", COLOR, photometric="RGB", planar=1)
    assert np.array_equal(decoded(tmp_path / "x"), COLOR)


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ExplicitVRBigEndian, RLELossless, JPEG2000Lossless])
@pytest.mark.parametrize("signed", [False, True])
def test_deep_greys_are_windowed(tmp_path: Path, syntax: UID, signed: bool) -> None:
    values = (GREY.astype(np.int32) * 16 - 1000 * signed).astype(np.int16 if signed else np.uint16)
    window: dict[str, Any] = {
        "RescaleSlope": "2",
        "RescaleIntercept": "-100",
        "WindowCenter": "3000",
        "WindowWidth": "4000",
    }
    write_dicom(tmp_path / "x", values, syntax=syntax, bits=12 if not signed else 13, **window)
    shown = ((2.0 * values - 100 - 2999.5) / 3999 + 0.5) * 255  # PS3.3 C.11.2.1.2
    assert np.abs(decoded(tmp_path / "x", "gray") - shown.clip(0, 255)).max() <= 0.51
    write_dicom(tmp_path / "y", values, syntax=syntax, bits=12 if not signed else 13)
    low, high = values[0].min(), values[0].max()
    ranged = (values.astype(float) - low) / (high - low) * 255
    assert np.abs(decoded(tmp_path / "y", "gray") - ranged.clip(0, 255)).max() <= 0.51


@pytest.mark.parametrize(
    "name",
    [
        "examples_ybr_color.dcm",
        "examples_rgb_color.dcm",
        "examples_palette.dcm",
        "examples_jpeg2k.dcm",
        "ExplVR_BigEnd.dcm",
        "GDCMJ2K_TextGBR.dcm",
        "JPEGLSNearLossless_08.dcm",
        "SC_jpeg_no_color_transform.dcm",
        "SC_rgb_dcmtk_+eb+cr.dcm",
        "SC_rgb_dcmtk_+eb+cy+np.dcm",
        "SC_rgb_dcmtk_+eb+cy+s2.dcm",
        "SC_rgb_gdcm_KY.dcm",
        "SC_rgb_jls_lossy_line.dcm",
        "SC_rgb_jpeg_app14_dcmd.dcm",
        "SC_rgb_jpeg_gdcm.dcm",
        "SC_rgb_jpeg_lossy_gdcm.dcm",
        "SC_rgb_rle_2frame.dcm",
        "SC_rgb_small_odd.dcm",
        "SC_rgb_small_odd_jpeg.dcm",
        "SC_ybr_full_422_uncompressed.dcm",
        "image_dfl.dcm",
    ],
)
def test_real_files_agree_with_pydicom(name: str) -> None:
    """Which converts whole arrays, in other code."""
    file = get_testdata_file(name, download=False)
    if file is None:
        pytest.skip("not shipped with this pydicom")
    ds = pydicom.dcmread(file)
    expected = pixel_array(ds)
    if ds.PhotometricInterpretation == "PALETTE COLOR":
        expected = apply_color_lut(expected, ds) >> 8
    expected = expected.reshape(int(ds.get("NumberOfFrames") or 1), ds.Rows, ds.Columns, -1)
    found = decoded(Path(file))
    assert len(found) == len(expected)
    assert np.abs(found.astype(float) - expected).mean() <= 2


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("JPGExtended.dcm", "12 bits: pip install pylibjpeg-libjpeg"),
        ("reportsi.dcm", "holds no picture"),
        ("rtplan.dcm", "holds no picture"),
        ("MR_truncated.dcm", "damaged"),
        ("no_meta.dcm", "holds no picture"),
        ("rtdose.dcm", "more than 16 bits"),
    ],
)
def test_what_cannot_be_decoded_is_said(name: str, reason: str) -> None:
    file = get_testdata_file(name, download=False)
    if file is None:
        pytest.skip("not shipped with this pydicom")
    if (
        "pylibjpeg" in reason
        and "pylibjpeg" in pydicom.pixels.get_decoder(UID("1.2.840.10008.1.2.4.51")).available_plugins
    ):
        pytest.skip("the plugin is here")
    with pytest.raises(DecodeError, match=reason):
        decoded(Path(file))


def test_a_missing_plugin_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_dicom(tmp_path / "x", GREY, syntax=JPEGLSLossless)
    monkeypatch.setattr(type(dicom.get_decoder(JPEGLSLossless)), "is_available", False)
    with pytest.raises(DecodeError, match=r"needs a plugin for JPEG-LS Lossless.*pip install pyjpegls"):
        decoded(tmp_path / "x")


def test_the_header(tmp_path: Path) -> None:
    regions = [(8, 4, 40, 30), (50, 4, 900, 900), (20, 20, 20, 20)]
    write_dicom(tmp_path / "x", GREY, regions=regions, PatientID=" P1 ", BurnedInAnnotation="YES", FrameTime="50")
    header = dicom.open_dicom(tmp_path / "x").header
    assert header == Header("P1", 20.0, True, ((8, 4, 40, 30), (50, 4, 64, 48)))
    assert [at for _, at in dicom.decode(tmp_path / "x")] == [0, 0.05, 0.1, 0.15]
    write_dicom(tmp_path / "y", GREY, FrameTime=None, FrameTimeVector=["0", "10", "30", "20"], Modality="CT")
    header = dicom.open_dicom(tmp_path / "y").header
    assert header
    assert (header.patient, header.frame_rate, header.burned_in, header.regions) == ("", 50.0, False, ())
    assert np.allclose([at for _, at in dicom.decode(tmp_path / "y")], [0, 0.01, 0.04, 0.06])
    write_dicom(tmp_path / "z", GREY[:1], FrameTime=None)
    assert dicom.open_dicom(tmp_path / "z").frame_rate == 0


@pytest.mark.parametrize(
    "lie",
    [{"Rows": 65535, "Columns": 65535}, {"NumberOfFrames": 2**31 - 1}, {"NumberOfFrames": 9}, {"BitsAllocated": 7}],
)
def test_a_header_that_lies_is_found_out_at_once(tmp_path: Path, lie: dict[str, int]) -> None:
    for syntax in (ExplicitVRLittleEndian, RLELossless):
        write_dicom(tmp_path / "x", GREY, syntax=syntax)
        ds = pydicom.dcmread(tmp_path / "x")
        for name, value in lie.items():
            setattr(ds, name, value)
        ds.save_as(tmp_path / "x")
        started = time.monotonic()
        with pytest.raises(DecodeError):
            decoded(tmp_path / "x")
        assert time.monotonic() - started < 5


def test_what_one_plugin_does_not_decode_another_may(tmp_path: Path) -> None:
    """Lossless JPEG under baseline's name, which the faster plugin refuses."""
    write_dicom(tmp_path / "x", GREY, syntax=JPEGLosslessSV1)
    ds = pydicom.dcmread(tmp_path / "x")
    ds.file_meta.TransferSyntaxUID = JPEGBaseline8Bit
    ds.save_as(tmp_path / "x")
    assert np.array_equal(decoded(tmp_path / "x", "gray"), GREY)


@pytest.mark.parametrize(
    "syntax", [ExplicitVRLittleEndian, RLELossless, JPEGBaseline8Bit, DeflatedExplicitVRLittleEndian]
)
def test_damaged_files_end_in_pictures_or_in_one_kind_of_error(tmp_path: Path, syntax: UID) -> None:
    write_dicom(tmp_path / "x", GREY, syntax=syntax)
    whole = (tmp_path / "x").read_bytes()
    draw = random.Random(0)
    for _ in range(25):
        data = bytearray(whole)
        for _ in range(draw.choice([1, 3, 30])):
            data[draw.randrange(128, len(data))] ^= 1 << draw.randrange(8)
        (tmp_path / "y").write_bytes(data[: draw.choice([len(data), draw.randrange(len(data))])])
        with contextlib.suppress(DecodeError):
            dicom.open_dicom(tmp_path / "y")
            decoded(tmp_path / "y")
