"""Decodes one frame on the CPU."""

import io

import numpy as np
import simplejpeg
from PIL import Image

from usucl_fast.errors import DecodeError
from usucl_fast.shards import ShardStore

PNG = b"\x89PNG"


def decode_frame(store: ShardStore, frame_id: int, data: np.ndarray, channels: int) -> np.ndarray:
    """Decodes one encoded frame to uint8 `[H, W, C]`.

    Raises:
        DecodeError: it does not decode, or has another size than its video.
    """
    try:
        if bytes(data[:4]) == PNG:
            image = Image.open(io.BytesIO(data.tobytes()), formats=["PNG"]).convert("L" if channels == 1 else "RGB")
            pixels: np.ndarray = np.array(image).reshape(image.height, image.width, channels)
        else:
            pixels = simplejpeg.decode_jpeg(data, colorspace="GRAY" if channels == 1 else "RGB")
    except (ValueError, OSError, SyntaxError) as error:  # SyntaxError is Pillow's for a broken PNG
        raise DecodeError(f"{store.frame_place(frame_id)} does not decode ({error}); pack the videos again") from error
    _check_size(store, frame_id, pixels.shape[0], pixels.shape[1])
    return pixels


def check_header(store: ShardStore, frame_id: int, data: np.ndarray) -> None:
    """Refuses what `decode_frame` refuses, judged by the first bytes, for a decoder that checks nothing itself.

    Raises:
        DecodeError: it is neither JPEG nor PNG, or has another size than its video.
    """
    try:
        if bytes(data[:4]) == PNG:
            width, height = Image.open(io.BytesIO(data.tobytes()), formats=["PNG"]).size
        else:
            height, width, _, _ = simplejpeg.decode_jpeg_header(data)
    except (ValueError, OSError, SyntaxError) as error:
        raise DecodeError(f"{store.frame_place(frame_id)} does not decode ({error}); pack the videos again") from error
    _check_size(store, frame_id, height, width)


def _check_size(store: ShardStore, frame_id: int, height: int, width: int) -> None:
    expected = store.table.size_of(np.array(frame_id)).tolist()
    if [height, width] != expected:
        raise DecodeError(
            f"{store.frame_place(frame_id)} is {height} x {width} pixels where the video table says"
            f" {expected[0]} x {expected[1]}; pack the videos again"
        )
