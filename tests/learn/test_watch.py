"""What a run says of itself, and how it ends when something is wrong."""

import contextlib
import dataclasses
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.helpers.commands import usucl_train
from tests.helpers.limits import no_file_larger_than
from tests.helpers.training import TINY, losses, tiny_options
from usucl_fast.errors import DataError, ResourceError
from usucl_fast.learn import Execution, health, train
from usucl_fast.learn.engine import Run
from usucl_fast.learn.method import Method
from usucl_fast.learn.methods.usucl import Usucl
from usucl_fast.learn.ranks import Ranks
from usucl_fast.learn.recipes import RECIPES, make_config
from usucl_fast.learn.run_folder import RunFolder
from usucl_fast.learn.watch import ALIKE_STEPS, Collapse, TensorBoard
from usucl_fast.shards import ShardStore

EXECUTION = Execution(loader="torch", device=torch.device("cpu"), threads=0, checkpoint_every=2)


def config(**changes: Any) -> Method:
    return make_config("default", {**TINY, "epochs": 6, "batch_size": 4, **changes})


def test_a_run_that_diverges_stops_and_names_the_step_and_the_frames(sample: ShardStore, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"step 1 diverged: the loss is .*frame ids \[\[\d+.*lower --lr") as caught:
        train(config(lr=1e30), sample, tmp_path / "run", EXECUTION)
    assert "nan" in str(caught.value)
    assert len(losses(tmp_path / "run")) == 1


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_a_step_that_diverges_is_not_taken(
    sample: ShardStore, tmp_path: Path, optimizer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Run(config(optimizer=optimizer, lr=0.01), sample, RunFolder(tmp_path / "run"), EXECUTION, Ranks())
    with contextlib.closing(run.loader.run(run.shares())) as batches:
        run.one_step(next(batches)).read()
        before = [parameter.clone() for parameter in run.network.query.parameters()]
        monkeypatch.setattr(Tensor, "backward", spoilt(Tensor.backward, run.network))
        metrics = run.one_step(next(batches))
        assert all(torch.equal(*pair) for pair in zip(before, run.network.query.parameters(), strict=True))
        with pytest.raises(DataError, match=r"step 1 diverged: the loss is [0-9.]+, the gradient's norm nan"):
            metrics.read()
        monkeypatch.undo()
        run.one_step(next(batches)).read()
    assert not any(torch.equal(*pair) for pair in zip(before, run.network.query.parameters(), strict=True))


def spoilt(backward: Callable[[Tensor], None], network: nn.Module) -> Callable[[Tensor], None]:
    """`backward`, with one number of the gradient that is none."""

    def spoil(loss: Tensor) -> None:
        backward(loss)
        gradient = next(network.parameters()).grad
        assert gradient is not None
        gradient[:1] = torch.nan

    return spoil


def test_a_full_disk_costs_no_earlier_checkpoint(sample: ShardStore, tmp_path: Path) -> None:
    """The checkpoint breaks off in the middle."""
    whole, out = tmp_path / "whole", tmp_path / "run"
    train(config(), sample, whole, EXECUTION)
    train(config(), sample, out, dataclasses.replace(EXECUTION, stop_after=2))
    full = pytest.raises(ResourceError, match=r"step-00000004\.pt cannot be written .*resume with --resume")
    with no_file_larger_than(1_000_000), full:
        train(config(), sample, out, EXECUTION, resume=True)
    assert [path.name for path in (out / "checkpoints").iterdir()] == ["step-00000002.pt"]
    train(config(), sample, out, EXECUTION, resume=True)
    assert losses(out) == losses(whole)


def test_a_full_disk_is_told_with_the_name_of_the_file(sample: ShardStore, tmp_path: Path) -> None:
    how = dataclasses.replace(EXECUTION, checkpoint_every=100)
    for name, size in (("config.json", 300), ("metrics.jsonl", 4000)):
        full = pytest.raises(ResourceError, match=rf"{name} cannot be written \(File too large\): make room; --resume")
        with no_file_larger_than(size), full:
            train(config(epochs=30), sample, tmp_path / name, how)
    assert not (tmp_path / "config.json").exists()  # nothing was begun
    assert train(config(epochs=30), sample, tmp_path / "metrics.jsonl", how, resume=True)["steps"] == 30


def test_a_full_disk_is_told_with_the_name_of_the_trace(sample: ShardStore, tmp_path: Path) -> None:
    how = dataclasses.replace(EXECUTION, checkpoint_every=100)
    full = pytest.raises(ResourceError, match=r"trace\.json cannot be written \(it came out incomplete\): make room")
    with no_file_larger_than(1_000_000), full:
        train(config(epochs=12), sample, tmp_path / "run", dataclasses.replace(how, profile=True))
    assert not list((tmp_path / "run").glob("*trace*"))
    assert train(config(epochs=12), sample, tmp_path / "run", how, overwrite=True)["steps"] == 12


def test_a_full_disk_is_told_with_the_name_of_what_tensorboard_shows(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    board = TensorBoard(tmp_path / "board", step=0)
    full = pytest.raises(OSError, match=r"File too large: .*events\.out\.tfevents")
    with no_file_larger_than(500), full, contextlib.closing(board):
        for step in range(100):
            board.write({"step": step, "loss": 0.5})


def test_a_trace_that_breaks_off_is_none(sample: ShardStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As of a profiler that could not write the end, of which it says nothing."""

    def export(_: object, path: str) -> None:
        Path(path).write_text('{"traceEvents": [{"name": "conv"}')

    monkeypatch.setattr(torch.profiler.profile, "export_chrome_trace", export)
    with pytest.raises(ResourceError, match=r"trace\.json cannot be written \(it came out incomplete\): make room"):
        train(config(epochs=12), sample, tmp_path / "run", dataclasses.replace(EXECUTION, profile=True))
    assert not list((tmp_path / "run").glob("*trace*"))


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA out of memory"), MemoryError()])
def test_out_of_memory_says_what_to_lower(
    sample: ShardStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def forward(*_: object) -> None:
        raise error

    monkeypatch.setattr(Usucl, "forward", forward)
    with pytest.raises(ResourceError, match=r"lower --batch-size \(4\) or --size \(32\), or raise --accumulate \(1\)"):
        train(config(), sample, tmp_path / "run", EXECUTION)


@pytest.mark.parametrize("parts", [2, 4])
def test_a_batch_in_parts_is_the_same_batch(sample: ShardStore, tmp_path: Path, parts: int) -> None:
    """With batch norm frozen, and negatives from the bank alone."""
    for number in (1, parts):
        frozen = config(accumulate=number, batch_norm="frozen", lr=0.001, in_batch=False, intra_from=0.0)
        train(frozen, sample, tmp_path / str(number), EXECUTION)
    assert losses(tmp_path / str(parts)) == pytest.approx(losses(tmp_path / "1"), abs=1e-4)


def told_of(collapse: Collapse, *cosines: tuple[float | None, int]) -> list[str]:
    """Warnings over so many steps of each mean cosine, one stretch after another."""
    values = [cosine for cosine, steps in cosines for _ in range(steps)]
    lines = ({"step": step, "mean_cosine": cosine, "effective_rank": 1.2} for step, cosine in enumerate(values))
    return [warning for line in lines if (warning := collapse.look(line))]


def test_collapse_is_told_once_each_time() -> None:
    long = config(warm_up=0), 10**6
    assert not told_of(Collapse(*long), (0.99, ALIKE_STEPS - 1), (0.3, 1), (0.99, ALIKE_STEPS - 1))
    (warning,) = told_of(Collapse(*long), (0.99, 150))
    assert "step 49: the embeddings have collapsed: for 50 steps" in warning
    assert len(told_of(Collapse(*long), (0.99, 150), (0.3, 1), (None, 10), (0.99, 100))) == 2
    assert not told_of(Collapse(*long), (0.9, 1000))


def test_collapse_is_looked_for_when_the_warm_up_has_ended_and_in_short_runs() -> None:
    """Of 60 steps with 20 of warm-up, 20 in a row are half of what is left."""
    run = config(warm_up=20), 60
    assert not told_of(Collapse(*run), (0.99, 39), (0.3, 21))
    (warning,) = told_of(Collapse(*run), (0.99, 60))
    assert warning.startswith("step 39: ")
    assert len(told_of(Collapse(config(), 1), (0.99, 1))) == 1


def test_collapse_names_ways_out_that_there_are() -> None:
    (default,) = told_of(Collapse(config(warm_up=0), 60), (0.99, 60))
    assert "Ways out: --init imagenet, a lower --lr than" in default
    made = make_config("reference", {**TINY, "batch_size": 4, "lr": 0.01})
    (reference,) = told_of(Collapse(made, 60), (0.99, 60))
    assert "Ways out: --init imagenet, --in-batch, --head-norm, a lower --lr than 0.01," in reference
    (pretrained,) = told_of(Collapse(dataclasses.replace(made, init="here.pth"), 60), (0.99, 60))
    assert "--init" not in pretrained


def test_a_recipe_for_weights_that_have_learned_says_so_of_random_ones(sample: ShardStore, tmp_path: Path) -> None:
    told = usucl_train(sample.name, "--out", tmp_path / "run", "--recipe", "reference", *tiny_options(1))
    assert "--recipe reference with --no-in-batch is made for weights that have learned" in told.stderr
    assert "add --init imagenet or --in-batch" in told.stderr
    (warning,) = json.loads((tmp_path / "run" / "summary.json").read_bytes())["warnings"]
    assert warning in told.stderr
    for recipe in set(RECIPES) - {"reference"}:
        assert not make_config(recipe, {}).doubts()
    assert not make_config("reference", {}).doubts()


def test_collapse_is_told_on_the_terminal_and_in_the_summary_across_a_resume(
    sample: ShardStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every step's anchors are made alike; the six steps are reported at the third, and not again after resuming."""
    monkeypatch.setattr(health, "mean_cosine", lambda query: 0.99)
    out, long = tmp_path / "run", config(warm_up=0)
    first = train(long, sample, out, dataclasses.replace(EXECUTION, stop_after=4))
    assert "step 2: the embeddings have collapsed" in capsys.readouterr().err
    whole = train(long, sample, out, EXECUTION, resume=True)
    assert "collapsed" not in capsys.readouterr().err
    assert first["warnings"] == whole["warnings"]
    assert len(whole["warnings"]) == 1
    assert json.loads((out / "summary.json").read_bytes())["warnings"] == whole["warnings"]


def test_tensorboard_has_the_metrics_and_no_step_twice(sample: ShardStore, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    out = tmp_path / "run"
    how = dataclasses.replace(EXECUTION, tensorboard=True)
    train(config(), sample, out, dataclasses.replace(how, stop_after=3))
    train(config(), sample, out, how, resume=True)
    events = EventAccumulator(str(out / "tensorboard")).Reload()
    told = events.Scalars("loss")
    assert [event.step for event in told] == list(range(6))
    assert [event.value for event in told] == pytest.approx(losses(out))


def test_a_trace_shows_where_the_time_goes(sample: ShardStore, tmp_path: Path) -> None:
    out = tmp_path / "run"
    train(config(epochs=12), sample, out, dataclasses.replace(EXECUTION, profile=True))
    events = json.loads((out / "trace.json").read_bytes())["traceEvents"]
    assert any("convolution" in event.get("name", "") for event in events)
    assert all(math.isfinite(loss) for loss in losses(out))
