"""The curriculum: how far from the anchor the intra-video negatives are taken, as training goes on.

Every curriculum is a pure function of how far a run has come. Windows are fractions (d0, d1) of a video's
length: the negatives lie between d0 and d1 of it away from the anchor.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

PUBLISHED_EPOCHS = 60
WIDE = (0.2, 0.4)


@dataclass(frozen=True)
class Stage:
    """What the curriculum asks for at one moment.

    intra: whether the intra-video negatives count in the loss; if not, only the cross-video negative does.
    window: (d0, d1) as fractions of the video's length.
    """

    intra: bool
    window: tuple[float, float]


def step_curriculum(progress: float) -> Stage:
    """The published step variant: (.2, .4), from epoch 30 of 60 (.1, .15), from epoch 50 (.03, .07)."""
    epoch = _published_epoch(progress)
    window = WIDE if epoch < 30 else (0.1, 0.15) if epoch < 50 else (0.03, 0.07)
    return Stage(epoch >= 10, window)


def published_cosine(progress: float) -> Stage:
    """The published cosine variant: from epoch 30 of 60, each epoch e multiplies the window *as decayed so far*
    by (1 + cos(pi (e - 30) / 30)) / 2, so that it closes long before the end."""
    epoch = _published_epoch(progress)
    factor = math.prod((1 + math.cos(math.pi * (e - 30) / 30)) / 2 for e in range(30, epoch + 1))
    return Stage(epoch >= 10, (WIDE[0] * factor, WIDE[1] * factor))


def cosine_curriculum(progress: float, floor: float = 0.15) -> Stage:
    """(.2, .4) for the first half, then closing along one cosine, down to `floor` times that.

    The default floor ends at (.03, .06), about where the published step variant ends.
    """
    factor = 1.0 if progress < 0.5 else max(floor, (1 + math.cos(math.pi * (2 * progress - 1))) / 2)
    return Stage(progress >= 1 / 6, (WIDE[0] * factor, WIDE[1] * factor))


CURRICULA: dict[str, Callable[[float], Stage]] = {
    "step": step_curriculum,
    "published-cosine": published_cosine,
    "cosine": cosine_curriculum,
}
"""By name: a function of the progress of a run, 0 at its start and below 1 at its last epoch."""


def _published_epoch(progress: float) -> int:
    # A run of any length goes through the published 60 epochs in proportion; the margin is far above the
    # rounding of epoch / epochs and far below 1 / 60.
    return math.floor(progress * PUBLISHED_EPOCHS + 1e-9)


def window_bounds(
    anchor: NDArray[np.int64], length: NDArray[np.int64], window: tuple[float, float]
) -> NDArray[np.int64]:
    """Frames of the window left and right of each anchor, never nearer than 4 frames.

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
            np.maximum(zero, np.minimum(anchor - near, anchor - 4)),
            np.minimum(length, np.maximum(anchor + near, anchor + 4)),
            np.minimum(length, np.maximum(anchor + far_up, anchor + 6)),
        ],
        axis=1,
    )
