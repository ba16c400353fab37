"""Predictions -> figures with intervals."""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

BOOTSTRAPS = 2000


@dataclass(frozen=True)
class Figure:
    """mean and std over the repeats; low and high: the 95 % interval over groups drawn anew (bootstrap)."""

    mean: float
    std: float
    low: float
    high: float


def summarise(
    probabilities: NDArray[np.float64],
    labels: NDArray[np.int64],
    groups: NDArray[np.int64],
    names: list[str],
    seed: int = 0,
) -> dict[str, Any]:
    """Accuracy, balanced accuracy (mean recall over the classes), recall by class, confusion matrix.

    Args:
        probabilities: `[repeats, M, classes]`.
        labels: `[M]`.
        groups: `[M]`.
        names: of the classes.

    Returns:
        Figures as dictionaries, and `confusion`: `[true][predicted]`, mean over the repeats.
    """
    repeats, _, classes = probabilities.shape
    codes = np.unique(groups, return_inverse=True)[1]
    confusion = np.zeros((repeats, codes.max() + 1, classes, classes))  # [repeat, group, true, predicted]
    predicted = probabilities.argmax(axis=-1)
    for repeat in range(repeats):
        np.add.at(confusion[repeat], (codes, labels, predicted[repeat]), 1)
    rng = np.random.default_rng(seed)
    draws = rng.multinomial(len(confusion[0]), np.full(len(confusion[0]), 1 / len(confusion[0])), BOOTSTRAPS)
    whole = confusion.sum(axis=1)
    drawn = np.einsum("bg,rgij->brij", draws, confusion)

    def figure(score: Any) -> dict[str, float]:
        values = score(whole)
        boot = score(drawn).mean(axis=1)
        low, high = np.percentile(boot[~np.isnan(boot)], [2.5, 97.5])  # a draw without a class has no recall of it
        return asdict(Figure(float(values.mean()), float(values.std()), float(low), float(high)))

    return {
        "accuracy": figure(lambda c: np.trace(c, axis1=-2, axis2=-1) / c.sum(axis=(-2, -1))),
        "balanced_accuracy": figure(lambda c: _recall(c).mean(axis=-1)),
        "recall": {name: figure(lambda c, k=k: _recall(c)[..., k]) for k, name in enumerate(names)},
        "confusion": whole.mean(axis=0).tolist(),
    }


def _recall(confusion: NDArray[np.float64]) -> NDArray[np.float64]:
    with np.errstate(invalid="ignore"):
        recall: NDArray[np.float64] = np.diagonal(confusion, axis1=-2, axis2=-1) / confusion.sum(axis=-1)
    return recall


def by_video(probabilities: NDArray[np.float64], videos: NDArray[np.int64]) -> NDArray[np.float64]:
    """Mean of the frames' probabilities: `[repeats, M, classes]` -> `[repeats, videos, classes]`, sorted by video."""
    unique, place = np.unique(videos, return_inverse=True)
    share = (place[None, :] == np.arange(len(unique))[:, None]) / np.bincount(place)[:, None]
    mean: NDArray[np.float64] = share @ probabilities
    return mean
