"""The numbers that a run is computed in."""

import os
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.helpers.training import TINY
from usucl_fast.errors import UsageError
from usucl_fast.learn import Execution, train
from usucl_fast.learn.arithmetic import arithmetic, with_precision
from usucl_fast.learn.encoder import Encoder
from usucl_fast.learn.recipes import make_config
from usucl_fast.shards import ShardStore

CPU = torch.device("cpu")


def switches() -> tuple[Any, ...]:
    convolutions = torch.backends.cudnn
    return (
        torch.backends.cuda.matmul.allow_tf32,
        convolutions.allow_tf32,
        convolutions.benchmark,
        convolutions.deterministic,
        torch.are_deterministic_algorithms_enabled(),
    )


@pytest.mark.parametrize(("precision", "rounds"), [("fp32", False), ("bf16", False), ("tf32", True)])
def test_float32_is_only_rounded_where_tf32_is_asked_for(precision: str, rounds: bool) -> None:
    before = switches()
    with arithmetic(precision, deterministic=False):
        assert switches() == (rounds, rounds, *before[2:])
    assert switches() == before


def test_deterministic_leaves_cudnn_no_choice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", True)
    before = switches()
    with arithmetic("fp32", deterministic=True):
        assert switches() == (False, False, False, True, True)
        assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
    assert switches() == before


def test_an_operation_that_cannot_be_deterministic_is_named() -> None:
    said = "upsample_bicubic2d_backward_out_cuda does not have a deterministic implementation, but you set"
    kept = "--deterministic cannot be kept: upsample_bicubic2d"
    with pytest.raises(UsageError, match=kept), arithmetic("fp32", deterministic=True):
        raise RuntimeError(said)
    with pytest.raises(RuntimeError, match="another thing"), arithmetic("fp32", deterministic=True):
        raise RuntimeError("another thing")
    assert not torch.are_deterministic_algorithms_enabled()


def test_tf32_is_refused_on_a_cpu() -> None:
    with pytest.raises(UsageError, match="--precision tf32 is arithmetic of GPUs, and the run is on cpu; use fp32"):
        with_precision(make_config("default", {"precision": "tf32"}), CPU)


def test_a_whole_run_is_deterministic(sample: ShardStore, tmp_path: Path) -> None:
    """No operation of the default recipe refuses; what a GPU lacks alone is not seen here."""
    config = make_config("default", {**TINY, "epochs": 2})
    execution = Execution(loader="torch", device=CPU, threads=0, deterministic=True)
    assert train(config, sample, tmp_path / "run", execution)["steps"] == 2
    assert not torch.are_deterministic_algorithms_enabled()


@pytest.mark.parametrize("frozen", [False, True])
def test_a_single_picture_takes_part_in_sync_batch_norm(monkeypatch: pytest.MonkeyPatch, frozen: bool) -> None:
    """Else the ranks with more pictures wait for it for ever."""
    encoder = Encoder("resnet18", lambda width: torch.nn.Linear(width, 4), bf16=False, frozen_norm=frozen).train()
    for synced in (False, True):
        if synced:
            torch.nn.SyncBatchNorm.convert_sync_batchnorm(encoder)
            monkeypatch.setattr(torch.nn.SyncBatchNorm, "forward", lambda self, x: x)  # it works on GPUs only
        encoder(torch.zeros(1, 3, 32, 32))
        norms = [m for m in encoder.modules() if isinstance(m, torch.nn.modules.batchnorm._BatchNorm)]
        assert {norm.training for norm in norms} == {synced and not frozen}
