"""Features + labels -> predictions, on folds that never cut a group."""

import numpy as np
from numpy.typing import NDArray
from sklearn.base import ClassifierMixin
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedGroupKFold
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import Normalizer, StandardScaler

from usucl_fast.errors import UsageError
from usucl_fast.report.progress import Progress

NEIGHBOURS = 20


class _BalancedNeighbours(KNeighborsClassifier):
    """Votes are divided by the class's share of the training samples: a rare class is not outvoted by its rarity."""

    def predict_proba(self, X: NDArray[np.float32]) -> NDArray[np.float64]:
        votes = super().predict_proba(X) / np.bincount(self._y, minlength=len(self.classes_))
        balanced: NDArray[np.float64] = votes / votes.sum(axis=1, keepdims=True)
        return balanced


def _knn(train: int) -> ClassifierMixin:
    return make_pipeline(
        StandardScaler(with_std=False),
        Normalizer(),  # neighbours by cosine
        _BalancedNeighbours(min(NEIGHBOURS, train), weights="distance"),
    )


def _linear(train: int) -> ClassifierMixin:
    return make_pipeline(StandardScaler(), LogisticRegression(C=0.01, class_weight="balanced", max_iter=2000))


PROTOCOLS = {"knn": _knn, "linear": _linear}
"""By name: training samples -> an untrained classifier of frozen features."""


def predict(
    protocol: str,
    features: NDArray[np.float32],
    labels: NDArray[np.int64],
    groups: NDArray[np.int64],
    *,
    folds: int,
    repeats: int,
    seed: int,
) -> NDArray[np.float64]:
    """Probabilities of every frame by a classifier that saw no frame of its group.

    Args:
        protocol: name in `PROTOCOLS`.
        features: `[M, F]`.
        labels: `[M]`, classes counted from 0.
        groups: `[M]`.
        folds: parts that the groups are split into, as alike in their classes as they can be.
        repeats: splits drawn anew.
        seed: of the splits.

    Returns:
        `[repeats, M, classes]`.

    Raises:
        UsageError: one class only, or a class with fewer groups than folds need.
    """
    classes = int(labels.max()) + 1
    if classes < 2:
        raise UsageError("all labelled videos are of one class: there is nothing to tell apart")
    fewest = min(len(set(groups[labels == label])) for label in range(classes))
    if fewest < 2:
        raise UsageError("a class has videos of one group alone: it cannot be both learned and tested; add groups")
    if len(set(groups)) < folds:
        raise UsageError(f"--folds {folds} needs as many groups, and there are {len(set(groups))}; lower it")
    out = np.zeros((repeats, len(labels), classes))
    with Progress("folds", repeats * folds) as progress:
        for repeat in range(repeats):
            split = StratifiedGroupKFold(folds, shuffle=True, random_state=seed + repeat)
            for train, test in split.split(features, labels, groups):
                model = PROTOCOLS[protocol](len(train)).fit(features[train], labels[train])
                out[repeat, test[:, None], model.classes_[None, :]] = model.predict_proba(features[test])
                progress.advance()
    return out
