"""All campaigns in one go, in small, and a bomb; in full: `python -m tools.campaign_all`, `python -m tools.bombs`."""

import json
from pathlib import Path

import psutil
from click.testing import CliRunner

from tools import bombs
from tools.campaign import measured
from tools.campaign_all import main


def test_one_table_of_all(tmp_path: Path) -> None:
    report = tmp_path / "all.json"
    done = CliRunner().invoke(main, [*["--calls", "3", "--shards", "2", "--runs", "0", "--json"], str(report)])
    assert done.exit_code == 0, done.output
    assert "calls: cross" in done.output
    assert "shards: manifest" in done.output
    made = {name: len(outcomes) for name, outcomes in json.loads(report.read_bytes()).items()}
    assert made == {"calls": 3, "shards": 2}


def test_a_manifest_of_nothing_but_lists_takes_no_memory(tmp_path: Path) -> None:
    bomb = bombs.BOMBS["manifest, 64 MiB of []"]
    bomb.make(tmp_path)
    before = psutil.Process().memory_info().rss  # which the process of the attempt begins with
    (end, why), taken = measured(lambda: bombs.attempt(bomb, tmp_path), 60)
    assert (end, "more than 4194304 values" in why) == ("refused", True)
    assert taken - before < 1e9  # it took 1.3 more
