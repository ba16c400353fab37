"""Damages run folders, kills runs and packings, and looks how each ends once it is gone on with.

    python -m tools.fuzz_runs --count 600 --seed 0
    python -m tools.fuzz_runs --only 317                  the same damage again, alone

Runs are killed by SIGKILL, or told to stop by SIGTERM, with each loader, and with both kinds of intra-video mining.
Attempt n of a seed is always the same, but for where exactly a kill strikes. In a process of its own it ends

    right       in what a run comes to that nothing was done to, bit for bit
    refused     in a UsuclError of one line; where a whole checkpoint is left, that is a fault as well (different)
    different   in something else
    traceback, crash, hang, memory     as no run should

The last five are faults: the exit status is then 1.
"""

import dataclasses
import functools
import importlib.util
import json
import os
import shutil
import signal
import sys
import tempfile
import time
import types
from collections.abc import Callable, Sequence
from datetime import timedelta
from pathlib import Path
from typing import NamedTuple

import click
import numpy as np
import torch
import torch.distributed as dist

from tools import make_phantoms
from tools.campaign import Ends, Outcome, attempt_all, check_line, show
from usucl_fast.errors import UsuclError
from usucl_fast.feed.beton import export_beton
from usucl_fast.learn import Execution, RunFolder, make_config, train
from usucl_fast.learn.ranks import Ranks
from usucl_fast.pack import find_sources, pack
from usucl_fast.shards import PackSettings, open_shards

SAMPLE = Path(__file__).parent.parent / "shards" / "sample"
TINY = {"arch": "timm/test_resnet", "size": 32, "dim": 16, "precision": "fp32", "epochs": 6, "batch_size": 2}
CONFIGS = {
    "bank": make_config("default", TINY),
    "encode": make_config(
        "default", {**TINY, "intra_mining": "encode", "intra_negatives": (2, 2), "intra_hard_share": (0.5, 1.0)}
    ),
}
"""By what the intra-video negatives are."""
EXECUTION = Execution(loader="torch", device=torch.device("cpu"), threads=0, checkpoint_every=2)
STOP = 8
"""Steps of 12 after which the run stops that is damaged."""
WAIT = 90
"""Seconds that ranks, or a packing, may take."""
SECONDS = 600
"""That an attempt of several may take."""
Way = tuple[str, str, int]
"""How a run is carried out: its loader, what the intra-video negatives are, and the ranks."""
FIRST: Way = ("torch", "bank", 1)


def ways() -> list[Way]:
    """All that can be had here."""
    packages = {"dali": "nvidia.dali", "torch": "torch", "resident": "torch", "ffcv": "ffcv"}
    loaders = [name for name, package in packages.items() if can_import(package)]
    return [(loader, mining, count) for count in (1, 2) for mining in CONFIGS for loader in loaders]


def can_import(package: str) -> bool:
    """Whether a package is installed."""
    try:
        return importlib.util.find_spec(package) is not None
    except ImportError:
        return False


def go_on(out: Path, way: Way = FIRST, ranks: Ranks | None = None, stop_after: int | None = None) -> None:
    """Begins the run, or resumes it."""
    folder, (loader, mining, _) = RunFolder(out), way
    begun, store, told = folder.holds_run(), open_shards(SAMPLE), list[int]()
    beton = out.parent / "sample.beton"
    if loader == "ffcv" and not beton.exists():
        export_beton(store, beton)
    signal.signal(signal.SIGTERM, lambda number, _: told.append(number))
    execution = dataclasses.replace(EXECUTION, loader=loader, stop_after=stop_after, beton=beton)
    config = folder.read_config() if begun else CONFIGS[mining]
    train(config, store, out, execution, resume=begun, ranks=ranks, should_stop=lambda: bool(told))


def result(out: Path) -> object:
    """What a run has come to: plan and loss of each step, and the weights."""
    folder = RunFolder(out)
    return [(line["plan"], line["loss"]) for line in folder.read_metrics()], folder.backbone.read_bytes()


