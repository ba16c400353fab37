"""The pictures of a page: each frame once, as it is stored or as a thumbnail in an atlas."""

from collections.abc import Iterable
from typing import Any

import numpy as np
from PIL import Image

from usucl_fast.feed.decode import PNG, decode_frame
from usucl_fast.html import image_url, jpeg_url
from usucl_fast.shards import ShardStore

SIDE = 64
"""Pixels of a thumbnail's longer side."""
ACROSS = 32
"""Thumbnails across an atlas, and down: 2,048 pixels a side, and no browser refuses 4,096."""
READ_AT_ONCE = 256


def whole_pictures(store: ShardStore, frame_ids: Iterable[int]) -> dict[str, str]:
    """Frames as they are stored, to the byte: URLs by frame id."""
    ids = np.array(sorted(set(frame_ids)), np.int64)
    found = {}
    for start in range(0, len(ids), READ_AT_ONCE):
        part = ids[start : start + READ_AT_ONCE]
        for frame_id, data in zip(part.tolist(), store.read(part), strict=True):
            content = data.tobytes()
            found[str(frame_id)] = image_url(content, "png" if content[:4] == PNG else "jpeg")
    return found


def thumbnails(store: ShardStore, frame_ids: Iterable[int]) -> dict[str, Any]:
    """Frames, made small, side by side in atlases.

    Returns:
        `side` and `across`; `atlases`, URLs; and `places`, by frame id the number of each frame's place, counted
        through all atlases, row by row, and the width and height of its picture there.
    """
    ids = sorted(set(frame_ids))
    places: dict[str, list[int]] = {}
    atlases = []
    for start in range(0, len(ids), ACROSS**2):
        part = ids[start : start + ACROSS**2]
        small = list(_small(store, part))
        grey = all(picture.mode == "L" for picture in small)
        rows = -(-len(part) // ACROSS)
        atlas = Image.new("L" if grey else "RGB", (ACROSS * SIDE, rows * SIDE))
        for number, (frame_id, picture) in enumerate(zip(part, small, strict=True)):
            atlas.paste(picture, (number % ACROSS * SIDE, number // ACROSS * SIDE))
            places[str(frame_id)] = [start + number, picture.width, picture.height]
        atlases.append(jpeg_url(atlas))
    return {"side": SIDE, "across": ACROSS, "atlases": atlases, "places": places}


def _small(store: ShardStore, ids: list[int]) -> Iterable[Image.Image]:
    videos = store.table.rows["video"][np.array(ids, np.int64)]
    grey = [store.table.videos.color[video] == "grey" for video in videos.tolist()]
    for start in range(0, len(ids), READ_AT_ONCE):
        part = ids[start : start + READ_AT_ONCE]
        for number, data in enumerate(store.read(np.array(part, np.int64)), start):
            pixels = decode_frame(store, ids[number], data, 1 if grey[number] else 3)
            picture = Image.fromarray(pixels[..., 0] if grey[number] else pixels)
            scale = SIDE / max(picture.size)
            size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
            yield picture.resize(size, Image.Resampling.BOX if scale < 1 else Image.Resampling.BILINEAR)
