"""Training over ranks: gloo processes on one machine, and torchrun as a user starts it."""

import contextlib
import dataclasses
import importlib.util
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from safetensors.torch import load_file

from tests.helpers import SAMPLE, training
from tests.helpers.feeding import planner_of
from tests.helpers.processes import in_processes
from tests.helpers.training import losses, plans
from usucl_fast.errors import UsageError
from usucl_fast.learn import Execution, train
from usucl_fast.learn.network import Network
from usucl_fast.learn.ranks import Ranks
from usucl_fast.learn.recipes import make_config
from usucl_fast.shards import open_shards

EXECUTION = Execution(loader="torch", device=torch.device("cpu"), threads=0, checkpoint_every=3)
TINY: dict[str, Any] = {**training.TINY, "epochs": 8, "batch_size": 4, "batch_norm": "frozen"}
TINY |= {"optimizer": "sgd", "lr": 0.001}  # AdamW moves a weight by .001 however small its gradient: by its rounding
RUNS: dict[str, tuple[str, dict[str, Any]]] = {
    "default": ("default", {}),
    "encode": ("default", {"intra_mining": "encode", "symmetric": False, "intra_hard_share": (0.5, 1.0)}),
    "reference": ("reference", {}),
}
METHODS = ("simclr", "mocov2", "byol", "simsiam", "dino", "cyclecontrast", "uscl")
RUNS |= {recipe: (recipe, {"queue": 8} if recipe == "mocov2" else {}) for recipe in METHODS}
STOP = 5


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs named by what is trained and on how many ranks, and `2-then-1` and `2-then-4`: stopped and gone on with."""
    folder = tmp_path_factory.mktemp("ranks")
    in_processes(work, folder, count=4)
    return folder


def work(rank: int, folder: Path) -> None:
    torch.set_num_threads(1)
    for name in RUNS:
        if name in METHODS and not importlib.util.find_spec("lightly"):
            continue
        for count in (1, 2) if name in METHODS else (1, 2, 4):
            on_ranks(rank, count, folder, f"{name}-{count}", name)
    for count in (1, 4):
        on_ranks(rank, 2, folder, f"2-then-{count}", "default", stop_after=STOP)
        on_ranks(rank, count, folder, f"2-then-{count}", "default", resume=True)

    for count in (1, 2, 3, 4):
        encode_shuffled_keys(rank, count, folder)


@contextlib.contextmanager
def group_of(rank: int, count: int, folder: Path, name: str) -> Iterator[Ranks]:
    meet = f"file://{folder}/{name}.meet"
    dist.init_process_group("gloo", init_method=meet, rank=rank, world_size=count, timeout=timedelta(minutes=2))
    yield Ranks(rank, count)
    dist.destroy_process_group()


def on_ranks(rank: int, count: int, folder: Path, out: str, name: str, resume: bool = False, **execution: Any) -> None:
    if rank >= count:
        return
    recipe, settings = RUNS[name]
    config = make_config(recipe, {**TINY, **settings})
    how = dataclasses.replace(EXECUTION, **execution)
    with group_of(rank, count, folder, f"{out}-{resume}") as ranks:
        train(config, open_shards(SAMPLE), folder / out, how, resume=resume, ranks=ranks)


def encode_shuffled_keys(rank: int, count: int, folder: Path) -> None:
    """Keys of four tuples by running statistics, so that it does not matter who encodes what."""
    if rank >= count:
        return
    config, table = make_config("fast", {**TINY, "batch_norm": "shuffle"}), open_shards(SAMPLE).table
    torch.manual_seed(0)
    pictures, plan = torch.rand(4, 3, 32, 32), planner_of(table).plan(0, 0)
    with group_of(rank, count, folder, f"keys-{count}") as ranks:
        network = Network(config, table, torch.device("cpu"), ranks).eval()
        own = slice(rank * 4 // count, (rank + 1) * 4 // count)
        torch.save(network.encode_keys(pictures[own], plan), folder / f"keys-{count}-{rank}.pt")


@pytest.mark.parametrize("name", ["default", "encode", "reference", *METHODS])
def test_any_number_of_ranks_sees_the_same_tuples_and_learns_the_same(trained: Path, name: str) -> None:
    """Batch norm frozen, so that the pictures that a rank encodes together do not matter."""
    if name in METHODS:
        pytest.importorskip("lightly")
    one = trained / f"{name}-1"
    assert len(set(losses(one))) > 4
    weights = load_file(one / "backbone.safetensors")
    for count in (2,) if name in METHODS else (2, 4):
        more = trained / f"{name}-{count}"
        assert plans(more) == plans(one)
        assert losses(more) == pytest.approx(losses(one), abs=1e-3)
        for tensor, value in load_file(more / "backbone.safetensors").items():
            assert torch.allclose(value, weights[tensor], atol=1e-4), tensor


def test_ranks_write_what_one_process_writes(trained: Path) -> None:
    names = {
        count: sorted(p.relative_to(trained / f"default-{count}") for p in (trained / f"default-{count}").rglob("*"))
        for count in (1, 4)
    }
    assert names[1] == names[4]


@pytest.mark.parametrize("count", [1, 4])
def test_saved_on_two_ranks_and_gone_on_with_on_others(trained: Path, count: int) -> None:
    out = trained / f"2-then-{count}"
    assert plans(out) == plans(trained / "default-2")  # no tuple is lost or seen again
    assert losses(out) == pytest.approx(losses(trained / "default-2"), abs=1e-3)


def test_shuffled_keys_are_those_of_the_right_tuples(trained: Path) -> None:
    """One process has nothing to shuffle."""
    whole = torch.load(trained / "keys-1-0.pt")
    assert torch.cdist(whole, whole)[~torch.eye(4, dtype=torch.bool)].min() > 1e-3
    for count in (2, 3, 4):
        for rank in range(count):
            assert torch.allclose(torch.load(trained / f"keys-{count}-{rank}.pt"), whole, atol=1e-5)


def test_more_ranks_than_tuples_are_refused(tmp_path: Path) -> None:
    config = make_config("default", {**TINY, "batch_size": 3, "accumulate": 2})
    with pytest.raises(UsageError, match="batches of 2 tuples are too few for 2 ranks and --accumulate 2"):
        train(config, open_shards(SAMPLE), tmp_path / "run", EXECUTION, ranks=Ranks(0, 2))
    config = make_config("default", {**TINY, "batch_norm": "sync"})
    with pytest.raises(UsageError, match="sync works on GPUs only"):
        train(config, open_shards(SAMPLE), tmp_path / "run", EXECUTION, ranks=Ranks(0, 2))
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_rank_that_dies_ends_the_run_and_is_named(tmp_path: Path) -> None:
    """Under torchrun, as a user starts it; the run can be gone on with, on one rank."""
    out = tmp_path / "run"
    options = [str(word) for word in training.tiny_options(epochs=10000, batch_size=4)]
    command = [str(Path(sys.executable).parent / "usucl-train"), str(SAMPLE), *options, "--out", str(out)]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "--no-python"]
    with subprocess.Popen(
        [*torchrun, *command, "--checkpoint-every", "2"], stderr=subprocess.PIPE, text=True
    ) as process:
        while not (out / "checkpoints").exists():
            assert process.poll() is None
            time.sleep(0.1)
        os.kill(rank_process(process.pid, 1), signal.SIGKILL)
        killed = time.monotonic()
        _, errors = process.communicate(timeout=60)
    assert time.monotonic() - killed < 60
    assert process.returncode != 0
    assert re.search(r"rank\s*: 1 ", errors), errors
    assert "rank 0 of 2 ends: another rank has ended" in errors
    resumed = subprocess.run(
        [*command, "--resume", "--stop-after", str(len(plans(out)) + 1)], capture_output=True, text=True, check=False
    )
    assert resumed.returncode == 0, resumed.stderr


def rank_process(parent: int, rank: int) -> int:
    """The process of that rank, started by torchrun."""
    for pid in Path(f"/proc/{parent}/task/{parent}/children").read_text().split():
        if f"RANK={rank}".encode() in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"):
            return int(pid)
    raise AssertionError(f"torchrun has no process of rank {rank}")
