"""One encoded frame -> its pixels, on the CPU."""

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
            image = Image.open(io.BytesIO(data.tobytes())).convert("L" if channels == 1 else "RGB")
            pixels: np.ndarray = np.array(image).reshape(image.height, image.width, channels)
        else:
            pixels = simplejpeg.decode_jpeg(data, colorspace="GRAY" if channels == 1 else "RGB")
    except (ValueError, OSError, SyntaxError) as error:  # SyntaxError is Pillow's for a broken PNG
        raise DecodeError(f"{frame_place(store, frame_id)} does not decode ({error}); pack the videos again") from error
    expected = store.table.size[store.table.rows[frame_id]["video"]]
    if pixels.shape[:2] != tuple(expected):
        raise DecodeError(
            f"{frame_place(store, frame_id)} is {pixels.shape[0]} x {pixels.shape[1]} pixels where the manifest says"
            f" {expected[0]} x {expected[1]}; pack the videos again"
        )
    return pixels


def frame_place(store: ShardStore, frame_id: int) -> str:
    """Where a frame lies, for messages: shard file, member, frame id."""
    shard = store.place(int(store.table.rows[frame_id]["shard"]))
    return f"frame {store.table.name_of(frame_id)} (id {frame_id}) in {shard}"
