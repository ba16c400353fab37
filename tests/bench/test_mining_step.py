import json
import subprocess
import sys
from pathlib import Path

from click.testing import CliRunner

from tests.helpers import REPOSITORY, SAMPLE
from usucl_fast.cli.train import main


def test_mining_step_at_tiny_size(tmp_path: Path) -> None:
    train = [str(SAMPLE), "--loader", "torch", "--out", str(tmp_path / "run"), "--device", "cpu"]
    small = ["--size", "32", "--epochs", "2", "--batch-size", "2", "--dim", "8", "--cross-topk", "3"]
    assert CliRunner().invoke(main, [*train, *small]).exit_code == 0
    script = REPOSITORY / "bench" / "mining_step.py"
    arguments = [str(tmp_path / "run"), str(SAMPLE), "--negatives", "2", "--rounds", "1"]
    result = subprocess.run([sys.executable, script, *arguments], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    report = json.loads(result.stdout)
    assert report["batch_size"] == 2
    assert report["published/mining"] > 0
    assert 0 < report["mining, share of a step"] < 1
