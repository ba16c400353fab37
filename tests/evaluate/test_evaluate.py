import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from tests.helpers import SAMPLE
from tests.helpers.commands import usucl_eval
from usucl_fast.errors import UsageError
from usucl_fast.evaluate import embed, load_backbone, load_frames
from usucl_fast.evaluate.embedding import BATCH
from usucl_fast.evaluate.samples import spread_frames
from usucl_fast.feed import Delivery, ShardStore, open_shards
from usucl_fast.learn import RunFolder, TrainConfig
from usucl_fast.learn.backbones import make_backbone
from usucl_fast.learn.checkpoint import Checkpoint


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
    network = {f"query.backbone.{name}": t for name, t in state.items()}
    Checkpoint(step=1, network=network, optimizer={}, bank=None, plans=[]).save(RunFolder(run), keep=2)
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
        ("random", SAMPLE, ["--folds", 2], "it cannot be both learned and tested"),
    ):
        result = usucl_eval(model, shards, "--out", tmp_path / "e", "--size", 32, *options)
        assert result.exit_code == 2, result.output
        assert word in result.stderr.splitlines()[-1]
    for label in ("normal", "benign", "malignant"):
        manifest = copy / "manifest.json"
        manifest.write_text(manifest.read_text().replace(f'"label": "{label}"', '"label": ""'))
    result = usucl_eval("random", copy, "--out", tmp_path / "e")
    assert result.exit_code == 2
    assert "hold no labelled video" in result.stderr
    assert not (tmp_path / "e").exists()


