"""`usucl-bench`: measures the system beside its peers."""

import tempfile
from pathlib import Path
from typing import Any

import click

from usucl_fast import __version__, bench, feed, learn, pack
from usucl_fast.cli.command import Command
from usucl_fast.cli.device import device_option
from usucl_fast.cli.shards import open_given, shards_argument
from usucl_fast.errors import UsageError
from usucl_fast.machine import cores, pick_device

runs_option = click.option(
    "--runs", default=5, show_default=True, type=click.IntRange(1), help="Runs an arm, in turn with the others."
)
page_cache_option = click.option(
    "--page-cache",
    default="warm",
    show_default=True,
    type=click.Choice(bench.PAGE_CACHES),
    help="cold: before each run of an arm the system forgets the files that it reads; warm: whatever it still has.",
)
json_option = click.option(
    "--json", "json_file", type=click.Path(path_type=Path), help="Report; the plot goes beside it as PNG."
)


@click.group()
@click.version_option(__version__, package_name="usucl-fast")
def main() -> None:
    """Measures usucl_fast beside its peers: one table, one JSON and one plot a kind."""


@main.command("feed", cls=Command)
@shards_argument
@click.option(
    "--videos",
    type=click.Path(path_type=Path),
    help="The SOURCE that SHARDS was made of; published and torchcodec read it.",
)
@click.option(
    "--arms",
    default="dali,torch,resident,published",
    show_default=True,
    help=f"What is compared, by commas: any of {', '.join(bench.FEED_ARMS)}.",
)
@click.option(
    "--deliver",
    default="tensors",
    show_default=True,
    type=click.Choice(bench.DELIVERIES),
    help="What every arm delivers: what a network takes, or crops of one channel in 8 bits.",
)
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
@runs_option
@page_cache_option
@click.option(
    "--threads",
    default=cores(),
    show_default="one a CPU core",
    type=click.IntRange(1),
    help="Threads or worker processes of each arm.",
)
@device_option
@json_option
def feed_command(
    shards: str,
    cache: Path | None,
    cache_gb: float,
    videos: Path | None,
    arms: str,
    deliver: str,
    size: int,
    batch_size: int,
    batches: int,
    runs: int,
    page_cache: str,
    threads: int,
    device: str,
    json_file: Path | None,
) -> None:
    """Frames/s of the loaders and of the published way: JPEG files of original size, PIL, torchvision, workers.

    \b
    Example:
      usucl-bench feed my-shards --videos my-videos --json feed.json
    """
    from usucl_fast.shards import is_url

    if page_cache == "cold" and is_url(shards):
        raise UsageError(f"--page-cache cold needs SHARDS in a folder, and {shards} is a URL; copy them first")
    names = _split(arms, bench.FEED_ARMS)
    store = open_given(shards, cache, cache_gb)
    sources = {}
    needy = [name for name in names if name in ("published", "torchcodec")]
    if needy:
        if videos is None:
            raise UsageError(f"the arm {needy[0]} needs --videos, the SOURCE that SHARDS was made of")
        sources = {source.name: source for source in pack.find_sources([videos])[0]}
        missing = [video.name for video in store.table.videos if video.name not in sources]
        if missing:
            raise UsageError(f"--videos {videos} does not hold {missing[0]!r}, which SHARDS {store.name} was made of")
    with tempfile.TemporaryDirectory(prefix="usucl-bench-") as work:
        ready = bench.feed_arms(
            names,
            store,
            sources,
            Path(work),
            deliver=deliver,
            size=size,
            batch_size=batch_size,
            batches=batches,
            threads=threads,
            device=pick_device(device),
        )
        bench.publish(bench.measure("feed", "frames/s", ready, runs, page_cache), json_file)


@main.command("shard", cls=Command)
@click.argument("source", type=click.Path(path_type=Path))
@click.option("--arms", default=",".join(bench.SHARD_ARMS), show_default=True, help="What is compared, by commas.")
@click.option(
    "--size",
    default=224,
    show_default=True,
    type=click.IntRange(16, 4096),
    help="Short side of the frames in pixels; smaller videos are not enlarged.",
)
@click.option(
    "--workers",
    default=cores(),
    show_default="one a CPU core",
    type=click.IntRange(1),
    help="Videos side by side, in each arm.",
)
@runs_option
@page_cache_option
@json_option
def shard_command(
    source: Path, arms: str, size: int, workers: int, runs: int, page_cache: str, json_file: Path | None
) -> None:
    """Frames/s of packing the videos in SOURCE: usucl-shard, decoding alone, and ffmpeg with tar.

    A run is the whole command, from its start to its end. It writes into the folder for temporary files (TMPDIR).

    \b
    Example:
      usucl-bench shard my-videos --json shard.json
    """
    ready = bench.shard_arms(_split(arms, bench.SHARD_ARMS), source, size=size, workers=workers)
    bench.publish(bench.measure("shard", "frames/s", ready, runs, page_cache), json_file)


