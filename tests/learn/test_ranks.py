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
from concurrent.futures import ThreadPoolExecutor
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
from usucl_fast.errors import ResourceError, StoppedError, UsageError
from usucl_fast.learn import Execution, train
from usucl_fast.learn.checkpoint import load_newest
from usucl_fast.learn.network import Network
from usucl_fast.learn.ranks import Ranks, meet, ranks_of_torchrun
from usucl_fast.learn.recipes import make_config
from usucl_fast.learn.run_folder import RunFolder
from usucl_fast.shards import open_shards

EXECUTION = Execution(loader="torch", device=torch.device("cpu"), threads=0, checkpoint_every=3)
TINY: dict[str, Any] = {**training.TINY, "epochs": 8, "batch_size": 4, "batch_norm": "frozen"}
TINY |= {"optimizer": "sgd", "lr": 0.001}  # AdamW moves a weight by .001 however small its gradient: by its rounding
RUNS: dict[str, tuple[str, dict[str, Any]]] = {
    "default": ("default", {}),
    "encode": ("default", {"intra_mining": "encode", "symmetric": False, "intra_hard_share": (0.5, 1.0)}),
    "reference": ("reference", {}),
    "lanes": ("fast", {"shuffle_shards": 3, "accumulate": 2, "batch_size": 8, "tuples_per_video": 2, "epochs": 3}),
}
METHODS = ("simclr", "mocov2", "byol", "simsiam", "dino", "cyclecontrast", "uscl")
RUNS |= {recipe: (recipe, {"queue": 8} if recipe == "mocov2" else {}) for recipe in METHODS}
PARTITIONED = ("default", "encode", "cyclecontrast")
STOP = 5


