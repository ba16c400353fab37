"""Features + labels -> predictions, fold by fold."""

import numpy as np
from numpy.typing import NDArray
from sklearn.base import ClassifierMixin
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import Normalizer, StandardScaler

from usucl_fast.errors import DataError
from usucl_fast.evaluate.samples import Predictions, Samples, Split
from usucl_fast.progress import Progress

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


CLASSIFIERS = {"knn": _knn, "linear": _linear}
"""By protocol, what makes an untrained classifier of frozen features, given the number of training samples."""


def predict(protocol: str, features: NDArray[np.float32], samples: Samples, splits: list[Split]) -> Predictions:
    """Trains a classifier of the features on each split, and returns its probabilities for the samples tested there.

    Args:
        protocol: name in `CLASSIFIERS`.
        features: `[M, F]`.
        samples: M of them.
        splits: of `make_folds`; a sample is tested at most once in a repeat.

    Raises:
        DataError: a feature is not a finite number.
    """
    broken = np.flatnonzero(~np.isfinite(features).all(axis=1))
    if len(broken):
        raise DataError(
            f"features of {len(broken)} samples are not finite, the first of {samples.names[broken[0]]};"
            " check the weights of MODEL"
        )
    repeats = 1 + max(split.repeat for split in splits)
    probabilities = np.full((repeats, len(samples), len(samples.classes)), np.nan)
    fold = np.full((repeats, len(samples)), -1, np.int64)
    with Progress("folds", len(splits)) as progress:
        for split in splits:
            model = CLASSIFIERS[protocol](len(split.train)).fit(features[split.train], samples.labels[split.train])
            probabilities[split.repeat, split.test] = 0  # a class that was not learned
            found = model.predict_proba(features[split.test])
            probabilities[split.repeat, split.test[:, None], model.classes_[None, :]] = found
            fold[split.repeat, split.test] = split.fold
            progress.advance()
    return Predictions(samples, probabilities, fold)
