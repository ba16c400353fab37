"""The recipe `reference` against a step in the published manner, made from its description alone.

From random weights, batch norm makes training chaotic at the published learning rate: the engine beside itself, with
the first layer's weights changed by 1e-7 of them, is off by 7e-7, 4e-5, .16 and .11 in the losses of its first four
steps; batches of 8 and 16 tuples leave 1e-4 behind as soon. Two ways of adding up floats cannot stay together in that.
So with batch norm at work each step begins from our weights, momenta and statistics, and has to lead to the same ones;
and with batch norm frozen, which is not chaotic, a whole run is made by itself.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch

from usucl_fast import mining
from usucl_fast.bench.published_step import PublishedEncoder, PublishedOutcome, PublishedStep
from usucl_fast.curriculum import Stage
from usucl_fast.feed import Normaliser
from usucl_fast.learn import Execution
from usucl_fast.learn.engine import Run
from usucl_fast.learn.network import Outcome
from usucl_fast.learn.ranks import Ranks
from usucl_fast.learn.recipes import make_config
from usucl_fast.learn.run_folder import RunFolder
from usucl_fast.shards import ShardStore

CPU = torch.device("cpu")
STEPS = 20


class PictureByPicture(PublishedStep):
    """Encodes every picture in a pass of its own."""

    def encode(self, encoder: PublishedEncoder, pictures_M3HW: torch.Tensor) -> torch.Tensor:
        return torch.cat([super(PictureByPicture, self).encode(encoder, picture[None]) for picture in pictures_M3HW])


class Compared(NamedTuple):
    """One step, made both ways. `buffer_ids`: int64 `[B J]`, the frames of the buffer Q."""

    stage: Stage
    line: dict[str, Any]
    ours: Outcome
    synthetic: torch.Tensor
    theirs: PublishedOutcome
    buffer_ids: torch.Tensor


def make_run(store: ShardStore, **settings: Any) -> Run:
    """Ten epochs of two steps; the videos are long enough for every negative."""
    small = {"arch": "resnet18", "init": "random", "epochs": 10, "batch_size": 2, "dim": 32}
    config = make_config("reference", {**small, **settings})
    return Run(config, store, RunFolder(Path("/dev/null")), Execution(loader="torch", device=CPU, threads=1), Ranks())


def copy_state(run: Run, published: PublishedStep) -> None:
    """Weights, statistics of batch norm, momenta."""
    state = run.network.state_dict()
    published.load_state_dict({name: value for name, value in state.items() if name != "_extra_state"})
    for ours, theirs in zip(run.network.query.parameters(), published.query.parameters(), strict=True):
        if ours in run.optimizer.state:
            momentum = run.optimizer.state[ours]["momentum_buffer"]
            published.optimizer.state[theirs]["momentum_buffer"] = momentum.clone()


def compare(
    run: Run, published: PublishedStep, monkeypatch: pytest.MonkeyPatch, *, each_from_ours: bool
) -> Iterator[Compared]:
    """All steps of the run."""
    outcomes: list[Outcome] = []
    synthetics: list[torch.Tensor] = []
    soft_negative = mining.soft_negative

    def noted(*arguments: Any) -> torch.Tensor:
        synthetic = soft_negative(*arguments)
        synthetics.append(synthetic.detach())
        return synthetic

    monkeypatch.setattr(mining, "soft_negative", noted)
    run.network.register_forward_hook(lambda method, inputs, outcome: outcomes.append(outcome))
    normalise = Normaliser(CPU)
    copy_state(run, published)
    for step, batch in enumerate(run.loader.run(run.shares())):
        if each_from_ours:
            copy_state(run, published)
        epoch = step // run.planner.steps_per_epoch
        stage = run.planner.stage(step)
        pictures = normalise(batch.frames.flatten(0, 1)).unflatten(0, batch.frames.shape[:2])
        theirs = published.step(pictures, epoch, stage.intra)
        line = run.one_step(batch).read()
        assert batch.plan.valid.all()
        buffer_ids = torch.from_numpy(batch.plan.frame_ids[:, 2:].ravel())
        yield Compared(stage, line, outcomes[-1], synthetics[-1], theirs, buffer_ids)


def check(step: Compared) -> None:
    """The same loss, n̂ and set S."""
    assert step.line["loss"] == pytest.approx(float(step.theirs.loss), abs=1e-4)
    assert torch.allclose(step.synthetic.double(), step.theirs.synthetic.double(), atol=1e-5)
    assert step.ours.members is not None
    assert torch.equal(step.ours.members.sort().values, step.buffer_ids[step.theirs.members].sort().values)


def furthest(run: Run, published: PublishedStep) -> float:
    """The greatest difference between any two weights or statistics."""
    ours, theirs = run.network.state_dict(), published.state_dict()
    return max(float((ours[name].double() - value.double()).abs().max()) for name, value in theirs.items())


@pytest.mark.parametrize(
    ("dtype", "size", "apart"),
    [pytest.param(torch.float32, 64, 1e-3, marks=pytest.mark.slow), (torch.float64, 32, 1e-6)],
)
def test_each_step_of_a_run_leads_where_the_published_one_does(
    sample: ShardStore, monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype, size: int, apart: float
) -> None:
    """In float32, rounding decides which of two pixels is the greatest, and the gradient goes to that one."""
    run = make_run(sample, size=size)
    published = PublishedStep("resnet18", 10, joint=True, unused=False, device=CPU, dim=32).to(dtype)
    run.network.to(dtype)
    for name, module in (*run.network.named_modules(), *published.named_modules()):
        if name.endswith(".backbone"):
            module.register_forward_pre_hook(lambda backbone, inputs: (inputs[0].to(dtype),))
    stages = []
    for step in compare(run, published, monkeypatch, each_from_ours=True):
        check(step)
        assert furthest(run, published) < apart
        stages.append(step.stage)
    assert [stage.intra for stage in stages] == [False] * 4 + [True] * (STEPS - 4)
    assert (stages[0].window, stages[-1].window[1] < 1e-3) == ((0.2, 0.4), True)
    assert published.lr == run.config.lr


def test_a_whole_run_is_the_published_one_picture_by_picture(
    sample: ShardStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run(sample, size=32, batch_norm="frozen")
    published = PictureByPicture("resnet18", 10, joint=False, unused=False, device=CPU, frozen_norm=True, dim=32)
    losses = []
    for step in compare(run, published, monkeypatch, each_from_ours=False):
        check(step)
        losses.append(step.line["loss"])
    assert len(losses) == STEPS
    assert furthest(run, published) < 1e-5  # 8e-5 if weight decay is left out
