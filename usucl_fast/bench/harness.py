"""Runs the arms of a comparison in turn, and reports them as a table, a JSON file and a plot."""

import itertools
import os
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from usucl_fast.bench.usage import Usage, drop_from_page_cache
from usucl_fast.files import write_json, write_whole
from usucl_fast.machine import hardware
from usucl_fast.progress import Progress

if TYPE_CHECKING:
    import torch

PACKAGES = (
    *("usucl-fast", "torch", "torchvision", "nvidia-dali-cuda130", "numpy", "numba", "simplejpeg", "av", "pillow"),
    *("webdataset", "ffcv", "opencv-python", "spdl", "torchcodec", "faiss-cpu"),
)


@dataclass(frozen=True)
class Arm:
    """One side of a comparison.

    run: does the work once, after its own warm-up, and returns the figure.
    delivers: what comes out; figures are only compared where it is equal.
    files: what it reads, where that is known before it runs.
    seconds: by stage, of its latest run; filled by `run`, where the arm measures them.
    """

    name: str
    delivers: str
    run: Callable[[], float]
    files: Sequence[Path] = ()
    seconds: dict[str, float] = field(default_factory=dict)


def compare(
    kind: str, unit: str, arms: Sequence[Arm], runs: int, json_file: Path | None, page_cache: str = "warm"
) -> None:
    """Measures the arms, prints the report and writes it to `json_file`, if one is named."""
    publish(measure(kind, unit, arms, runs, page_cache), json_file)


def measure(kind: str, unit: str, arms: Sequence[Arm], runs: int, page_cache: str = "warm") -> dict[str, Any]:
    """Runs every arm `runs` times, in turn, and returns the report.

    In each round the order is rotated by one, so that none always follows the same other.

    Args:
        page_cache: `cold` drops an arm's files from the system's page cache before each of its runs; `warm` leaves
            there what earlier runs have read.

    Returns:
        The figures of all runs and their median, and beside these, each a median: `cpu`, the share of all cores' time
        that a run takes; `memory_mb`, the most that this process and its children held, in which is what other arms
        keep there; `stages`, the shares of a run's time, where the arm measures them. Its warm-up is part of a run
        in `cpu` and `memory_mb`.
    """
    figures: dict[str, list[float]] = {arm.name: [] for arm in arms}
    costs: dict[str, list[Usage]] = {arm.name: [] for arm in arms}
    stages: dict[str, list[dict[str, float]]] = {arm.name: [] for arm in arms}
    with Progress("runs", runs * len(arms)) as progress:
        for number in range(runs):
            turn = number % len(arms)
            for arm in (*arms[turn:], *arms[:turn]):
                if page_cache == "cold":
                    drop_from_page_cache(arm.files)
                with Usage() as usage:
                    figures[arm.name].append(arm.run())
                costs[arm.name].append(usage)
                stages[arm.name].append(_shares(arm.seconds))
                progress.advance(arm=arm.name, figure=f"{figures[arm.name][-1]:,.0f} {unit}")
    return {
        "kind": kind,
        "hardware": hardware(),
        "page_cache": page_cache,
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
                "cpu": statistics.median(usage.cpu for usage in costs[arm.name]),
                "memory_mb": statistics.median(usage.memory for usage in costs[arm.name]) / 1e6,
                "stages": {
                    stage: statistics.median(shares[stage] for shares in stages[arm.name])
                    for stage in stages[arm.name][0]
                },
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
    title = f"{report['kind']} on {report['hardware']}, page cache {report['page_cache']}"
    table = Table("arm", "median", "min", "max", "CPU", "memory", "stages", "delivers", title=title)
    for arm in report["arms"]:
        figures = [f"{arm[key]:,.0f} {arm['unit']}" for key in ("median", "min", "max")]
        stages = "  ".join(f"{stage} {share:.0%}" for stage, share in arm["stages"].items())
        table.add_row(
            arm["name"], *figures, f"{arm['cpu']:.0%}", f"{arm['memory_mb']:,.0f} MB", stages, arm["delivers"]
        )
    console = Console(width=None if os.isatty(1) else 160)
    console.print(table)
    for name, ratio in report["ratios"].items():
        console.print(f"{name}  {ratio:.2f}", highlight=False)
    if json_file:
        json_file.parent.mkdir(parents=True, exist_ok=True)
        write_json(json_file, report)
        _plot(report, json_file.with_suffix(".png"))


def synchronise(device: "torch.device") -> None:
    """Waits until the device has finished its work."""
    if device.type == "cuda":
        import torch

        torch.cuda.synchronize(device)


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


def _shares(seconds: dict[str, float]) -> dict[str, float]:
    total = sum(seconds.values()) or 1.0
    return {stage: value / total for stage, value in seconds.items()}


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
