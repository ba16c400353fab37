"""`usucl-bench`: measures the system beside its peers."""

import tempfile
from pathlib import Path

import click

from usucl_fast import __version__
from usucl_fast.bench.feed import ARMS, feed_arms
from usucl_fast.bench.harness import measure, publish
from usucl_fast.cli.command import Command
from usucl_fast.cli.device import device_option, pick_device
from usucl_fast.errors import UsageError
from usucl_fast.feed import open_shards
from usucl_fast.machine import cores
from usucl_fast.pack import find_sources


@click.group()
@click.version_option(__version__, package_name="usucl-fast")
def main() -> None:
    """Measures usucl_fast beside its peers: one table, one JSON and one plot a kind."""


@main.command(cls=Command)
@click.argument("shards", type=click.Path(path_type=Path))
@click.option(
    "--videos",
    type=click.Path(path_type=Path),
    help="The SOURCE that SHARDS was made of; the published way reads its frames.",
)
@click.option("--arms", default="dali,torch,published", show_default=True, help="What is compared, by commas.")
@click.option(
    "--size",
    default=224,
    show_default=True,
    type=click.IntRange(16),
    help="Height and width of the pictures in pixels.",
)
@click.option(
    "--batch-size", default=32, show_default=True, type=click.IntRange(1), help="Tuples a batch, of 5 frames each."
)
@click.option(
    "--batches", default=20, show_default=True, type=click.IntRange(1), help="Batches that a run is timed over."
)
@click.option(
    "--runs", default=5, show_default=True, type=click.IntRange(1), help="Runs an arm, in turn with the others."
)
@click.option(
    "--threads",
    default=cores(),
    show_default="one a CPU core",
    type=click.IntRange(1),
    help="Threads or worker processes of each arm.",
)
@device_option
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="Report; the plot goes beside it as PNG.")
def feed(
    shards: Path,
    videos: Path | None,
    arms: str,
    size: int,
    batch_size: int,
    batches: int,
    runs: int,
    threads: int,
    device: str,
    json_file: Path | None,
) -> None:
    """Frames/s of the loaders and of the published way: JPEG files of original size, PIL, torchvision, workers.

    \b
    Example:
      usucl-bench feed my-shards --videos my-videos --json feed.json
    """
    store = open_shards(shards)
    names = arms.split(",")
    unknown = [name for name in names if name not in ARMS]
    if unknown:
        raise UsageError(f"--arms: there is no arm {unknown[0]!r}; choose from {', '.join(ARMS)}")
    sources = {}
    if "published" in names:
        if videos is None:
            raise UsageError("the arm published needs --videos, the SOURCE that SHARDS was made of")
        sources = {source.name: source for source in find_sources([videos])[0]}
        missing = [video.name for video in store.table.videos if video.name not in sources]
        if missing:
            raise UsageError(f"--videos {videos} does not hold {missing[0]!r}, which SHARDS {shards} was made of")
    with tempfile.TemporaryDirectory(prefix="usucl-bench-") as work:
        ready = feed_arms(
            names,
            store,
            sources,
            Path(work) / "frames",
            size=size,
            batch_size=batch_size,
            batches=batches,
            threads=threads,
            device=pick_device(device),
        )
        publish(measure("feed", "frames/s", ready, runs), json_file)
