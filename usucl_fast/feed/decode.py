"""Decodes one frame on the CPU."""

import io

import numpy as np
import simplejpeg
from PIL import Image

from usucl_fast.errors import DecodeError
from usucl_fast.shards import ShardStore

PNG = b"\x89PNG"


UNREADABLE = (ValueError, OSError, SyntaxError, Image.DecompressionBombError)
"""What decoders raise; SyntaxError is Pillow's for a broken PNG."""


def decode_frame(store: ShardStore, frame_id: int, data: np.ndarray, channels: int) -> np.ndarray:
    """Decodes one encoded frame to uint8 `[H, W, C]`.

    Raises:
        DecodeError: it does not decode, or has another size than its video.
    """
    check_header(store, frame_id, data)  # before memory is taken for it
    try:
        if bytes(data[:4]) == PNG:
            image = Image.open(io.BytesIO(data.tobytes()), formats=["PNG"]).convert("L" if channels == 1 else "RGB")
            pixels: np.ndarray = np.array(image).reshape(image.height, image.width, channels)
        else:
            pixels = simplejpeg.decode_jpeg(data, colorspace="GRAY" if channels == 1 else "RGB")
    except UNREADABLE as error:
        raise DecodeError(f"{store.frame_place(frame_id)} does not decode ({error}); pack the videos again") from error
    return pixels


def check_header(store: ShardStore, frame_id: int, data: np.ndarray) -> None:
    """Refuses a frame by its first bytes, for a decoder that checks nothing itself.

    Raises:
        DecodeError: it is neither JPEG nor PNG, or has another size than its video.
    """
    try:
        if bytes(data[:4]) == PNG:
            width, height = Image.open(io.BytesIO(data.tobytes()), formats=["PNG"]).size
        else:
            height, width, _, _ = simplejpeg.decode_jpeg_header(data)
    except UNREADABLE as error:
        raise DecodeError(f"{store.frame_place(frame_id)} does not decode ({error}); pack the videos again") from error
    expected = store.table.size_of(np.array(frame_id)).tolist()
    if [height, width] != expected:
        raise DecodeError(
            f"{store.frame_place(frame_id)} is {height} x {width} pixels where the video table says"
            f" {expected[0]} x {expected[1]}; pack the videos again"
        )
