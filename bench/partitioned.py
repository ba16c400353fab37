"""Time and memory of a bank spread over gloo ranks on this machine, one thread each.

python bench/partitioned.py --rows 1000000 --ranks 1 --ranks 2
"""

import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import psutil
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
import torch.nn.functional as F

from usucl_fast.mining import PartitionedBank

VIDEO = 125
"""Frames of a video."""
TUPLE = 5
"""Frames written for each query."""
BLOCK = 100_000
"""Rows that a rank writes at once to fill the bank, at most."""


@click.command()
@click.option("--rows", default=1_000_000, show_default=True, help="Frames in the bank, in videos of 125.")
@click.option("--ranks", multiple=True, default=(1, 2), show_default=True, help="Processes; may be given again.")
@click.option("--dim", default=128, show_default=True, help="Numbers an embedding, stored in float16.")
@click.option("--batch-size", default=64, show_default=True, help="Queries a step, the same on every rank.")
@click.option("--k", default=16, show_default=True, help="Answers a query.")
@click.option("--runs", default=7, show_default=True, help="Steps measured, after one that is not.")
def main(rows: int, ranks: tuple[int, ...], dim: int, batch_size: int, k: int, runs: int) -> None:
    """Asks a full bank, clustered by video, for the nearest rows of other videos, and prints a table."""
    click.echo("| ranks | `write`, ms | `cross`, ms | `rows`, ms | rows on a rank, MB | its memory grew by, MB |")
    click.echo("|---|---|---|---|---|---|")
    for count in ranks:
        with tempfile.TemporaryDirectory() as folder:
            mp.spawn(work, (count, Path(folder) / "meet", rows, dim, batch_size, k, runs), nprocs=count)


def work(rank: int, ranks: int, meet: Path, rows: int, dim: int, batch_size: int, k: int, runs: int) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{meet}", rank=rank, world_size=ranks)
    memory = psutil.Process().memory_info
    before = memory().rss
    bank = PartitionedBank([*range(0, rows, VIDEO), rows], dim)
    fill(bank, ranks, torch.Generator().manual_seed(rank))
    generator = torch.Generator().manual_seed(0)  # all ranks ask the same
    write, cross, read = list[float](), list[float](), list[float]()
    for step in range(1, runs + 2):
        anchors = torch.randint(rows, (batch_size,), generator=generator)
        query = bank.rows(anchors)
        written = torch.randint(rows, (batch_size * TUPLE,), generator=generator)
        z = F.normalize(torch.randn(len(written), dim, generator=generator), dim=1)
        taken, _ = timed(bank.write, written, z, step)
        write.append(taken)
        taken, nearest = timed(bank.cross, query, anchors // VIDEO, k)
        cross.append(taken)
        taken, _ = timed(bank.rows, nearest.frame_ids)
        read.append(taken)
    held = bank.embeddings.nbytes + bank.written_at.nbytes + bank._rows.group.nbytes
    if held != len(bank.held) * (2 * dim + 8 + 4):
        raise AssertionError(f"{len(bank.held)} rows take {held} bytes")
    of_ranks: list[tuple[int, int]] = [(0, 0)] * ranks
    dist.all_gather_object(of_ranks, (held, memory().rss - before))
    if rank == 0:
        times = " | ".join(spread(measured[1:]) for measured in (write, cross, read))
        most = " | ".join(f"{max(sizes) / 1e6:.1f}" for sizes in zip(*of_ranks, strict=True))
        click.echo(f"| {ranks} | {times} | {most} |")
    dist.destroy_process_group()


def fill(bank: PartitionedBank, ranks: int, generator: torch.Generator) -> None:
    """Each rank writes the rows that it holds."""
    for block in torch.arange(bank.held.start, bank.held.stop).tensor_split(len(bank) // ranks // BLOCK + 1):
        video = block // VIDEO
        shape = (int(video[-1] - video[0]) + 1 if len(block) else 0, bank.embeddings.shape[1])
        centre = F.normalize(torch.randn(shape, generator=generator), dim=1)
        noise = F.normalize(torch.randn(len(block), shape[1], generator=generator), dim=1)
        bank.write(block, F.normalize(centre[video - video[:1]] + 0.2 * noise, dim=1), step=0)


def timed(call: Callable[..., Any], *arguments: Any) -> tuple[float, Any]:
    """Seconds from when all ranks begin until all have ended, and what the call returned."""
    dist.barrier()
    start = time.perf_counter()
    answer = call(*arguments)
    dist.barrier()
    return time.perf_counter() - start, answer


def spread(measured: list[float]) -> str:
    ms = [1000 * value for value in measured]
    return f"{statistics.median(ms):.1f} ({min(ms):.1f} to {max(ms):.1f})"


if __name__ == "__main__":
    main()
