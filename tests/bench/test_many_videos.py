"""`bench/many_videos.py` at tiny size: its shards open, and a line a run comes out."""

import json
import subprocess
import sys

from tests.helpers import REPOSITORY


def test_at_tiny_size() -> None:
    script = REPOSITORY / "bench" / "many_videos.py"
    command = [sys.executable, str(script), "--videos", "100", "--frames", "4", "--runs", "2"]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    assert len(lines) == 2
    for line in lines:
        found = json.loads(line)
        assert found["megabytes"] >= found["megabytes_opened"] > 0
        assert min(found.values()) >= 0
