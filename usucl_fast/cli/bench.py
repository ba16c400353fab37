"""`usucl-bench`: measures the system beside its peers."""

import functools
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from usucl_fast import __version__, bench, feed, learn, pack
from usucl_fast.cli.command import Command
from usucl_fast.cli.device import device_option
from usucl_fast.cli.shards import open_given, shards_argument
from usucl_fast.errors import UsageError
from usucl_fast.machine import cores, pick_device

option = functools.partial(click.option, show_default=True)
count = click.IntRange(1)
json_option = click.option(
    "--json", "json_file", type=click.Path(path_type=Path), help="Report; the plot is saved beside it."
)
runs_option = option("--runs", default=5, type=count, help="Runs of each arm, in turn with the others.")
page_cache_option = option(
    "--page-cache",
    default="warm",
    type=click.Choice(bench.PAGE_CACHES),
    help="cold: before each run of an arm the system forgets the files that it reads; warm: it may still have them.",
)


def _arms_option(known: tuple[str, ...], default: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    def split(ctx: click.Context, param: click.Parameter, value: str) -> list[str]:
        names = value.split(",")
        unknown = [name for name in names if name not in known]
        if unknown:
            raise UsageError(f"--arms: there is no arm {unknown[0]!r}; choose from {', '.join(known)}")
        return names

    what = f"What is compared, separated by commas: any of {', '.join(known)}."
    return option("--arms", default=default, callback=split, help=what)


def _threads_option(help: str, least: int = 1, name: str = "--threads") -> Callable[..., Callable[..., None]]:
    return click.option(name, default=cores(), show_default="one a CPU core", type=click.IntRange(least), help=help)


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
@_arms_option(bench.FEED_ARMS, "dali,torch,resident,published")
@option(
    "--deliver",
    default="tensors",
    type=click.Choice(bench.DELIVERIES),
    help="What every arm delivers: what a network takes, or crops of one channel in 8 bits.",
)
@option("--size", default=224, type=click.IntRange(16), help="Height and width of the pictures in pixels.")
@option("--batch-size", default=32, type=count, help="Tuples a batch, of 5 frames each.")
@option("--batches", default=20, type=count, help="Batches that a run is timed over.")
@runs_option
@page_cache_option
@_threads_option("Threads or worker processes of each arm.")
@device_option
@json_option
def feed_command(
    shards: str,
    cache: Path | None,
    cache_gb: float,
    videos: Path | None,
    arms: list[str],
    runs: int,
    page_cache: str,
    device: str,
    json_file: Path | None,
    **how: Any,
) -> None:
    """Frames/s of the loaders and of the published way: JPEG files of original size, PIL, torchvision, workers.

    \b
    Example:
      usucl-bench feed my-shards --videos my-videos --json feed.json
    """
    from usucl_fast.files import is_url

    if page_cache == "cold" and is_url(shards):
        raise UsageError(f"--page-cache cold needs SHARDS in a folder, and {shards} is a URL; copy them first")
    store = open_given(shards, cache, cache_gb)
    sources = {}
    needy = [name for name in arms if name in ("published", "torchcodec")]
    if needy:
        if videos is None:
            raise UsageError(f"the arm {needy[0]} needs --videos, the SOURCE that SHARDS was made of")
        sources = {source.name: source for source in pack.find_sources([videos])[0]}
        missing = [video.name for video in store.table.videos if video.name not in sources]
        if missing:
            raise UsageError(f"--videos {videos} does not hold {missing[0]!r}, which SHARDS {store.name} was made of")
    with tempfile.TemporaryDirectory(prefix="usucl-bench-") as work:
        ready = bench.feed_arms(arms, store, sources, Path(work), device=pick_device(device), **how)
        bench.compare("feed", "frames/s", ready, runs, json_file, page_cache)


@main.command("shard", cls=Command)
@click.argument("source", type=click.Path(path_type=Path))
@_arms_option(bench.SHARD_ARMS, ",".join(bench.SHARD_ARMS))
@option(
    "--size",
    default=224,
    type=click.IntRange(16, 4096),
    help="Short side of the frames in pixels; smaller videos are not enlarged.",
)
@_threads_option("Videos at the same time, in each arm.", name="--workers")
@runs_option
@page_cache_option
@json_option
def shard_command(
    source: Path, arms: list[str], size: int, workers: int, runs: int, page_cache: str, json_file: Path | None
) -> None:
    """Frames/s of packing the videos in SOURCE: usucl-shard, decoding alone, and ffmpeg with tar.

    A run is the whole command, from its start to its end. It writes into the folder for temporary files (TMPDIR).

    \b
    Example:
      usucl-bench shard my-videos --json shard.json
    """
    ready = bench.shard_arms(arms, source, size=size, workers=workers)
    bench.compare("shard", "frames/s", ready, runs, json_file, page_cache)


@main.command("mining", cls=Command)
@option("--rows", default=1_000_000, type=count, help="Rows of the bank.")
@option("--dim", default=128, type=count, help="Dimension of the embeddings.")
@option("--video-length", default=150, type=count, help="Rows a video, one a frame.")
@option("--batch-size", default=64, type=count, help="Queries at once.")
@option("-k", "--k", default=16, type=count, help="Answers a query.")
@option(
    "--embeddings",
    default="clustered",
    help="random, clustered by video, or a file: an .npz of embeddings and first_row, or an .npy of embeddings.",
)
@_arms_option(bench.MINING_ARMS, "exact,approximate,published,floor-matmul")
@_threads_option("Threads of each arm.")
@runs_option
@device_option
@json_option
def mining_command(
    rows: int,
    dim: int,
    video_length: int,
    batch_size: int,
    k: int,
    embeddings: str,
    arms: list[str],
    threads: int,
    runs: int,
    device: str,
    json_file: Path | None,
) -> None:
    """Queries/s of the memory bank, FAISS and the published code: the most similar rows outside the query's own video.

    Each arm reports its recall: the share of the right answers that it finds.

    \b
    Example:
      usucl-bench mining --arms exact,approximate,faiss-flat --json mining.json
    """
    import torch

    torch.set_num_threads(threads)
    if embeddings in bench.EMBEDDINGS:
        stored = bench.make_embeddings(embeddings, rows, dim, video_length)
        first_row = bench.even_videos(rows, video_length)
    else:
        stored, first_row = bench.read_embeddings(Path(embeddings), video_length)
    ready = bench.mining_arms(arms, stored, first_row, batch_size=batch_size, k=k, device=pick_device(device))
    bench.compare("mining", "queries/s", ready, runs, json_file)


@main.command("train", cls=Command)
@shards_argument
@_arms_option(bench.TRAIN_ARMS, "usucl,floor-cached,published")
@option("--recipe", default="default", type=click.Choice(tuple(learn.RECIPES)), help="Our settings.")
@option("--arch", default="resnet18", help="Backbone: the name of a torchvision ResNet.")
@option("--size", default=112, type=click.IntRange(32), help="Height and width of the pictures in pixels.")
@option("--batch-size", default=32, type=count, help="Tuples a step.")
@option("--steps", default=20, type=count, help="Steps that a run is timed over.")
@option("--loader", default="auto", type=click.Choice(("auto", "resident", "dali", "torch")), help="As of usucl-train.")
@runs_option
@_threads_option("CPU threads that decode.", least=0)
@device_option
@json_option
def train_command(
    shards: str,
    cache: Path | None,
    cache_gb: float,
    arms: list[str],
    recipe: str,
    steps: int,
    loader: str,
    runs: int,
    json_file: Path | None,
    **options: Any,
) -> None:
    """Tuples/s of training: end to end, without loading (floor-cached, compiled), and in the published manner.

    \b
    Example:
      usucl-bench train my-shards --arch resnet18 --size 112 --json train.json
    """
    store = open_given(shards, cache, cache_gb)
    settings = {name: options[name] for name in ("arch", "size", "batch_size")}
    made = vars(learn.RECIPES[recipe]())
    if made["method"] == "usucl":  # the published arms encode five pictures a tuple and make n̂, so all must
        members = made["cross_topk"] if any(made["cross_topk"]) else (16, 16)
        settings |= {"intra_mining": "encode", "intra_negatives": (3, 3), "cross_topk": members, "symmetric": False}
    config = learn.make_config(recipe, settings)
    if loader == "auto":
        loader, _ = feed.choose_loader(store, config.channels, feed.RESIDENT_BYTES)
    execution = learn.Execution(loader=loader, device=pick_device(options["device"]), threads=options["threads"])
    ready = bench.train_arms(arms, store, config, execution, steps=steps)
    bench.compare("train", "tuples/s", ready, runs, json_file)
