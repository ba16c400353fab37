import json
from pathlib import Path

from click.testing import CliRunner

from bench import from_nothing
from tests.conftest import SAMPLE


def test_from_nothing_at_tiny_size(tmp_path: Path) -> None:
    small = ["--arch", "resnet18", "--size", "32", "--epochs", "6", "--batch-size", "2", "--loader", "torch"]
    arguments = [str(SAMPLE), str(tmp_path / "out"), "--seeds", "1", *small, "--device", "cpu", "--threads", "1"]
    result = CliRunner().invoke(from_nothing.main, arguments, standalone_mode=False)
    assert result.exit_code == 0, result.output
    report = json.loads((tmp_path / "out" / "report.json").read_bytes())
    assert [(run["recipe"], run["seed"]) for run in report["runs"]] == [("default", 0), ("reference", 0)]
    for run in report["runs"]:
        assert [step for step, _ in run["loss"]] == list(range(12))
        assert len(run["bank_effective_rank"]) == 1
