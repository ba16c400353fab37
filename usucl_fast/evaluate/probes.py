"""Predicts labels or values from frozen features, fold by fold: nearest neighbours, logistic and ridge regression."""

from collections.abc import Callable, Iterable

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import Ridge
from sklearn.neighbors import KNeighborsClassifier, KNeighborsRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import Normalizer, StandardScaler

from usucl_fast.errors import DataError
from usucl_fast.evaluate.logistic import fit_predict
from usucl_fast.evaluate.samples import Predictions, Samples, Split
from usucl_fast.progress import Progress

NEIGHBOURS = 20
RIDGE = 100.0
"""Strength of the penalty on a value's weights, that of the logistic regression of labels."""

Array = NDArray[np.float64]


class _BalancedNeighbours(KNeighborsClassifier):
    """Divides the votes by each class's share of the training samples, so that rare classes are not outvoted."""

    def predict_proba(self, X: NDArray[np.float32]) -> Array:
        votes = super().predict_proba(X) / np.bincount(self._y, minlength=len(self.classes_))
        balanced: Array = votes / votes.sum(axis=1, keepdims=True)
        return balanced


def _by_neighbours(features: NDArray[np.float32], samples: Samples, splits: list[Split]) -> Iterable[Array]:
    for split in splits:
        count = min(NEIGHBOURS, len(split.train))
        regresses = samples.target == "value"
        kind = KNeighborsRegressor if regresses else _BalancedNeighbours
        # neighbours by cosine
        model = make_pipeline(StandardScaler(with_std=False), Normalizer(), kind(count, weights="distance"))
        truth = samples.values if regresses else samples.labels
        assert truth is not None
        model.fit(features[split.train], truth[split.train])
        if regresses:
            yield model.predict(features[split.test])[:, None]
        else:
            found = np.zeros((len(split.test), len(samples.classes)))  # 0 for a class that was not learned
            found[:, model.classes_] = model.predict_proba(features[split.test])
            yield found


def _by_weights(features: NDArray[np.float32], samples: Samples, splits: list[Split]) -> Iterable[Array]:
    if samples.target != "value":
        trains = [split.train for split in splits]
        found = fit_predict(features, samples.labels, len(samples.classes), trains)
        yield from (own[split.test] for own, split in zip(found, splits, strict=True))
        return
    assert samples.values is not None
    for split in splits:
        values = samples.values[split.train]
        spread = values.std() or 1.0
        model = make_pipeline(StandardScaler(), Ridge(RIDGE)).fit(features[split.train], values / spread)
        yield model.predict(features[split.test])[:, None] * spread


PROBES: dict[str, Callable[[NDArray[np.float32], Samples, list[Split]], Iterable[Array]]] = {
    "knn": _by_neighbours,
    "linear": _by_weights,
}
"""By protocol, what learns from the training samples of each split, and predicts those tested there: `[m, K]` class
probabilities, or `[m, 1]` values."""


def predict(protocol: str, features: NDArray[np.float32], samples: Samples, splits: list[Split]) -> Predictions:
    """Trains a classifier, or a regression of values, on the features of each split, and predicts the samples that it
    tests.

    Args:
        protocol: name in `PROBES`: `knn`, the 20 nearest neighbours by cosine; `linear`, logistic or ridge regression.
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
    wide = 1 if samples.target == "value" else len(samples.classes)
    predicted = np.full((repeats, len(samples), wide), np.nan)
    fold = np.full((repeats, len(samples)), -1, np.int64)
    with Progress("folds", len(splits)) as progress:
        for split, found in zip(splits, PROBES[protocol](features, samples, splits), strict=True):
            predicted[split.repeat, split.test] = found
            fold[split.repeat, split.test] = split.fold
            progress.advance()
    return Predictions(samples, predicted, fold)
