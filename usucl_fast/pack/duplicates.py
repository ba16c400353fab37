"""Videos that are in a dataset twice, under different groups: a leak that splits by group do not stop."""

import io
import itertools
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from usucl_fast.frames import VideoRecord

LOOKS = 8  # frames of a video that are compared, evenly spaced
SIDE = 24  # pixels along a side that they are reduced to
COARSE = 2.0  # pixels: what is blurrier than that is the machine's layout, which all its videos share
# Gaussian weights along one side, mirrored at its ends.
BLUR = np.exp(-(np.subtract.outer(np.arange(SIDE), np.arange(-SIDE, 2 * SIDE)) ** 2) / (2 * COARSE**2))
BLUR = BLUR / BLUR.sum(axis=1, keepdims=True) @ np.pad(np.eye(SIDE), ((SIDE, SIDE), (0, 0)), mode="symmetric")
NEAR = 0.8
BLOCK = 1024  # videos compared at a time


def find_duplicates(
    tars: Sequence[Path], rows: NDArray[np.void], videos: Sequence[VideoRecord], threads: int
) -> list[dict[str, Any]]:
    """Pairs of videos of different groups that show the same: `videos` (names), `kind`, `similarity`.

    `exact` are equal byte for byte. `near` are those whose fine structure correlates above `NEAR` on average over
    `LOOKS` frames at the same relative times: copies in another size, quality or frame rate are found, and most whose
    ends differ a little; a part of a video is not.

    tars: the shard files that the rows are of.
    """
    with ThreadPoolExecutor(threads) as pool:
        first_row = np.cumsum([0] + [video.frames for video in videos])
        spans = itertools.pairwise(first_row)
        looks = list(pool.map(lambda span: _look(tars, rows[span[0] : span[1]]), spans))
    vectors = np.stack(looks) if looks else np.empty((0, 1), np.float32)
    found = []
    for start in range(0, len(videos), BLOCK):
        similarity = vectors[start : start + BLOCK] @ vectors.T
        for row, other in np.argwhere(similarity > NEAR).tolist():
            a, b = videos[start + row], videos[other]
            if start + row < other and not (a.group and a.group == b.group):
                exact = a.checksum == b.checksum
                found.append(
                    {
                        "videos": [a.name, b.name],
                        "kind": "exact" if exact else "near",
                        "similarity": round(float(similarity[row, other]), 3),
                    }
                )
    return found


def _look(tars: Sequence[Path], rows: NDArray[np.void]) -> NDArray[np.float32]:
    """What a video looks like, `[LOOKS * SIDE * SIDE]`, of length 1."""
    chosen = rows[((np.arange(LOOKS) + 0.5) * len(rows) / LOOKS).astype(int)]
    looks = []
    with tars[chosen[0]["shard"]].open("rb") as file:
        for row in chosen:
            file.seek(int(row["offset"]))
            image = Image.open(io.BytesIO(file.read(int(row["length"]))))
            image.draft("L", (4 * SIDE, 4 * SIDE))  # libjpeg decodes it small at once
            small = np.asarray(image.convert("L").resize((SIDE, SIDE), Image.Resampling.BOX), np.float32)
            fine = small - BLUR @ small @ BLUR.T
            looks.append(fine / max(float(np.linalg.norm(fine)), 1.0))
    return (np.concatenate(looks).ravel() / np.sqrt(LOOKS)).astype(np.float32)
