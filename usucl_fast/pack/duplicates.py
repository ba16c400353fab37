"""Finds videos that are in a dataset twice, under different groups: a leak that splits by group do not prevent."""

import io
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypedDict

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from usucl_fast.shards import FrameTable, ShardRecord, VideoRecord, read_members

LOOKS = 8  # frames of a video that are compared, evenly spaced
SIDE = 24  # pixels along a side that they are reduced to
COARSE = 2.0  # pixels: what is blurrier than that is not looked at
# Gaussian weights along one side, mirrored at its ends.
BLUR = np.exp(-(np.subtract.outer(np.arange(SIDE), np.arange(-SIDE, 2 * SIDE)) ** 2) / (2 * COARSE**2))
BLUR = BLUR / BLUR.sum(axis=1, keepdims=True) @ np.pad(np.eye(SIDE), ((SIDE, SIDE), (0, 0)), mode="symmetric")
NEAR = 0.6  # copies, recoded or scaled, reach 0.78 and more; other videos of one machine 0.25
STILL = 0.1  # of the fine structure's length: with less change there is nothing to compare
BLOCK = 1024  # videos compared at a time


class Duplicate(TypedDict):
    """Two videos, by name, that show the same; `kind` is `exact` or `near`."""

    videos: list[str]
    kind: str
    similarity: float


def find_duplicates(looks: Sequence[NDArray[np.float32]], videos: Sequence[VideoRecord]) -> list[Duplicate]:
    """Finds pairs of videos of different groups that show the same.

    `exact` are equal byte for byte. `near` are those whose fine structure changes alike, with a correlation above
    `NEAR`, over `LOOKS` frames at the same relative times: what does not change, the sector's outline above all, is
    the same in all videos of a machine. Copies in another size, quality or frame rate are found, and most whose ends
    differ a little; a part of a video is not, nor a recoded copy of a picture that does not move.

    looks: of each video, from `look_at`.
    """
    vectors = np.stack(looks) if looks else np.empty((0, 1), np.float32)
    content = np.unique([video.checksum for video in videos], return_inverse=True)[1]
    found: list[Duplicate] = []
    for start in range(0, len(videos), BLOCK):
        similarity = vectors[start : start + BLOCK] @ vectors.T
        exact = content[start : start + BLOCK, None] == content
        for row, other in np.argwhere(exact | (similarity > NEAR)).tolist():
            a, b = videos[start + row], videos[other]
            if start + row < other and not (a.group and a.group == b.group):
                kind, value = ("exact", 1.0) if exact[row, other] else ("near", round(float(similarity[row, other]), 3))
                found.append({"videos": [a.name, b.name], "kind": kind, "similarity": value})
    return found


def look_at(file: Path, rows: NDArray[np.void]) -> NDArray[np.float32]:
    """A vector `[LOOKS * SIDE * SIDE]` of unit length that describes how a video changes; 0 if it hardly does.

    file: its shard or spool file; rows: its frames in it.
    """
    chosen = rows[((np.arange(LOOKS) + 0.5) * len(rows) / LOOKS).astype(int)]
    looks = []
    for encoded in read_members(file, chosen):
        image = Image.open(io.BytesIO(encoded))
        image.draft("L", (4 * SIDE, 4 * SIDE))  # libjpeg decodes it small at once
        small = np.asarray(image.convert("L").resize((SIDE, SIDE), Image.Resampling.BOX), np.float32)
        fine = small - BLUR @ small @ BLUR.T
        looks.append(fine / max(float(np.linalg.norm(fine)), 1.0))
    change = np.stack(looks) - np.mean(looks, axis=0)
    length = float(np.linalg.norm(change))
    vector: NDArray[np.float32] = (change / length if length > STILL * LOOKS**0.5 else 0 * change).astype(np.float32)
    return vector.ravel()


def look_at_all(shards: Path, table: FrameTable, threads: int) -> list[NDArray[np.float32]]:
    """What `look_at` says of each video in a shard folder."""

    def look(video: int) -> NDArray[np.float32]:
        rows = table.rows[table.first_row[video] : table.first_row[video + 1]]
        return look_at(shards / ShardRecord.name_of(int(rows["shard"][0])), rows)

    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(look, range(len(table.videos))))
