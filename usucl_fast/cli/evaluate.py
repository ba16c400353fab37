"""`usucl-eval`: how well a backbone's features separate the classes of labelled frames or images."""

import functools
from collections.abc import Callable
from pathlib import Path

import click

from usucl_fast import __version__, evaluate, feed
from usucl_fast.cli.command import Command, DefaultGroup, gather, say
from usucl_fast.cli.device import device_option
from usucl_fast.cli.shards import shards_argument
from usucl_fast.errors import UsageError
from usucl_fast.files import check_file_out, write_whole

path = click.Path(path_type=Path)
option = functools.partial(click.option, show_default=True)
out_option = functools.partial(click.option, "--out", required=True, type=path)
LOADERS = click.Choice([name for name in feed.LOADERS if name != "ffcv"])


def _model_options(command: Callable[..., None]) -> Callable[..., None]:
    """Adds MODEL and SHARDS, the options that are fields of `InputConfig`, and `--overwrite`."""
    for add in (
        click.option("--overwrite", is_flag=True, help="Replace an existing output."),
        option("--seed", default=0, type=click.IntRange(0), help="Random seed, also of random weights."),
        option("--size", type=click.IntRange(32, 1024), help="Side of a picture in pixels.  [default: run's, or 224]"),
        option("--arch", help="Backbone, where MODEL is not a run.  [default: resnet18]"),
        option("--loader", default="torch", type=LOADERS, help="What decodes."),
        device_option,
        shards_argument,
        click.argument("model"),
    ):
        command = add(command)
    return command


@click.group(cls=DefaultGroup, default="run", add_help_option=False, no_args_is_help=False)
def main() -> None:
    """Runs `run` where no command is named, and shows its --help: most users need no other command."""


@main.command(cls=Command)
@out_option(help="Output folder.")
@option(
    "--protocol",
    "protocols",
    default="knn",
    callback=lambda ctx, param, value: tuple(dict.fromkeys(value.split(","))),
    help=f"Separated by commas: {', '.join(evaluate.PROTOCOLS)}. With several, each gets its own folder in --out.",
)
@option(
    "--frames",
    default=16,
    type=click.IntRange(1),
    help="Frames of each video in SHARDS, evenly spread; where frames have labels of their own, of each label.",
)
@option(
    "--target",
    type=click.Choice(evaluate.TARGETS),
    help="What is predicted: the label of a frame, of its video, or the frame's value.  [default: frame, where there"
    " are labels of frames, else video]",
)
@option("--split", help="Only videos of this split of SHARDS.  [default: all]")
@option("--folds", type=click.IntRange(2), help="Number of folds.  [default: 5, or groups of the rarest class]")
@option("--by", type=click.Choice(evaluate.UNITS), help="What is never on both sides of a fold.  [default: group]")
@option("--allow-leakage", is_flag=True, help="Allow --by frame: frames of one video are then on both sides of a fold.")
@option("--repeats", type=click.IntRange(1), help="How often the folds are drawn anew.  [default: 5, fine-tuned: 1]")
@option(
    "--shuffle-labels", is_flag=True, help="A control: permute the labels among the groups, so only chance is left."
)
@option("--positive", help="Class whose recall is the sensitivity.  [default: of two classes, the second]")
@option("--epochs", type=click.IntRange(1), help="Fine-tuning: epochs on each fold.  [default: 30]")
@option("--lr", type=click.FloatRange(0, min_open=True), help="Fine-tuning: learning rate.  [default: 0.003]")
@option("--batch-size", type=click.IntRange(2), help="Fine-tuning: pictures a step.  [default: 64]")
@option(
    "--epoch",
    type=click.Choice(evaluate.EPOCHS),
    help="Fine-tuning: the epoch that counts: the last; the best on an inner part of the training fold; or, as is often"
    " published, the best on the test fold, which makes the figures too good.  [default: last, gbcu: inner]",
)
@_model_options
@click.version_option(__version__, package_name="usucl-fast")
@gather(evaluate.EvaluateConfig)
def run(model: str, shards: str, out: Path, overwrite: bool, config: evaluate.EvaluateConfig) -> None:
    """Measures how well MODEL's features separate the classes in SHARDS, on folds that never cut a group.

    SHARDS is a folder made by usucl-shard, or the URL of one; or a CSV file of images (path, label, and any of video,
    group); or the folder of GBCU (images, train_0.txt, val_0.txt, …) or of USCL's POCUS (covid_data1.pkl, …), whose
    folds are then used. MODEL is a run folder, a file of weights (one of a run's checkpoints; of torchvision, timm,
    US_UCL, MoCo, USCL or lightly), or a word: imagenet for the weights that torchvision or timm offers, random for
    an untrained network.

    knn and linear classify frozen features; finetune trains all layers. gbcu and pocus are finetune as published for
    these data: ten folds and the class malignant, five folds.

    \b
    Example:
      usucl-eval my-run my-shards --out my-eval --protocol knn,linear
    """
    outs = {name: out if len(config.protocols) == 1 else out / name for name in config.protocols}
    for folder in outs.values():
        evaluate.check_evaluation_out(folder, overwrite)
    for evaluation in evaluate.evaluate(model, shards, config):
        folder = outs[evaluation.protocol]
        evaluate.write_evaluation(folder, evaluation)
        evaluate.show(evaluation.summary)
        for note in evaluation.summary["notes"]:
            say(note, err=True)
        say(f"See {folder / 'page.html'}")


