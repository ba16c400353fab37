"""Runs the three campaigns of faults one after the other, and prints one table of how all attempts ended.

    python -m tools.campaign_all --seed 0
    python -m tools.fuzz_calls --seed 0 --only 317      one attempt again, alone; likewise of the others

See `tools.fuzz_calls`, `tools.fuzz_shards` and `tools.fuzz_runs`. The exit status is 1 where there was a fault.
"""

import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import click
import torch

from tools import fuzz_calls, fuzz_runs, fuzz_shards
from tools.campaign import Ends, Table, show


@click.command()
@click.option("--calls", default=4200, show_default=True, type=click.IntRange(0), help="Wrong calls.")
@click.option("--shards", default=900, show_default=True, type=click.IntRange(0), help="Hostile shards and servers.")
@click.option("--runs", default=120, show_default=True, type=click.IntRange(0), help="Damaged and killed runs.")
@click.option("--seed", default=0, show_default=True, type=click.IntRange(0))
@click.option("--dali-every", default=8, show_default=True, type=click.IntRange(0), help="As of tools.fuzz_shards.")
@click.option("--json", "report", type=click.Path(path_type=Path), help="Number, kind and outcome of each attempt.")
def main(calls: int, shards: int, runs: int, seed: int, dali_every: int, report: Path | None) -> None:
    """Runs the three campaigns, and tells by kind how many attempts ended how."""
    torch.set_num_threads(1)
    table: Table = {}
    outcomes = {}
    with tempfile.TemporaryDirectory(prefix="usucl-fuzz-") as root:
        folder, ways = Path(root), fuzz_runs.ways()
        campaigns: dict[str, tuple[int, Callable[[], Ends]]] = {
            "calls": (calls, lambda: fuzz_calls.campaign(range(calls), seed)),
            "shards": (
                shards,
                lambda: fuzz_shards.campaign(fuzz_shards.make_shards(folder), range(shards), seed, dali_every),
            ),
            "runs": (
                runs,
                lambda: fuzz_runs.campaign(fuzz_runs.Whole.make(folder / "runs", ways), ways, range(runs), seed),
            ),
        }
        for name, (count, campaign) in campaigns.items():
            if count:
                began = time.monotonic()
                ended, outcomes[name] = campaign()
                table |= {f"{name}: {kind}": counts for kind, counts in ended.items()}
                click.echo(f"{name}: {time.monotonic() - began:.0f} s", err=True)
    if report:
        report.write_text(json.dumps(outcomes, indent=1))
    sys.exit(not show(table))


if __name__ == "__main__":
    main()
