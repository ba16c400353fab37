"""Predictions for frames -> for each video: is a class anywhere in it, and in which frames?"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from usucl_fast.evaluate.samples import Predictions, Samples

MEAN_OVER = 5
"""Frames that are averaged, so that one wrong frame is not yet a finding."""


@dataclass(frozen=True)
class Presence:
    """Predictions for V videos whose frames have labels of their own.

    samples: one a video; its label is of no meaning.
    truth: bool `[V, K]`, whether the class is anywhere in the video.
    score: float64 `[repeats, V, K]`, the greatest mean probability of 5 frames in a row, of those that were tested.
    overlap: float64 `[repeats, V, K]`, intersection over union of the frames with a probability of .5 or more and those
        that have the class; NaN where none has.
    fold: int64 `[repeats, V]`, the fold that tested the video; -1 where none did.
    """

    samples: Samples
    truth: NDArray[np.bool_]
    score: NDArray[np.float64]
    overlap: NDArray[np.float64]
    fold: NDArray[np.int64]


def presence(predictions: Predictions) -> Presence:
    """Turns predictions for frames with labels of their own into predictions for their videos, sorted by video."""
    samples, classes = predictions.samples, len(predictions.samples.classes)
    assert samples.numbers is not None
    videos, first = np.unique(samples.videos, return_index=True)
    shape = (len(predictions.fold), len(videos), classes)
    truth, score, overlap = np.zeros(shape[1:], np.bool_), np.full(shape, np.nan), np.full(shape, np.nan)
    fold = np.full(shape[:2], -1, np.int64)
    for place, video in enumerate(videos):
        frames = np.flatnonzero(samples.videos == video)
        frames = frames[np.argsort(samples.numbers[frames])]
        shown = samples.labels[frames, None] == np.arange(classes)
        truth[place] = shown.any(axis=0)
        for repeat in range(shape[0]):
            tested = predictions.fold[repeat, frames] >= 0
            if tested.any():
                found = predictions.probabilities[repeat, frames[tested]]
                fold[repeat, place] = predictions.fold[repeat, frames[tested][0]]
                score[repeat, place] = _greatest_mean(found)
                overlap[repeat, place] = _overlap(found >= 0.5, shown[tested])
    return Presence(
        Samples(
            labels=samples.labels[first],
            videos=videos,
            groups=samples.groups[first],
            classes=samples.classes,
            names=[samples.names[place].rpartition("/")[0] for place in first],
        ),
        truth,
        score,
        overlap,
        fold,
    )


def _greatest_mean(probabilities: NDArray[np.float64]) -> NDArray[np.float64]:
    """The greatest mean of `MEAN_OVER` consecutive rows of `[n, K]`, or of all if there are fewer: `[K]`."""
    count = min(MEAN_OVER, len(probabilities))
    total = np.cumsum(np.concatenate([np.zeros((1, probabilities.shape[1])), probabilities]), axis=0)
    greatest: NDArray[np.float64] = ((total[count:] - total[:-count]) / count).max(axis=0)
    return greatest


def _overlap(found: NDArray[np.bool_], shown: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Intersection over union of each class over `[n, K]`: `[K]`; NaN for a class that is not shown."""
    both, either = (found & shown).sum(axis=0), (found | shown).sum(axis=0)
    return np.where(shown.any(axis=0), both / np.maximum(either, 1), np.nan)
