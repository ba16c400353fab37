"""`usucl-eval`: a backbone and labelled shards -> how much it sees."""

from pathlib import Path
from typing import Any

import click
import numpy as np
from rich.console import Console
from rich.table import Table

from usucl_fast import __version__
from usucl_fast.cli.command import Command
from usucl_fast.cli.device import device_option, pick_device
from usucl_fast.cli.shards import shards_argument
from usucl_fast.errors import UsageError
from usucl_fast.evaluate import PROTOCOLS, embed, load_backbone, predict, summarise
from usucl_fast.evaluate.embed import BATCH, spread_frames
from usucl_fast.evaluate.metrics import by_video
from usucl_fast.feed import LOADERS, Delivery, open_shards
from usucl_fast.files import write_json
from usucl_fast.learn.engine import read_config
from usucl_fast.learn.recipes import TrainConfig
from usucl_fast.learn.weights import IMAGENET
from usucl_fast.machine import cores


@click.command(cls=Command)
@click.argument("model")
@shards_argument
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Folder for summary.json.")
@click.option(
    "--protocol",
    default="knn",
    show_default=True,
    type=click.Choice(tuple(PROTOCOLS)),
    help="Classifier of the frozen features.",
)
@click.option("--arch", help="Backbone, where MODEL is not a run.  [default: resnet18]")
@click.option(
    "--size",
    type=click.IntRange(32, 1024),
    help="Height and width of the pictures in pixels.  [default: the run's, or 224]",
)
@click.option("--frames", default=16, show_default=True, type=click.IntRange(1), help="Frames a video, evenly spread.")
@click.option(
    "--folds", default=5, show_default=True, type=click.IntRange(2), help="Parts that the groups are split into."
)
@click.option("--repeats", default=5, show_default=True, type=click.IntRange(1), help="Splits drawn anew.")
@click.option("--seed", default=0, show_default=True, help="Seed of the splits, and of random weights.")
@click.option(
    "--loader",
    default="torch",
    show_default=True,
    type=click.Choice([name for name in LOADERS if name != "ffcv"]),
    help="What decodes.",
)
@device_option
@click.option("--overwrite", is_flag=True, help="Replace the summary in --out.")
@click.version_option(__version__, package_name="usucl-fast")
def main(
    model: str,
    shards: str,
    cache: Path | None,
    cache_gb: float,
    out: Path,
    protocol: str,
    arch: str | None,
    size: int | None,
    frames: int,
    folds: int,
    repeats: int,
    seed: int,
    loader: str,
    device: str,
    overwrite: bool,
) -> None:
    """Classifies the labelled videos in SHARDS by the features of MODEL, on folds that never cut a group.

    SHARDS is a folder made by usucl-shard, or the URL of one. MODEL is a run folder, a file of weights (one of a run's
    checkpoints; of torchvision, timm, US_UCL, MoCo, USCL or lightly), or a word: imagenet for the weights that
    torchvision or timm offers, random for untrained ones.

    \b
    Example:
      usucl-eval my-run my-shards --out my-eval
    """
    if (out / "summary.json").exists() and not overwrite:
        raise UsageError(f"--out {out} holds an evaluation; name another folder or add --overwrite")
    store = open_shards(shards, cache, int(cache_gb * 1e9))
    table = store.table
    if model not in (IMAGENET, "random") and not Path(model).exists():
        raise UsageError(f"MODEL {model} is neither a run, nor a file of weights, nor the word {IMAGENET} or random")
    channels = 1
    run = Path(model).parent.parent if Path(model).parent.name == "checkpoints" else Path(model)
    if (run / "config.json").is_file():
        config = read_config(run)
        arch, size, channels = arch or config.arch, size or config.size, config.channels
    backbone = load_backbone(None if model == "random" else model, arch or TrainConfig.arch, seed)
    names = sorted({video.label for video in table.videos if video.label})
    videos = np.array([n for n, video in enumerate(table.videos) if video.label], np.int64)
    if not len(videos):
        raise UsageError(f"SHARDS {store.name} holds no labelled video; pack them with usucl-shard --labels")
    if len(videos) < len(table.videos):
        click.echo(f"left out: {len(table.videos) - len(videos)} videos without a label", err=True)
    frame_ids = spread_frames(table, videos, frames)
    of_frame = table.rows["video"][frame_ids].astype(np.int64)
    label_of_video = np.array([names.index(v.label) if v.label else -1 for v in table.videos], np.int64)
    delivery = Delivery(size or TrainConfig.size, channels, pick_device(device), cores(), most_frames=BATCH)
    features = embed(backbone, store, frame_ids, loader, delivery)
    labels, groups = label_of_video[of_frame], table.group[of_frame]
    probabilities = predict(protocol, features, labels, groups, folds=folds, repeats=repeats, seed=seed)
    summary = {
        "model": model,
        "protocol": protocol,
        "classes": names,
        "videos": len(videos),
        "frames": len(frame_ids),
        "groups": len(set(groups)),
        "folds": folds,
        "repeats": repeats,
        **summarise(probabilities, labels, groups, names),
        "video": summarise(by_video(probabilities, of_frame), label_of_video[videos], table.group[videos], names),
    }
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / "summary.json", summary)
    _show(summary)


def _show(summary: dict[str, Any]) -> None:
    table = Table("", "by frame", "by video", title=f"{summary['model']}, {summary['protocol']}")
    rows = [("balanced accuracy", ["balanced_accuracy"]), ("accuracy", ["accuracy"])]
    rows += [(f"recall of {name}", ["recall", name]) for name in summary["classes"]]
    for title, keys in rows:
        cells = []
        for figure in (summary, summary["video"]):
            for key in keys:
                figure = figure[key]
            cells.append(f"{figure['mean']:.3f} ({figure['low']:.3f} to {figure['high']:.3f})")
        table.add_row(title, *cells)
    console = Console(soft_wrap=True, highlight=False)
    console.print(table)
    console.print(
        f"mean of {summary['repeats']} splits into {summary['folds']} folds by group"
        f" (95 % interval over the {summary['groups']} groups drawn anew);"
        f" chance is {1 / len(summary['classes']):.3f}"
    )