def change(content: bytes, rng: np.random.Generator) -> bytes:
    """Other bytes: one flipped or some overwritten, anywhere; cut off, or longer."""
    if not content:
        return b"\0"
    way, at = int(rng.integers(6)), int(rng.integers(len(content)))
    if way < 3:
        return content[:at] + bytes([content[at] ^ 1 << int(rng.integers(8))]) + content[at + 1 :]
    if way == 3:
        return content[:at] + bytes(len(content[at : at + 512])) + content[at + 512 :]
    return content[:at] if way == 4 else content + content[:at]


def damage(out: Path, kind: str, rng: np.random.Generator) -> None:
    """Changes files of a run that was stopped."""
    folder = RunFolder(out)
    newest, *others = folder.saved_checkpoints()
    files = {
        "newest": [newest],
        "checkpoints": [newest, *others],
        "metrics": [folder.metrics],
        "settings": [folder.config],
    }
    for file in files[kind]:
        if rng.integers(8) or kind == "settings":
            file.write_bytes(change(file.read_bytes(), rng))
        elif kind == "checkpoints":
            file.write_bytes(b"")
        else:
            file.unlink()


def as_process(work: Callable[[], None]) -> int:
    """Does the work in a process that ends with it; its id. Status 0, 1 where it ends in a UsuclError, 2 in another."""
    process = os.fork()
    if process:
        return process
    try:
        work()
        os._exit(0)
    except UsuclError:
        os._exit(1)
    except BaseException:
        os._exit(2)


class Kill(NamedTuple):
    """A process that is killed: which, after how many seconds, by which signal."""

    process: int
    seconds: float
    signal: int


def all_end(made: Sequence[int], kill: Kill | None) -> None:
    """Waits for processes, of which one may be killed.

    Raises:
        AssertionError: one hangs, or ends in a traceback, or in a line though none was killed.
    """
    until = time.monotonic() + WAIT
    if kill:
        time.sleep(kill.seconds)
        os.kill(made[kill.process], kill.signal)
    statuses: dict[int, int] = {}
    while len(statuses) < len(made) and time.monotonic() < until:
        for process in set(made) - statuses.keys():
            done, status = os.waitpid(process, os.WNOHANG)
            if done:
                statuses[process] = os.waitstatus_to_exitcode(status)
        time.sleep(0.002)
    for process in set(made) - statuses.keys():
        os.kill(process, signal.SIGKILL)
    allowed = {0, 1, -kill.signal} if kill else {0}
    assert set(statuses.values()) <= allowed, f"processes ended with {list(statuses.values())}"
    assert len(statuses) == len(made), "a process hangs"


def on_ranks(out: Path, way: Way, kill: Kill | None = None) -> None:
    """Resumes a run, or begins it, on so many ranks; see `all_end`."""
    meet, count = out.with_name(f"meet-{time.monotonic_ns()}"), way[2]
    meet.mkdir()

    def rank(number: int) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # until the run listens
        ranks = None
        if count > 1:
            dist.init_process_group(
                "gloo", init_method=f"file://{meet}/store", rank=number, world_size=count, timeout=timedelta(seconds=20)
            )
            ranks = Ranks(number, count)
        (meet / str(number)).touch()
        go_on(out, way, ranks)

    made = [as_process(functools.partial(rank, number)) for number in range(count)]
    until = time.monotonic() + WAIT
    while not all((meet / str(number)).exists() for number in range(count)) and time.monotonic() < until:
        time.sleep(0.002)
    all_end(made, kill)


def pack_videos(videos: Path, out: Path, kill: Kill | None = None) -> None:
    """Packs videos, or goes on with it; see `all_end`."""

    def work() -> None:
        sys.modules["__main__"] = types.ModuleType("__main__")  # or each worker would import torch with this module
        pack(find_sources([videos])[0], out, PackSettings(size=32, shard_mb=0, sector="none"), workers=1)

    all_end([as_process(work)], kill)


def content(folder: Path) -> dict[str, bytes]:
    """The files in a folder, but for the summary, which tells the time that was taken."""
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != "summary.json"}


