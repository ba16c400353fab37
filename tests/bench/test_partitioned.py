import subprocess
import sys

from tests.helpers import REPOSITORY


def test_partitioned_at_tiny_size() -> None:
    arguments = ["--rows", "500", "--ranks", "2", "--dim", "8", "--batch-size", "3", "--k", "2", "--runs", "1"]
    script = REPOSITORY / "bench" / "partitioned.py"
    result = subprocess.run([sys.executable, script, *arguments], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    row = result.stdout.splitlines()[-1].split(" | ")
    assert row[0] == "| 2"
    assert len(row) == 6
