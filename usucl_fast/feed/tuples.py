"""Chooses the frames of a tuple: anchor, positive, intra-video negatives; random numbers are arguments."""

import numpy as np
from numpy.typing import NDArray

from usucl_fast.curriculum import window_bounds

EARLY, EVERYWHERE = (0.2, 0.5), (0.0, 1.0)
"""Where in a video its anchors lie: as published, and anywhere, so that all frames are learned from."""
REACH = 3
"""Frames from an anchor to its positive, at most, as published."""


def draw_tuple(
    length: NDArray[np.int64],
    window: tuple[float, float],
    draws: NDArray[np.float64],
    anchors: tuple[float, float] = EARLY,
    reach: int = REACH,
    anchor: NDArray[np.int64] | None = None,
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Draws anchor, positive and intra-video negatives, by the published rules.

    anchor a ~ U{ceil(a0 n) .. ceil(a1 n) - 1}; positive ~ U([a - reach, a + reach] within [0, n), without a);
    negatives ~ U(`window_bounds`), with replacement. Videos too short for that: the anchor is the last frame
    that exists, the positive the anchor itself, as with a `reach` of 0, and the negatives are not valid.

    Args:
        length: `[B]`, frames of each video.
        window: (d0, d1).
        draws: `[B, V]`, uniform in [0, 1).
        anchors: (a0, a1), the published (.2, .5) or `EVERYWHERE`.
        reach: in frames.
        anchor: `[B]`, given in place of drawn.

    Returns:
        frames `[B, V]`, numbers in their videos, and valid `[B, V]`.
    """
    if anchor is None:
        low = np.minimum(np.ceil(anchors[0] * length).astype(np.int64), length - 1)
        high = np.maximum(np.ceil(anchors[1] * length).astype(np.int64), low + 1)
        anchor = low + _scale(draws[:, 0], high - low)
    start = np.maximum(anchor - reach, 0)
    count = np.minimum(anchor + reach, length - 1) - start
    positive = start + _scale(draws[:, 1], count)
    positive += (positive >= anchor) & (count > 0)
    left, left_end, right, right_end = window_bounds(anchor, length, window).T[..., None]
    n_left, n_right = np.maximum(left_end - left, 0), np.maximum(right_end - right, 0)
    pick = _scale(draws[:, 2:], n_left + n_right)
    negatives = np.where(pick < n_left, left + pick, right + pick - n_left)
    found = np.broadcast_to(n_left + n_right > 0, negatives.shape)
    frames = np.concatenate([anchor[:, None], positive[:, None], np.where(found, negatives, anchor[:, None])], axis=1)
    valid = np.concatenate([np.ones((len(length), 2), np.bool_), found], axis=1)
    return frames, valid


def draw_thirds(length: NDArray[np.int64], draws: NDArray[np.float64]) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Draws a frame of each third of a video, that of the middle third first.

    In a video of fewer than three frames, some are the same.

    Args:
        length: `[B]`, frames of each video.
        draws: `[B, 3]`, uniform in [0, 1).

    Returns:
        frames `[B, 3]`, numbers in their videos, and valid `[B, 3]`, all True.
    """
    frames = np.floor((np.array([1, 0, 2]) + draws) * length[:, None] / 3).astype(np.int64)
    return frames, np.ones(frames.shape, np.bool_)


def _scale(draws: NDArray[np.float64], count: NDArray[np.int64]) -> NDArray[np.int64]:
    """Uniform draws -> uniform integers in [0, count); 0 where count is 0."""
    return np.floor(draws * count).astype(np.int64)
