"""Scores of predicted numbers: R² and Spearman's rank correlation, over all frames and within videos."""

import numpy as np
from numpy.typing import NDArray

from usucl_fast.evaluate.samples import Predictions

Array = NDArray[np.float64]

VALUE_SCORES = ("r2", "spearman", "r2_within", "spearman_within")


def value_scores(truth: Array, found: Array, videos: NDArray[np.int64], weight_MB: Array) -> dict[str, Array]:
    """The scores of M predicted numbers, in each of B draws.

    Args:
        truth, found: `[M]`.
        videos: `[M]`, alike within a video.
        weight_MB: `[M, B]`, how often each sample was drawn; alike within a video.

    Returns:
        `[B]` each, NaN where there is nothing to compare with:
        `r2`: 1 - sum of squared errors / sum of squares about the mean.
        `spearman`: correlation of the ranks; ties share theirs.
        `r2_within`, `spearman_within`: the same of what is left when each video's own mean is taken away, and the mean
            of the videos' own correlations: whether change is seen, and not only whose video it is.
    """
    _, place, count = np.unique(videos, return_inverse=True, return_counts=True)

    def centred(values: Array) -> Array:
        return values - (np.bincount(place, values) / count)[place]

    own = np.array([_spearman_once(truth[place == video], found[place == video]) for video in range(len(count))])
    drawn = weight_MB[np.unique(place, return_index=True)[1]]  # [videos, B]
    known = ~np.isnan(own)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = (weight_MB * truth[:, None]).sum(axis=0) / weight_MB.sum(axis=0)
        return {
            "r2": 1 - _squares(truth - found, weight_MB) / (weight_MB * (truth[:, None] - mean) ** 2).sum(axis=0),
            "spearman": _correlation(_ranks(truth, weight_MB), _ranks(found, weight_MB), weight_MB),
            "r2_within": 1 - _squares(centred(truth) - centred(found), weight_MB) / _squares(centred(truth), weight_MB),
            "spearman_within": (drawn[known] * own[known, None]).sum(axis=0) / drawn[known].sum(axis=0),
        }


def scores_of_values(predictions: Predictions, weights: Array) -> dict[str, Array]:
    """The scores of predictions, `[B, repeats, folds]`, under weights `[B, G]` of the groups."""
    samples = predictions.samples
    assert samples.values is not None
    codes = np.unique(samples.groups, return_inverse=True)[1]
    shape = (len(weights), len(predictions.fold), predictions.fold.max() + 1)
    scores = {name: np.full(shape, np.nan) for name in VALUE_SCORES}
    for repeat in range(shape[1]):
        for fold in range(shape[2]):
            places = np.flatnonzero(predictions.fold[repeat] == fold)
            if len(places):
                found = predictions.probabilities[repeat, places, 0]
                weight_MB = weights[:, codes[places]].T
                of_fold = value_scores(samples.values[places], found, samples.videos[places], weight_MB)
                for name, value in of_fold.items():
                    scores[name][:, repeat, fold] = value
    return scores


def _squares(values: Array, weight_MB: Array) -> Array:
    total: Array = values**2 @ weight_MB
    return total


def _ranks(values: Array, weight_MB: Array) -> Array:
    """Rank of each sample among those that were drawn, `[M, B]`; ties share their mean rank."""
    order = np.argsort(values)
    levels = np.flatnonzero(np.diff(values[order], prepend=-np.inf))
    at_level = np.add.reduceat(weight_MB[order], levels)
    middle = at_level.cumsum(axis=0) - at_level / 2
    ranks = np.empty_like(weight_MB)
    ranks[order] = np.repeat(middle, np.diff(np.append(levels, len(values))), axis=0)
    return ranks


def _correlation(a: Array, b: Array, weight_MB: Array) -> Array:
    total = weight_MB.sum(axis=0)
    a, b = (one - (weight_MB * one).sum(axis=0) / total for one in (a, b))
    both: Array = (weight_MB * a * b).sum(axis=0)
    return both / np.sqrt((weight_MB * a * a).sum(axis=0) * (weight_MB * b * b).sum(axis=0))


def _spearman_once(truth: Array, found: Array) -> float:
    """Spearman's correlation within one video; NaN if all true, or all predicted, values are equal."""
    if len(truth) < 3 or not np.ptp(truth) or not np.ptp(found):
        return float("nan")
    once = np.ones((len(truth), 1))
    return float(_correlation(_ranks(truth, once), _ranks(found, once), once)[0])
