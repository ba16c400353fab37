"""`usucl-train`: trains a backbone on shards."""

import contextlib
import functools
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from usucl_fast import __version__, feed, learn
from usucl_fast.cli.charts import curriculum_text, sparkline
from usucl_fast.cli.command import Command, DefaultGroup, say
from usucl_fast.cli.device import device_option
from usucl_fast.cli.export import export
from usucl_fast.cli.page import page
from usucl_fast.cli.settings import read_options, setting_options
from usucl_fast.cli.shards import open_given, shards_argument
from usucl_fast.errors import UsageError
from usucl_fast.machine import cores, crowded

if TYPE_CHECKING:
    from usucl_fast.shards import ShardStore


path, count = click.Path(path_type=Path), click.IntRange(1)
option = functools.partial(click.option, show_default=True)


@click.group(cls=DefaultGroup, default="run", add_help_option=False, no_args_is_help=False)
def main() -> None:
    """Runs `run` where no command is named, and shows its --help: most users need no other command."""


main.add_command(export)
main.add_command(page)


@main.command(cls=Command)
@functools.partial(shards_argument, required=False)
@click.option("--out", type=path, help="Run folder.")
@click.option(
    "--recipe",
    type=click.Choice(tuple(learn.RECIPES)),
    help="Named settings; the options below replace them one by one.  [default: default]",
)
@click.option(
    "--config",
    type=path,
    is_eager=True,
    expose_value=False,
    callback=read_options,
    help='TOML file with options, as in: recipe = "fast", epochs = 100, intra_negatives = [3, 8]. Options on the'
    " command line replace them.",
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
@option(
    "--resident-gb",
    default=feed.RESIDENT_BYTES / 1e9,
    type=click.FloatRange(0),
    help="The most, in GB, that all decoded frames may take for --loader auto to keep them; and the memory for them"
    " on a GPU, or where no file can be made beside SHARDS.",
)
@click.option("--beton", type=path, help="What the loader ffcv reads: SHARDS as usucl-shard export-ffcv wrote them.")
@option(
    "--bank",
    default=learn.BANKS[0],
    type=click.Choice(learn.BANKS),
    help="Under torchrun: whether every rank holds all rows of the memory bank, or they are spread over the ranks, for"
    " more than fit a device. What is learned is the same; a checkpoint has all rows and goes on with either.",
)
@click.option("--checkpoint-every", type=count, show_default="every 5 minutes", help="Steps between checkpoints.")
@option("--keep", default=2, type=count, help="How many of the newest checkpoints are kept.")
@click.option("--tensorboard", is_flag=True, help="Write the metrics for TensorBoard as well, to OUT/tensorboard.")
@click.option(
    "--profile",
    is_flag=True,
    help="Write OUT/trace.json, a profiler trace of steps 6 to 10, for Perfetto or chrome://tracing.",
)
@click.option(
    "--rank-timeout",
    default=60.0,
    show_default=True,
    type=click.FloatRange(1),
    help="Under torchrun: seconds without a heartbeat from a rank, as when it is stopped, after which the run ends"
    " and names it.",
)
@click.option(
    "--deterministic",
    is_flag=True,
    help="Give the same bits each time on a GPU as well, and be slower there; on a CPU it is always so.",
)
@option(
    "--page-every",
    default=0,
    type=click.IntRange(0),
    help="Write OUT/page.html, which shows the run, every so many epochs as well; 0 for its end alone.",
)
@click.option("--no-page", is_flag=True, help="Write no OUT/page.html.")
@click.option("--stop-after", type=count, help="Stop after this many steps of the run; --resume continues it.")
@click.version_option(__version__, package_name="usucl-fast")
@click.option("--resume", is_flag=True, help="Resume the run in --out, with its settings.")
@click.option("--overwrite", is_flag=True, help="Replace the run in --out.")
@click.option(
    "--show-curriculum",
    is_flag=True,
    help="Print the curriculum that the other options make, epoch by epoch, and stop. Needs no SHARDS or --out.",
)
@setting_options
def run(shards: str | None, out: Path | None, show_curriculum: bool, **options: Any) -> None:
    """Trains an encoder on SHARDS (a folder made by usucl-shard, or the URL of one) and writes it to --out.

    The run folder gets config.json, metrics.jsonl (a line a step), checkpoints/, summary.json, page.html (to look at)
    and backbone.safetensors (torchvision's parameter names, without fc). Ctrl-C, SIGTERM or SIGUSR1 saves a checkpoint
    and stops; --resume continues from the newest one. `usucl-train export RUN` writes the backbone for other programs.

    \b
    Example:
      usucl-train my-shards --dali --arch resnet18 --size 112 --out my-run
    """
    _check_options(options)
    run_folder = None if out is None else learn.RunFolder(out)
    if _restarted() and run_folder is not None and run_folder.holds_run():
        options |= {"resume": True, "overwrite": False}
    config = _find_config(run_folder, options)
    if show_curriculum:
        curriculum, length = config.make_curriculum(), config.steps or config.epochs
        stages = [curriculum(moment / length) for moment in range(length)]
        click.echo(curriculum_text("steps" if config.steps else "epochs", stages))
        return
    if shards is None or run_folder is None:
        raise UsageError("SHARDS, a folder made by usucl-shard or its URL, and --out, the run folder, are needed")
    store = open_given(shards, options["cache"], options["cache_gb"])
    config = learn.with_split(config, store)
    begin = {"resume": options["resume"], "overwrite": options["overwrite"]}
    if _first():  # before torch, which takes seconds to import
        run_folder.check(config, store.fingerprint, **begin)
        say(learn.describe_split(config.split, store.table))
        for doubt in config.doubts():
            say(doubt, err=True)
    loader = _find_loader(store, config, options)
    with learn.ranks_of_torchrun(options["device"]) as (ranks, device), _should_stop(store) as stop:
        if device.type == "cpu" and ranks.count == 1 and (note := crowded()):
            say(note, err=True)
        execution = learn.Execution(
            loader=loader,
            device=device,
            resident_bytes=_resident_bytes(options),
            page_every=None if options["no_page"] else options["page_every"],
            **{name: options[name] for name in _EXECUTION},
        )
        summary = learn.train(config, store, run_folder.path, execution, **begin, should_stop=stop, ranks=ranks)
    if ranks.first:
        _report(run_folder, store, summary)


_EXECUTION = (
    *("threads", "beton", "bank", "checkpoint_every", "keep", "stop_after"),
    *("tensorboard", "profile", "rank_timeout", "deterministic"),
)
"""Options that are fields of `Execution`."""


def _check_options(options: dict[str, Any]) -> None:
    if options["dali"] and options["loader"] not in (None, "dali"):
        raise UsageError(f"--dali and --loader {options['loader']} contradict each other; remove one of them")
    if options["resume"] and options["overwrite"]:
        raise UsageError("--resume and --overwrite contradict each other; remove one of them")


def _find_config(run_folder: learn.RunFolder | None, options: dict[str, Any]) -> learn.Method:
    """The settings of the recipe, or of the run to resume, replaced by the options that are given."""
    names = [field.name for field in learn.all_settings()]
    overrides = {name: options[name] for name in names if options[name] is not None}
    if "channels" in overrides:
        overrides["channels"] = int(overrides["channels"])
    recipe = options["recipe"]
    if not options["resume"]:
        return learn.make_config(recipe or "default", overrides)
    if run_folder is None:
        raise UsageError("--resume needs --out, the folder of the run")
    return learn.with_overrides(run_folder.read_config(), overrides | ({"recipe": recipe} if recipe else {}))


def _find_loader(store: "ShardStore", config: learn.Method, options: dict[str, Any]) -> str:
    name = "dali" if options["dali"] else options["loader"] or "auto"
    if name == "auto":
        name, why = feed.choose_loader(store, config.channels, _resident_bytes(options))
        say(f"--loader {name}: {why}")
    return str(name)


def _resident_bytes(options: dict[str, Any]) -> int:
    return int(options["resident_gb"] * 1e9)


def _report(run_folder: learn.RunFolder, store: "ShardStore", summary: "learn.RunSummary") -> None:
    losses = [line["loss"] for line in run_folder.read_metrics()]
    say(f"loss {losses[0]:.3f} {sparkline(losses)} {losses[-1]:.3f}")
    say(
        f"{run_folder.path}: step {summary['steps']} of {summary['of']}, {summary['frames_per_second']:,.0f} frames/s,"
        f" {summary['data_wait']:.1%} of the time waiting for data,"
        f" effective rank of the embeddings {summary['effective_rank']:.1f}"
    )
    if summary["steps"] < summary["of"]:
        say(f"stopped; resume it with: usucl-train {store.name} --out {run_folder.path} --resume")


def _first() -> bool:
    """Whether this is the main rank, which writes the run folder."""
    return os.environ.get("RANK", "0") == "0"


def _restarted() -> bool:
    """Whether torchrun has restarted this process (`--max-restarts`), or SLURM its job (`--requeue`)."""
    return any(int(os.environ.get(f"{by}_RESTART_COUNT") or 0) > 0 for by in ("TORCHELASTIC", "SLURM"))


@contextlib.contextmanager
def _should_stop(store: "ShardStore") -> Iterator[Callable[[], bool]]:
    """Yields a function that returns whether a signal to stop has come; a second one ends the process as usual.

    These are SIGTERM, SIGINT, and SIGUSR1, by which SLURM announces the end of a job's time (`--signal=USR1@120`).
    """
    received: list[int] = []
    names = ("SIGTERM", "SIGINT", "SIGUSR1")  # Windows has no SIGUSR1
    numbers = [getattr(signal, name) for name in names if hasattr(signal, name)]
    before = {number: signal.getsignal(number) for number in numbers}

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    def note(number: int, _: object) -> None:
        received.append(number)
        store.close()  # a step that waits for shards would not end
        restore()

    for number in before:
        signal.signal(number, note)
    try:
        yield lambda: bool(received)
    finally:
        restore()