@pytest.fixture(scope="module")
def trained(a_shard_each: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs named by what is trained and on how many ranks, and `2-then-1` and `2-then-4`: stopped and resumed."""
    folder = tmp_path_factory.mktemp("ranks")
    (folder / "shards").symlink_to(a_shard_each)
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
    for name in PARTITIONED:
        if name in METHODS and not importlib.util.find_spec("lightly"):
            continue
        on_ranks(rank, 4, folder, f"{name}-spread", name, stop_after=STOP, bank="partitioned")
        on_ranks(rank, 2, folder, f"{name}-spread", name, resume=True, bank="partitioned")

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
        store = open_shards(folder / "shards" if config.shuffle_shards else SAMPLE)
        train(config, store, folder / out, how, resume=resume, ranks=ranks)


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


@pytest.mark.parametrize("name", ["default", "encode", "reference", "lanes", *METHODS])
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


@pytest.mark.parametrize("name", PARTITIONED)
def test_a_bank_spread_over_ranks_teaches_the_same(trained: Path, name: str) -> None:
    """On four ranks, then resumed on two."""
    if name in METHODS:
        pytest.importorskip("lightly")
    spread, whole = trained / f"{name}-spread", trained / f"{name}-2"
    assert plans(spread) == plans(whole)
    assert losses(spread) == pytest.approx(losses(whole), abs=1e-3)
    saved, expected = (load_newest(RunFolder(folder)) for folder in (spread, whole))
    assert saved is not None
    assert expected is not None
    assert saved.bank is not None
    assert expected.bank is not None
    assert torch.equal(saved.bank["written_at"], expected.bank["written_at"])
    assert torch.allclose(saved.bank["embeddings"].float(), expected.bank["embeddings"].float(), atol=1e-2)


def test_ranks_share_out_the_shards(a_shard_each: Path) -> None:
    store = open_shards(a_shard_each)
    config = make_config("fast", {**TINY, **RUNS["lanes"][1]})
    plan = config.make_planner(store.table).plan(0, 0)
    assert len(set(plan.lane.tolist())) == 3
    owns = [[set(part.own.lane.tolist()) for part in plan.parts(2, rank, 2)] for rank in range(2)]
    assert all(max(first) <= min(second) for first, second in zip(*owns, strict=True))


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
    config = make_config("simclr", TINY)
    spread = dataclasses.replace(EXECUTION, bank="partitioned")
    with pytest.raises(UsageError, match="--bank partitioned has no effect with --method simclr, which has none"):
        train(config, open_shards(SAMPLE), tmp_path / "run", spread, ranks=Ranks(0, 2))
    config = make_config("default", {**TINY, "batch_norm": "sync"})
    with pytest.raises(UsageError, match="sync works on GPUs only"):
        train(config, open_shards(SAMPLE), tmp_path / "run", EXECUTION, ranks=Ranks(0, 2))
    assert not (tmp_path / "run").exists()


TORCHRUN = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "--no-python")


def command(out: Path, epochs: int) -> list[str]:
    """As a user types it, behind torchrun or not."""
    words = [SAMPLE, "--out", out, *training.tiny_options(epochs, batch_size=4), "--loader", "torch"]
    return [str(word) for word in (Path(sys.executable).parent / "usucl-train", *words)]


@contextlib.contextmanager
def begun(*words: str, out: Path) -> Iterator["subprocess.Popen[str]"]:
    """The command, once it has written a checkpoint."""
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            while not RunFolder(out).saved_checkpoints():
                assert process.poll() is None, process.communicate()
                time.sleep(0.05)
            yield process
        finally:
            process.kill()


def test_ranks_do_not_meet_those_that_were_there_before() -> None:
    """Whichever comes first; the store still has what others left in it, some of whom ended before they had met."""
    store, names = dist.HashStore(), []
    store.set("usucl_fast/rank/1", "ended")
    for order in ([0, 1, 2], [2, 0, 1], [1, 2, 0]):
        with ThreadPoolExecutor(3) as pool:
            met = [pool.submit(meet, store, rank, 3) for rank in order]
            (name,) = {future.result(60) for future in met}
        names.append(name)
    assert len(set(names)) == 3
    assert meet(store, 0, 1) not in names


@pytest.mark.slow
@pytest.mark.parametrize(
    ("sent", "line"),
    [
        (signal.SIGKILL, "rank 0 of 2 ends: another rank has ended"),
        (signal.SIGSTOP, "rank 0 of 2 ends: rank 1 has sent no heartbeat for 5 seconds (--rank-timeout)"),
    ],
)
def test_a_rank_that_dies_or_is_stopped_ends_the_run_and_is_named(
    tmp_path: Path, sent: signal.Signals, line: str
) -> None:
    """The run can be resumed, on one rank. torchrun gives a stopped process 30 seconds to end."""
    out = tmp_path / "run"
    words = command(out, epochs=10000)
    with begun(*TORCHRUN, *words, "--checkpoint-every", "2", "--rank-timeout", "5", out=out) as process:
        os.kill(rank_process(process.pid, 1), sent)
        killed = time.monotonic()
        _, errors = process.communicate(timeout=90)
    assert time.monotonic() - killed < 60
    assert process.returncode != 0
    assert line in errors
    if sent == signal.SIGKILL:
        assert re.search(r"rank\s*: 1 ", errors), errors
    more = [*words, "--resume", "--stop-after", str(len(plans(out)) + 1)]
    resumed = subprocess.run(more, capture_output=True, text=True, check=False)
    assert resumed.returncode == 0, resumed.stderr
    assert "ranks: 1 now, 2 before" in resumed.stderr


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
def test_killed_under_torchrun_it_goes_on_by_itself_to_the_bit(tmp_path: Path, rank: int) -> None:
    """The process that writes, or the other."""
    whole, out = tmp_path / "whole", tmp_path / "run"
    subprocess.run([*TORCHRUN, *command(whole, epochs=100)], capture_output=True, check=True)
    restarted = [*TORCHRUN[:-1], "--max-restarts", "1", TORCHRUN[-1]]
    with begun(*restarted, *command(out, epochs=100), "--checkpoint-every", "7", out=out) as process:
        os.kill(rank_process(process.pid, rank), signal.SIGKILL)
        _, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    assert "ends: another rank has ended" in errors
    assert training.curve(out) == training.curve(whole)
    assert (out / "backbone.safetensors").read_bytes() == (whole / "backbone.safetensors").read_bytes()


@pytest.mark.slow
def test_sigusr1_to_one_rank_saves_and_the_requeued_job_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As SLURM does with `--signal=USR1@120` and `--requeue`: the same command again, with its own variable set."""
    whole, out = tmp_path / "whole", tmp_path / "run"
    subprocess.run([*TORCHRUN, *command(whole, epochs=100)], capture_output=True, check=True)
    job = [*TORCHRUN, *command(out, epochs=100), "--checkpoint-every", "7"]
    with begun(*job, out=out) as process:
        os.kill(rank_process(process.pid, 1), signal.SIGUSR1)
        output, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    assert "stopped; " in output
    stopped = len(plans(out))
    assert 0 < stopped < len(plans(whole))
    assert RunFolder(out).saved_checkpoints()[0].name == f"step-{stopped:08d}.pt"
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    subprocess.run(job, capture_output=True, check=True)
    assert training.curve(out) == training.curve(whole)
    assert (out / "backbone.safetensors").read_bytes() == (whole / "backbone.safetensors").read_bytes()


def rank_process(parent: int, rank: int) -> int:
    """The process of that rank, started by torchrun."""
    for pid in Path(f"/proc/{parent}/task/{parent}/children").read_text().split():
        if f"RANK={rank}".encode() in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"):
            return int(pid)
    raise AssertionError(f"torchrun has no process of rank {rank}")


def test_more_ranks_than_gpus_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"TORCHELASTIC_RUN_ID": "x", "LOCAL_RANK": "2", "LOCAL_WORLD_SIZE": "3"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    refused = r"3 ranks on a machine of 2 GPUs; start one a GPU \(--nproc-per-node 2\)"
    with pytest.raises(UsageError, match=refused), ranks_of_torchrun("auto"):
        pass


def test_what_nccl_says_is_no_lost_rank() -> None:
    said = "NCCL error in: NCCLUtils.cpp:77, invalid usage\nLast error:\nDuplicate GPU detected : rank 0 and rank 1"
    named = r"rank 0 of 2: NCCL.* failed: Duplicate GPU detected : rank 0 and rank 1;"
    with pytest.raises(ResourceError, match=named), Ranks(0, 2).reporting_lost_ranks():
        raise RuntimeError(said)
    with pytest.raises(StoppedError, match="another rank has ended"), Ranks(0, 2).reporting_lost_ranks():
        raise RuntimeError("NCCL error in: x\nncclRemoteError: A call failed possibly due to a network error")
