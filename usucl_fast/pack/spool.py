"""One video -> its encoded frames, as tar members in a spool file. Runs in a worker process."""

import hashlib
import re
import tarfile
import time
import zlib
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
import simplejpeg
from av.video.reformatter import Interpolation, VideoReformatter
from numpy.typing import NDArray

from usucl_fast.errors import DecodeError
from usucl_fast.frames import ROW, VideoRecord
from usucl_fast.pack.decode import decode, frame_rate
from usucl_fast.pack.sources import Source

BLOCK = tarfile.BLOCKSIZE

# A video is stored in colour when, in any frame, more than this share of the picture is visibly coloured:
# chroma farther than COLOR_DISTANCE from neutral. Compression noise and a small coloured mark stay below
# (real grey videos: at most 0.0014 of the picture), a Doppler window or a tinted picture is far above.
COLOR_DISTANCE = 16
COLOR_SHARE = 0.005
PLANAR_YUV = re.compile(r"yuvj?4\d\dp")  # three planes of 8 bits


class _ColorFoundError(Exception):
    pass


@dataclass(frozen=True)
class Spooled:
    """A video packed into a spool file.

    rows: `[frames]` of `ROW`, offsets from the start of the spool file; shard and video are left at 0.
    stages: seconds spent by stage.
    """

    record: VideoRecord
    path: Path
    rows: NDArray[np.void]
    stages: dict[str, float]


def spool(source: Source, id: str, path: Path, size: int, quality: int) -> Spooled:
    """Packs one video.

    The short side of its frames becomes `size` pixels where it is longer, and stays as it is where it is not.
    A grey video is stored as one-channel JPEG; one with colour in any frame as RGB throughout.

    Raises:
        DecodeError: the video does not decode to its end.
    """
    try:
        try:
            return _spool(source, id, path, size, quality, grey=True)
        except _ColorFoundError:
            return _spool(source, id, path, size, quality, grey=False)
    except (av.FFmpegError, ValueError) as error:  # a picture of a kind that cannot be converted
        raise DecodeError(f"has a picture that cannot be stored: {str(error).splitlines()[0]}") from error


def _spool(source: Source, id: str, path: Path, size: int, quality: int, grey: bool) -> Spooled:
    shrink, probe = VideoReformatter(), VideoReformatter()
    height = width = 0
    rows: list[tuple[int, float, int, int, int, int, int]] = []
    checksum = hashlib.sha256()
    stages: defaultdict[str, float] = defaultdict(float)
    clock = time.perf_counter()

    def lap(stage: str) -> None:
        nonlocal clock
        now = time.perf_counter()
        stages[stage] += now - clock
        clock = now

    with path.open("wb") as file:
        for number, (picture, at) in enumerate(decode(source.files)):
            lap("decode")
            if grey and _has_color(picture, probe):
                raise _ColorFoundError
            if number == 0:
                height, width = fit((picture.height, picture.width), size)
            # Bilinear is swscale's area-weighted triangle filter when it shrinks: no aliasing.
            pixels = shrink.reformat(
                picture,
                width,
                height,
                "gray" if grey else "rgb24",
                interpolation=Interpolation.BILINEAR,
                threads=1,
            ).to_ndarray()
            lap("resize")
            data = simplejpeg.encode_jpeg(
                np.ascontiguousarray(pixels[:, :, None] if grey else pixels),
                quality=quality,
                colorspace="GRAY" if grey else "RGB",
                fastdct=False,
            )
            lap("encode")
            rows.append((file.tell() + BLOCK, at, len(data), 0, 0, number, zlib.crc32(data)))
            file.write(member_header(f"{id}/{number:06d}.jpg", len(data)))
            file.write(data)
            file.write(bytes(-len(data) % BLOCK))
            checksum.update(data)
            lap("write")
    record = VideoRecord(
        id=id,
        name=source.name,
        group=source.group,
        label=source.label,
        split=source.split,
        frames=len(rows),
        height=height,
        width=width,
        color="grey" if grey else "rgb",
        frame_rate=frame_rate(source.files),
        checksum=checksum.hexdigest(),
    )
    return Spooled(record, path, np.array(rows, ROW), dict(stages))


def fit(shape: tuple[int, int], size: int) -> tuple[int, int]:
    """Height and width in pixels once the short side is at most `size`; never enlarged."""
    scale = min(1.0, size / min(shape))
    return max(1, round(shape[0] * scale)), max(1, round(shape[1] * scale))


def member_header(name: str, length: int) -> bytes:
    """The 512-byte ustar header of a member, without owner or time: equal input, equal bytes.

    Raises:
        ValueError: the name or the length do not fit the format.
    """
    info = tarfile.TarInfo(name)
    info.size = length
    return info.tobuf(tarfile.USTAR_FORMAT)


def _has_color(picture: av.VideoFrame, probe: VideoReformatter) -> bool:
    if PLANAR_YUV.fullmatch(picture.format.name):
        # A sparse sample: the check must cost a fraction of the resize.
        height, width = picture.planes[1].height, picture.planes[1].width
        step = max(1, min(height, width) // 96)
        planes = [np.frombuffer(memoryview(plane), np.uint8) for plane in picture.planes[1:3]]
        chroma = [plane.reshape(height, -1)[::step, :width:step] for plane in planes]
    else:
        width, height = min(picture.width, 96), min(picture.height, 96)
        point = probe.reformat(picture, width, height, "yuv444p", interpolation=Interpolation.POINT, threads=1)
        chroma = list(point.to_ndarray()[1:])
    distance = np.maximum(*(np.abs(plane.astype(np.int16) - 128) for plane in chroma))
    return bool((distance > COLOR_DISTANCE).mean() > COLOR_SHARE)
