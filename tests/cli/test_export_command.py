"""`usucl-train export`, and the commands beside the one that need not be named."""

from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from tests.helpers import SAMPLE
from tests.helpers.commands import usucl_train
from tests.helpers.training import tiny_options
from usucl_fast.cli import shard, train

RESNET18 = [*tiny_options(epochs=2, batch_size=2), "--arch", "resnet18"]
"""Which is the network that US_UCL has."""


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    out = tmp_path_factory.mktemp("runs") / "run"
    result = usucl_train("run", SAMPLE, "--out", out, *RESNET18)  # by its name, for once
    assert result.exit_code == 0, result.output
    return out


def test_us_ucl(run: Path, tmp_path: Path) -> None:
    arguments = ["export", run, "--format", "us_ucl", "--out", tmp_path / "out.pth"]
    result = usucl_train(*arguments)
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith(f"{tmp_path / 'out.pth'}: resnet18 after 4 steps, with its head; ")
    assert result.stderr == ""
    before = (tmp_path / "out.pth").read_bytes()
    again = usucl_train(*arguments)
    assert again.exit_code == 2
    assert again.stderr.startswith("usucl-train export: --out ")
    assert "--overwrite" in again.stderr
    assert usucl_train(*arguments, "--overwrite").exit_code == 0
    assert (tmp_path / "out.pth").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["out.pth"]


def test_onnx(run: Path, tmp_path: Path) -> None:
    pytest.importorskip("onnx")
    pytest.importorskip("onnxscript")
    result = usucl_train("export", run, "--format", "onnx", "--out", tmp_path / "out.onnx")
    assert result.exit_code == 0, result.output
    normalised = "mean 0.485 0.456 0.406, std 0.229 0.224 0.225"
    line = f"{tmp_path / 'out.onnx'}: resnet18, pictures [N, 3, 32, 32], {normalised}, 512 features; 44.7 MB\n"
    assert (result.stdout, result.stderr) == (line, "")


def test_bad_exports_are_refused(run: Path, tmp_path: Path) -> None:
    for arguments, words in (
        ([tmp_path, "--format", "us_ucl"], "is no run folder"),
        ([run, "--format", "jpeg"], "'jpeg' is not one of 'us_ucl', 'onnx'"),
        ([run], "Missing option '--format'"),
    ):
        result = usucl_train("export", *arguments, "--out", tmp_path / "out")
        assert result.exit_code == 2
        assert words in result.stderr
    assert not any(tmp_path.iterdir())


def test_the_default_command_is_the_one_that_is_told_of() -> None:
    told = usucl_train("--help")
    assert told.exit_code == 0
    assert told.output == usucl_train("run", "--help").output
    assert "--augment" in told.output
    assert "usucl-train export RUN" in told.output
    assert "us_ucl" in usucl_train("export", "--help").output
    assert usucl_train("--version").output == CliRunner().invoke(train.run, ["--version"]).output.replace(
        "run,", "usucl-train,"
    )
    bare = usucl_train()
    assert bare.exit_code == 2
    assert bare.stderr.startswith("usucl-train run: SHARDS, ")


def test_a_group_with_help_of_its_own_keeps_it() -> None:
    for arguments in ([], ["--help"]):
        assert "verify" in CliRunner().invoke(shard.main, arguments).output
    assert CliRunner().invoke(shard.main, ["--version"]).output.startswith("main, version")
    assert "usucl-shard pack" in CliRunner().invoke(shard.main, ["--size", "9"], prog_name="usucl-shard").stderr
