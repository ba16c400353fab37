"""Compares evaluations of several methods on the same samples and folds: paired differences, with intervals."""

import itertools
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from rich.table import Table

from usucl_fast.errors import UsageError
from usucl_fast.evaluate.metrics import at_level, bootstrap_scores, fold_scores, group_draws
from usucl_fast.evaluate.page import counts_text, write_plot
from usucl_fast.evaluate.plots import plot_text
from usucl_fast.evaluate.presence import Presence
from usucl_fast.evaluate.samples import Predictions
from usucl_fast.evaluate.table import TITLES, as_cell, plain_console
from usucl_fast.evaluate.values import VALUE_SCORES
from usucl_fast.files import write_json
from usucl_fast.html import paragraph, table_html, write_html

OF_CLASSES = ("balanced_accuracy", "accuracy", "auroc")
COLUMNS = {
    "video": [[score, level] for score in OF_CLASSES for level in ("frame", "video")],
    "frame": [*([score, "frame"] for score in OF_CLASSES), ["auroc", "video"], ["overlap", "video"]],
    "value": [[score, "frame"] for score in VALUE_SCORES],
}
"""By what was predicted: the scores that are compared, by frame or by video."""
FIRST = {"video": ("balanced_accuracy", "video"), "frame": ("balanced_accuracy", "frame"), "value": ("r2", "frame")}
"""By what was predicted: the score that arms are ranked by."""


def compare(arms: dict[str, list[Predictions]], baseline: str | None = None, seed: int = 0) -> dict[str, Any]:
    """Scores several methods on the same samples and folds, and their paired differences.

    The methods are called arms. Intervals are 95 % of a bootstrap: groups are drawn anew, the same for all arms, and
    with them, for each arm, the evaluations (training seeds). What training seeds change is therefore only in the
    intervals of arms that have several, and too small with few of these.

    Args:
        arms: by name, the evaluations by frame of one method, such as one a training seed.
        baseline: name of the arm that all others are compared with; without one, every arm is with every other.
        seed: of the bootstrap.

    Returns:
        `arms`: name -> level (`frame`, `video`) -> score -> `mean` of the `seeds`, `low`, `high`, `std_folds`, and
        `std_seeds` where there are several. `differences`: for each pair `arm`, `other`, level -> score -> `mean`
        (arm minus other), `low`, `high` and the shares of the folds in which the arm is `higher` or `lower`. `columns`:
        the pairs of score and level that there are.

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
    by_arm: dict[str, dict[str, Any]] = {name: {level: {} for level in levels} for name in arms}
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


def write_comparison(out: Path, comparison: dict[str, Any]) -> None:
    """Writes `comparison.json`, `comparison.png` and `page.html`, which holds the plot, into `out`."""
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / "comparison.json", comparison)
    plot = write_plot(out / "comparison.png", _plot(comparison), "Dots: evaluations. Bars: their mean, 95 % interval.")
    ranked = _ranked(comparison)
    columns = comparison["columns"]
    header = ["", *(f"{TITLES[score]} by {level}" for score, level in columns)]
    scores = [
        (name, *(_score_text(comparison["arms"][name][level][score]) for score, level in columns)) for name in ranked
    ]
    differences = [
        (f"{pair['arm']} − {pair['other']}", *(_difference_text(pair[level][score]) for score, level in columns))
        for pair in comparison["differences"]
        if comparison["baseline"] or ranked.index(pair["arm"]) < ranked.index(pair["other"])
    ]
    parts = [paragraph(counts_text(comparison)), table_html(header, scores), plot]
    if differences:
        parts += ["<h2>Differences</h2>", table_html(header, differences)]
    write_html(out / "page.html", "Comparison", [*parts, paragraph(_design(comparison))])


def show_comparison(comparison: dict[str, Any]) -> None:
    """Prints a table for each score, with a row for each arm and its difference to the baseline, else to the best arm.

    Two arms get one narrow table: a row for each score, with the difference of the two.
    """
    ranked, console = _ranked(comparison), plain_console()
    if len(ranked) == 2:
        console.print(_pair_table(comparison, *ranked))
        console.print(_design(comparison).replace("; ", ";\n"), markup=False)
        return
    reference = comparison["baseline"] or ranked[0]
    to_reference = {pair["arm"]: pair for pair in comparison["differences"] if pair["other"] == reference}
    for score in dict.fromkeys(score for score, _ in comparison["columns"]):
        levels = [level for one, level in comparison["columns"] if one == score]
        header = [text for level in levels for text in (f"by {level}", f"minus {as_cell(reference)}")]
        table = Table("", *header, title=TITLES[score])
        for name in ranked:
            cells = []
            for level in levels:
                cells.append(_score_text(comparison["arms"][name][level][score]))
                cells.append(_difference_text(to_reference[name][level][score]) if name in to_reference else "")
            table.add_row(as_cell(name), *cells)
        console.print(table)
    console.print(_design(comparison), markup=False)


def _pair_table(comparison: dict[str, Any], best: str, other: str) -> Table:
    """A row for each score of two arms, with the better one minus the other, or one minus the baseline."""
    one, base = (other, best) if comparison["baseline"] == best else (best, other)
    pair = next(pair for pair in comparison["differences"] if (pair["arm"], pair["other"]) == (one, base))
    arms = comparison["arms"]
    table = Table("", as_cell(base), as_cell(one), f"{as_cell(one)} − {as_cell(base)}")
    for score, level in comparison["columns"]:
        means = [arms[name][level][score]["mean"] for name in (base, one)]
        if None not in means:
            figure = pair[level][score]
            difference = f"{figure['mean']:+.3f}{_interval_text(figure, '+')}"
            table.add_row(f"{TITLES[score]} by {level}", *(f"{mean:.3f}" for mean in means), difference)
    return table


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


def _arm_figure(scores: NDArray[np.float64], boot: NDArray[np.float64]) -> dict[str, Any]:
    """Summarises an arm's scores `[evaluations, folds]`, with an interval from the bootstrap draws `[B]`."""
    seeds = scores.mean(axis=1) if scores.size else np.full(len(scores), np.nan)
    return {
        "mean": _number(seeds.mean()),
        "seeds": [_number(value) for value in seeds],
        **_interval(boot),
        "std_folds": _number(scores.mean(axis=0).std()) if scores.size else None,
        **({"std_seeds": _number(seeds.std(ddof=1))} if len(seeds) > 1 else {}),
    }


