"""The quality bench: runs at tiny size, and tables of their files."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from scipy.stats import t as student

from bench import false_negatives, quality, quality_tables
from tools import make_phantoms
from usucl_fast.learn import make_config
from usucl_fast.pack import find_sources, pack, read_labels
from usucl_fast.shards import PackSettings

TINY = {"arch": "timm/test_resnet", "size": 32, "batch_size": 6, "steps": 4}


def _phantoms(folder: Path) -> Path:
    videos = folder / "videos"
    arguments = [str(videos), "--videos", "12", "--frames", "8", "--width", "80", "--height", "60"]
    assert CliRunner().invoke(make_phantoms.main, arguments).exit_code == 0
    labels = [videos / "labels.csv", videos / "frames.csv"]
    pack(read_labels(labels, find_sources([videos])[0])[0], folder / "shards", PackSettings(size=32), workers=1)
    return folder / "shards"


def test_arms_of_a_leg_are_run_once_each_and_gone_on_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(quality.SCALES, "cpu", TINY)
    shards = _phantoms(tmp_path)
    results = tmp_path / "results"
    arguments = ["many-machines", str(shards), str(tmp_path / "work"), "--arms", "random,intra"]
    arguments += ["--seeds", "1", "--results", str(results), "--threads", "1"]
    result = CliRunner().invoke(quality.main, arguments, standalone_mode=False)
    assert result.exit_code == 0, result.output
    names = {f"many-machines-cpu-{arm}-1.json" for arm in ("random", "intra")}
    assert {file.name for file in results.iterdir()} == names
    report = json.loads((results / "many-machines-cpu-intra-1.json").read_bytes())
    assert set(report["figures"]) == {
        f"{question}, {protocol}"
        for question in ("lesion visible", "which lesion", "lumen")
        for protocol in ("linear", "knn")
    }
    assert [point["step"] for point in report["curve"]] == [1, 2, 3, 4]
    assert report["settings"]["intra_window"] == [0.1, 1.0]
    assert all(len(figure["drawn"]) == quality.DRAWS for figure in report["figures"].values())
    written = {file: file.stat().st_mtime_ns for file in results.iterdir()}
    assert CliRunner().invoke(quality.main, arguments, standalone_mode=False).exit_code == 0
    assert {file: file.stat().st_mtime_ns for file in results.iterdir()} == written

    # Cut off after the last quarter, and before its file was written: nothing is trained again.
    file = results / "many-machines-cpu-intra-1.json"
    file.unlink()
    assert CliRunner().invoke(quality.main, arguments, standalone_mode=False).exit_code == 0
    assert json.loads(file.read_bytes()) == report

    made = CliRunner().invoke(quality_tables.main, ["--results", str(results)], standalone_mode=False)
    assert made.exit_code == 0, made.output
    text = (results / "README.md").read_text()
    assert "4 steps of 6 tuples" in text
    assert "| `intra` | 1 |" in text
    assert (results / "many-machines-cpu.png").stat().st_size

    run = tmp_path / "work" / "many-machines-cpu-intra-1" / "run"
    shares = CliRunner().invoke(false_negatives.main, [str(run), str(shards)], standalone_mode=False)
    assert shares.exit_code == 0, shares.output
    assert len(shares.output.splitlines()) == 1 + len(false_negatives.BOUNDS)


@pytest.mark.parametrize("arm", [name for name in quality.ARMS if name != quality.RANDOM])
def test_the_settings_of_every_arm_can_be_had(arm: str) -> None:
    settings = {"init": "random", "channels": 1, **TINY, **quality.ARMS[arm].settings}
    make_config(settings.pop("recipe", "default"), settings)
    assert set(quality.ARMS[arm].beside) <= set(quality.ARMS)


def test_arms_alike_but_for_two_factors() -> None:
    in_batch, intra, look, both = (
        {"intra_negatives": (3, 3), **quality.ARMS[arm].settings} for arm in quality_tables.FACTORS
    )
    assert {key for key in in_batch if in_batch[key] != look[key]} == {"augment"}
    assert {key for key in intra if intra[key] != both[key]} == {"augment"}
    assert {key for key in intra if intra[key] != in_batch.get(key)} == {
        "intra_negatives",
        "intra_window",
        "intra_floor",
    }


def _arm(values: dict[int, float], drawn: list[float]) -> dict[int, dict[str, Any]]:
    figures = {seed: {"f": {"value": value, "drawn": drawn}} for seed, value in values.items()}
    return {seed: {"groups": 3, "figures": own} for seed, own in figures.items()}


def test_a_difference_is_paired_by_patient_and_seed() -> None:
    one = _arm({0: 0.9, 1: 0.7, 5: 0.1}, [0.8, 0.8, 0.9])
    other = _arm({0: 0.6, 1: 0.6}, [0.6, 0.6, 0.6])
    found = quality_tables.difference(one, other, "f")
    assert found
    assert found.seeds == 2
    assert found.mean == pytest.approx(0.2)
    # In the draws: .2, .2, .3. Of seeds: .3 and .1.
    of_groups = float(np.var([0.2, 0.2, 0.3], ddof=1))
    of_seeds = 0.02 / 2
    freedom = (of_groups + of_seeds) ** 2 / (of_groups**2 / 2 + of_seeds**2 / 1)
    half = student.ppf(0.975, freedom) * (of_groups + of_seeds) ** 0.5
    assert (found.low, found.high) == (pytest.approx(0.2 - half), pytest.approx(0.2 + half))


def test_arms_without_a_seed_in_common_have_no_difference() -> None:
    assert quality_tables.difference(_arm({0: 0.5}, [0.5, 0.5]), _arm({1: 0.5}, [0.5, 0.5]), "f") is None


def test_the_share_of_members_with_the_same_finding() -> None:
    angle = np.radians([0, 10, 20, 30, 40])
    rows, label, group = np.stack([np.cos(angle), np.sin(angle)], axis=1), np.array([1, 1, 1, 0, 1]), np.arange(5)
    group[1] = 0  # the nearest row is of the anchor's own patient
    anchor = np.array([0])
    assert false_negatives.share_alike(rows, label, group, anchor, 2, 1.0) == 1 / 2
    assert false_negatives.share_alike(rows, label, group, anchor, 9, 1.0) == 2 / 3
    assert false_negatives.share_alike(rows, label, group, anchor, 2, 0.9) == 1 / 2  # 20 degrees are .94
    assert false_negatives.share_alike(rows, label, group, anchor, 1, 0.8) == 1
