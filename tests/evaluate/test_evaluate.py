import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from safetensors.torch import save_file

from tests.conftest import SAMPLE
from tools import make_phantoms
from usucl_fast.cli.evaluate import main
from usucl_fast.errors import UsageError
from usucl_fast.evaluate import load_backbone
from usucl_fast.evaluate.embed import spread_frames
from usucl_fast.feed import ShardStore
from usucl_fast.learn import TrainConfig, checkpoint
from usucl_fast.learn.backbones import make_backbone
from usucl_fast.pack import PackSettings, find_sources, pack, read_labels


def usucl_eval(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments], prog_name="usucl-eval")


def test_frames_are_spread_over_the_video(store: ShardStore) -> None:
    videos = np.arange(len(store.table.videos))
    picked = spread_frames(store.table, videos, 4)
    for video, first in zip(store.table.videos, store.table.first_row, strict=False):
        here = picked[(picked >= first) & (picked < first + video.frames)] - first
        assert len(here) == min(4, video.frames)
        assert here[0] == 0
        assert here[-1] == video.frames - 1


def test_weights_must_be_those_of_the_backbone(tmp_path: Path) -> None:
    state = make_backbone("resnet18")[0].state_dict()
    save_file(state, tmp_path / "good.safetensors")
    loaded = load_backbone(tmp_path / "good.safetensors", "resnet18").state_dict()
    assert all(torch.equal(loaded[name], state[name]) for name in state)
    with pytest.raises(UsageError, match=r"no resnet34: the first name that differs is layer1\.2"):
        load_backbone(tmp_path / "good.safetensors", "resnet34")
    save_file({**state, "extra": torch.zeros(1)}, tmp_path / "extra.safetensors")
    with pytest.raises(UsageError, match="differs is extra"):
        load_backbone(tmp_path / "extra.safetensors", "resnet18")


@pytest.fixture(scope="module")
def phantoms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards of 12 phantoms of 6 patients."""
    root = tmp_path_factory.mktemp("phantoms")
    arguments = [str(root / "v"), "--videos", "12", "--frames", "4", "--width", "96", "--height", "72"]
    assert CliRunner().invoke(make_phantoms.main, arguments).exit_code == 0
    sources = read_labels(root / "v" / "labels.csv", find_sources([root / "v"])[0])
    pack(sources, root / "s", PackSettings(size=64), workers=1)
    return root / "s"


@pytest.mark.parametrize("protocol", ["knn", "linear"])
def test_the_command_writes_a_summary(phantoms: Path, tmp_path: Path, protocol: str) -> None:
    options = ["--size", 32, "--folds", 2, "--repeats", 3, "--protocol", protocol]
    result = usucl_eval("random", phantoms, "--out", tmp_path / "e", *options)
    assert result.exit_code == 0, result.output
    summary = json.loads((tmp_path / "e" / "summary.json").read_bytes())
    assert (summary["videos"], summary["frames"], summary["groups"]) == (12, 48, 6)
    assert set(summary["balanced_accuracy"]) == {"mean", "std", "low", "high"}
    assert set(summary["recall"]) == {"normal", "benign", "malignant"}
    assert np.sum(summary["confusion"]) == pytest.approx(48)
    assert np.sum(summary["video"]["confusion"]) == pytest.approx(12)
    again = usucl_eval("random", phantoms, "--out", tmp_path / "e", *options)
    assert again.exit_code == 2
    assert "--overwrite" in again.stderr


def test_a_checkpoint_has_the_settings_of_its_run(phantoms: Path, tmp_path: Path) -> None:
    """Of another network and size than the defaults; and the same features from wherever the weights come."""
    run = tmp_path / "run"
    run.mkdir()
    config = {**vars(TrainConfig(arch="resnet34", size=32, channels=3))}
    (run / "config.json").write_text(json.dumps({"config": config}))
    state = make_backbone("resnet34")[0].state_dict()
    save_file(state, run / "backbone.safetensors")
    checkpoint.save(
        run / "checkpoints", 1, {"method": {f"query.backbone.{name}": t for name, t in state.items()}}, keep=2
    )
    torch.save({f"module.{name}": t for name, t in state.items()}, tmp_path / "file.pth")
    summaries = []
    for number, (model, options) in enumerate(
        (
            (run, []),
            (run / "checkpoints" / "step-00000001.pt", []),
            (run / "backbone.safetensors", ["--arch", "resnet34", "--size", 32]),
            (tmp_path / "file.pth", ["--arch", "resnet34", "--size", 32]),
        )
    ):
        result = usucl_eval(model, phantoms, "--out", tmp_path / str(number), "--folds", 2, "--repeats", 1, *options)
        assert result.exit_code == 0, result.output
        summary = json.loads((tmp_path / str(number) / "summary.json").read_bytes())
        assert summary.pop("model") == str(model)
        summaries.append(summary)
    assert summaries[1:] == summaries[:-1]


def test_bad_input_is_refused(phantoms: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(phantoms, tmp_path / "s"))
    for model, shards, options, word in (
        ("nowhere", phantoms, [], "neither a run, nor a file of weights, nor the word imagenet or random"),
        ("random", tmp_path, [], "not a shard folder"),
        ("random", phantoms, ["--arch", "vgg16"], "--arch vgg16"),
        ("random", phantoms, ["--folds", 9], "--folds 9"),
        ("random", SAMPLE, ["--folds", 2], "of one group alone"),
    ):
        result = usucl_eval(model, shards, "--out", tmp_path / "e", "--size", 32, *options)
        assert result.exit_code == 2, result.output
        assert word in result.stderr.splitlines()[-1]
    for label in ("normal", "benign", "malignant"):
        manifest = copy / "manifest.json"
        manifest.write_text(manifest.read_text().replace(f'"label": "{label}"', '"label": ""'))
    result = usucl_eval("random", copy, "--out", tmp_path / "e")
    assert result.exit_code == 2
    assert "holds no labelled video" in result.stderr
    assert not (tmp_path / "e").exists()