KINDS = ("newest", "checkpoints", "metrics", "settings", "killed", "packing")
MAY_BE_REFUSED = ("checkpoints", "settings")


@dataclasses.dataclass(frozen=True)
class Whole:
    """What is attempted against: a folder with runs that nothing was done to, one that was stopped, and shards.

    seconds: that each way of a run took, and packing.
    """

    folder: Path
    seconds: dict[Way | str, float]

    @classmethod
    def make(cls, folder: Path, ways: Sequence[Way]) -> "Whole":
        """Trains and packs."""
        go_on(folder / "stopped", stop_after=STOP)  # compiles what all processes need, once
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        make_phantoms.main([str(folder / "videos"), "--videos", "6", "--frames", "8"], standalone_mode=False)
        seconds: dict[Way | str, float] = {}
        for way in [FIRST, *ways]:
            began = time.monotonic()
            on_ranks(folder / "-".join(map(str, way)), way)
            seconds[way] = time.monotonic() - began
        began = time.monotonic()
        pack_videos(folder / "videos", folder / "shards")
        return cls(folder, {**seconds, "packing": time.monotonic() - began})


def attempt(whole: Whole, ways: Sequence[Way], number: int, seed: int) -> Outcome:
    """Makes attempt `number`."""
    rng, kind = np.random.default_rng((seed, number)), KINDS[number % len(KINDS)]
    with tempfile.TemporaryDirectory(prefix="usucl-fuzz-", ignore_cleanup_errors=True) as root:
        out, way = Path(root, "run"), FIRST
        if kind == "packing":
            for _ in range(int(rng.integers(1, 3))):
                pack_videos(whole.folder / "videos", out, _kill(rng, 1, whole.seconds[kind]))
            pack_videos(whole.folder / "videos", out)
            is_same = content(out) == content(whole.folder / "shards")
            return ("right", "") if is_same else ("different", "other shards")
        if kind == "killed":
            way = ways[number // len(KINDS) % len(ways)]
            for _ in range(int(rng.integers(1, 4))):
                on_ranks(out, way, _kill(rng, way[2], whole.seconds[way]))
            on_ranks(out, way)
        else:
            shutil.copytree(whole.folder / "stopped", out)
            damage(out, kind, rng)
            try:
                go_on(out)
            except UsuclError as error:
                return "refused" if kind in MAY_BE_REFUSED else "different", check_line(str(error))
        if result(out) == result(whole.folder / "-".join(map(str, way))):
            return "right", ""
        return "different", f"another curve, or other weights ({way})"


def _kill(rng: np.random.Generator, count: int, seconds: float) -> Kill:
    how = (signal.SIGKILL, signal.SIGTERM)[int(rng.integers(2))]
    return Kill(int(rng.integers(count)), float(rng.random()) * seconds, how)


def campaign(whole: Whole, ways: Sequence[Way], numbers: Sequence[int], seed: int) -> Ends:
    """Makes the attempts of these numbers; by kind, how many ended how, and number, kind and outcome of each.

    ways: of runs that are killed, one after the other.
    """
    return attempt_all(numbers, KINDS, functools.partial(attempt, whole, ways, seed=seed), "attempts", SECONDS)


@click.command()
@click.option("--count", default=120, show_default=True, type=click.IntRange(1), help="How many attempts.")
@click.option("--seed", default=0, show_default=True, type=click.IntRange(0))
@click.option("--only", type=click.IntRange(0), help="Number of one attempt, to make it alone.")
@click.option("--json", "report", type=click.Path(path_type=Path), help="Number, kind and outcome of each attempt.")
def main(count: int, seed: int, only: int | None, report: Path | None) -> None:
    """Damages runs, kills them and packings, and tells by kind how many ended how."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="usucl-fuzz-") as root:
        numbers = range(count) if only is None else [only]
        table, outcomes = campaign(Whole.make(Path(root), ways()), ways(), numbers, seed)
    if report:
        report.write_text(json.dumps(outcomes, indent=1))
    sys.exit(not show(table))


if __name__ == "__main__":
    main()
