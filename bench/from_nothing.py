"""Trains the recipes from random weights, seed by seed, and reports how alike embeddings become over the run.

python bench/from_nothing.py SHARDS OUT [options of usucl-train]
"""

import json
import statistics
from pathlib import Path
from typing import Any

import click

from usucl_fast.cli.train import main as usucl_train
from usucl_fast.files import write_json
from usucl_fast.learn import RunFolder
from usucl_fast.machine import hardware

CURVES = ("loss", "mean_cosine", "effective_rank", "bank_mean_cosine", "bank_effective_rank")


@click.command(context_settings={"ignore_unknown_options": True})
@click.argument("shards")
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--recipes", default="default,reference", show_default=True, help="By commas.")
@click.option("--seeds", default=3, show_default=True, help="Runs of each recipe.")
@click.argument("options", nargs=-1, type=click.UNPROCESSED)
def main(shards: str, out: Path, recipes: str, seeds: int, options: tuple[str, ...]) -> None:
    """Trains each of the recipes from random weights, with OPTIONS, into OUT/RECIPE-SEED, and writes OUT/report.json.

    A run that is there is resumed. Curves are those of metrics.jsonl; `bank_*` are of up to 1,024 rows of the
    memory bank, every 50 steps.
    """
    report: dict[str, Any] = {"kind": "from-nothing", "hardware": hardware(), "options": options, "runs": []}
    for recipe in recipes.split(","):
        for seed in range(seeds):
            run = out / f"{recipe}-{seed}"
            begun = RunFolder(run).holds_run()
            named = ["--recipe", recipe, "--seed", str(seed), "--init", "random", *options]
            usucl_train([shards, "--out", str(run), *(["--resume"] if begun else named)], standalone_mode=False)
            report["runs"].append({"recipe": recipe, "seed": seed, **_curves(run)})
    write_json(out / "report.json", report)
    click.echo(json.dumps(_last(report["runs"]), indent=1))


def _curves(run: Path) -> dict[str, list[tuple[int, float]]]:
    """Points (step, value)."""
    curves: dict[str, list[tuple[int, float]]] = {name: [] for name in CURVES}
    for line in RunFolder(run).read_metrics():
        looked = {**line, **{f"bank_{name}": value for name, value in line.get("bank", {}).items()}}
        for name, curve in curves.items():
            if name in looked:
                curve.append((line["step"], round(looked[name], 4)))
    return curves


def _last(runs: list[dict[str, Any]]) -> dict[str, dict[str, list[float]]]:
    """By recipe and curve: the mean of the last ten points of each run."""
    return {
        recipe: {
            name: [
                round(statistics.mean(value for _, value in run[name][-10 if name in CURVES[:3] else -1 :]), 3)
                for run in runs
                if run["recipe"] == recipe
            ]
            for name in CURVES
        }
        for recipe in dict.fromkeys(run["recipe"] for run in runs)
    }


if __name__ == "__main__":
    main()
