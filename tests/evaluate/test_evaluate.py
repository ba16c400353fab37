import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from safetensors.torch import save_file
from sklearn.metrics import accuracy_score, balanced_accuracy_score, confusion_matrix, recall_score

from tests.conftest import SAMPLE
from tools import make_phantoms
from usucl_fast.cli.evaluate import main
from usucl_fast.errors import UsageError
from usucl_fast.evaluate import load_backbone, predict, summarise
from usucl_fast.evaluate.embed import spread_frames
from usucl_fast.evaluate.metrics import by_video
from usucl_fast.feed import ShardStore
from usucl_fast.learn import TrainConfig, checkpoint
from usucl_fast.learn.backbones import make_backbone
from usucl_fast.pack import PackSettings, find_sources, pack, read_labels


def usucl_eval(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments], prog_name="usucl-eval")


def made_up(groups: int, per_group: int, signal: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Features that tell the group very well and the class as well as `signal` says."""
    rng = np.random.default_rng(seed)
    group = np.repeat(np.arange(groups), per_group)
    label = group % 3
    features = rng.standard_normal((groups, 16))[group] * 3 + rng.standard_normal((len(group), 16)) * 0.3
    features[:, :3] += signal * np.eye(3)[label]
    return features.astype(np.float32), label, group


def test_figures_are_scikit_learns() -> None:
    rng = np.random.default_rng(0)
    labels, groups = rng.integers(0, 3, 200), rng.integers(0, 20, 200)
    probabilities = rng.dirichlet(np.ones(3), (4, 200)) + 0.3 * np.eye(3)[labels]
    summary = summarise(probabilities, labels, groups, ["a", "b", "c"])
    predicted = probabilities.argmax(-1)
    for name, score in (("accuracy", accuracy_score), ("balanced_accuracy", balanced_accuracy_score)):
        scores = [score(labels, p) for p in predicted]
        assert summary[name]["mean"] == pytest.approx(np.mean(scores))
        assert summary[name]["std"] == pytest.approx(np.std(scores))
        assert summary[name]["low"] < summary[name]["mean"] < summary[name]["high"]
    recall = np.mean([recall_score(labels, p, average=None) for p in predicted], axis=0)
    assert [summary["recall"][name]["mean"] for name in "abc"] == pytest.approx(list(recall))
    assert np.allclose(summary["confusion"], np.mean([confusion_matrix(labels, p) for p in predicted], axis=0))


def test_by_video_is_the_mean_of_its_frames() -> None:
    probabilities = np.arange(12.0).reshape(1, 6, 2)
    found = by_video(probabilities, np.array([7, 3, 7, 3, 3, 9]))
    expected = [probabilities[0, [1, 3, 4]].mean(0), probabilities[0, [0, 2]].mean(0), probabilities[0, 5]]
    assert np.allclose(found[0], expected)


@pytest.mark.parametrize("protocol", ["knn", "linear"])
def test_a_class_that_shows_is_found_and_one_that_does_not_is_not(protocol: str) -> None:
    """Without a signal the features tell the group, which is of no use: groups are never on both sides."""
    for signal, low, high in ((12.0, 0.95, 1.0), (0.0, 0.1, 0.6)):
        features, labels, groups = made_up(30, 12, signal)
        probabilities = predict(protocol, features, labels, groups, folds=5, repeats=2, seed=0)
        assert np.allclose(probabilities.sum(-1), 1)
        score = summarise(probabilities, labels, groups, ["a", "b", "c"])["balanced_accuracy"]["mean"]
        assert low <= score <= high


def test_a_rare_class_is_not_outvoted() -> None:
    """One class in ten samples has no less recall than the others where the features tell them apart equally well."""
    rng = np.random.default_rng(0)
    labels = np.repeat([0, 1], [900, 100])
    features = (rng.standard_normal((1000, 8)) + labels[:, None] * 0.8).astype(np.float32)
    probabilities = predict("knn", features, labels, np.arange(1000), folds=5, repeats=1, seed=0)
    recall = summarise(probabilities, labels, np.arange(1000), ["many", "few"])["recall"]
    assert abs(recall["many"]["mean"] - recall["few"]["mean"]) < 0.15


def test_splits_depend_on_the_seed_alone() -> None:
    features, labels, groups = made_up(30, 4, 2.0)
    first, again, other = (predict("knn", features, labels, groups, folds=5, repeats=1, seed=s) for s in (0, 0, 1))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_what_cannot_be_split_is_refused() -> None:
    features, labels, groups = made_up(4, 5, 1.0)
    for wrong_labels, wrong_groups, folds, message in (
        (labels * 0, groups, 2, "one class"),
        (labels, labels, 2, "of one group alone"),
        (groups % 2, groups, 5, "--folds 5 needs as many groups, and there are 4"),
    ):
        with pytest.raises(UsageError, match=message):
            predict("knn", features, wrong_labels, wrong_groups, folds=folds, repeats=1, seed=0)


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
