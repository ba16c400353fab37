"""`usucl-eval`: a backbone and labelled frames or images -> how much it sees."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import numpy as np

from usucl_fast import __version__, evaluate, feed, learn
from usucl_fast.cli.command import Command, DefaultGroup
from usucl_fast.cli.device import device_option, pick_device
from usucl_fast.cli.shards import shards_argument
from usucl_fast.errors import UsageError
from usucl_fast.files import holds_only, write_json, write_whole
from usucl_fast.machine import cores

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray

TUNED = {
    "finetune": evaluate.FineTune(),
    "gbcu": dataclasses.replace(evaluate.GBCU, epoch="inner"),
    "pocus": evaluate.FineTune(),
}
"""Protocols that train all layers on each fold, and how."""

FOLDS = {"gbcu": 10}
OUTPUT = ("summary.json", "predictions.npz", "page.html", "*.png", "comparison.json", ".*.partial")


@dataclass(frozen=True)
class _Model:
    """MODEL, and what it is looked at with."""

    name: str
    arch: str
    size: int
    channels: int | None
    seed: int

    def backbone(self) -> torch.nn.Module:
        return evaluate.load_backbone(None if self.name == "random" else self.name, self.arch, self.seed)


@dataclass(frozen=True)
class _Data:
    """DATA: pictures as batches, uint8 `[m, C, S, S]`, what they are of, and the folds that they come with, if any."""

    samples: evaluate.Samples
    pictures: Iterable[torch.Tensor]
    splits: list[evaluate.Split] | None
    notes: list[str]


def _model_options(command: Any) -> Any:
    for add in (
        click.option(
            "--seed",
            default=0,
            show_default=True,
            type=click.IntRange(0),
            help="Seed of all chance, random weights among it.",
        ),
        click.option(
            "--size",
            type=click.IntRange(32, 1024),
            help="Height and width of the pictures in pixels.  [default: the run's, or 224]",
        ),
        click.option("--arch", help="Backbone, where MODEL is not a run.  [default: resnet18]"),
        click.option(
            "--loader",
            default="torch",
            show_default=True,
            type=click.Choice([name for name in feed.LOADERS if name != "ffcv"]),
            help="What decodes.",
        ),
        device_option,
    ):
        command = add(command)
    return command


def _find_model(name: str, arch: str | None, size: int | None, seed: int) -> _Model:
    if name not in (learn.IMAGENET, "random") and not Path(name).exists():
        raise UsageError(
            f"MODEL {name} is neither a run, nor a file of weights, nor the word {learn.IMAGENET} or random"
        )
    channels = None
    run = learn.RunFolder.of(Path(name))
    if run.holds_run():
        config = run.read_config()
        arch, size, channels = arch or config.arch, size or config.size, config.channels
    return _Model(name, arch or learn.TrainConfig.arch, size or learn.TrainConfig.size, channels, seed)


@click.group(cls=DefaultGroup, default="run", add_help_option=False, no_args_is_help=False)
def main() -> None:
    """Evaluates where no command is named, and tells of that with --help: it is what one comes for."""


@main.command(cls=Command)
@click.argument("model")
@shards_argument
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Folder for what comes out.")
@click.option(
    "--protocol",
    default="knn",
    show_default=True,
    help=f"By commas: {', '.join((*evaluate.PROTOCOLS, *TUNED))}. Of several, each gets its own folder in --out.",
)
@click.option(
    "--frames", default=16, show_default=True, type=click.IntRange(1), help="Frames a video of SHARDS, evenly spread."
)
@click.option(
    "--folds",
    type=click.IntRange(2),
    help="Parts, each tested once.  [default: 5, or as many as there are groups of each class]",
)
@click.option(
    "--by", type=click.Choice(evaluate.UNITS), help="What is never on both sides of a fold.  [default: group]"
)
@click.option(
    "--allow-leakage", is_flag=True, help="Allow --by frame, where frames of one video are on both sides of a fold."
)
@click.option("--repeats", type=click.IntRange(1), help="Splits drawn anew.  [default: 5, fine-tuned: 1]")
@click.option(
    "--shuffle-labels",
    is_flag=True,
    help="A control: labels are dealt anew among the groups, so that nothing but chance is left to find.",
)
@click.option("--positive", help="Class that sensitivity is of.  [default: of two classes, the second]")
@click.option("--epochs", type=click.IntRange(1), help="Fine-tuned: epochs on each fold.  [default: 30]")
@click.option("--lr", type=click.FloatRange(0, min_open=True), help="Fine-tuned: learning rate.  [default: 0.003]")
@click.option("--batch-size", type=click.IntRange(2), help="Fine-tuned: pictures a step.  [default: 64]")
@click.option(
    "--epoch",
    type=click.Choice(evaluate.EPOCHS),
    help="Fine-tuned, the epoch that counts: the last; the best on an inner part of the training fold; or, as is often"
    " published, the best on the test fold, which is too good to be true.  [default: last, gbcu: inner]",
)
@_model_options
@click.option("--overwrite", is_flag=True, help="Replace the evaluation in --out.")
@click.version_option(__version__, package_name="usucl-fast")
def run(
    model: str,
    shards: str,
    cache: Path | None,
    cache_gb: float,
    out: Path,
    protocol: str,
    frames: int,
    folds: int | None,
    by: str | None,
    allow_leakage: bool,
    repeats: int | None,
    shuffle_labels: bool,
    positive: str | None,
    epochs: int | None,
    lr: float | None,
    batch_size: int | None,
    epoch: str | None,
    arch: str | None,
    size: int | None,
    seed: int,
    loader: str,
    device: str,
    overwrite: bool,
) -> None:
    """Tells the classes in SHARDS apart by what MODEL sees, on folds that never cut a group.

    SHARDS is a folder made by usucl-shard, or the URL of one; or a CSV file of images (path, label, and any of video,
    group); or the folder of GBCU (images, train_0.txt, val_0.txt, …) or of USCL's POCUS (covid_data1.pkl, …), whose
    folds are then used. MODEL is a run folder, a file of weights (one of a run's checkpoints; of torchvision, timm,
    US_UCL, MoCo, USCL or lightly), or a word: imagenet for the weights that torchvision or timm offers, random for
    untrained ones.

    knn and linear classify frozen features; finetune trains all layers. gbcu and pocus are finetune as published for
    these data: ten folds and the class malignant, five folds.

    \b
    Example:
      usucl-eval my-run my-shards --out my-eval --protocol knn,linear
    """
    protocols = list(dict.fromkeys(protocol.split(",")))
    tuning: dict[str, Any] = {"epochs": epochs, "lr": lr, "batch_size": batch_size, "epoch": epoch}
    given = {name: value for name, value in tuning.items() if value is not None}
    for name in protocols:
        if name not in (*evaluate.PROTOCOLS, *TUNED):
            raise UsageError(f"--protocol {name}: choose from {', '.join((*evaluate.PROTOCOLS, *TUNED))}")
    if given and not set(protocols) & set(TUNED):
        raise UsageError(f"--{next(iter(given)).replace('_', '-')} is nothing to --protocol {protocol}; leave it out")
    outs = {name: out if len(protocols) == 1 else out / name for name in protocols}
    for folder in outs.values():
        _check_out(folder, "summary.json", "an evaluation", overwrite)
    seen = _find_model(model, arch, size, seed)
    # Only images are decoded at once; before that, a wrong file of weights is told of. Otherwise nothing needs torch,
    # which takes seconds to import, until all that can be refused has been.
    images = _holds_images(Path(shards))
    backbone = seen.backbone() if images else None
    data = (
        _read_images(Path(shards), seen)
        if images
        else _find_frames(shards, cache, cache_gb, seen, frames, loader, device)
    )
    if data.splits and (folds or by or repeats):
        raise UsageError(f"--folds, --by and --repeats are nothing to {shards}, which comes with its folds")
    samples = evaluate.shuffled_by_group(data.samples, seed) if shuffle_labels else data.samples
    if positive is not None and positive not in samples.classes:
        raise UsageError(f"--positive {positive} is none of the classes {', '.join(samples.classes)}")
    splits = {
        name: data.splits
        or evaluate.make_folds(
            samples,
            by or "group",
            folds or max(2, min(FOLDS.get(name, 5), evaluate.most_folds(samples, by or "group"))),
            repeats or (1 if name in TUNED else 5),
            seed,
            allow_leakage,
        )
        for name in protocols
    }
    import torch

    backbone, place = backbone or seen.backbone(), pick_device(device)
    pictures, whole, features = data.pictures, None, None
    if set(protocols) & set(TUNED):  # they are seen more than once
        whole = torch.cat(list(pictures))
        pictures = whole.split(evaluate.BATCH)
    if set(protocols) & set(evaluate.PROTOCOLS):
        features = evaluate.embed(backbone, pictures, len(samples), place)
    for name, folder in outs.items():
        notes = [*data.notes, *_notes(by, shuffle_labels)]
        if name in TUNED:
            settings = dataclasses.replace(TUNED[name], seed=seed, **given)
            assert whole is not None
            predictions, chosen = evaluate.finetune(seen.backbone, whole, samples, splits[name], settings, place)
            extra: dict[str, Any] = {"finetune": dataclasses.asdict(settings), "epochs_chosen": chosen}
            if settings.epoch == "test":
                notes.append(
                    "The epoch was chosen on the test fold, as is often published: these figures are too good. Compare"
                    " them with figures that were chosen in the same way, and with nothing else."
                )
        else:
            assert features is not None
            predictions, extra = evaluate.predict(name, features, samples, splits[name]), {}
        malignant = "malignant" if name == "gbcu" and "malignant" in samples.classes else None
        summary = {
            "model": model,
            "protocol": name,
            "arch": seen.arch,
            "size": seen.size,
            "classes": samples.classes,
            "videos": len(set(samples.videos.tolist())),
            "frames": len(samples),
            "groups": len(set(samples.groups.tolist())),
            "by": "published lists" if data.splits else by or "group",
            "folds": 1 + max(split.fold for split in splits[name]),
            "repeats": 1 + max(split.repeat for split in splits[name]),
            "chance": 1 / len(samples.classes),
            "notes": notes,
            **extra,
            **evaluate.summarise(predictions, positive or malignant, seed),
            "video": evaluate.summarise(predictions.by_video(), positive or malignant, seed),
        }
        _write(folder, summary, predictions, None if name in TUNED else features)
        evaluate.show(summary)
        click.echo(f"See {folder / 'page.html'}")


def _check_out(out: Path, last: str, what: str, overwrite: bool) -> None:
    """Whether `what` may be written there, of which the file `last` tells that it is whole."""
    if out.exists() and (not out.is_dir() or not holds_only(out, OUTPUT)):
        raise UsageError(f"--out {out} holds files that are not {what}'s; name a new or empty folder")
    if (out / last).exists() and not overwrite:
        raise UsageError(f"--out {out} holds {what}; name another folder or add --overwrite")


def _holds_images(path: Path) -> bool:
    return path.suffix == ".csv" or evaluate.has_gbcu(path) or evaluate.has_covid_pickles(path)


def _read_images(path: Path, model: _Model) -> _Data:
    channels, splits = model.channels or 3, None
    if path.suffix == ".csv":
        samples, pictures = evaluate.read_image_list(path, model.size, channels)
    else:
        read = evaluate.read_gbcu if evaluate.has_gbcu(path) else evaluate.read_covid_pickles
        samples, pictures, splits = read(path, model.size, channels)
    return _Data(samples, pictures.split(evaluate.BATCH), splits, [])


def _find_frames(
    shards: str, cache: Path | None, cache_gb: float, model: _Model, frames: int, loader: str, device: str
) -> _Data:
    store = feed.open_shards(shards, cache, int(cache_gb * 1e9))
    frame_ids, samples = evaluate.labelled_frames(store.table, frames)
    notes = []
    left_out = sum(not video.label for video in store.table.videos)
    if left_out:
        notes.append(f"Left out: {left_out} videos without a label.")
        click.echo(f"left out: {left_out} videos without a label", err=True)

    def pictures() -> Iterator[torch.Tensor]:
        yield from evaluate.load_frames(store, frame_ids, loader, _delivery(model, pick_device(device)))

    return _Data(samples, pictures(), None, notes)


def _delivery(model: _Model, device: torch.device) -> feed.Delivery:
    return feed.Delivery(
        size=model.size, channels=model.channels or 1, device=device, threads=cores(), most_frames=evaluate.BATCH
    )


def _notes(by: str | None, shuffled: bool) -> list[str]:
    notes = []
    if by == "frame":
        notes.append(
            "Split by frame: frames of one video are on both sides of a fold, and look alike. The score says how well"
            " videos are recognised, not what is seen in them; it stays high with labels that mean nothing"
            " (--shuffle-labels). Do not compare it with scores by group."
        )
    if by == "video":
        notes.append("Split by video: videos of one group (patient) may be on both sides of a fold.")
    if shuffled:
        notes.append(
            "Labels were dealt anew among the groups: what is found above chance is found by recognising videos or"
            " groups, and comes from folds that cut them."
        )
    return notes


def _write(
    out: Path, summary: dict[str, Any], predictions: evaluate.Predictions, features: NDArray[np.float32] | None
) -> None:
    """The summary comes last: where there is one, all else is there."""
    out.mkdir(parents=True, exist_ok=True)
    (out / "summary.json").unlink(missing_ok=True)
    predictions.save(out / "predictions.npz")
    evaluate.write_page(out, summary, predictions, features)
    write_json(out / "summary.json", summary)


@main.command("compare", cls=Command)
@click.argument("evaluations", nargs=-1, required=True, metavar="[NAME=]EVALUATION...")
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Folder for what comes out.")
@click.option("--baseline", help="Name of the one that the others are compared with.  [default: all pairs]")
@click.option("--seed", default=0, show_default=True, type=click.IntRange(0), help="Seed of the bootstrap.")
@click.option("--overwrite", is_flag=True, help="Replace the comparison in --out.")
def compare_command(evaluations: tuple[str, ...], out: Path, baseline: str | None, seed: int, overwrite: bool) -> None:
    """Puts EVALUATIONS, folders that usucl-eval wrote, side by side: paired differences, with intervals.

    They must be of the same samples and folds. Those of one NAME are runs of one method, with other seeds.

    \b
    Example:
      usucl-eval compare ours=my-eval random=my-eval-random --out my-comparison
    """
    _check_out(out, "comparison.json", "a comparison", overwrite)
    arms: dict[str, list[evaluate.Predictions]] = {}
    for given in evaluations:
        name, equals, folder = given.partition("=")
        if not equals:
            name, folder = Path(given).name, given
        if not (Path(folder) / "predictions.npz").is_file():
            raise UsageError(f"EVALUATION {folder} is no folder that usucl-eval wrote: it has no predictions.npz")
        arms.setdefault(name, []).append(evaluate.Predictions.load(Path(folder) / "predictions.npz"))
    if len(arms) < 2:
        raise UsageError(f"there is {len(arms)} to compare; give two or more, as in ours=FOLDER theirs=FOLDER")
    comparison = evaluate.compare(arms, baseline, seed)
    out.mkdir(parents=True, exist_ok=True)
    evaluate.write_comparison(out, comparison)
    evaluate.show_comparison(comparison)
    click.echo(f"See {out / 'page.html'}")


@main.command("embed", cls=Command)
@click.argument("model")
@shards_argument
@click.option(
    "--out", required=True, type=click.Path(path_type=Path), help="File for the embeddings, an .npz or .parquet."
)
@click.option("--frames", type=click.IntRange(1), help="Frames a video, evenly spread.  [default: all]")
@click.option(
    "--picture",
    type=click.Path(path_type=Path),
    help="PNG file for a picture of some frames, and of those of other groups that the model finds most similar.",
)
@click.option("--queries", default=8, show_default=True, type=click.IntRange(1), help="Rows of the picture.")
@click.option("--neighbours", default=6, show_default=True, type=click.IntRange(1), help="Neighbours in a row of it.")
@_model_options
@click.option("--overwrite", is_flag=True, help="Replace the files.")
def embed_command(
    model: str,
    shards: str,
    cache: Path | None,
    cache_gb: float,
    out: Path,
    frames: int | None,
    picture: Path | None,
    queries: int,
    neighbours: int,
    arch: str | None,
    size: int | None,
    seed: int,
    loader: str,
    device: str,
    overwrite: bool,
) -> None:
    """Writes what MODEL makes of the frames in SHARDS: a row a frame, with its id, video, number, group and label.

    \b
    Example:
      usucl-eval embed my-run my-shards --out my-embeddings.npz --picture neighbours.png
    """
    for file in (out, *([picture] if picture else [])):
        if file.exists() and not overwrite:
            raise UsageError(f"{file} exists; name another file or add --overwrite")
    evaluate.check_embeddings_path(out)
    if picture and picture.suffix != ".png":
        raise UsageError(f"--picture {picture}: name a file that ends in .png")
    seen = _find_model(model, arch, size, seed)
    store = feed.open_shards(shards, cache, int(cache_gb * 1e9))
    backbone = seen.backbone()
    table, delivery = store.table, _delivery(seen, pick_device(device))
    frame_ids = np.arange(len(table), dtype=np.int64)
    if frames:
        frame_ids = evaluate.spread_frames(table, np.arange(len(table.videos)), frames)
    features = evaluate.embed(
        backbone, evaluate.load_frames(store, frame_ids, loader, delivery), len(frame_ids), delivery.device
    )
    video = table.rows["video"][frame_ids].astype(np.int64)
    columns = {
        "frame_id": frame_ids,
        "video": np.array([table.videos[n].name for n in video.tolist()]),
        "frame": frame_ids - np.asarray(table.first_row)[video],
        "group": np.array([table.videos[n].group for n in video.tolist()]),
        "label": np.array([table.videos[n].label or "" for n in video.tolist()]),
    }
    evaluate.write_embeddings(out, columns, features)
    if picture:
        _retrieve(picture, store, columns, video, features, queries, neighbours, loader, delivery, seed)


def _retrieve(
    path: Path,
    store: feed.ShardStore,
    columns: dict[str, NDArray[Any]],
    video: NDArray[np.int64],
    features: NDArray[np.float32],
    queries: int,
    neighbours: int,
    loader: str,
    delivery: feed.Delivery,
    seed: int,
) -> None:
    import torch

    frame_ids, labels = columns["frame_id"], columns["label"]
    codes = np.unique(labels, return_inverse=True)[1]
    chosen = evaluate.pick_queries(np.where(labels == "", -1, codes), video, queries, seed)
    found = evaluate.nearest(features, chosen, video, store.table.group[video], neighbours)

    def pictures_of(places: NDArray[np.int64]) -> NDArray[np.uint8]:
        batches = list(evaluate.load_frames(store, frame_ids[places], loader, delivery))
        grey: NDArray[np.uint8] = torch.cat(batches).float().mean(dim=1).byte().cpu().numpy()
        return grey

    with write_whole(path) as file:
        evaluate.retrieval_picture(
            pictures_of, chosen, found, evaluate.similarities(features, chosen, found), labels.tolist()
        ).save(file, "PNG")