def _difference_figure(
    scores: NDArray[np.float64], others: NDArray[np.float64], boot: NDArray[np.float64]
) -> dict[str, Any]:
    """Summarises the difference of two arms' scores `[evaluations, folds]`, with an interval from the draws `[B]`."""
    apart = scores.mean(axis=0) - others.mean(axis=0)
    return {
        "mean": _number(apart.mean()) if apart.size else None,
        **_interval(boot),
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


def _interval(boot: NDArray[np.float64]) -> dict[str, float | None]:
    boot = _numbers(boot)  # a draw without a class has no recall of it
    low, high = np.percentile(boot, [2.5, 97.5]).tolist() if len(boot) else (None, None)
    return {"low": low, "high": high}


def _numbers(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """The values that are not NaN; which ones a fold lacks depends on its labels, so it is the same for all arms."""
    return values[~np.isnan(values)]


def _number(value: float) -> float | None:
    return None if np.isnan(value) else float(value)


def _ranked(comparison: dict[str, Any]) -> list[str]:
    arms = comparison["arms"]
    score, level = FIRST[comparison["target"]]
    return sorted(arms, key=lambda name: -(arms[name][level][score]["mean"] or 0.0))


def _score_text(figure: dict[str, Any]) -> str:
    if figure["mean"] is None:
        return ""
    spread = f" ± {figure['std_seeds']:.3f}" if "std_seeds" in figure else ""
    return f"{figure['mean']:.3f}{spread}{_interval_text(figure, '')}"


def _difference_text(figure: dict[str, Any]) -> str:
    if figure["mean"] is None:
        return ""
    return f"{figure['mean']:+.3f}{_interval_text(figure, '+')}, higher in {figure['higher']:.0%} of folds"


def _interval_text(figure: dict[str, Any], sign: str) -> str:
    return "" if figure["low"] is None else f" ({figure['low']:{sign}.3f} to {figure['high']:{sign}.3f})"


def _design(comparison: dict[str, Any]) -> str:
    score, level = FIRST[comparison["target"]]
    counts = sorted({len(arm[level][score]["seeds"]) for arm in comparison["arms"].values()})
    text = f"95 % intervals: the {comparison['groups']} groups drawn anew, the same for all methods"
    text += ", and evaluations drawn anew" if counts[-1] > 1 else ""
    text += "; ± is the std over a method's evaluations" if counts[-1] > 1 else ""
    text += "; what training seeds change is not in that of a method with one evaluation" if counts[0] == 1 else ""
    return text if comparison["chance"] is None else f"{text}; chance is {comparison['chance']:.3f}"


def _plot(comparison: dict[str, Any]) -> Figure:
    ranked = _ranked(comparison)[::-1]
    first = FIRST[comparison["target"]]
    shown = [column for column in comparison["columns"] if column[0] == first[0]]
    figure = Figure(figsize=(4.5 * len(shown), 0.5 * len(ranked) + 1.5), layout="constrained")
    panels = figure.subplots(1, len(shown), sharey=True, squeeze=False)[0]
    for axes, (score, level) in zip(panels, shown, strict=True):
        for row, name in enumerate(ranked):
            found = comparison["arms"][name][level][score]
            if found["mean"] is None:
                continue
            axes.plot(found["seeds"], [row + 0.2] * len(found["seeds"]), "o", color="black", alpha=0.5, markersize=4)
            axes.plot(found["mean"], row, "D", color="#4477aa")
            if found["low"] is not None:
                axes.hlines(row, found["low"], found["high"], color="#4477aa", linewidth=2)
        dotted = "" if comparison["chance"] is None else " (dotted: chance)"
        if dotted:
            axes.axvline(comparison["chance"], linestyle=":", color="grey")
        axes.set_yticks(range(len(ranked)), list(map(plot_text, ranked)))
        axes.set(title=f"by {level}", xlabel=f"{TITLES[score]}{dotted}", ylim=(-0.5, len(ranked) - 0.3))
    return figure
