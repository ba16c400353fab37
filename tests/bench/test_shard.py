import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from tests.helpers.videos import moving_texture, write_frame_folder, write_video
from usucl_fast.bench.arms import SHARD_ARMS
from usucl_fast.bench.decode_floor import decode_all
from usucl_fast.bench.shard import shard_arms
from usucl_fast.cli.bench import main
from usucl_fast.errors import DataError


@pytest.fixture
def two(tmp_path: Path) -> Path:
    """A folder with two videos, of 12 and 9 frames; size and name of the second are awkward."""
    root = tmp_path / "two"
    write_video(root / "a.mp4", moving_texture(12, 96, 128, seed=1), "libx264")
    write_video(root / "deep" / "b 100%.avi", moving_texture(9, 120, 74, seed=2, color=True), "mpeg4")
    return root


@pytest.mark.parametrize(
    "arms",
    [[arm for arm in SHARD_ARMS if arm != "ffmpeg-tar"], pytest.param([*SHARD_ARMS], marks=pytest.mark.system)],
    ids=["bare", "all"],
)
def test_shard_at_tiny_size(two: Path, tmp_path: Path, arms: list[str]) -> None:
    report_file = tmp_path / "shard.json"
    arguments = ["shard", two, "--arms", ",".join(arms), "--size", 47, "--workers", 2, "--runs", 1]
    result = CliRunner().invoke(main, [str(a) for a in [*arguments, "--json", report_file]])
    assert result.exit_code == 0, result.output
    report = json.loads(report_file.read_bytes())
    assert report["kind"] == "shard"
    assert [arm["name"] for arm in report["arms"]] == arms
    assert all(arm["median"] > 0 and arm["unit"] == "frames/s" for arm in report["arms"])
    assert report["ratios"].keys() >= {"usucl-shard/decode"}
    assert all(ratio > 0 for ratio in report["ratios"].values())


@pytest.mark.parametrize(
    ("arms", "word"), [("decode,spam", "'spam'"), ("decode,ffmpeg-tar", "needs the ffmpeg program")]
)
def test_bad_arms_are_refused(two: Path, arms: str, word: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(two))
    result = CliRunner().invoke(main, ["shard", str(two), "--arms", arms])
    assert result.exit_code == 2
    assert word in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_only_video_files_are_measured(two: Path) -> None:
    write_frame_folder(two / "frames", moving_texture(3, 32, 32, seed=3))
    result = CliRunner().invoke(main, ["shard", str(two)])
    assert result.exit_code == 2
    assert "'frames'" in result.stderr


def test_arms_must_see_as_many_frames(two: Path) -> None:
    assert decode_all([str(two / "a.mp4"), str(two / "deep" / "b 100%.avi")], 1) == 21
    ours, decode = shard_arms(["usucl-shard", "decode"], two, size=32, workers=1)
    assert ours.run() > 0
    write_video(two / "a.mp4", moving_texture(5, 96, 128, seed=1), "libx264")
    with pytest.raises(DataError, match="the arm decode saw 14 frames in the videos, usucl-shard saw 21"):
        decode.run()


def test_a_failing_arm_is_named(two: Path) -> None:
    (two / "c.mp4").write_bytes(b"no video")
    result = CliRunner().invoke(main, ["shard", str(two), "--arms", "usucl-shard", "--size", "32", "--workers", "1"])
    assert result.exit_code == 1
    assert "the arm usucl-shard" in result.stderr
    assert "c.mp4" in result.stderr
