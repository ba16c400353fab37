"""One picture -> the pixels and the bytes that are stored."""

import io
import re

import av
import numpy as np
import simplejpeg
from av.video.reformatter import Interpolation, VideoReformatter
from numpy.typing import NDArray
from PIL import Image

from usucl_fast.pack.sector import Box, Sector
from usucl_fast.shards import PackSettings

# A video is stored in colour when, in any frame, more than this share of what is kept is visibly coloured:
# chroma farther than COLOR_DISTANCE from neutral. Compression noise and a small coloured mark stay below
# (real grey videos: at most 0.0014 of the picture), a Doppler window or a tinted picture is far above.
COLOR_DISTANCE = 16
COLOR_SHARE = 0.005
PLANAR_YUV = re.compile(r"yuvj?4\d\dp")  # three planes of 8 bits
PROBE = 32  # rows, or up to twice as many, that are enough to see colour


def luma(picture: av.VideoFrame) -> NDArray[np.uint8]:
    """Brightness of a picture, uint8 `[height, width]`, full or limited range; a view where that is a plane of it."""
    if not PLANAR_YUV.fullmatch(picture.format.name) and picture.format.name != "gray":
        picture = picture.reformat(format="gray", threads=1)
    plane = picture.planes[0]
    return np.frombuffer(memoryview(plane), np.uint8).reshape(plane.height, -1)[:, : plane.width]


def has_color(picture: av.VideoFrame, box: Box) -> bool:
    """Whether the picture is in colour within `box`."""
    name = picture.format.name
    if name.startswith("gray"):
        return False
    if PLANAR_YUV.fullmatch(name):
        planes = [np.frombuffer(memoryview(plane), np.uint8).reshape(plane.height, -1) for plane in picture.planes[1:]]
        height, width = picture.planes[1].height, picture.planes[1].width
    else:
        height, width = min(picture.height, 4 * PROBE), min(picture.width, 4 * PROBE)
        small = picture.reformat(width, height, "yuv444p", interpolation=Interpolation.POINT, threads=1)
        planes = list(small.to_ndarray()[1:])
    left, right = (edge * width // picture.width for edge in (box[0], box[2]))
    top, bottom = (edge * height // picture.height for edge in (box[1], box[3]))
    step = max(1, (bottom - top) // PROBE)
    colored = np.zeros((), bool)
    for plane in planes:
        part = plane[top : max(bottom, top + 1) : step, left : max(right, left + 1)]
        # Unsigned numbers wrap around: what is less than the lowest grey is more than the highest, too.
        colored = colored | (part - np.uint8(128 - COLOR_DISTANCE) > 2 * COLOR_DISTANCE)
    return bool(np.count_nonzero(colored) > COLOR_SHARE * colored.size)


def fit(shape: tuple[int, int], size: int, enlarge: bool = False) -> tuple[int, int]:
    """Height and width in pixels once the short side is `size`; smaller pictures keep theirs unless `enlarge`."""
    scale = size / min(shape)
    if scale > 1 and not enlarge:
        return shape
    return max(1, round(shape[0] * scale)), max(1, round(shape[1] * scale))


class Storage:
    """How the pictures of one video are stored: scaled, cropped to the sector, black outside it.

    height, width: of the stored frames in pixels.
    """

    def __init__(self, picture: av.VideoFrame, sector: Sector, grey: bool, settings: PackSettings) -> None:
        left, top, right, bottom = sector.box
        self.height, self.width = fit((bottom - top, right - left), settings.size, settings.enlarge)
        down, across = self.height / (bottom - top), self.width / (right - left)
        # The whole picture is scaled, then cut: FFmpeg's scaler takes every pixel format there is.
        self._scaled_height = max(self.height, round(picture.height * down))
        self._scaled_width = max(self.width, round(picture.width * across))
        self._top = min(round(top * down), self._scaled_height - self.height)
        self._left = min(round(left * across), self._scaled_width - self.width)
        self._mask = sector.mask(self.height, self.width)[..., None].astype(np.uint8)
        self._covers_all = bool(self._mask.all())
        self._grey, self._codec, self._quality = grey, settings.codec, settings.quality
        self._scaler = VideoReformatter()

    def pixels(self, picture: av.VideoFrame) -> NDArray[np.uint8]:
        """The stored pixels, `[height, width, 1 or 3]`."""
        # Bilinear is swscale's area-weighted triangle filter when it shrinks: no aliasing.
        scaled = self._scaler.reformat(
            picture,
            self._scaled_width,
            self._scaled_height,
            "gray" if self._grey else "rgb24",
            interpolation=Interpolation.BILINEAR,
            threads=1,
        ).planes[0]
        channels = 1 if self._grey else 3
        lines = np.frombuffer(memoryview(scaled), np.uint8).reshape(scaled.height, -1)[:, : channels * scaled.width]
        cut = lines.reshape(scaled.height, scaled.width, channels)[
            self._top : self._top + self.height, self._left : self._left + self.width
        ]
        return np.ascontiguousarray(cut) if self._covers_all else cut * self._mask

    def encode(self, pixels: NDArray[np.uint8]) -> bytes:
        """The bytes of the stored file."""
        if self._codec == "png":
            file = io.BytesIO()
            Image.fromarray(pixels.squeeze(-1) if self._grey else pixels).save(file, "png")
            return file.getvalue()
        data: bytes = simplejpeg.encode_jpeg(
            pixels, quality=self._quality, colorspace="GRAY" if self._grey else "RGB", fastdct=False
        )
        return data
