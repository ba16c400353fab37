"""`usucl-train`: shards -> backbone."""

import contextlib
import dataclasses
import difflib
import functools
import os
import signal
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click

from usucl_fast import __version__, feed, learn
from usucl_fast.cli.charts import curriculum_text, sparkline
from usucl_fast.cli.command import Command, DefaultGroup
from usucl_fast.cli.device import device_option
from usucl_fast.cli.export import export
from usucl_fast.cli.shards import shards_argument
from usucl_fast.errors import UsageError
from usucl_fast.machine import cores, pick_device


class _Moved(click.ParamType):
    """`A`, or `A:B`: from A to B, as the curriculum closes."""

    name = "A[:B]"

    def __init__(self, number: click.ParamType) -> None:
        self._number = number

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[Any, Any]:
        if isinstance(value, list):  # of a TOML file
            value = ":".join(map(str, value))
        start, colon, end = str(value).partition(":")
        return self._number.convert(start, param, ctx), self._number.convert(end if colon else start, param, ctx)


def _setting_options(command: Callable[..., None]) -> Callable[..., None]:
    """One option a field of `TrainConfig`; the default shown is the `default` recipe's."""
    for field in reversed(dataclasses.fields(learn.TrainConfig)):
        if not field.metadata:
            continue
        meta, default = field.metadata, field.default
        moved = isinstance(default, tuple)
        kind = type(default[0]) if moved else type(default)
        option = f"--{field.name.replace('_', '-')}"
        value: Any = kind
        if meta["choices"]:
            value = click.Choice(meta["choices"])
        elif kind in (int, float) and (meta["low"], meta["high"]) != (None, None):
            value = (click.IntRange if kind is int else click.FloatRange)(meta["low"], meta["high"])
        if moved:
            value, default = _Moved(value), ":".join(f"{end:g}" for end in dict.fromkeys(default))
        text = f"{meta['help']}  [default: {default}]"
        name = f"{option}/--no-{field.name.replace('_', '-')}" if kind is bool else option
        command = click.option(name, field.name, type=value, default=None, help=text)(command)
    return command


