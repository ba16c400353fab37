import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from usucl_fast.bench.harness import Arm, measure
from usucl_fast.cli.bench import main


def test_feed_at_tiny_size(shards: Path, videos: Path, tmp_path: Path) -> None:
    pytest.importorskip("nvidia.dali")
    report_file = tmp_path / "deep" / "feed.json"
    arguments = ["feed", shards, "--videos", videos, "--size", 32, "--batch-size", 3, "--batches", 2, "--runs", 2]
    result = CliRunner().invoke(main, [str(a) for a in [*arguments, "--json", report_file]])
    assert result.exit_code == 0, result.output
    report = json.loads(report_file.read_bytes())
    assert [arm["name"] for arm in report["arms"]] == ["dali", "torch", "published"]
    assert {arm["delivers"] for arm in report["arms"]} == {"float32 [3, 5, 3, 32, 32] normalised on cpu"}
    assert all(0 < arm["min"] <= arm["median"] <= arm["max"] and len(arm["runs"]) == 2 for arm in report["arms"])
    assert set(report["ratios"]) == {"dali/torch", "dali/published", "torch/published"}
    assert report["kind"] == "feed"
    assert report_file.with_suffix(".png").stat().st_size > 1000


@pytest.mark.parametrize(
    ("arguments", "word"), [(["--arms", "dali,spam"], "'spam'"), (["--arms", "published"], "--videos")]
)
def test_bad_arms_are_refused(shards: Path, arguments: list[str], word: str) -> None:
    result = CliRunner().invoke(main, ["feed", str(shards), *arguments])
    assert result.exit_code == 2
    assert word in result.stderr


def test_arms_take_turns_and_ratios_are_of_one_round() -> None:
    calls: list[str] = []
    figures = {"a": iter([2.0, 30.0, 4.0]), "b": iter([1.0, 10.0, 4.0])}

    def arm(name: str) -> Arm:
        def run() -> float:
            calls.append(name)
            return next(figures[name])

        return Arm(name, "nothing", run)

    report = measure("test", "things/s", [arm("a"), arm("b")], runs=3)
    assert calls == ["a", "b", "b", "a", "a", "b"]
    assert report["ratios"] == {"a/b": 2.0}
    assert report["arms"][0]["median"] == 4.0
