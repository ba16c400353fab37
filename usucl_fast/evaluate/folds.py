"""Splits samples into training and test folds, with no group, video or frame on both sides."""

from typing import NoReturn

import numpy as np
from numpy.typing import NDArray

from usucl_fast.errors import UsageError
from usucl_fast.evaluate.samples import Samples, Split

UNITS = ("group", "video", "frame")
"""What a split keeps whole."""

ATTEMPTS = 100
"""Splits drawn until every fold has every class on both sides."""


def make_folds(
    samples: Samples, by: str, folds: int, repeats: int, seed: int, allow_leakage: bool = False
) -> list[Split]:
    """Splits samples into stratified folds that cut no group, repeatedly; every fold has all classes on both sides.

    A repeat depends on the seed and its own number alone, not on how many there are. Groups and videos are dealt the
    largest first, and chance decides among those of one size: repeats differ the less, the fewer those are.

    Args:
        samples: M of them.
        by: unit in `UNITS` that is never cut.
        folds: parts, each tested once in a repeat; 2 or more.
        repeats: splits drawn anew.
        seed: 0 or more.
        allow_leakage: whether frames of one video may be on both sides.

    Raises:
        UsageError: by frame without `allow_leakage`, one class only, or too few units for the folds.
    """
    if by == "frame" and not allow_leakage:
        raise UsageError(
            "--by frame puts neighbouring frames of a video on both sides, so that the score says how well videos are"
            " recognised; use --by group, or add --allow-leakage to see it"
        )
    units = _units(samples, by)
    _check(samples, units, by, folds)
    splits = []
    for repeat in range(repeats):
        states = np.random.SeedSequence((seed, repeat)).generate_state(ATTEMPTS + 1).tolist()
        for state in states[:-1]:
            parts = _draw(samples.labels, units, by, folds, state)
            if all(len(np.unique(samples.labels[side])) == len(samples.classes) for part in parts for side in part):
                break
        else:
            parts = _search(samples, units, folds, states[-1]) or _refuse(samples, units, by, folds)
        splits += [Split(repeat, fold, train, test) for fold, (train, test) in enumerate(parts)]
    return splits


def most_folds(samples: Samples, by: str) -> int:
    """The greatest number of folds such that each can test every class."""
    return _rarest(samples, _units(samples, by))[1]


def _units(samples: Samples, by: str) -> NDArray[np.int64]:
    return {"group": samples.groups, "video": samples.videos, "frame": np.arange(len(samples))}[by]


def _draw(
    labels: NDArray[np.int64], units: NDArray[np.int64], by: str, folds: int, state: int
) -> list[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

    if by == "frame":
        return list(StratifiedKFold(folds, shuffle=True, random_state=state).split(labels, labels))
    return list(StratifiedGroupKFold(folds, shuffle=True, random_state=state).split(labels, labels, units))


def _search(
    samples: Samples, units: NDArray[np.int64], folds: int, state: int
) -> list[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Searches for folds that all test every class, which may be too rare to be drawn; empty if there are none.

    By mixed integer programming: each unit is in one fold, and each fold has a unit of each class.
    """
    from scipy.optimize import Bounds, LinearConstraint, milp

    names, place = np.unique(units, return_inverse=True)
    has = np.zeros((len(names), len(samples.classes)))
    has[place, samples.labels] = 1
    # Unknowns [units, folds], flat: 1 where the unit is in the fold.
    once = LinearConstraint(np.kron(np.eye(len(names)), np.ones(folds)), 1, 1)
    covered = LinearConstraint(np.kron(has.T, np.eye(folds)), 1, np.inf)
    cost = np.random.default_rng(state).random(len(names) * folds)  # chance decides which of those that exist
    found = milp(cost, integrality=np.ones(len(cost)), bounds=Bounds(0, 1), constraints=[once, covered])
    if not found.success:
        return []
    fold = found.x.reshape(len(names), folds).argmax(axis=1)[place]
    return [(np.flatnonzero(fold != number), np.flatnonzero(fold == number)) for number in range(folds)]


def _refuse(samples: Samples, units: NDArray[np.int64], by: str, folds: int) -> NoReturn:
    """Raises UsageError, with the greatest possible number of folds."""
    most = next((fewer for fewer in range(folds - 1, 1, -1) if _search(samples, units, fewer, 0)), 0)
    name, count = _rarest(samples, units)
    way = f"--folds {most} is the most" if most else f"add {by}s of it, or leave it out"
    raise UsageError(
        f"--folds {folds}: there is no split in which every fold tests every class; class {name} has {count} {by}s;"
        f" {way}"
    )


def _rarest(samples: Samples, units: NDArray[np.int64]) -> tuple[str, int]:
    """The class with the fewest units, and how many it has."""
    counts = [len(np.unique(units[samples.labels == label])) for label in range(len(samples.classes))]
    return samples.classes[int(np.argmin(counts))], min(counts)


def _check(samples: Samples, units: NDArray[np.int64], by: str, folds: int) -> None:
    if len(np.unique(samples.labels)) < 2:
        raise UsageError("all labelled videos are of one class: there is nothing to classify")
    name, fewest = _rarest(samples, units)
    if fewest < 2:
        raise UsageError(
            f"class {name} has {fewest or 'no'} {by}{'' if fewest else 's'}:"
            f" it cannot be both learned and tested; add {by}s of it, or leave it out"
        )
    if len(np.unique(units)) < folds:
        raise UsageError(f"--folds {folds} needs as many {by}s, and there are {len(np.unique(units))}; lower it")
    if fewest < folds:
        raise UsageError(f"--folds {folds}: class {name} has {fewest} {by}s, so not every fold can test it; lower it")