def _read_options(ctx: click.Context, param: click.Parameter, file: Path | None) -> None:
    """Takes options from a TOML file; those of the command line come before them."""
    if file is None:
        return
    try:
        options = tomllib.loads(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise UsageError(f"--config {file} cannot be read: {error}") from error
    known = [str(p.name) for p in ctx.command.params if isinstance(p, click.Option) and p.expose_value]
    for name in options:
        if name.replace("-", "_") not in known:
            near = difflib.get_close_matches(name, known, 1)
            raise UsageError(
                f"--config {file}: there is no option {name}{f'; is it {near[0]}?' if near else ''} see --help"
            )
    ctx.default_map = {**(ctx.default_map or {}), **{name.replace("-", "_"): v for name, v in options.items()}}


@click.group(cls=DefaultGroup, default="run", add_help_option=False, no_args_is_help=False)
def main() -> None:
    """Trains where no command is named, and tells of that with --help: it is what one comes for."""


main.add_command(export)


@main.command(cls=Command)
@functools.partial(shards_argument, required=False)
@click.option("--out", type=click.Path(path_type=Path), help="Run folder.")
@click.option(
    "--recipe",
    type=click.Choice(tuple(learn.RECIPES)),
    help="Named settings; the options below replace them one by one.  [default: default]",
)
@click.option(
    "--config",
    type=click.Path(path_type=Path),
    is_eager=True,
    expose_value=False,
    callback=_read_options,
    help='TOML file with options, as in: recipe = "fast", epochs = 100, negatives = [3, 8]. Those given here as well'
    " replace them.",
)
@click.option(
    "--loader",
    type=click.Choice(("auto", *feed.LOADERS)),
    help="What decodes and crops. auto: resident where all decoded frames fit into --resident-gb, else dali where it is"
    " installed, else torch.  [default: auto]",
)
@click.option("--dali", is_flag=True, help="The same as --loader dali.")
@device_option
@click.option(
    "--threads",
    default=cores(),
    show_default="one a CPU core",
    type=click.IntRange(0),
    help="CPU threads that decode; 0 decodes in the main thread.",
)
@click.option(
    "--resident-gb",
    default=feed.RESIDENT_BYTES / 1e9,
    show_default=True,
    type=click.FloatRange(0),
    help="Memory, in GB, for decoded frames that the loader resident keeps; what does not fit is decoded each time.",
)
@click.option(
    "--resident-file",
    is_flag=True,
    help="Keep what does not fit into --resident-gb in a memory-mapped file beside SHARDS, until the run ends.",
)
@click.option(
    "--beton",
    type=click.Path(path_type=Path),
    help="What the loader ffcv reads: SHARDS as usucl-shard export-ffcv wrote them.",
)
@click.option(
    "--checkpoint-every",
    default=100,
    show_default=True,
    type=click.IntRange(1),
    help="Steps between checkpoints.",
)
@click.option(
    "--keep", default=2, show_default=True, type=click.IntRange(1), help="Checkpoints that are kept, the newest ones."
)
@click.option("--tensorboard", is_flag=True, help="Write the metrics for TensorBoard as well, to OUT/tensorboard.")
@click.option(
    "--profile",
    is_flag=True,
    help="Write OUT/trace.json: where the time of 5 steps goes, after 5 others; for Perfetto or chrome://tracing.",
)
@click.option(
    "--stop-after",
    type=click.IntRange(1),
    help="Stop after this many steps of the run, to go on later with --resume.",
)
@click.version_option(__version__, package_name="usucl-fast")
@click.option("--resume", is_flag=True, help="Go on with the run in --out, with its settings.")
@click.option("--overwrite", is_flag=True, help="Replace the run in --out.")
@click.option(
    "--show-curriculum",
    is_flag=True,
    help="Print the curriculum that the other options make, epoch by epoch, and stop. Needs no SHARDS or --out.",
)
@_setting_options
def run(
    shards: str | None,
    cache: Path | None,
    cache_gb: float,
    out: Path | None,
    recipe: str | None,
    loader: str | None,
    dali: bool,
    device: str,
    threads: int,
    resident_gb: float,
    resident_file: bool,
    beton: Path | None,
    checkpoint_every: int,
    keep: int,
    tensorboard: bool,
    profile: bool,
    stop_after: int | None,
    resume: bool,
    overwrite: bool,
    show_curriculum: bool,
    **settings: Any,
) -> None:
    """Trains an encoder on SHARDS (a folder made by usucl-shard, or the URL of one) and writes it to --out.

    The run folder gets config.json, metrics.jsonl (a line a step), checkpoints/, summary.json and
    backbone.safetensors (torchvision's parameter names, without fc). Ctrl-C or SIGTERM saves a checkpoint and
    stops; --resume goes on from the newest one. `usucl-train export RUN` writes what a run has learned for other
    programs.

    \b
    Example:
      usucl-train my-shards --dali --arch resnet18 --size 112 --out my-run
    """
    if dali and loader not in (None, "dali"):
        raise UsageError(f"--dali and --loader {loader} contradict each other")
    if resume and overwrite:
        raise UsageError("--resume and --overwrite contradict each other")
    overrides = {name: value for name, value in settings.items() if value is not None}
    if "channels" in overrides:
        overrides["channels"] = int(overrides["channels"])
    if _restarted() and out is not None and (out / "config.json").is_file():
        resume, overwrite = True, False
    if resume:
        if out is None:
            raise UsageError("--resume needs --out, the folder of the run")
        if recipe:
            overrides["recipe"] = recipe
        config = dataclasses.replace(learn.read_config(out), **overrides)
    else:
        config = learn.make_config(recipe or "default", overrides)
    if show_curriculum:
        curriculum = learn.make_curriculum(config)
        click.echo(curriculum_text([curriculum(epoch / config.epochs) for epoch in range(config.epochs)]))
        return
    if shards is None or out is None:
        raise UsageError(
            "SHARDS, a folder made by usucl-shard or the URL of one, and --out, the run folder, are needed"
        )
    store = feed.open_shards(shards, cache, int(cache_gb * 1e9))
    if _first():
        learn.check_out(
            out, config, store.fingerprint, resume, overwrite
        )  # before torch, which takes seconds to import
    resident_bytes = int(resident_gb * 1e9)
    name = "dali" if dali else loader or "auto"
    if name == "auto":
        name, why = feed.choose_loader(store, config.channels, resident_bytes, resident_file)
        click.echo(f"--loader {name}: {why}")
    with learn.ranks_of_torchrun(pick_device(device)) as (ranks, own_device), _told_to_stop(store) as told:
        execution = learn.Execution(
            name,
            own_device,
            threads,
            resident_bytes,
            resident_file,
            beton,
            checkpoint_every,
            keep,
            stop_after,
            tensorboard,
            profile,
        )
        summary = learn.train(
            config, store, out, execution, resume=resume, overwrite=overwrite, told_to_stop=told, ranks=ranks
        )
    if not ranks.first:
        return
    losses = [line["loss"] for line in learn.read_metrics(out / "metrics.jsonl")]
    click.echo(f"loss {losses[0]:.3f} {sparkline(losses)} {losses[-1]:.3f}")
    click.echo(
        f"{out}: step {summary['steps']} of {summary['of']}, {summary['frames_per_second']:,.0f} frames/s,"
        f" {summary['data_wait']:.1%} of the time waiting for data,"
        f" effective rank of the embeddings {summary['effective_rank']:.1f}"
    )
    if summary["steps"] < summary["of"]:
        click.echo(f"stopped; go on with: usucl-train {store.name} --out {out} --resume")


def _first() -> bool:
    """Whether this is the only process, or the one of those that torchrun started which writes the run."""
    return os.environ.get("RANK", "0") == "0"


def _restarted() -> bool:
    """Whether torchrun has started this process again (`--max-restarts`), after the loss of a rank: the run goes on."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) > 0


@contextlib.contextmanager
def _told_to_stop(store: feed.ShardStore) -> Iterator[Callable[[], bool]]:
    """Whether SIGTERM or SIGINT has come since; a second one ends the process as usual."""
    told: list[int] = []
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    def note(number: int, _: object) -> None:
        told.append(number)
        store.close()  # a step that waits for shards would not end
        restore()

    for number in before:
        signal.signal(number, note)
    try:
        yield lambda: bool(told)
    finally:
        restore()
