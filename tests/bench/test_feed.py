import json
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from torchvision.transforms.functional import crop

from usucl_fast.bench import feed
from usucl_fast.bench.arms import FEED_ARMS
from usucl_fast.bench.harness import Arm, measure
from usucl_fast.cli.bench import main
from usucl_fast.errors import UsageError
from usucl_fast.pack import find_sources, pack
from usucl_fast.shards import PackSettings, ShardStore, open_shards

OURS = ("dali", "torch", "resident", "published")
PEERS = ("stock-webdataset", "stock-dali", "stock-ffcv", "stock-ffcv-raw", "datasets", "spdl", "torchcodec")
BUILT = ("ffcv", "stock-ffcv", "stock-ffcv-raw", "spdl", "torchcodec")
"""What needs FFCV, or FFmpeg's libraries."""


def marked(arm: str) -> Any:
    return pytest.param(arm, marks=pytest.mark.system) if arm in BUILT else arm


def skip_without(arm: str) -> None:
    try:
        feed.check_arm(arm)
    except UsageError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def films(videos: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ShardStore]:
    """A folder of video files in which torchcodec can seek, and its shards."""
    root = tmp_path_factory.mktemp("films")
    for name in ("a.mp4", "b c.avi", "herz-ü.gif", "doppler.mp4"):
        shutil.copy(videos / name, root / name)
    pack(find_sources([root])[0], root / "shards", PackSettings(size=64), workers=1)
    return root, open_shards(root / "shards")


def batches_of(
    arm: str, store: ShardStore, videos: Path, work: Path, deliver: str, monkeypatch: pytest.MonkeyPatch
) -> list[torch.Tensor]:
    """All batches of a run of the arm, the warm-up's among them."""
    seen: list[torch.Tensor] = []

    def look(start: Callable[[], Iterator[torch.Tensor]], *_: object) -> float:
        seen.extend(batch.clone() for batch in start())
        return 1.0

    monkeypatch.setattr(feed, "_rate", look)
    sources = {source.name: source for source in find_sources([videos])[0]}
    how = {"size": 32, "batch_size": 3, "batches": 1, "threads": 1, "device": torch.device("cpu")}
    (only,) = feed.feed_arms([arm], store, sources, work, deliver=deliver, **how)  # type: ignore[arg-type]
    only.run()
    return seen


@pytest.mark.parametrize(
    ("deliver", "what"),
    [("tensors", "float32 [3, 5, 3, 32, 32] normalised on cpu"), ("crops", "uint8 [3, 5, 1, 32, 32] on cpu")],
)
@pytest.mark.parametrize(
    "arms",
    [
        pytest.param([arm for arm in FEED_ARMS if arm not in BUILT], id="bare"),
        pytest.param([arm for arm in FEED_ARMS if arm != "torchcodec"], id="all", marks=pytest.mark.system),
    ],
)
def test_feed_at_tiny_size(
    shards: Path, videos: Path, tmp_path: Path, arms: list[str], deliver: str, what: str
) -> None:
    for arm in arms:
        skip_without(arm)
    report_file = tmp_path / "deep" / "feed.json"
    arguments = ["feed", shards, "--videos", videos, "--size", 32, "--batch-size", 3, "--batches", 2, "--runs", 2]
    arguments += ["--arms", ",".join(arms), "--deliver", deliver, "--threads", 1, "--page-cache", "cold"]
    result = CliRunner().invoke(main, [str(a) for a in [*arguments, "--json", report_file]])
    assert result.exit_code == 0, result.output
    report = json.loads(report_file.read_bytes())
    assert [arm["name"] for arm in report["arms"]] == arms
    assert {arm["delivers"] for arm in report["arms"] if arm["name"] in OURS} == {what}
    assert all(what in arm["delivers"] for arm in report["arms"] if arm["name"] != "floor-decode")
    assert all(0 < arm["min"] <= arm["median"] <= arm["max"] and len(arm["runs"]) == 2 for arm in report["arms"])
    assert {"dali/torch", "dali/published", "torch/published"} <= set(report["ratios"])
    # An arm's two batches may take less than the hundredth of a second that the system counts in.
    assert all(arm["cpu"] >= 0 and arm["memory_mb"] > 50 for arm in report["arms"])
    assert sum(arm["cpu"] for arm in report["arms"]) > 0
    stages = {arm["name"]: arm["stages"] for arm in report["arms"]}
    assert all(sum(stages[name].values()) == pytest.approx(1) for name in ("dali", "torch", "resident"))
    assert stages["published"] == {}
    assert (report["kind"], report["page_cache"]) == ("feed", "cold")
    assert {"spdl", "webdataset"} <= report["versions"].keys()
    assert report_file.with_suffix(".png").stat().st_size > 1000


