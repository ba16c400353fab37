"""Damages run folders and kills runs, and looks how each ends once it is resumed.

    python -m tools.fuzz_runs --count 600 --seed 0
    python -m tools.fuzz_runs --only 317                  the same damage again, alone

Attempt n of a seed is always the same, but for where exactly a kill strikes. In a process of its own it ends

    right       in what a run comes to that nothing was done to, bit for bit
    refused     in a UsuclError of one line; where a whole checkpoint is left, that is a fault as well (different)
    different   in something else
    traceback, crash, hang, memory     as no run should

The last five are faults: the exit status is then 1.
"""

import dataclasses
import functools
import json
import os
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from datetime import timedelta
from pathlib import Path

import click
import numpy as np
import torch
import torch.distributed as dist

from tools.campaign import Outcome, attempt_all, check_line, show
from usucl_fast.errors import UsuclError
from usucl_fast.learn import Execution, RunFolder, make_config, train
from usucl_fast.learn.ranks import Ranks
from usucl_fast.shards import open_shards

SAMPLE = Path(__file__).parent.parent / "shards" / "sample"
CONFIG = make_config(
    "default", {"arch": "timm/test_resnet", "size": 32, "dim": 16, "precision": "fp32", "epochs": 6, "batch_size": 2}
)
EXECUTION = Execution(loader="torch", device=torch.device("cpu"), threads=0, checkpoint_every=2)
STOP = 8
"""Steps of 12 after which the run stops that is damaged."""
WAIT = 45
"""Seconds that two ranks may take."""


def go_on(out: Path, ranks: Ranks | None = None, stop_after: int | None = None) -> None:
    """Begins the run, or resumes it."""
    folder = RunFolder(out)
    begun = folder.holds_run()
    execution = dataclasses.replace(EXECUTION, stop_after=stop_after)
    train(folder.read_config() if begun else CONFIG, open_shards(SAMPLE), out, execution, resume=begun, ranks=ranks)


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
    files = {"newest": [newest], "all": [newest, *others], "metrics": [folder.metrics], "settings": [folder.config]}
    for file in files[kind]:
        if rng.integers(8) or kind == "settings":
            file.write_bytes(change(file.read_bytes(), rng))
        elif kind == "all":
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


def on_ranks(out: Path, count: int, kill: tuple[int, float] | None = None) -> None:
    """Resumes a run, or begins it, on so many ranks.

    kill: the rank that is killed, and seconds after which.

    Raises:
        AssertionError: a rank hangs, or ends in a traceback, or in a line though none was killed.
    """
    meet = out.with_name(f"meet-{time.monotonic_ns()}")
    meet.mkdir()

    def rank(number: int) -> None:
        ranks = None
        if count > 1:
            dist.init_process_group(
                "gloo", init_method=f"file://{meet}/store", rank=number, world_size=count, timeout=timedelta(seconds=20)
            )
            ranks = Ranks(number, count)
        (meet / str(number)).touch()
        go_on(out, ranks)

    made = [as_process(functools.partial(rank, number)) for number in range(count)]
    until = time.monotonic() + WAIT
    while not all((meet / str(number)).exists() for number in range(count)) and time.monotonic() < until:
        time.sleep(0.002)
    if kill:
        time.sleep(kill[1])
        os.kill(made[kill[0]], signal.SIGKILL)
    statuses: dict[int, int] = {}
    while len(statuses) < count and time.monotonic() < until:
        for process in set(made) - statuses.keys():
            done, status = os.waitpid(process, os.WNOHANG)
            if done:
                statuses[process] = os.waitstatus_to_exitcode(status)
        time.sleep(0.002)
    for process in set(made) - statuses.keys():
        os.kill(process, signal.SIGKILL)
    allowed = {0, 1, -signal.SIGKILL} if kill else {0}
    assert set(statuses.values()) <= allowed, f"ranks ended with {list(statuses.values())}"
    assert len(statuses) == count, "a rank hangs"


KINDS = ("newest", "all", "metrics", "settings", "killed", "ranks")
MAY_BE_REFUSED = ("all", "settings")


@dataclasses.dataclass(frozen=True)
class Whole:
    """What is attempted against: a folder with runs that nothing was done to, and one that was stopped.

    seconds: that a run took, by the number of ranks.
    """

    folder: Path
    seconds: dict[int, float]

    @classmethod
    def make(cls, folder: Path) -> "Whole":
        """Trains."""
        go_on(folder / "stopped", stop_after=STOP)  # compiles what all processes need, once
        seconds = {}
        for count in (1, 2):
            began = time.monotonic()
            on_ranks(folder / str(count), count)
            seconds[count] = time.monotonic() - began
        return cls(folder, seconds)


def attempt(whole: Whole, number: int, seed: int) -> Outcome:
    """Makes attempt `number`."""
    rng, kind = np.random.default_rng((seed, number)), KINDS[number % len(KINDS)]
    with tempfile.TemporaryDirectory(prefix="usucl-fuzz-", ignore_cleanup_errors=True) as root:
        out, count = Path(root, "run"), 2 if kind == "ranks" else 1
        if kind in ("killed", "ranks"):
            for _ in range(int(rng.integers(1, 4))):
                on_ranks(out, count, (int(rng.integers(count)), float(rng.random()) * whole.seconds[count]))
            on_ranks(out, count)
        else:
            shutil.copytree(whole.folder / "stopped", out)
            damage(out, kind, rng)
            try:
                go_on(out)
            except UsuclError as error:
                return "refused" if kind in MAY_BE_REFUSED else "different", check_line(str(error))
        if result(out) == result(whole.folder / str(count)):
            return "right", ""
        return "different", "another curve, or other weights"


def campaign(
    whole: Whole, numbers: Sequence[int], seed: int
) -> tuple[dict[str, Counter[str]], list[tuple[int, str, Outcome]]]:
    """Makes the attempts of these numbers; by kind, how many ended how, and number, kind and outcome of each."""
    return attempt_all(numbers, KINDS, functools.partial(attempt, whole, seed=seed), "attempts")


@click.command()
@click.option("--count", default=120, show_default=True, type=click.IntRange(1), help="How many attempts.")
@click.option("--seed", default=0, show_default=True, type=click.IntRange(0))
@click.option("--only", type=click.IntRange(0), help="Number of one attempt, to make it alone.")
@click.option("--json", "report", type=click.Path(path_type=Path), help="Number, kind and outcome of each attempt.")
def main(count: int, seed: int, only: int | None, report: Path | None) -> None:
    """Damages runs and kills them, and tells by kind how many ended how."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="usucl-fuzz-") as root:
        table, outcomes = campaign(Whole.make(Path(root)), range(count) if only is None else [only], seed)
    if report:
        report.write_text(json.dumps(outcomes, indent=1))
    sys.exit(not show(table))


if __name__ == "__main__":
    main()
