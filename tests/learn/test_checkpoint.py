"""When checkpoints are written, and that the training goes on meanwhile."""

import dataclasses
import threading
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.helpers.training import BARE, TINY
from usucl_fast.errors import ResourceError
from usucl_fast.learn import Execution, checkpoint, engine, train
from usucl_fast.learn.checkpoint import Checkpoint, CheckpointWriter, load_newest
from usucl_fast.learn.recipes import make_config
from usucl_fast.learn.run_folder import RunFolder
from usucl_fast.shards import ShardStore


def checkpoint_of(step: int, weight: torch.Tensor) -> Checkpoint:
    optimizer = {"state": {0: {"momentum": weight * 2}}, "groups": [{"lr": 0.1, "params": (0,)}]}
    return Checkpoint(**{**BARE, "step": step, "network": {"weight": weight}, "optimizer": optimizer})


@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Checkpoints are not written before it is set."""
    may, write = threading.Event(), Checkpoint.save

    def save(self: Checkpoint, *rest: Any) -> None:
        assert may.wait(30)
        write(self, *rest)

    monkeypatch.setattr(Checkpoint, "save", save)
    return may


def test_what_is_written_is_as_it_was(tmp_path: Path, held: threading.Event) -> None:
    run, weight = RunFolder(tmp_path), torch.arange(3.0)
    writer = CheckpointWriter(run, keep=2)
    writer.save(checkpoint_of(1, weight))
    weight += 10  # as the next step does
    held.set()
    writer.close()
    found = load_newest(run)
    assert found is not None
    assert found.network["weight"].tolist() == [0, 1, 2]
    assert found.optimizer["state"][0]["momentum"].tolist() == [0, 2, 4]
    assert found.optimizer["groups"] == [{"lr": 0.1, "params": (0,)}]


def test_one_at_a_time(tmp_path: Path, held: threading.Event) -> None:
    run = RunFolder(tmp_path)
    writer = CheckpointWriter(run, keep=5)
    writer.save(checkpoint_of(1, torch.zeros(3)))
    second = threading.Thread(target=writer.save, args=[checkpoint_of(2, torch.zeros(3))])
    second.start()
    second.join(0.2)
    assert second.is_alive()
    held.set()
    second.join()
    writer.wait()
    assert [path.name for path in run.saved_checkpoints()] == ["step-00000002.pt", "step-00000001.pt"]
    writer.close()


def test_a_failure_is_told_at_the_next_one_or_the_end(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").write_text("in the way")
    writer = CheckpointWriter(RunFolder(tmp_path), keep=2)
    for begin_next in (lambda: writer.save(checkpoint_of(2, torch.zeros(3))), writer.wait):
        writer.save(checkpoint_of(1, torch.zeros(3)))
        with pytest.raises(ResourceError, match=r"step-00000001.pt cannot be written"):
            begin_next()
    writer.close()


def test_what_is_too_large_to_be_copied_is_written_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint, "MOST_OF_MEMORY", 0)
    monkeypatch.setattr(checkpoint, "_copied", None)
    run = RunFolder(tmp_path)
    writer = CheckpointWriter(run, keep=2)
    writer.save(checkpoint_of(1, torch.zeros(3)))
    assert len(run.saved_checkpoints()) == 1
    writer.close()


@pytest.mark.parametrize(("seconds", "steps"), [(0.0, [1, 2, 3, 4]), (1000.0, [4])])
def test_they_are_written_by_the_clock(
    sample: ShardStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seconds: float, steps: list[int]
) -> None:
    monkeypatch.setattr(engine, "CHECKPOINT_SECONDS", seconds)
    how = Execution(loader="torch", device=torch.device("cpu"), threads=0, keep=10)
    config = make_config("default", {**TINY, "epochs": 4, "batch_size": 4})
    train(config, sample, tmp_path / "run", how)
    found = sorted(int(path.stem.removeprefix("step-")) for path in RunFolder(tmp_path / "run").saved_checkpoints())
    assert found == steps
    again = dataclasses.replace(how, checkpoint_every=3)
    train(config, sample, tmp_path / "again", again)
    found = sorted(int(path.stem.removeprefix("step-")) for path in RunFolder(tmp_path / "again").saved_checkpoints())
    assert found == [3, 4]