@main.command("compare", cls=Command)
@click.argument("evaluations", nargs=-1, required=True, metavar="[NAME=]EVALUATION...")
@out_option(help="Output folder.")
@option("--baseline", help="Name of the one that the others are compared with.  [default: all pairs]")
@option("--seed", default=0, type=click.IntRange(0), help="Seed of the bootstrap.")
@click.option("--overwrite", is_flag=True, help="Replace the comparison in --out.")
def compare_command(evaluations: tuple[str, ...], out: Path, baseline: str | None, seed: int, overwrite: bool) -> None:
    """Compares EVALUATIONS, folders that usucl-eval wrote: paired differences, with intervals.

    They must be of the same samples and folds. Evaluations with the same NAME are runs of one method with other seeds.

    \b
    Example:
      usucl-eval compare ours=my-eval random=my-eval-random --out my-comparison
    """
    evaluate.check_comparison_out(out, overwrite)
    arms = evaluate.read_evaluations(evaluations)  # a line of its own: `evaluate.compare` takes long to import
    comparison = evaluate.compare(arms, baseline, seed)
    evaluate.write_comparison(out, comparison)
    evaluate.show_comparison(comparison)
    say(f"See {out / 'page.html'}")


@main.command("embed", cls=Command)
@out_option(help="File for the embeddings, an .npz or .parquet.")
@option("--frames", type=click.IntRange(1), help="Frames a video, evenly spread.  [default: all]")
@option("--picture", type=path, help="PNG file: some frames, and the most similar frames of other groups.")
@option("--queries", default=8, type=click.IntRange(1), help="Rows of the picture.")
@option("--neighbours", default=6, type=click.IntRange(1), help="Neighbours in a row of it.")
@_model_options
@gather(evaluate.InputConfig)
def embed_command(
    model: str, shards: str, out: Path, picture: Path | None, overwrite: bool, config: evaluate.InputConfig, **rows: int
) -> None:
    """Writes MODEL's embeddings of the frames in SHARDS: a row a frame, with its id, video, number, group and label.

    \b
    Example:
      usucl-eval embed my-run my-shards --out my-embeddings.npz --picture neighbours.png
    """
    check_file_out("--out", out, overwrite)
    evaluate.check_embeddings_path(out)
    if picture:
        check_file_out("--picture", picture, overwrite)
        if picture.suffix != ".png":
            raise UsageError(f"--picture {picture}: name a file that ends in .png")
    embeddings = evaluate.embed_shards(model, shards, config)
    evaluate.write_embeddings(out, embeddings.columns(), embeddings.features)
    if picture:
        with write_whole(picture) as file:
            evaluate.retrieval_picture(embeddings, seed=config.seed, **rows).save(file, "PNG")
