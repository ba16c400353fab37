"""The tables of `bench/quality.py`: what each arm has learned, and its difference from the arm it is compared with.

python -m bench.quality_tables

Reads every RESULTS/*.json, and writes RESULTS/README.md and a figure a leg of the curves over the length of training.
"""

import json
import statistics
from collections import defaultdict
from pathlib import Path
from typing import Any, NamedTuple

import click
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from scipy.stats import t as student

from bench.quality import ARMS, LEGS, RESULTS, SCALES
from usucl_fast.evaluate import RANDOM
from usucl_fast.files import write_whole

Report = dict[str, Any]
FACTORS = ("in-batch", "intra", "look", "look-intra")
"""The arms that a figure shows."""


class Difference(NamedTuple):
    """Mean, and the ends of its 95 % interval; `seeds` that both arms have."""

    mean: float
    low: float
    high: float
    seeds: int


def difference(ones: dict[int, Report], others: dict[int, Report], figure: str) -> Difference | None:
    """One arm minus another, paired by patient and seed; None where they have no seed in common.

    The variance is the sum of two: over patients by the bootstrap, of the difference where they are drawn anew, and
    over seeds. The interval is Student's, with the degrees of freedom of Welch and Satterthwaite. Of one seed, what
    seeds change is not in it.

    Args:
        ones, others: by seed, the reports of an arm.
    """
    seeds = sorted(set(ones) & set(others))
    if not seeds:
        return None

    def paired(get: str) -> NDArray[np.float64]:
        a, b = ([arm[seed]["figures"][figure][get] for seed in seeds] for arm in (ones, others))
        return np.array(a, np.float64) - np.array(b, np.float64)

    by_seed, drawn = paired("value"), paired("drawn").mean(axis=0)
    groups, mean = ones[seeds[0]]["groups"], float(by_seed.mean())
    of_groups = float(np.nanvar(drawn, ddof=1))
    of_seeds = float(by_seed.var(ddof=1)) / len(seeds) if len(seeds) > 1 else 0.0
    variance = of_groups + of_seeds
    if variance == 0:
        return Difference(mean, mean, mean, len(seeds))
    freedom = variance**2 / (of_groups**2 / (groups - 1) + of_seeds**2 / max(1, len(seeds) - 1))
    half = float(student.ppf(0.975, freedom)) * variance**0.5
    return Difference(mean, mean - half, mean + half, len(seeds))


@click.command()
@click.option("--results", default=RESULTS, show_default=True, type=click.Path(path_type=Path, exists=True))
def main(results: Path) -> None:
    """Writes README.md and the figures into RESULTS, of the runs that lie there."""
    found: dict[tuple[str, str], dict[str, dict[int, Report]]] = defaultdict(lambda: defaultdict(dict))
    for file in sorted(results.glob("*.json")):
        report = json.loads(file.read_bytes())
        found[report["leg"], report["scale"]][report["arm"]][report["seed"]] = report
    text = [
        "# What each arm learned",
        "",
        "Made by `python -m bench.quality_tables` of the files beside it, a run each. Means, ± the standard deviation",
        "of seeds where there are several. A difference is paired by patient and seed, with its 95 % interval; of one",
        "seed (¹), what seeds change is not in it. Bold: the interval lies on one side of zero.",
    ]
    for leg, scale in sorted(found, key=lambda key: (list(LEGS).index(key[0]), list(SCALES).index(key[1]))):
        arms = {name: found[leg, scale][name] for name in ARMS if name in found[leg, scale]}
        text += ["", f"## {leg}, {scale}", "", *_described(arms), "", *_arms_table(arms), "", *_differences_table(arms)]
        if figure := _curves(arms):
            name = f"{leg}-{scale}.png"
            with write_whole(results / name) as opened:
                figure.savefig(opened, format="png", dpi=100)
            text += ["", f"![{leg}: figures over the steps of training]({name})"]
    with write_whole(results / "README.md") as opened:
        opened.write(("\n".join(text) + "\n").encode())
    click.echo(f"{results / 'README.md'}: {sum(len(runs) for arms in found.values() for runs in arms.values())} runs")


