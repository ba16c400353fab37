"""Scores predictions, with confidence intervals."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csc_array, csr_array

from usucl_fast.errors import UsageError
from usucl_fast.evaluate.presence import Presence, presence
from usucl_fast.evaluate.samples import Predictions
from usucl_fast.evaluate.values import scores_of_values

Array = NDArray[np.float64]

BOOTSTRAPS = 2000

_CHUNK = 2**24
"""Numbers of a table (scores x groups) that are held at once."""


@dataclass(frozen=True)
class Figure:
    """mean and std over the folds of all repeats; low and high: the 95 % interval of that mean over groups drawn anew
    (bootstrap)."""

    mean: float
    std: float
    low: float
    high: float


def summarise(predictions: Predictions, positive: str | None = None, seed: int = 0) -> dict[str, Any]:
    """Scores predictions by frame, with bootstrap intervals; every fold is scored by itself, on the classes it has.

    Args:
        predictions: samples that no fold tested are left out.
        positive: class against all others; the last one where there are two.
        seed: of the bootstrap.

    Returns:
        Figures as dictionaries: `accuracy`, `balanced_accuracy` (mean recall over the classes), `auroc` (one class
        against the rest, mean over the classes), `f1` (mean over the classes), and `recall` by class.
        With a positive class also `sensitivity` (its recall), `specificity` and `binary_accuracy`, for which a
        negative called another negative class is right (as in GBCNet, Basu et al., CVPR 2022).
        Of the target `value`, instead, those of `value_scores`.
        A figure is left out where no fold has what it needs.
        `confusion`: `[true][predicted]`, sum over the folds, mean over the repeats.
        `fold_scores`: of each fold its `repeat`, `fold`, number of `samples`, `accuracy` and `balanced_accuracy`.

    Raises:
        UsageError: `positive` is not a class.
    """
    samples, scores = predictions.samples, fold_scores(predictions, positive)
    figures = _figures(predictions, scores, positive, seed)
    if samples.target == "value":
        return dict(figures)
    confusion = np.zeros((len(samples.classes), len(samples.classes)))
    for fold, probabilities in zip(predictions.fold, predictions.probabilities, strict=True):
        tested = fold >= 0
        np.add.at(confusion, (samples.labels[tested], probabilities[tested].argmax(axis=1)), 1)
    return {
        **{name: value for name, value in figures.items() if not name.startswith(_RECALL)},
        "recall": {name: figures[_RECALL + name] for name in samples.classes if _RECALL + name in figures},
        "confusion": (confusion / len(predictions.fold)).tolist(),
        "fold_scores": [
            {
                "repeat": repeat,
                "fold": fold,
                "balanced_accuracy": float(scores["balanced_accuracy"][repeat, fold]),
                "accuracy": float(scores["accuracy"][repeat, fold]),
                "samples": len(places),
            }
            for repeat, fold, places in _parts(predictions)
            if len(places)
        ],
    }


def summarise_videos(predictions: Predictions, positive: str | None = None, seed: int = 0) -> dict[str, Any]:
    """Scores by video what was predicted by frame: as `summarise`, of the mean over a video's frames; where frames have
    labels of their own, of `Presence`: `auroc`, `overlap` and by class `AUROC of X`; nothing of values."""
    one = at_level(predictions, "video")
    if isinstance(one, Predictions):
        return summarise(one, positive, seed)
    return {} if one is None else dict(_figures(one, fold_scores(one, positive), positive, seed))


def at_level(predictions: Predictions, level: str) -> Predictions | Presence | None:
    """The predictions at a level, `frame` or `video`; None where there are none."""
    if level == "frame":
        return predictions
    target = predictions.samples.target
    return predictions.by_video() if target == "video" else presence(predictions) if target == "frame" else None


def _figures(
    predictions: Predictions | Presence, scores: dict[str, Array], positive: str | None, seed: int
) -> dict[str, dict[str, float]]:
    """The figure of every score that at least one fold has, with its interval."""
    draws = group_draws(len(np.unique(predictions.samples.groups)), seed)
    drawn = _scores(predictions, draws, positive)

    def figure(name: str) -> dict[str, float] | None:
        values, boot = scores[name], _mean(drawn[name], (1, 2))
        values, boot = values[~np.isnan(values)], boot[~np.isnan(boot)]  # a draw without a class has no recall of it
        if not len(values):
            return None
        low, high = np.percentile(boot, [2.5, 97.5])
        return asdict(Figure(float(values.mean()), float(values.std()), float(low), float(high)))

    found = {name: figure(name) for name in scores}
    return {name: value for name, value in found.items() if value is not None}


def fold_scores(predictions: Predictions | Presence, positive: str | None = None) -> dict[str, Array]:
    """The scores of each fold by name (`recall of X` for class X): `[repeats, folds]`, NaN for what a fold lacks."""
    every = np.ones((1, len(np.unique(predictions.samples.groups))))
    return {name: values[0] for name, values in _scores(predictions, every, positive).items()}


def group_draws(groups: int, seed: int) -> Array:
    """How often each group is drawn, `[BOOTSTRAPS, groups]`: as many draws as groups, with replacement."""
    rng = np.random.default_rng(seed)
    return rng.multinomial(groups, np.full(groups, 1 / groups), BOOTSTRAPS).astype(np.float64)


def bootstrap_scores(
    predictions: Predictions | Presence, draws: Array, score: str, positive: str | None = None
) -> Array:
    """The mean over folds and repeats of a score of `fold_scores` in each draw, `[B]`; NaN where a draw has none.

    Args:
        draws: `[B, G]`, how often each group is drawn, in the order of `np.unique(groups)`.
    """
    return _mean(_scores(predictions, draws, positive, auroc=score == "auroc")[score], (1, 2))


_RECALL, AREA_OF = "recall of ", "AUROC of "


def _parts(predictions: Predictions | Presence) -> Iterable[tuple[int, int, NDArray[np.int64]]]:
    """Repeat, fold and the places of the samples that are tested there."""
    for repeat, fold in product(range(len(predictions.fold)), range(predictions.fold.max() + 1)):
        yield repeat, fold, np.flatnonzero(predictions.fold[repeat] == fold)


def _scores(
    predictions: Predictions | Presence, weights: Array, positive: str | None = None, auroc: bool = True
) -> dict[str, Array]:
    """Every score, `[B, repeats, folds]`, under weights `[B, G]` of the groups."""
    if isinstance(predictions, Presence):
        return _of_presence(predictions, weights)
    if predictions.samples.target == "value":
        return scores_of_values(predictions, weights)
    samples = predictions.samples
    classes = len(samples.classes)
    codes = np.unique(samples.groups, return_inverse=True)[1]
    shape = (len(weights), len(predictions.fold), predictions.fold.max() + 1)
    confusion = np.zeros((*shape, classes, classes))
    area = np.full((*shape, classes), np.nan)
    for repeat, fold, places in _parts(predictions):
        labels, probabilities = samples.labels[places], predictions.probabilities[repeat, places]
        own, place = np.unique(codes[places], return_inverse=True)  # of the fold's groups
        cell = labels * classes + probabilities.argmax(axis=1)
        counts = np.bincount(place * classes**2 + cell, minlength=len(own) * classes**2).reshape(len(own), classes**2)
        confusion[:, repeat, fold] = (weights[:, own] @ counts).reshape(-1, classes, classes)
        for label in range(classes if auroc else 0):
            area[:, repeat, fold, label] = _auroc(probabilities[:, label], labels == label, place, weights[:, own])
    scores = _of_confusion(confusion, samples.classes, _index(samples.classes, positive))
    return {**scores, "auroc": _mean(area, -1)} if auroc else scores


def _of_presence(found: Presence, weights: Array) -> dict[str, Array]:
    """The scores of videos, `[B, repeats, folds]`: areas, also by class, and the overlap where a class is shown."""
    classes = found.samples.classes
    codes = np.unique(found.samples.groups, return_inverse=True)[1]
    shape = (len(weights), len(found.fold), found.fold.max() + 1)
    area, overlap = np.full((*shape, len(classes)), np.nan), np.full(shape, np.nan)
    for repeat, fold, places in _parts(found):
        own, place = np.unique(codes[places], return_inverse=True)
        weights_BG = weights[:, own]
        for label in range(len(classes)):
            score, truth = found.score[repeat, places, label], found.truth[places, label]
            area[:, repeat, fold, label] = _auroc(score, truth, place, weights_BG)
        shared = found.overlap[repeat, places]
        total = np.bincount(place, np.nansum(shared, axis=1), len(own))
        shown = np.bincount(place, (~np.isnan(shared)).sum(axis=1), len(own))
        with np.errstate(invalid="ignore"):
            overlap[:, repeat, fold] = weights_BG @ total / (weights_BG @ shown)
    by_class = {f"{AREA_OF}{name}": area[..., label] for label, name in enumerate(classes)}
    return {"auroc": _mean(area, -1), "overlap": overlap, **by_class}


def _index(classes: list[str], positive: str | None) -> int | None:
    if positive is None:
        return 1 if len(classes) == 2 else None
    if positive not in classes:
        raise UsageError(f"--positive {positive} is not a class; there are {', '.join(classes)}")
    return classes.index(positive)


def _of_confusion(confusion: Array, classes: list[str], positive: int | None) -> dict[str, Array]:
    """Scores `[...]` of confusion matrices `[..., true, predicted]`."""
    hits, true = np.diagonal(confusion, axis1=-2, axis2=-1), confusion.sum(axis=-1)
    with np.errstate(invalid="ignore"):  # 0 / 0 is NaN: there is no such sample
        recall = hits / true
        f1 = np.where(true > 0, 2 * hits / (true + confusion.sum(axis=-2)), np.nan)
        scores = {
            "accuracy": hits.sum(axis=-1) / true.sum(axis=-1),
            "balanced_accuracy": _mean(recall, -1),
            "f1": _mean(f1, -1),
            **{_RECALL + name: recall[..., label] for label, name in enumerate(classes)},
        }
        if positive is not None:
            negative = [label for label in range(len(classes)) if label != positive]
            right = confusion[..., negative, :][..., negative].sum(axis=(-2, -1))
            scores["sensitivity"] = recall[..., positive]
            scores["specificity"] = right / true[..., negative].sum(axis=-1)
            scores["binary_accuracy"] = (right + hits[..., positive]) / true.sum(axis=-1)
    return scores


def _auroc(score: Array, positive: NDArray[np.bool_], group: NDArray[np.int64], weights_BG: Array) -> Array:
    """Share `[B]` of the weighted pairs (positive, negative) in which the positive scores higher; ties count half.

    A group's samples weigh alike, so the pairs of each two groups are counted once for all draws.

    Args:
        score: `[M]`.
        positive: `[M]`.
        group: `[M]`, below G.
        weights_BG: `[B, G]`.
    """
    if positive.all() or not positive.any():
        return np.full(len(weights_BG), np.nan)
    level = np.unique(score, return_inverse=True)[1]  # equal scores are one
    groups, levels = weights_BG.shape[1], level.max() + 1
    above = csr_array((np.ones(positive.sum()), (level[positive], group[positive])), shape=(levels, groups))
    below = csc_array((np.ones((~positive).sum()), (level[~positive], group[~positive])), shape=(levels, groups))
    pairs = np.empty((groups, groups))
    step = max(1, _CHUNK // levels)
    for first in range(0, groups, step):
        part = below[:, first : first + step].toarray()
        pairs[:, first : first + step] = above.T @ (part.cumsum(axis=0) - part / 2)
    higher = ((weights_BG @ pairs) * weights_BG).sum(axis=1)
    with np.errstate(invalid="ignore"):
        area: Array = higher / ((weights_BG @ above.sum(axis=0)) * (weights_BG @ below.sum(axis=0)))
    return area


def _mean(values: Array, axis: int | tuple[int, ...]) -> Array:
    """Mean of the numbers that are not NaN; NaN, without a warning, if there are none."""
    number = ~np.isnan(values)
    with np.errstate(invalid="ignore"):
        mean: Array = np.where(number, values, 0).sum(axis=axis) / number.sum(axis=axis)
    return mean
