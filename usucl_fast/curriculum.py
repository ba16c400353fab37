"""The curriculum: how the choice of negatives changes over training.

Every curriculum is a pure function of how far a run has come. It closes, from 0 to 1, the window of the intra-video
negatives, and takes every other figure from its first value to its last by as much. Windows are fractions (d0, d1) of a
video's length: the negatives lie between d0 and d1 of it away from the anchor.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

PUBLISHED_EPOCHS = 60
INTRA_FROM = 1 / 6
"""Progress up to which intra-video negatives do not count, as published."""
WIDE = (0.2, 0.4)
"""The published first window."""
NEAREST = 4
"""Frames from an anchor to its nearest intra-video negative, at least; a positive is nearer."""

Counts = tuple[int, int]
Shares = tuple[float, float]
"""First and last value of what a curriculum moves."""


@dataclass(frozen=True)
class Stage:
    """What the curriculum asks for at one moment.

    intra: whether the intra-video negatives count in the loss.
    window: (d0, d1) as fractions of the video's length.
    intra_negatives: intra-video negatives a tuple.
    intra_hard_share: the share of them that are the hardest of the window, as the bank knows it; the others are random.
    cross_topk: embeddings that the cross-video negative is made of; 0 for no such negative.
    cross_band: the shares of the allowed rows, the most similar first, between which those are taken; None for (0, 1).
    """

    intra: bool
    window: tuple[float, float]
    intra_negatives: int
    intra_hard_share: float
    cross_topk: int
    cross_band: tuple[float, float] | None


@dataclass(frozen=True)
class Curriculum:
    """A function of the progress of a run, 0 at its start and below 1 in its last epoch or step.

    name: in `CURRICULA`: how it closes.
    intra_window: the first window.
    intra_floor: the window never gets below this share of the first one.
    intra_from, cross_from: the progress from which on the intra-video negatives count, and the cross-video one.
    intra_negatives, intra_hard_share, cross_topk, cross_band_start, cross_band_end: first and last value of what
        `Stage` describes.
    """

    name: str
    intra_window: Shares = WIDE
    intra_floor: float = 0.15
    intra_from: float = INTRA_FROM
    cross_from: float = 0.0
    intra_negatives: Counts = (3, 3)
    intra_hard_share: Shares = (0.0, 0.0)
    cross_topk: Counts = (16, 16)
    cross_band_start: Shares = (0.0, 0.0)
    cross_band_end: Shares = (1.0, 1.0)

    def __call__(self, progress: float) -> Stage:
        closed, published = CURRICULA[self.name](progress)
        first = self.intra_window
        d0, d1 = (first[side] / WIDE[side] * published[side] for side in (0, 1))

        def at(ends: Counts | Shares) -> float:
            return ends[0] + (ends[1] - ends[0]) * closed

        band = at(self.cross_band_start), at(self.cross_band_end)
        return Stage(
            intra=progress >= self.intra_from,
            window=(max(d0, self.intra_floor * first[0]), max(d1, self.intra_floor * first[1])),
            intra_negatives=rounded(at(self.intra_negatives)),
            intra_hard_share=at(self.intra_hard_share),
            cross_topk=rounded(at(self.cross_topk)) if progress >= self.cross_from else 0,
            cross_band=None if band == (0, 1) else band,
        )


Closing = tuple[float, tuple[float, float]]
"""How far a curriculum has closed, 0 to 1, and what it makes of the published first window, before any floor."""


def step(progress: float) -> Closing:
    """The published step variant: (.2, .4), from epoch 30 of 60 (.1, .15), from epoch 50 (.03, .07)."""
    epoch = _published_epoch(progress)
    if epoch < 30:
        return 0.0, WIDE
    return (0.5, (0.1, 0.15)) if epoch < 50 else (1.0, (0.03, 0.07))


def published_cosine(progress: float) -> Closing:
    """The published cosine variant: from epoch 30 of 60, each epoch e multiplies the window *as decayed so far*
    by (1 + cos(pi (e - 30) / 30)) / 2, so that it closes long before the end."""
    epoch = _published_epoch(progress)
    return _narrowed(math.prod((1 + math.cos(math.pi * (e - 30) / 30)) / 2 for e in range(30, epoch + 1)))


def cosine(progress: float) -> Closing:
    """(.2, .4) for the first half, then closing along one cosine.

    A floor of .15 ends it at (.03, .06), about where the published step variant ends.
    """
    return _narrowed(1.0 if progress < 0.5 else (1 + math.cos(math.pi * (2 * progress - 1))) / 2)


CURRICULA: dict[str, Callable[[float], Closing]] = {
    "step": step,
    "published-cosine": published_cosine,
    "cosine": cosine,
}
"""By name: how a curriculum closes."""


def rounded(count: float) -> int:
    """The nearest whole number, halves up."""
    return math.floor(count + 0.5)


def _narrowed(factor: float) -> Closing:
    return 1 - factor, (WIDE[0] * factor, WIDE[1] * factor)


def _published_epoch(progress: float) -> int:
    # A run of any length goes through the published 60 epochs in proportion; the margin is far above the
    # rounding of epoch / epochs and far below 1 / 60.
    return math.floor(progress * PUBLISHED_EPOCHS + 1e-9)


def window_bounds(
    anchor: NDArray[np.int64], length: NDArray[np.int64], window: tuple[float, float]
) -> NDArray[np.int64]:
    """Frames of the window left and right of each anchor, never nearer than `NEAREST`.

    Where the window leaves the video, a side is empty (its start is not below its end).

    Args:
        anchor: `[B]`, numbers of frames in their videos.
        length: `[B]`, frames of those videos.
        window: (d0, d1) as fractions of the length.

    Returns:
        `[B, 4]`: left start, left end, right start, right end; ends are exclusive. Source: the published
        sampling, `L = [max(0, min(a - floor(d1 n), a - 6)), max(0, min(a - floor(d0 n), a - 4)))` and
        `R = [min(n, max(a + floor(d0 n), a + 4)), min(n, max(a + ceil(d1 n), a + 6)))`.
    """
    near = np.floor(window[0] * length).astype(np.int64)
    far = np.floor(window[1] * length).astype(np.int64)
    far_up = np.ceil(window[1] * length).astype(np.int64)
    zero = np.zeros_like(anchor)
    return np.stack(
        [
            np.maximum(zero, np.minimum(anchor - far, anchor - 6)),
            np.maximum(zero, np.minimum(anchor - near, anchor - NEAREST)),
            np.minimum(length, np.maximum(anchor + near, anchor + NEAREST)),
            np.minimum(length, np.maximum(anchor + far_up, anchor + 6)),
        ],
        axis=1,
    )
