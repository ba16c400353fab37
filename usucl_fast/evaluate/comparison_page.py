"""Shows a comparison: as tables on the terminal, and as a page with a plot."""

from pathlib import Path

from matplotlib.figure import Figure
from rich.table import Table

from usucl_fast.evaluate.comparison import ArmFigure, Comparison, DifferenceFigure
from usucl_fast.evaluate.page import counts_text, write_plot
from usucl_fast.evaluate.plots import plot_text
from usucl_fast.evaluate.table import TITLES, as_cell, plain_console
from usucl_fast.files import write_json
from usucl_fast.html import paragraph, table_html, write_html

FIRST = {"video": ("balanced_accuracy", "video"), "frame": ("balanced_accuracy", "frame"), "value": ("r2", "frame")}
"""By what was predicted: the score that arms are ranked by."""


def write_comparison(out: Path, comparison: Comparison) -> None:
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


def show_comparison(comparison: Comparison) -> None:
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


def _pair_table(comparison: Comparison, best: str, other: str) -> Table:
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


def _ranked(comparison: Comparison) -> list[str]:
    arms = comparison["arms"]
    score, level = FIRST[comparison["target"]]
    return sorted(arms, key=lambda name: -(arms[name][level][score]["mean"] or 0.0))


def _score_text(figure: ArmFigure) -> str:
    if figure["mean"] is None:
        return ""
    spread = f" ± {figure['std_seeds']:.3f}" if "std_seeds" in figure else ""
    return f"{figure['mean']:.3f}{spread}{_interval_text(figure, '')}"


def _difference_text(figure: DifferenceFigure) -> str:
    if figure["mean"] is None:
        return ""
    return f"{figure['mean']:+.3f}{_interval_text(figure, '+')}, higher in {figure['higher']:.0%} of folds"


def _interval_text(figure: ArmFigure | DifferenceFigure, sign: str) -> str:
    return "" if figure["low"] is None else f" ({figure['low']:{sign}.3f} to {figure['high']:{sign}.3f})"


def _design(comparison: Comparison) -> str:
    score, level = FIRST[comparison["target"]]
    counts = sorted({len(arm[level][score]["seeds"]) for arm in comparison["arms"].values()})
    text = f"95 % intervals: the {comparison['groups']} groups drawn anew, the same for all methods"
    text += ", and evaluations drawn anew" if counts[-1] > 1 else ""
    text += "; ± is the std over a method's evaluations" if counts[-1] > 1 else ""
    text += "; what training seeds change is not in that of a method with one evaluation" if counts[0] == 1 else ""
    return text if comparison["chance"] is None else f"{text}; chance is {comparison['chance']:.3f}"


def _plot(comparison: Comparison) -> Figure:
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