def _described(arms: dict[str, dict[int, Report]]) -> list[str]:
    """What the runs were of, in a line or two."""
    every = [report for runs in arms.values() for report in runs.values()]
    trained = [report for report in every if "curve" in report]
    settings = every[0]["settings"]
    line = f"`{settings['arch']}`, {settings['init']} weights, {settings['size']} pixels, {every[0]['groups']} patients"
    if trained:
        steps, batch = ({report["settings"][name] for report in trained} for name in ("steps", "batch_size"))
        minutes = statistics.median(report["seconds"] for report in trained) / 60
        line += f"; {_either(steps)} steps of {_either(batch)} tuples, {minutes:.0f} minutes a run"
    machines, commits = ({report[name] for report in every} for name in ("hardware", "commit"))
    return [f"{line}. {'; '.join(sorted(machines))}. Commit {', '.join(sorted(commits))}."]


def _either(values: set[int]) -> str:
    return " or ".join(f"{value:,}" for value in sorted(values))


def _arms_table(arms: dict[str, dict[int, Report]]) -> list[str]:
    figures = _figures(arms)
    lines = [_row("arm", "seeds", *figures, "mean cosine"), _row(*["---"] * (len(figures) + 3))]
    for name, runs in arms.items():
        cosines = [report["curve"][-1]["mean_cosine"] for report in runs.values() if "curve" in report]
        values = [[report["figures"][figure]["value"] for report in runs.values()] for figure in figures]
        lines.append(_row(f"`{name}`", len(runs), *map(_mean, values), _mean(cosines) if cosines else ""))
    return lines


def _differences_table(arms: dict[str, dict[int, Report]]) -> list[str]:
    figures = _figures(arms)
    lines = [_row("difference", *figures), _row(*["---"] * (len(figures) + 1))]
    for name, runs in arms.items():
        beside = next((other for other in ARMS[name].beside if other in arms), None)
        if beside:
            made = [difference(runs, arms[beside], figure) for figure in figures]
            if all(made):
                lines.append(_row(f"`{name}` − `{beside}`", *(_difference_text(one) for one in made if one)))
    return lines if len(lines) > 2 else []


def _figures(arms: dict[str, dict[int, Report]]) -> list[str]:
    return list(next(iter(next(iter(arms.values())).values()))["figures"])


def _row(*cells: object) -> str:
    return f"| {' | '.join(map(str, cells))} |"


def _mean(values: list[float]) -> str:
    spread = f" ± {statistics.stdev(values):.3f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.3f}{spread}"


def _difference_text(found: Difference) -> str:
    mean = f"{found.mean:+.3f}{'¹' if found.seeds == 1 else ''}"
    shown = f"**{mean}**" if found.low > 0 or found.high < 0 else mean
    return f"{shown} ({found.low:+.3f} to {found.high:+.3f})"


def _curves(arms: dict[str, dict[int, Report]]) -> Figure | None:
    """The figures of the four arms of two factors over the steps, the mean of their seeds."""
    shown = [name for name in FACTORS if name in arms]
    if not shown:
        return None
    figures = _figures(arms)
    rows = (len(figures) + 1) // 2
    made = Figure(figsize=(2.9 * rows, 5.4), layout="constrained")
    for place, figure in enumerate(figures):
        # Protocols below each other: figures come in pairs of them.
        axes = made.add_subplot(2, rows, 1 + place // 2 + place % 2 * rows)
        for name in shown:
            curves = [report["curve"] for report in arms[name].values()]
            mean = np.mean([[point["figures"][figure] for point in curve] for curve in curves], axis=0)
            axes.plot([point["step"] for point in curves[0]], mean, marker="o", label=name)
        if RANDOM in arms:
            values = [report["figures"][figure]["value"] for report in arms[RANDOM].values()]
            axes.axhline(statistics.mean(values), color="grey", linestyle="--", label="untrained")
        axes.set_title(figure, fontsize=9)
        axes.tick_params(labelsize=8)
        if place == 0:
            axes.legend(fontsize=7)
    return made


if __name__ == "__main__":
    main()
