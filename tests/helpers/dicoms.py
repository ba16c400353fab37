"""Small made-up DICOM files in all usual compressions, for the tests."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import simplejpeg
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.filewriter import dcmwrite
from pydicom.sequence import Sequence as DicomSequence
from pydicom.uid import (
    UID,
    ExplicitVRLittleEndian,
    JPEGBaseline8Bit,
    JPEGLosslessSV1,
    UltrasoundMultiFrameImageStorage,
    generate_uid,
)


def write_dicom(
    path: Path,
    pictures: np.ndarray,
    *,
    syntax: UID = ExplicitVRLittleEndian,
    photometric: str = "MONOCHROME2",
    bits: int = 8,
    planar: int = 0,
    regions: Sequence[tuple[int, int, int, int]] = (),
    **attributes: Any,
) -> None:
    """Writes stored values, `[frames, height, width]` or `[frames, height, width, 3]`, as they are.

    regions: boxes (left, top, right, bottom) of 2-D images.
    attributes: any others by keyword, as `PatientID="x"`.
    """
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = UltrasoundMultiFrameImageStorage
    meta.MediaStorageSOPInstanceUID = generate_uid()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
    ds.SOPClassUID, ds.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
    ds.Modality, ds.FrameTime = "US", "40"
    ds.NumberOfFrames, ds.Rows, ds.Columns = pictures.shape[:3]
    ds.SamplesPerPixel = pictures.shape[3] if pictures.ndim == 4 else 1
    ds.PhotometricInterpretation = photometric
    ds.BitsAllocated, ds.BitsStored, ds.HighBit = 8 if bits <= 8 else 16, bits, bits - 1
    ds.PixelRepresentation = int(pictures.dtype.kind == "i")
    if ds.SamplesPerPixel > 1:
        ds.PlanarConfiguration = planar
    if regions:
        ds.SequenceOfUltrasoundRegions = DicomSequence([_region(*box) for box in regions])
    for name, value in attributes.items():
        setattr(ds, name, value)
    pictures = np.ascontiguousarray(pictures)
    stored = np.moveaxis(pictures, -1, 1) if planar and syntax == ExplicitVRLittleEndian else pictures
    if photometric == "YBR_FULL_422":  # two pixels: Y Y Cb Cr
        pairs = pictures.reshape(*pictures.shape[:2], -1, 2, 3)
        stored = np.concatenate([pairs[..., 0], pairs[..., 0, 1:]], axis=-1)
    ds.PixelData = np.ascontiguousarray(stored).tobytes()
    ds["PixelData"].VR = "OW" if bits > 8 else "OB"
    path.parent.mkdir(parents=True, exist_ok=True)
    if syntax == JPEGBaseline8Bit:
        space = "GRAY" if ds.SamplesPerPixel == 1 else "RGB"  # libjpeg stores RGB as YCbCr
        shape = (*pictures.shape[1:3], ds.SamplesPerPixel)
        frames = [simplejpeg.encode_jpeg(picture.reshape(shape), 95, space, "444") for picture in pictures]
        ds.PixelData = encapsulate(frames)
        ds["PixelData"].is_undefined_length = True
        meta.TransferSyntaxUID = syntax
    elif syntax.is_compressed and syntax != JPEGLosslessSV1:
        ds.compress(syntax, generate_instance_uid=False)
    if syntax == JPEGLosslessSV1:
        ds.save_as(path, enforce_file_format=True)
        _to_lossless_jpeg(path)
    elif syntax.is_compressed:
        ds.save_as(path, enforce_file_format=True)
    else:
        if not syntax.is_little_endian and bits > 8:
            ds.PixelData = pictures.astype(pictures.dtype.newbyteorder(">")).tobytes()
        meta.TransferSyntaxUID = syntax
        dcmwrite(
            path,
            ds,
            force_encoding=True,
            implicit_vr=syntax.is_implicit_VR,
            little_endian=syntax.is_little_endian,
        )


def _region(left: int, top: int, right: int, bottom: int) -> Dataset:
    region = Dataset()
    region.RegionSpatialFormat, region.RegionDataType, region.RegionFlags = 1, 1, 0
    region.RegionLocationMinX0, region.RegionLocationMinY0 = left, top
    region.RegionLocationMaxX1, region.RegionLocationMaxY1 = right - 1, bottom - 1
    return region


def _to_lossless_jpeg(path: Path) -> None:
    import gdcm

    reader = gdcm.ImageReader()
    reader.SetFileName(str(path))
    assert reader.Read()
    change = gdcm.ImageChangeTransferSyntax()
    change.SetTransferSyntax(gdcm.TransferSyntax(gdcm.TransferSyntax.JPEGLosslessProcess14_1))
    change.SetInput(reader.GetImage())
    assert change.Change()
    writer = gdcm.ImageWriter()
    writer.SetFileName(str(path))
    writer.SetFile(reader.GetFile())
    writer.SetImage(change.GetOutput())
    assert writer.Write()