@pytest.mark.parametrize("arm", [marked(arm) for arm in (*OURS, *PEERS)])
@pytest.mark.parametrize("deliver", ["tensors", "crops"])
def test_arms_deliver_what_they_say(
    shards: Path,
    videos: Path,
    films: tuple[Path, ShardStore],
    tmp_path: Path,
    arm: str,
    deliver: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    skip_without(arm)
    folder, store = films if arm == "torchcodec" else (videos, open_shards(shards))
    seen = batches_of(arm, store, folder, tmp_path, deliver, monkeypatch)
    assert len(seen) == 1 + 2 * feed.SPARE
    dtype, channels = (torch.float32, 3) if deliver == "tensors" else (torch.uint8, 1)
    assert {(batch.dtype, batch.shape) for batch in seen} == {(dtype, (3, 5, channels, 32, 32))}
    assert all(batch.float().std() > 0.1 for batch in seen)


@pytest.mark.system
@pytest.mark.parametrize("deliver", ["tensors", "crops"])
def test_spdl_delivers_our_crops(
    store: ShardStore, videos: Path, tmp_path: Path, deliver: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    skip_without("spdl")
    ours, theirs = (batches_of(arm, store, videos, tmp_path, deliver, monkeypatch) for arm in ("torch", "spdl"))
    unit = 1.0 if deliver == "crops" else 1 / (255 * 0.225)
    for a, b in zip(ours, theirs, strict=True):
        assert (a.float() - b.float()).abs().mean() < 3 * unit


@pytest.mark.system
def test_torchcodec_delivers_the_plan_s_frames(
    films: tuple[Path, ShardStore], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    skip_without("torchcodec")
    monkeypatch.setattr("torchvision.transforms.RandomCrop.forward", lambda _, image: crop(image, 0, 0, 32, 32))
    folder, store = films
    theirs = batches_of("torchcodec", store, folder, tmp_path, "crops", monkeypatch)
    expected = batches_of("published", store, folder, tmp_path, "crops", monkeypatch)
    for a, b in zip(theirs, expected, strict=True):
        assert (a.float() - b.float()).abs().mean() < 3


@pytest.mark.system
def test_videos_that_torchcodec_cannot_seek_in_are_refused(shards: Path, videos: Path) -> None:
    skip_without("torchcodec")
    result = CliRunner().invoke(main, ["feed", str(shards), "--videos", str(videos), "--arms", "torchcodec"])
    assert result.exit_code == 2
    assert "leave the arm out" in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1


@pytest.mark.parametrize(("arm", "module"), [("spdl", "spdl.io"), ("torchcodec", "torchcodec.decoders")])
def test_a_peer_that_is_not_installed_is_named(
    shards: Path, videos: Path, arm: str, module: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.delitem(sys.modules, f"usucl_fast.bench.{arm}_arm", raising=False)
    result = CliRunner().invoke(main, ["feed", str(shards), "--videos", str(videos), "--arms", arm])
    assert result.exit_code == 2
    assert f"the arm {arm}" in result.stderr
    assert "pip install" in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["--arms", "dali,spam"], "'spam'"),
        (["--arms", "published"], "--videos"),
        (["--arms", "torchcodec"], "--videos"),
    ],
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
