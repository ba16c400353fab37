"""What is evaluated: labelled frames or images, and the classifier's answers for them."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Samples:
    """M labelled frames of videos, or images.

    labels: `[M]`, classes counted from 0.
    videos, groups: `[M]`, any integers that are alike where the video, or the group (patient), is.
    classes: names of the classes, K of them.
    names: `[M]`, of the samples: `video/frame`, or the path of an image.
    """

    labels: NDArray[np.int64]
    videos: NDArray[np.int64]
    groups: NDArray[np.int64]
    classes: list[str]
    names: list[str]

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class Split:
    """One fold of one repeat: which samples (their places in `Samples`) are learned from, and which are tested."""

    repeat: int
    fold: int
    train: NDArray[np.int64]
    test: NDArray[np.int64]


@dataclass(frozen=True)
class Predictions:
    """What classifiers, each trained without them, said of the samples.

    probabilities: float64 `[repeats, M, K]`, NaN where a sample was not tested in a repeat.
    fold: int64 `[repeats, M]`, the fold that tested the sample; -1 where none did.
    """

    samples: Samples
    probabilities: NDArray[np.float64]
    fold: NDArray[np.int64]

    def by_video(self) -> "Predictions":
        """The mean of the tested frames' probabilities for each video, in a repeat; a video's name is its frames'."""
        raise NotImplementedError
