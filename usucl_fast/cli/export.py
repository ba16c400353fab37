"""`usucl-train export`: writes a run's backbone to a file for other programs."""

from pathlib import Path

import click

from usucl_fast import learn
from usucl_fast.cli.command import Command, say


@click.command(cls=Command)
@click.argument("run", type=click.Path(path_type=Path))
@click.option(
    "--format",
    required=True,
    type=click.Choice(learn.EXPORT_FORMATS),
    help="us_ucl: a checkpoint that US_UCL's fine-tuner takes. onnx: the backbone, normalised pictures to features, for"
    " any number of pictures of the run's size.",
)
@click.option("--out", required=True, type=click.Path(path_type=Path), help="File to write.")
@click.option("--overwrite", is_flag=True, help="Replace --out.")
def export(run: Path, format: str, out: Path, overwrite: bool) -> None:
    """Writes the backbone of RUN to a file for other programs.

    us_ucl is the newest checkpoint: backbone and projection head, and their momentum copies. Batch norms of the head
    are folded into its linear layers; a head of other parts is left out, and so is the state of the optimizer.

    The backbone with torchvision's names is there already: RUN/backbone.safetensors.

    \b
    Example:
      usucl-train export my-run --format us_ucl --out my-run.pth
    """
    words = learn.export(run, format, out, overwrite)
    say(f"{out}: {words}; {out.stat().st_size / 1e6:.1f} MB")