@main.command("mining", cls=Command)
@click.option("--rows", default=1_000_000, show_default=True, type=click.IntRange(1), help="Rows of the bank.")
@click.option("--dim", default=128, show_default=True, type=click.IntRange(1), help="Numbers an embedding.")
@click.option(
    "--video-length", default=150, show_default=True, type=click.IntRange(1), help="Rows a video, one a frame."
)
@click.option("--batch-size", default=64, show_default=True, type=click.IntRange(1), help="Queries at once.")
@click.option("-k", "--k", default=16, show_default=True, type=click.IntRange(1), help="Answers a query.")
@click.option(
    "--embeddings",
    default="clustered",
    show_default=True,
    help="random, clustered by video, or a file: an .npz of embeddings and first_row, or an .npy of embeddings.",
)
@click.option(
    "--arms",
    default="exact,approximate,published,floor-matmul",
    show_default=True,
    help=f"What is compared, by commas: any of {', '.join(bench.MINING_ARMS)}.",
)
@click.option(
    "--threads", default=cores(), show_default="one a CPU core", type=click.IntRange(1), help="Threads of each arm."
)
@runs_option
@json_option
def mining_command(
    rows: int,
    dim: int,
    video_length: int,
    batch_size: int,
    k: int,
    embeddings: str,
    arms: str,
    threads: int,
    runs: int,
    json_file: Path | None,
) -> None:
    """Queries/s of the memory bank, FAISS and the published way: the most similar rows, the own video left out.

    Each arm says its recall, the share of the right answers that it gives.

    \b
    Example:
      usucl-bench mining --arms exact,approximate,faiss-flat --json mining.json
    """
    names = _split(arms, bench.MINING_ARMS)
    import torch

    torch.set_num_threads(threads)
    if embeddings in bench.EMBEDDINGS:
        stored = bench.make_embeddings(embeddings, rows, dim, video_length)
        first_row = bench.even_videos(rows, video_length)
    else:
        stored, first_row = bench.read_embeddings(Path(embeddings), video_length)
    bench.publish(
        bench.measure(
            "mining", "queries/s", bench.mining_arms(names, stored, first_row, batch_size=batch_size, k=k), runs
        ),
        json_file,
    )


@main.command("train", cls=Command)
@shards_argument
@click.option(
    "--arms",
    default="usucl,floor-cached,published",
    show_default=True,
    help=f"What is compared, by commas: any of {', '.join(bench.TRAIN_ARMS)}.",
)
@click.option(
    "--recipe", default="default", show_default=True, type=click.Choice(tuple(learn.RECIPES)), help="Our settings."
)
@click.option("--arch", default="resnet18", show_default=True, help="Backbone: the name of a torchvision ResNet.")
@click.option(
    "--size",
    default=112,
    show_default=True,
    type=click.IntRange(32),
    help="Height and width of the pictures in pixels.",
)
@click.option("--batch-size", default=32, show_default=True, type=click.IntRange(1), help="Tuples a step.")
@click.option("--steps", default=20, show_default=True, type=click.IntRange(1), help="Steps that a run is timed over.")
@click.option(
    "--loader",
    default="auto",
    show_default=True,
    type=click.Choice(("auto", "resident", "dali", "torch")),
    help="As of usucl-train.",
)
@runs_option
@click.option(
    "--threads",
    default=cores(),
    show_default="one a CPU core",
    type=click.IntRange(0),
    help="CPU threads that decode.",
)
@device_option
@json_option
def train_command(
    shards: str,
    cache: Path | None,
    cache_gb: float,
    arms: str,
    recipe: str,
    arch: str,
    size: int,
    batch_size: int,
    steps: int,
    loader: str,
    runs: int,
    threads: int,
    device: str,
    json_file: Path | None,
) -> None:
    """Tuples/s of training: end to end, without loading (floor-cached, compiled), and in the published manner.

    \b
    Example:
      usucl-bench train my-shards --arch resnet18 --size 112 --json train.json
    """
    names = _split(arms, bench.TRAIN_ARMS)
    store = open_given(shards, cache, cache_gb)
    settings: dict[str, Any] = {"arch": arch, "size": size, "batch_size": batch_size}
    if learn.RECIPES[recipe]().method == "usucl":  # the published arms encode five pictures a tuple, so all must
        settings |= {"intra_mining": "encode", "symmetric": False}
    config = learn.make_config(recipe, settings)
    if loader == "auto":
        loader, _ = feed.choose_loader(store, config.channels, feed.RESIDENT_BYTES)
    execution = learn.Execution(loader=loader, device=pick_device(device), threads=threads)
    ready = bench.train_arms(names, store, config, execution, steps=steps)
    bench.publish(bench.measure("train", "tuples/s", ready, runs), json_file)


def _split(arms: str, known: tuple[str, ...]) -> list[str]:
    names = arms.split(",")
    unknown = [name for name in names if name not in known]
    if unknown:
        raise UsageError(f"--arms: there is no arm {unknown[0]!r}; choose from {', '.join(known)}")
    return names
