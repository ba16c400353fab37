"""Compares evaluations of several methods on the same samples and folds: paired differences, with intervals."""

import itertools
from typing import Any, NotRequired, TypedDict

import numpy as np
from numpy.typing import NDArray

from usucl_fast.errors import UsageError
from usucl_fast.evaluate.metrics import at_level, bootstrap_scores, fold_scores, group_draws
from usucl_fast.evaluate.presence import Presence
from usucl_fast.evaluate.samples import Predictions
from usucl_fast.evaluate.values import VALUE_SCORES

OF_CLASSES = ("balanced_accuracy", "accuracy", "auroc")
COLUMNS = {
    "video": [[score, level] for score in OF_CLASSES for level in ("frame", "video")],
    "frame": [*([score, "frame"] for score in OF_CLASSES), ["auroc", "video"], ["overlap", "video"]],
    "value": [[score, "frame"] for score in VALUE_SCORES],
}
"""By what was predicted: the scores that are compared, by frame or by video."""


class ArmFigure(TypedDict):
    """A score of an arm: mean of its `seeds`, with a 95 % interval; None where no fold has one.

    std_folds, std_seeds: how folds and, where there are several, training seeds scatter.
    """

    mean: float | None
    seeds: list[float | None]
    low: float | None
    high: float | None
    std_folds: float | None
    std_seeds: NotRequired[float | None]


class DifferenceFigure(TypedDict):
    """A score of an arm minus that of another, with a 95 % interval; None where no fold has one.

    higher, lower: shares of the folds in which the arm is so.
    """

    mean: float | None
    low: float | None
    high: float | None
    higher: float | None
    lower: float | None


class Comparison(TypedDict):
    """What `compare` found.

    columns: the pairs of score and level (`frame`, `video`) that there are.
    frames, videos, groups: how many.
    arms: name -> level -> score.
    differences: for each pair `arm` and `other`, and level -> score of the difference.
    """

    baseline: str | None
    target: str
    columns: list[list[str]]
    classes: list[str]
    frames: int
    videos: int
    groups: int
    chance: float | None
    arms: dict[str, dict[str, dict[str, ArmFigure]]]
    differences: list[dict[str, Any]]


def compare(arms: dict[str, list[Predictions]], baseline: str | None = None, seed: int = 0) -> Comparison:
    """Scores several methods on the same samples and folds, and their paired differences.

    The methods are called arms. Intervals are 95 % of a bootstrap: groups are drawn anew, the same for all arms, and
    with them, for each arm, the evaluations (training seeds). What training seeds change is therefore only in the
    intervals of arms that have several, and too small with few of these.

    Args:
        arms: by name, the evaluations by frame of one method, such as one a training seed.
        baseline: name of the arm that all others are compared with; without one, every arm is with every other.
        seed: of the bootstrap.

    Raises:
        UsageError: the baseline is not an arm, an arm is empty, or two evaluations differ in their samples or folds.
    """
    if baseline is not None and baseline not in arms:
        raise UsageError(f"--baseline {baseline} is none of the methods; name one of {', '.join(arms)}")
    if not arms or not all(arms.values()):
        raise UsageError("a method without an evaluation cannot be compared; name its evaluations or leave it out")
    _check_alike(arms)
    samples = next(iter(arms.values()))[0].samples
    pairs = [(a, b) for a, b in itertools.permutations(arms, 2) if baseline in (None, b)]
    columns = COLUMNS[samples.target]
    levels = dict.fromkeys(level for _, level in columns)
    by_arm: dict[str, dict[str, dict[str, ArmFigure]]] = {name: {level: {} for level in levels} for name in arms}
    differences: list[dict[str, Any]] = [{"arm": a, "other": b, **{level: {} for level in levels}} for a, b in pairs]
    for level in levels:
        found = {name: [_at(level, one) for one in evaluations] for name, evaluations in arms.items()}
        draws = group_draws(len(np.unique(next(iter(found.values()))[0].samples.groups)), seed)
        folds = {name: [fold_scores(one) for one in evaluations] for name, evaluations in found.items()}
        for score in (score for score, at in columns if at == level):
            boots = {
                name: _redraw(evaluations, draws, score, np.random.default_rng([seed, number]))
                for number, (name, evaluations) in enumerate(found.items())
            }
            by_fold = {name: np.array([_numbers(one[score]) for one in scores]) for name, scores in folds.items()}
            for name, scores in by_fold.items():
                by_arm[name][level][score] = _arm_figure(scores, boots[name])
            for pair in differences:
                a, b = pair["arm"], pair["other"]
                pair[level][score] = _difference_figure(by_fold[a], by_fold[b], boots[a] - boots[b])
    return {
        "baseline": baseline,
        "target": samples.target,
        "columns": columns,
        "classes": samples.classes,
        "frames": len(samples),
        "videos": len(np.unique(samples.videos)),
        "groups": len(np.unique(samples.groups)),
        "chance": None if samples.target == "value" else 1 / len(samples.classes),
        "arms": by_arm,
        "differences": differences,
    }


