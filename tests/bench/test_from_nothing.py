import json
import subprocess
import sys
from pathlib import Path

from tests.helpers import REPOSITORY, SAMPLE


def test_from_nothing_at_tiny_size(tmp_path: Path) -> None:
    script = REPOSITORY / "bench" / "from_nothing.py"
    small = ["--arch", "resnet18", "--size", "32", "--epochs", "6", "--batch-size", "2", "--loader", "torch"]
    small += ["--device", "cpu", "--threads", "1"]
    command = [sys.executable, script, SAMPLE, tmp_path / "out", "--seeds", "1", *small]
    result = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    report = json.loads((tmp_path / "out" / "report.json").read_bytes())
    assert [(run["recipe"], run["seed"]) for run in report["runs"]] == [("default", 0), ("reference", 0)]
    for run in report["runs"]:
        assert [step for step, _ in run["loss"]] == list(range(12))
        assert len(run["bank_effective_rank"]) == 1
