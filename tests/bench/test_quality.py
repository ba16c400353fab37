import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from bench import quality


def test_quality_at_tiny_size(phantoms: Path, tmp_path: Path) -> None:
    arguments = [str(phantoms), str(tmp_path / "q"), "--arms", "random,default", "--seeds", "2", "--passes", "150"]
    arguments += ["--folds", "2", "--frozen-only", "--size", "32", "--batch-size", "6", "--threads", "1"]
    result = CliRunner().invoke(quality.main, arguments, standalone_mode=False)
    assert result.exit_code == 0, result.output
    report = json.loads((tmp_path / "q" / "report.json").read_bytes())
    assert set(report["runs"]) == {"default-0", "default-1"}
    assert report["runs"]["default-0"]["epochs"] == round(150 / 12 / 6)
    for protocol in ("knn", "linear"):
        arms = report["compared"][protocol]["arms"]
        assert [len(arms[name]["frame"]["balanced_accuracy"]["seeds"]) for name in ("random", "default")] == [2, 2]
        assert (tmp_path / "q" / protocol / "page.html").exists()
    written = (tmp_path / "q" / "runs" / "default-0" / "metrics.jsonl").stat().st_mtime_ns
    assert CliRunner().invoke(quality.main, arguments, standalone_mode=False).exit_code == 0
    assert (tmp_path / "q" / "runs" / "default-0" / "metrics.jsonl").stat().st_mtime_ns == written


@pytest.mark.parametrize(("arm", "passes"), [("simclr", 6), ("mocov2", 4), ("reference", 13), ("default", 6)])
def test_passes_of_a_tuple(arm: str, passes: int) -> None:
    assert quality.passes_a_tuple(quality.ARMS[arm]) == passes


def test_every_ablation_is_of_settings_that_can_be_had() -> None:
    assert {quality.passes_a_tuple(own) for own in quality.ABLATIONS.values()} == {6}
