import importlib.util
import json
import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from usucl_fast.bench import mining
from usucl_fast.bench.arms import MINING_ARMS
from usucl_fast.cli.bench import main


@pytest.mark.parametrize("embeddings", ["random", "clustered", "file"])
def test_mining_at_tiny_size(embeddings: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mining, "SECONDS", 0.001)
    names = [name for name in MINING_ARMS if not name.startswith("faiss") or importlib.util.find_spec("faiss")]
    if embeddings == "file":
        embeddings = str(tmp_path / "rows.npz")
        rows = np.random.default_rng(0).standard_normal((600, 16), np.float32)
        np.savez(embeddings, embeddings=rows, first_row=[0, 100, 450, 600])
    report_file = tmp_path / "mining.json"
    arguments = ["mining", "--rows", 1500, "--dim", 16, "--batch-size", 8, "--k", 5, "--video-length", 40]
    arguments += ["--embeddings", embeddings, "--arms", ",".join(names), "--threads", 1, "--runs", 2]
    result = CliRunner().invoke(main, [str(a) for a in [*arguments, "--json", report_file]])
    assert result.exit_code == 0, result.output
    report = json.loads(report_file.read_bytes())
    delivers = {arm["name"]: arm["delivers"] for arm in report["arms"]}
    assert list(delivers) == names
    assert delivers["exact"] == "5 most similar rows, recall 1.000"
    if "faiss-flat" in delivers:
        assert delivers["faiss-flat"] == delivers["exact"]
    assert all(0 < arm["min"] <= arm["median"] <= arm["max"] for arm in report["arms"])
    assert "exact/published" in report["ratios"]


@pytest.mark.parametrize(
    ("arguments", "word"), [(["--arms", "spam"], "'spam'"), (["--embeddings", "nowhere.npz"], "nowhere.npz")]
)
def test_bad_options_are_refused(arguments: list[str], word: str) -> None:
    result = CliRunner().invoke(main, ["mining", *arguments])
    assert result.exit_code == 2
    assert word in result.stderr


def test_without_faiss_its_arms_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "faiss", None)
    result = CliRunner().invoke(main, ["mining", "--arms", "exact,faiss-flat"])
    assert result.exit_code == 2
    assert "pip install 'usucl-fast[bench]'" in result.stderr