def _at(level: str, predictions: Predictions) -> Predictions | Presence:
    found = at_level(predictions, level)
    assert found
    return found


def _check_alike(arms: dict[str, list[Predictions]]) -> None:
    flat = [
        (name if len(evaluations) == 1 else f"{name} (evaluation {number})", one)
        for name, evaluations in arms.items()
        for number, one in enumerate(evaluations, 1)
    ]
    first_name, first = flat[0]
    for name, one in flat[1:]:
        a, b = first.samples, one.samples
        alike = {
            "samples": a.names == b.names,
            "classes": a.classes == b.classes,
            "labels": np.array_equal(a.labels, b.labels),
            "videos": np.array_equal(a.videos, b.videos),
            "groups": np.array_equal(a.groups, b.groups),
            "targets": a.target == b.target,
            "folds": np.array_equal(first.fold, one.fold),
        }
        if not all(alike.values()):
            what = next(key for key, same in alike.items() if not same)
            raise UsageError(
                f"{name} was evaluated on other {what} than {first_name}; evaluate both with the same shards,"
                " --frames, --folds, --repeats and --seed"
            )


def _arm_figure(scores: NDArray[np.float64], boot: NDArray[np.float64]) -> ArmFigure:
    """Summarises an arm's scores `[evaluations, folds]`, with an interval from the bootstrap draws `[B]`."""
    seeds = scores.mean(axis=1) if scores.size else np.full(len(scores), np.nan)
    low, high = _interval(boot)
    figure: ArmFigure = {
        "mean": _number(seeds.mean()),
        "seeds": [_number(value) for value in seeds],
        "low": low,
        "high": high,
        "std_folds": _number(scores.mean(axis=0).std()) if scores.size else None,
    }
    if len(seeds) > 1:
        figure["std_seeds"] = _number(seeds.std(ddof=1))
    return figure


def _difference_figure(
    scores: NDArray[np.float64], others: NDArray[np.float64], boot: NDArray[np.float64]
) -> DifferenceFigure:
    """Summarises the difference of two arms' scores `[evaluations, folds]`, with an interval from the draws `[B]`."""
    apart = scores.mean(axis=0) - others.mean(axis=0)
    low, high = _interval(boot)
    return {
        "mean": _number(apart.mean()) if apart.size else None,
        "low": low,
        "high": high,
        "higher": float(np.mean(apart > 0)) if apart.size else None,
        "lower": float(np.mean(apart < 0)) if apart.size else None,
    }


def _redraw(
    evaluations: list[Predictions | Presence], draws: NDArray[np.float64], score: str, rng: np.random.Generator
) -> NDArray[np.float64]:
    """The mean score of S evaluations, resampled with each resampling of the groups: `[B]`."""
    count = len(evaluations)
    boots = np.array([bootstrap_scores(one, draws, score) for one in evaluations])
    weights = rng.multinomial(count, np.full(count, 1 / count), len(draws)) / count
    mean: NDArray[np.float64] = np.einsum("bs,sb->b", weights, boots)
    return mean


def _interval(boot: NDArray[np.float64]) -> tuple[float | None, float | None]:
    boot = _numbers(boot)  # a draw without a class has no recall of it
    low, high = np.percentile(boot, [2.5, 97.5]).tolist() if len(boot) else (None, None)
    return low, high


def _numbers(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """The values that are not NaN; which ones a fold lacks depends on its labels, so it is the same for all arms."""
    return values[~np.isnan(values)]


def _number(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