def test_options_that_cannot_be_meant(phantoms: Path, tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("mine")
    for options, word in (
        (["--protocol", "knn,svm"], "--protocol svm: choose from knn, linear, finetune, gbcu, pocus"),
        (["--epochs", 3], "--epochs is nothing to --protocol knn"),
        (["--by", "frame"], "add --allow-leakage"),
        (["--positive", "sick"], "--positive sick is none of the classes benign, malignant, normal"),
        (["--out", tmp_path / "full"], "files that are not an evaluation's"),
    ):
        result = usucl_eval("random", phantoms, "--out", tmp_path / "e", "--size", 32, "--folds", 2, *options)
        assert result.exit_code == 2, result.output
        assert word in result.stderr.splitlines()[-1]
        assert not (tmp_path / "e").exists()
    assert (tmp_path / "full" / "thesis.txt").read_text() == "mine"


def test_weights_that_are_no_numbers_are_told_of(phantoms: Path, tmp_path: Path) -> None:
    state = make_backbone("resnet18")[0].state_dict()
    state["conv1.weight"].fill_(torch.nan)
    save_file(state, tmp_path / "broken.safetensors")
    options = ["--out", tmp_path / "e", "--size", 32, "--folds", 2]
    result = usucl_eval(tmp_path / "broken.safetensors", phantoms, *options)
    assert result.exit_code == 1
    assert "features of 48 samples are not finite" in result.stderr.splitlines()[-1]
    assert not (tmp_path / "e").exists()


def test_several_protocols_have_a_folder_each(phantoms: Path, tmp_path: Path) -> None:
    options = ["--size", 32, "--folds", 2, "--repeats", 1, "--epochs", 1, "--positive", "malignant"]
    result = usucl_eval("random", phantoms, "--out", tmp_path / "e", "--protocol", "linear,finetune", *options)
    assert result.exit_code == 0, result.output
    for protocol in ("linear", "finetune"):
        folder = tmp_path / "e" / protocol
        summary = json.loads((folder / "summary.json").read_bytes())
        assert summary["protocol"] == protocol
        assert {"auroc", "f1", "sensitivity", "specificity"} <= summary.keys()
        assert "notes" in summary
        assert "balanced accuracy" in (folder / "page.html").read_text()
        assert (folder / "map.png").exists() == (protocol == "linear")  # fine-tuned ones have an embedding a fold
    assert summary["epochs_chosen"] == [0, 0]


def test_by_frame_finds_labels_that_mean_nothing(phantoms: Path, tmp_path: Path) -> None:
    scores = {}
    for by in ("group", "frame"):
        out = tmp_path / by
        options = [
            "--size",
            32,
            "--folds",
            2,
            "--repeats",
            3,
            "--protocol",
            "linear",
            "--shuffle-labels",
            "--by",
            by,
            "--allow-leakage",
        ]
        result = usucl_eval("random", phantoms, "--out", out, *options)
        assert result.exit_code == 0, result.output
        scores[by] = json.loads((out / "summary.json").read_bytes())["balanced_accuracy"]["mean"]
        page = (out / "page.html").read_text()
        assert "dealt anew among the groups" in page
        assert ("frames of one video are on both sides" in page) == (by == "frame")
    assert scores["group"] < 0.6
    assert scores["frame"] > 0.85


def test_images_of_a_list(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    lines = ["path,label,group"]
    for number in range(12):
        grey = rng.integers(0, 120, (40, 50)) + 120 * (number % 2)
        Image.fromarray(grey.astype(np.uint8)).save(tmp_path / f"{number}.png")
        lines.append(f"{number}.png,{['dark', 'bright'][number % 2]},p{number // 2 if number < 4 else number}")
    (tmp_path / "list.csv").write_text("\n".join(lines))
    options = ["--size", 32, "--folds", 2, "--protocol", "linear"]
    result = usucl_eval("random", tmp_path / "list.csv", "--out", tmp_path / "e", *options)
    assert result.exit_code == 0, result.output
    assert json.loads((tmp_path / "e" / "summary.json").read_bytes())["sensitivity"]["mean"] > 0.9
    (tmp_path / "3.png").write_bytes(b"no picture")
    result = usucl_eval("random", tmp_path / "list.csv", "--out", tmp_path / "f", *options)
    assert result.exit_code == 1
    assert "1 of 12 images" in result.stderr.splitlines()[-1]


def make_gbcu(folder: Path, count: int = 18) -> None:
    rng = np.random.default_rng(0)
    (folder / "imgs").mkdir(parents=True)
    entries = [f"{number}.png,{number % 3}" for number in range(count)]
    for number in range(count):
        picture = rng.integers(0, 60, (40, 40, 3)) + 90 * (number % 3)
        Image.fromarray(picture.astype(np.uint8)).save(folder / "imgs" / f"{number}.png")
    for fold in range(2):
        (folder / f"val_{fold}.txt").write_text("\n".join(entries[fold::2]))
        (folder / f"train_{fold}.txt").write_text("\n".join(entries[1 - fold :: 2]))


def test_gbcu_by_its_lists(tmp_path: Path) -> None:
    make_gbcu(tmp_path / "gbcu", 36)
    common = ["--size", 32, "--protocol", "gbcu", "--epochs", 2]
    for epoch, note in ((None, False), ("test", True)):
        out = tmp_path / str(epoch)
        result = usucl_eval("random", tmp_path / "gbcu", "--out", out, *common, *(["--epoch", epoch] if epoch else []))
        assert result.exit_code == 0, result.output
        summary = json.loads((out / "summary.json").read_bytes())
        assert (summary["folds"], summary["repeats"], summary["by"]) == (2, 1, "published lists")
        assert summary["finetune"]["epoch"] == (epoch or "inner")
        assert {"sensitivity", "specificity", "binary_accuracy"} <= summary.keys()
        assert ("chosen on the test fold" in (out / "page.html").read_text()) == note
    result = usucl_eval("random", tmp_path / "gbcu", "--out", tmp_path / "x", *common, "--folds", 3)
    assert result.exit_code == 2
    assert "comes with its folds" in result.stderr


def test_comparison_of_evaluations(phantoms: Path, tmp_path: Path) -> None:
    for name, seed in (("a", 0), ("b", 0), ("other-folds", 1)):
        options = ["--size", 32 if name == "a" else 48, "--folds", 2, "--repeats", 2, "--seed", seed]
        assert usucl_eval("random", phantoms, "--out", tmp_path / name, *options).exit_code == 0
    out = tmp_path / "c"
    result = usucl_eval("compare", f"small={tmp_path / 'a'}", tmp_path / "b", "--out", out, "--baseline", "small")
    assert result.exit_code == 0, result.output
    comparison = json.loads((out / "comparison.json").read_bytes())
    assert list(comparison["arms"]) == ["small", "b"]
    assert (out / "comparison.png").exists()
    scores = [json.loads((tmp_path / name / "summary.json").read_bytes())["balanced_accuracy"]["mean"] for name in "ba"]
    difference = comparison["differences"][0]["frame"]["balanced_accuracy"]
    assert difference["mean"] == pytest.approx(scores[0] - scores[1])
    for arguments, word in (
        ([tmp_path / "a", tmp_path / "other-folds", "--out", tmp_path / "d"], "other folds"),
        ([tmp_path / "a", "--out", tmp_path / "d"], "give two or more"),
        ([tmp_path / "a", tmp_path, "--out", tmp_path / "d"], "no folder that usucl-eval wrote"),
        ([tmp_path / "a", tmp_path / "b", "--out", out], "--overwrite"),
        ([tmp_path / "a", tmp_path / "b", "--out", tmp_path / "d", "--baseline", "z"], "--baseline z"),
    ):
        result = usucl_eval("compare", *arguments)
        assert result.exit_code == 2, result.output
        assert word in result.stderr.splitlines()[-1]
    assert not (tmp_path / "d").exists()


def test_embeddings_of_all_frames(phantoms: Path, tmp_path: Path) -> None:
    out, picture = tmp_path / "e.npz", tmp_path / "n.png"
    common = ["embed", "random", phantoms, "--size", 32]
    result = usucl_eval(*common, "--out", out, "--picture", picture, "--queries", 3, "--neighbours", 2)
    assert result.exit_code == 0, result.output
    with np.load(out) as found:
        assert found["embeddings"].shape == (48, 512)
        assert found["frame_id"].tolist() == list(range(48))
        assert found["frame"].tolist() == list(range(4)) * 12
        assert set(found["label"]) == {"normal", "benign", "malignant"}
        assert len(set(found["group"])) == 6
        store = open_shards(phantoms)
        ids = np.arange(48)
        frames = torch.cat(
            list(
                load_frames(
                    store,
                    ids,
                    "torch",
                    Delivery(size=32, channels=1, device=torch.device("cpu"), threads=0, most_frames=BATCH),
                )
            )
        )
        expected = embed(load_backbone(None, "resnet18"), [frames], 48, torch.device("cpu"))
        assert np.allclose(found["embeddings"], expected, atol=1e-4)
    assert Image.open(picture).width > 100
    for arguments, word in (
        ([*common, "--out", out], "--overwrite"),
        ([*common, "--out", tmp_path / "e.csv"], ".npz or .parquet"),
        ([*common, "--out", tmp_path / "f.npz", "--picture", tmp_path / "n.gif"], "ends in .png"),
    ):
        result = usucl_eval(*arguments)
        assert result.exit_code == 2, result.output
        assert word in result.stderr.splitlines()[-1]


def test_there_are_as_many_folds_as_the_rarest_class_has_groups(phantoms: Path, tmp_path: Path) -> None:
    result = usucl_eval("random", phantoms, "--out", tmp_path / "e", "--size", 32, "--repeats", 1)
    assert result.exit_code == 0, result.output
    assert json.loads((tmp_path / "e" / "summary.json").read_bytes())["folds"] == 2  # of six groups, three classes
