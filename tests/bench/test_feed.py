import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from usucl_fast.bench import feed
from usucl_fast.bench.feed import ARMS
from usucl_fast.bench.harness import Arm, measure
from usucl_fast.cli.bench import main
from usucl_fast.feed import ShardStore
from usucl_fast.pack import find_sources

OURS = ("dali", "torch", "resident", "resident-half", "published")


@pytest.mark.parametrize(
    ("deliver", "what"),
    [("tensors", "float32 [3, 5, 3, 32, 32] normalised on cpu"), ("crops", "uint8 [3, 5, 1, 32, 32] on cpu")],
)
def test_feed_at_tiny_size(shards: Path, videos: Path, tmp_path: Path, deliver: str, what: str) -> None:
    pytest.importorskip("nvidia.dali")
    report_file = tmp_path / "deep" / "feed.json"
    arguments = ["feed", shards, "--videos", videos, "--size", 32, "--batch-size", 3, "--batches", 2, "--runs", 2]
    arguments += ["--arms", ",".join(ARMS), "--deliver", deliver, "--threads", 1]
    result = CliRunner().invoke(main, [str(a) for a in [*arguments, "--json", report_file]])
    assert result.exit_code == 0, result.output
    report = json.loads(report_file.read_bytes())
    assert [arm["name"] for arm in report["arms"]] == list(ARMS)
    assert {arm["delivers"] for arm in report["arms"] if arm["name"] in OURS} == {what}
    assert all(what in arm["delivers"] for arm in report["arms"] if arm["name"] != "floor-decode")
    assert all(0 < arm["min"] <= arm["median"] <= arm["max"] and len(arm["runs"]) == 2 for arm in report["arms"])
    assert {"dali/torch", "dali/published", "torch/published"} <= set(report["ratios"])
    assert report["kind"] == "feed"
    assert report_file.with_suffix(".png").stat().st_size > 1000


@pytest.mark.parametrize("arm", [*OURS, "stock-webdataset", "stock-dali"])
@pytest.mark.parametrize("deliver", ["tensors", "crops"])
def test_arms_deliver_what_they_say(
    store: ShardStore, videos: Path, tmp_path: Path, arm: str, deliver: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[torch.Tensor] = []

    def look(start: Callable[[], Iterator[torch.Tensor]], device: torch.device) -> float:
        seen.extend(batch.clone() for batch in start())
        return 1.0

    monkeypatch.setattr(feed, "_rate", look)
    sources = {source.name: source for source in find_sources([videos])[0]}
    how = {"size": 32, "batch_size": 3, "batches": 1, "threads": 1, "device": torch.device("cpu")}
    (only,) = feed.feed_arms([arm], store, sources, tmp_path / "files", deliver=deliver, **how)  # type: ignore[arg-type]
    only.run()
    assert len(seen) == 1 + feed.WARM_UP
    dtype, channels = (torch.float32, 3) if deliver == "tensors" else (torch.uint8, 1)
    assert {(batch.dtype, batch.shape) for batch in seen} == {(dtype, (3, 5, channels, 32, 32))}
    assert all(batch.float().std() > 0.1 for batch in seen)


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
