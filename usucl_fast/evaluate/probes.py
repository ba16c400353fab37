"""Predicts labels or values from frozen features, fold by fold: nearest neighbours, logistic and ridge regression."""

from collections.abc import Callable, Iterable

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from usucl_fast.errors import DataError
from usucl_fast.evaluate.logistic import fit_predict
from usucl_fast.evaluate.samples import Predictions, Samples, Split
from usucl_fast.progress import Progress

NEIGHBOURS = 20
AT_ONCE = 1024
"""Samples whose neighbours are looked for together."""
SAME = 1e-3
"""Distance between unit vectors below which they are the same, but for rounding."""
RIDGE = 100.0
"""Strength of the penalty on a value's weights, that of the logistic regression of labels."""

Array = NDArray[np.float64]


def _by_neighbours(features: NDArray[np.float32], samples: Samples, splits: list[Split]) -> Iterable[Array]:
    for split in splits:
        train, test = split.train, split.test
        centred = features - features[train].mean(axis=0)
        unit = centred / np.maximum(np.linalg.norm(centred, axis=1, keepdims=True), 1e-12)
        count = min(NEIGHBOURS, len(train))
        distance = np.empty((len(test), count))
        nearest = np.empty((len(test), count), np.int64)
        for first in range(0, len(test), AT_ONCE):
            part = slice(first, first + AT_ONCE)
            similarity = unit[test[part]] @ unit[train].T
            nearest[part] = np.argpartition(-similarity, count - 1, axis=1)[:, :count]
            found = np.take_along_axis(similarity, nearest[part], axis=1).astype(np.float64)
            distance[part] = np.sqrt(np.maximum(2 - 2 * found, 0))  # between unit vectors
        weights = _by_distance(distance)
        if samples.target == "value":
            assert samples.values is not None
            yield (weights * samples.values[train][nearest]).sum(axis=1, keepdims=True) / weights.sum(1, keepdims=True)
            continue
        # Each class's votes are divided by its share of the training samples, so that rare ones are not outvoted.
        labels = samples.labels[train]
        shares = np.bincount(labels, minlength=len(samples.classes))
        votes = np.stack([(weights * (labels[nearest] == k)).sum(axis=1) for k in range(len(shares))], axis=1)
        votes = votes / weights.sum(axis=1, keepdims=True) / np.maximum(shares, 1)
        yield votes / votes.sum(axis=1, keepdims=True)


def _by_distance(distance: Array) -> Array:
    """The weights of neighbours, `[M, K]`: 1 / distance; where some are the sample itself, these alone."""
    same = distance < SAME
    alone = same.any(axis=1, keepdims=True)
    return np.where(alone, same, 1 / np.maximum(distance, SAME))


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
