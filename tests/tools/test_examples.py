"""The examples, each run as its first lines say."""

import importlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.helpers import REPOSITORY, SAMPLE
from tests.helpers.videos import moving_texture, write_video
from usucl_fast.shards import open_shards

EXAMPLES = sorted((REPOSITORY / "tools" / "examples").glob("*.py"))


def example(name: str) -> Any:
    return importlib.import_module(f"tools.examples.{name}")


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_examples_fit_a_screen(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 60


def test_a_training_loop_of_ones_own() -> None:
    losses = example("training_loop").main(str(SAMPLE), epochs=2, size=32)
    assert len(losses) == 2
    assert np.isfinite(losses).all()


def test_hard_negatives_in_lightlys_loop(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("lightly")
    losses = example("hard_negatives_in_lightly").main(str(SAMPLE), epochs=4, size=32)
    assert losses[0] == 0  # the bank is empty, and nothing to contrast with
    assert min(losses[1:]) > 0
    assert ", 0 hard negatives" not in capsys.readouterr().out.splitlines()[-1]


def test_embedding_a_folder(tmp_path: Path) -> None:
    for number, frames in enumerate((5, 7)):
        write_video(tmp_path / "videos" / f"{number}.mp4", moving_texture(frames, 64, 64, number), "libx264")
    example("embed_folder").main(str(tmp_path / "videos"), "random", str(tmp_path / "out.npz"), size=32)
    with np.load(tmp_path / "out.npz") as written:
        assert written["features"].shape == (12, 512)
        assert written["video"].tolist() == ["0.mp4"] * 5 + ["1.mp4"] * 7
        assert written["frame"].tolist() == [*range(5), *range(7)]


@pytest.mark.parametrize(
    ("reader", "package"), [("webdataset", "webdataset"), ("dali", "nvidia.dali"), ("datasets", "datasets")]
)
def test_others_read_the_shards(reader: str, package: str) -> None:
    pytest.importorskip(package)
    frames = len(open_shards(SAMPLE).table)
    assert getattr(example("read_shards"), f"with_{reader}")(SAMPLE) == frames
