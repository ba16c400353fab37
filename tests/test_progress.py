import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from usucl_fast import progress
from usucl_fast.cli.charts import sparkline
from usucl_fast.progress import Progress


def test_sparkline() -> None:
    assert sparkline([0, 1, 2, 3, 4, 5, 6, 7]) == "▁▂▃▄▅▆▇█"
    assert sparkline([3, 3, 3]) == "▁▁▁"
    assert len(sparkline(list(range(1000)), width=40)) == 40


def test_plain_lines_have_count_rate_and_time_left(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter(range(100, 200, 4))
    monkeypatch.setattr(progress.time, "monotonic", lambda: float(next(clock)))
    with Progress("steps", total=10, done=4) as bar:
        for done in range(1, 7):
            bar.advance(frames=done * 20, loss="1.5")
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "6/10 steps  40 frames  5 frames/s  loss 1.5  16 s left"
    assert lines[-1] == "10/10 steps  120 frames  5 frames/s  loss 1.5  0 s left"


def test_a_terminal_gets_a_live_bar(videos: Path, tmp_path: Path) -> None:
    master, slave = pty.openpty()
    command = [
        sys.executable,
        "-c",
        "from usucl_fast.cli.shard import main; main()",
        str(videos),
        str(tmp_path / "out"),
    ]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=slave, env={**os.environ, "TERM": "xterm"})
    os.close(slave)
    shown = b""
    while True:
        try:
            chunk = os.read(master, 1 << 16)
        except OSError:  # the other end is closed
            break
        if not chunk:
            break
        shown += chunk
    os.close(master)
    assert process.wait() == 0
    assert "━".encode() in shown
    assert b"10/10" in shown
