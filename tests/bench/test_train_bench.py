"""`usucl-bench train` at tiny size."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner

from tests.helpers import SAMPLE
from usucl_fast.bench.arms import TRAIN_ARMS
from usucl_fast.bench.published_step import PublishedStep
from usucl_fast.bench.train import SPARE
from usucl_fast.cli.bench import main
from usucl_fast.feed import Batch
from usucl_fast.learn.encoder import Encoder
from usucl_fast.learn.engine import Run
from usucl_fast.learn.health import StepMetrics


def test_train_at_tiny_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plans: list[list[str]] = []
    frames: list[list[torch.Tensor]] = []
    published: list[tuple[torch.Size, bool, bool]] = []
    make, one_step, step = Run.__init__, Run.one_step, PublishedStep.step

    def made(run: Run, *arguments: Any, **options: Any) -> None:
        plans.append([])
        frames.append([])
        make(run, *arguments, **options)

    def seen(run: Run, batch: Batch) -> StepMetrics:
        metrics = one_step(run, batch)
        line = metrics.read()
        plans[-1].append(line["plan"])
        frames[-1].append(batch.frames.clone())
        assert line["intra"]
        return metrics

    def stepped(self: PublishedStep, pictures: torch.Tensor, epoch: int, intra: bool, second: Any) -> object:
        published.append((pictures.shape, intra, second is not None))
        return step(self, pictures, epoch, intra, second)

    monkeypatch.setattr(Run, "__init__", made)
    monkeypatch.setattr(Run, "one_step", seen)
    monkeypatch.setattr(PublishedStep, "step", stepped)
    monkeypatch.setattr(Encoder, "compile", lambda encoder: None)  # it takes a minute
    report_file = tmp_path / "train.json"
    arms = ",".join(TRAIN_ARMS)
    arguments = ["train", SAMPLE, "--size", 32, "--batch-size", 3, "--steps", 2, "--runs", 1, "--arms", arms]
    arguments += ["--threads", 1, "--device", "cpu", "--json", report_file]
    result = CliRunner().invoke(main, [str(a) for a in arguments])
    assert result.exit_code == 0, result.output
    report = json.loads(report_file.read_bytes())
    assert report["kind"] == "train"
    assert [arm["name"] for arm in report["arms"]] == list(TRAIN_ARMS)
    assert {arm["unit"] for arm in report["arms"]} == {"tuples/s"}
    assert all(arm["median"] > 0 for arm in report["arms"])
    assert all("2 tuples a step, of 5 pictures, 32 pixels, resnet18" in arm["delivers"] for arm in report["arms"])
    assert sum(report["arms"][0]["stages"].values()) == pytest.approx(1)
    assert {"usucl/floor-cached", "floor-cached/published"} <= report["ratios"].keys()

    del plans[0], frames[0]  # of the run that was asked for its plans alone
    # Of the engine's arms the first loads all that is planned, the others have one batch of the same plans.
    assert plans[0] == plans[1] == plans[2]
    assert len(set(plans[0])) == SPARE + 2
    assert not torch.equal(frames[0][0], frames[0][1])
    assert torch.equal(frames[0][0], frames[1][0])
    assert all(torch.equal(frames[1][0], other) for other in [*frames[1], *frames[2]])
    shape = torch.Size([2, 5, 3, 32, 32])
    assert published == [(shape, True, True)] * (SPARE + 2) + [(shape, True, False)] * (SPARE + 2)


@pytest.mark.parametrize(
    ("arguments", "word"),
    [(["--arms", "spam"], "'spam'"), (["--recipe", "mocov2", "--device", "cpu"], "--recipe mocov2 has no intra-video")],
)
def test_arms_that_cannot_be_are_refused(arguments: list[str], word: str) -> None:
    result = CliRunner().invoke(main, ["train", str(SAMPLE), "--size", "32", "--batch-size", "3", *arguments])
    assert result.exit_code == 2
    assert word in result.stderr
