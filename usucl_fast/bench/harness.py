"""Alternating runs of named arms; one table, one JSON and one plot come out."""

import itertools
import os
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from usucl_fast.files import write_json, write_whole
from usucl_fast.machine import hardware
from usucl_fast.report.progress import Progress

PACKAGES = ("usucl-fast", "torch", "torchvision", "nvidia-dali-cuda130", "numpy", "simplejpeg", "av", "pillow")


@dataclass(frozen=True)
class Arm:
    """One side of a comparison.

    run: does the work once, after its own warm-up, and returns the figure.
    delivers: what comes out; figures are only compared where it is equal.
    """

    name: str
    delivers: str
    run: Callable[[], float]


def measure(kind: str, unit: str, arms: Sequence[Arm], runs: int) -> dict[str, Any]:
    """Runs every arm `runs` times, in turn, and returns the report.

    In each round the order is rotated by one, so that none always follows the same other.
    """
    figures: dict[str, list[float]] = {arm.name: [] for arm in arms}
    with Progress("runs", runs * len(arms)) as progress:
        for number in range(runs):
            turn = number % len(arms)
            for arm in (*arms[turn:], *arms[:turn]):
                figures[arm.name].append(arm.run())
                progress.advance(arm=arm.name, figure=f"{figures[arm.name][-1]:,.0f} {unit}")
    return {
        "kind": kind,
        "hardware": hardware(),
        "versions": {name: found for name in PACKAGES if (found := _version(name))},
        "arms": [
            {
                "name": arm.name,
                "unit": unit,
                "median": statistics.median(figures[arm.name]),
                "min": min(figures[arm.name]),
                "max": max(figures[arm.name]),
                "runs": figures[arm.name],
                "delivers": arm.delivers,
            }
            for arm in arms
        ],
        "ratios": {
            # Of the two figures of one round, so that a slow minute of the machine falls on both.
            f"{a.name}/{b.name}": statistics.median(
                x / y for x, y in zip(figures[a.name], figures[b.name], strict=True)
            )
            for a, b in itertools.combinations(arms, 2)
        },
    }


def publish(report: dict[str, Any], json_file: Path | None) -> None:
    """Prints the table and, where a file is named, writes the JSON and, beside it, the plot as PNG."""
    table = Table("arm", "median", "min", "max", "delivers", title=f"{report['kind']} on {report['hardware']}")
    for arm in report["arms"]:
        figures = [f"{arm[key]:,.0f} {arm['unit']}" for key in ("median", "min", "max")]
        table.add_row(arm["name"], *figures, arm["delivers"])
    console = Console(width=None if os.isatty(1) else 160)
    console.print(table)
    for name, ratio in report["ratios"].items():
        console.print(f"{name}  {ratio:.2f}", highlight=False)
    if json_file:
        json_file.parent.mkdir(parents=True, exist_ok=True)
        write_json(json_file, report)
        _plot(report, json_file.with_suffix(".png"))


def _plot(report: dict[str, Any], path: Path) -> None:
    from matplotlib.figure import Figure

    arms = report["arms"][::-1]
    figure = Figure(figsize=(7, 0.6 * len(arms) + 1.2), layout="constrained")
    axes = figure.subplots()
    axes.barh([arm["name"] for arm in arms], [arm["median"] for arm in arms], color="#4477aa")
    for row, arm in enumerate(arms):
        axes.plot(arm["runs"], [row] * len(arm["runs"]), ".", color="black")
    axes.set_xlabel(arms[0]["unit"])
    axes.set_title(f"{report['kind']}, {report['hardware']}", fontsize="small")
    with write_whole(path) as file:
        figure.savefig(file, format="png", dpi=120)


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
