"""How much of a training step its mining takes, writing to the bank included, and the published loop for n̂ alone.

python bench/mining_step.py RUN SHARDS
"""

import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
import torch.nn.functional as F

from usucl_fast.learn import RunFolder
from usucl_fast.learn.checkpoint import load_newest
from usucl_fast.learn.methods.usucl import Usucl
from usucl_fast.mining import MemoryBank, soft_negative
from usucl_fast.shards import open_shards


@click.command()
@click.argument("run", type=click.Path(exists=True, path_type=Path))
@click.argument("shards")
@click.option("--negatives", default=64, show_default=True, help="Rows of its own video that an anchor is given.")
@click.option("--rounds", default=7, show_default=True, help="Times that each is measured, in turn.")
def main(run: Path, shards: str, negatives: int, rounds: int) -> None:
    """Mines from the bank of RUN, with all of its rows written, for batches of its own, and prints JSON."""
    folder, table = RunFolder(run), open_shards(shards).table
    config, saved = folder.read_config(), load_newest(folder)
    if not isinstance(config, Usucl) or saved is None or saved.bank is None:
        raise click.UsageError(f"{run} has no checkpoint of USUCL; train one with usucl-train")
    bank = MemoryBank(table.first_row, config.dim, group=table.group)
    bank.load_state_dict(saved.bank)
    filled = int((bank.written_at >= 0).sum())
    missing = torch.nonzero(bank.written_at < 0)[:, 0]
    # A row never written is made of one that was, so that the search has all rows to look at.
    written = torch.nonzero(bank.written_at >= 0)[:, 0]
    like = written[torch.searchsorted(written, missing).clamp_max(len(written) - 1)]
    generator = torch.Generator().manual_seed(0)
    noise = F.normalize(torch.randn(len(missing), config.dim, generator=generator), dim=1)
    bank.write(missing, F.normalize(bank.rows(like) + 0.1 * noise, dim=1), 0)

    videos = torch.randperm(len(table.videos), generator=generator)[: config.batch_size]
    anchors = torch.from_numpy(table.first_row)[videos] + torch.from_numpy(np.diff(table.first_row))[videos] // 3
    noise = F.normalize(torch.randn(len(anchors), config.dim, generator=generator), dim=1)
    queries = [F.normalize(bank.rows(anchors) + share * noise, dim=1) for share in (0.2, 0.25, 0.3)]
    stage = config.make_curriculum()(0.5)

    def mine(query: torch.Tensor) -> torch.Tensor:
        found = bank.cross(query, videos, stage.cross_topk).frame_ids
        bank.rows(bank.intra(anchors, query, stage.window, negatives).frame_ids)
        return soft_negative(query, bank.rows(found), found >= 0, config.tau)

    rows, group = bank.embeddings.float(), torch.from_numpy(np.repeat(table.group, np.diff(table.first_row)))

    def published(query: torch.Tensor) -> torch.Tensor:
        """n̂ alone, sample by sample."""
        made = []
        for one, video in zip(query, videos.tolist(), strict=True):
            scores = (rows @ one).masked_fill(group == table.group[video], -torch.inf)
            best, place = scores.topk(stage.cross_topk)
            made.append((best / config.tau).softmax(dim=0) @ rows[place])
        return torch.stack(made)

    seen = torch.randint(len(bank), (5 * len(videos),), generator=generator)
    z = bank.rows(seen)

    def step(query: torch.Tensor) -> None:
        mine(query)
        bank.write(seen, z, 1)  # so that the next search has that to bring up to date

    difference = float((mine(queries[0]) - published(queries[0])).abs().max())
    if difference > 1e-4:
        raise AssertionError(f"n̂ differs by {difference}")
    seconds: dict[str, list[float]] = {"mining": [], "published": []}
    for _ in range(rounds):
        for name, work in (("mining", step), ("published", published)):
            seconds[name].append(_median_of_ten(work, queries))
    whole = statistics.median(line["seconds"] - line["wait"] for line in folder.read_metrics()[1:])
    report: dict[str, Any] = {"rows": len(bank), "written by the run": filled, "batch_size": len(videos)}
    report["step, ms"] = round(1000 * whole, 3)
    for name, times in seconds.items():
        report[f"{name}, ms"] = [round(1000 * value, 3) for value in (statistics.median(times), min(times), max(times))]
    report["mining, share of a step"] = round(statistics.median(seconds["mining"]) / whole, 5)
    ratios = [theirs / ours for ours, theirs in zip(*seconds.values(), strict=True)]
    report["published/mining"] = round(statistics.median(ratios), 4)
    click.echo(json.dumps(report, indent=1))


def _median_of_ten(work: Callable[[torch.Tensor], Any], queries: list[torch.Tensor]) -> float:
    times = []
    for number in range(10):
        start = time.perf_counter()
        work(queries[number % len(queries)])
        times.append(time.perf_counter() - start)
    return statistics.median(times)


if __name__ == "__main__":
    main()
