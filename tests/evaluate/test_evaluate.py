import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from tests.helpers import SAMPLE, copy_shards
from tests.helpers.commands import refused, usucl_eval
from tests.helpers.forged import change_videos
from tests.helpers.limits import no_file_larger_than
from tests.helpers.training import ARCH, BARE
from usucl_fast.errors import DataError, UsageError
from usucl_fast.evaluate import (
    PROTOCOLS,
    EvaluateConfig,
    Evaluation,
    InputConfig,
    embed,
    embed_shards,
    evaluate,
    load_backbone,
    load_frames,
    write_evaluation,
)
from usucl_fast.evaluate.embedding import BATCH
from usucl_fast.evaluate.probes import PROBES
from usucl_fast.evaluate.samples import spread_frames
from usucl_fast.feed import Delivery
from usucl_fast.learn import RunFolder, TrainConfig
from usucl_fast.learn.backbones import make_backbone
from usucl_fast.learn.checkpoint import Checkpoint
from usucl_fast.shards import ShardStore, open_shards

SMALL: dict[str, Any] = {"arch": ARCH, "size": 32, "device": "cpu", "folds": 2, "repeats": 1}
OPTIONS = ["--arch", ARCH, "--size", 32, "--device", "cpu", "--folds", 2, "--repeats", 1]


def evaluated(data: Path, model: str | Path = "random", **settings: Any) -> Evaluation:
    [evaluation] = evaluate(model, data, EvaluateConfig(**{**SMALL, **settings}))
    return evaluation


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


def test_every_protocol_has_a_classifier_or_trains_all_layers() -> None:
    assert {name for name, protocol in PROTOCOLS.items() if protocol.finetune is None} == set(PROBES)


@pytest.mark.parametrize("protocol", ["knn", "linear"])
def test_a_summary_counts_and_scores(phantoms: Path, protocol: str) -> None:
    found = evaluated(phantoms, protocols=(protocol,), repeats=3)
    summary = found.summary
    assert (found.protocol, summary["protocol"], summary["model"], summary["by"]) == (
        protocol,
        protocol,
        "random",
        "group",
    )
    assert (summary["videos"], summary["frames"], summary["groups"]) == (12, 48, 6)
    assert (summary["folds"], summary["repeats"], summary["notes"]) == (2, 3, [])
    assert set(summary["balanced_accuracy"]) == {"mean", "std", "low", "high"}
    assert set(summary["recall"]) == {"normal", "benign", "malignant"}
    assert np.sum(summary["confusion"]) == pytest.approx(48)
    assert np.sum(summary["video"]["confusion"]) == pytest.approx(12)
    assert found.predictions.probabilities.shape == (3, 48, 3)
    assert found.features is not None
    assert len(found.features) == 48


def test_an_evaluation_is_written_as_it_was_found(phantoms: Path, tmp_path: Path) -> None:
    found = evaluated(phantoms)
    write_evaluation(tmp_path / "e", found)
    assert json.loads((tmp_path / "e" / "summary.json").read_bytes()) == found.summary
    names = {"summary.json", "predictions.npz", "page.html", "confusion.png", "roc.png", "folds.png", "map.png"}
    assert {path.name for path in (tmp_path / "e").iterdir()} == names


@pytest.mark.parametrize(("name", "size"), [("predictions.npz", 500), ("confusion.png", 5000), ("page.html", 50_000)])
def test_a_full_disk_is_told_with_the_name_of_the_file(phantoms: Path, tmp_path: Path, name: str, size: int) -> None:
    found = evaluated(phantoms)
    with no_file_larger_than(size), pytest.raises(OSError, match=rf"File too large: .*{name}"):
        write_evaluation(tmp_path / "e", found)
    assert not {"summary.json", name} & {path.name for path in (tmp_path / "e").iterdir()}


def test_a_full_disk_is_one_line_on_the_terminal(phantoms: Path, tmp_path: Path) -> None:
    with no_file_larger_than(5000):
        out = usucl_eval("embed", "random", phantoms, "--out", tmp_path / "e.npz", "--arch", ARCH, "--size", 32)
    assert out.exit_code == 1
    assert out.stderr.splitlines()[-1] == f"usucl-eval embed: [Errno 27] File too large: '{tmp_path / 'e.npz'}'"
    assert not list(tmp_path.iterdir())


def test_a_checkpoint_has_the_settings_of_its_run(phantoms: Path, tmp_path: Path) -> None:
    """Of another network and size than the defaults; and the same features from wherever the weights come."""
    run = tmp_path / "run"
    run.mkdir()
    config = {**vars(TrainConfig(arch="resnet34", size=32, channels=3))}
    (run / "config.json").write_text(json.dumps({"config": config}))
    state = make_backbone("resnet34")[0].state_dict()
    save_file(state, run / "backbone.safetensors")
    network = {f"query.backbone.{name}": t for name, t in state.items()}
    Checkpoint(step=1, network=network, **BARE).save(RunFolder(run), keep=2)
    torch.save({f"module.{name}": t for name, t in state.items()}, tmp_path / "file.pth")
    named: dict[str, Any] = {"arch": "resnet34", "size": 32}
    unnamed: dict[str, Any] = {"arch": None, "size": None}
    summaries = []
    for model, settings in (
        (run, unnamed),
        (run / "checkpoints" / "step-00000001.pt", unnamed),
        (run / "backbone.safetensors", named),
        (tmp_path / "file.pth", named),
    ):
        summary = evaluated(phantoms, model, **settings).summary
        assert summary.pop("model") == str(model)
        known = summary.pop("groups_trained_on", None), summary.pop("notes")
        assert known[0] == (None if model.suffix == ".pth" else -1)  # these are not the shards of the run
        assert "is not known" in "".join(known[1]) or model.suffix == ".pth"
        summaries.append(summary)
    assert summaries[1:] == summaries[:-1]


@pytest.mark.parametrize(
    ("model", "data", "settings", "words"),
    [
        ("nowhere", "phantoms", {}, "neither a run, nor a file of weights, nor the word imagenet or random"),
        ("random", "empty", {}, "not a shard folder"),
        ("random", "sample", {}, "it cannot be both learned and tested"),
        ("random", "phantoms", {"arch": "vgg16"}, "--arch vgg16"),
        ("random", "phantoms", {"folds": 9}, "--folds 9"),
        ("random", "phantoms", {"by": "frame"}, "add --allow-leakage"),
        (
            "random",
            "phantoms",
            {"positive": "sick"},
            "--positive sick is not one of the classes benign, malignant, normal",
        ),
        ("random", "phantoms", {"device": "cuda:99"}, "--device cuda:99 cannot be used here"),
    ],
)
def test_what_cannot_be_evaluated_is_refused(
    phantoms: Path, tmp_path: Path, model: str, data: str, settings: dict[str, Any], words: str
) -> None:
    places = {"phantoms": phantoms, "empty": tmp_path, "sample": SAMPLE}
    with pytest.raises(UsageError, match=words):
        evaluated(places[data], model, **settings)


def test_shards_without_labels_are_refused(phantoms: Path, tmp_path: Path) -> None:
    copy = copy_shards(phantoms, tmp_path / "s")
    change_videos(copy, lambda video: replace(video, label=""))
    with pytest.raises(UsageError, match="hold no labelled video"):
        evaluated(copy)


def test_videos_without_a_label_are_left_out_and_told_of(phantoms: Path, tmp_path: Path) -> None:
    copy = copy_shards(phantoms, tmp_path / "s")
    change_videos(copy, lambda video: replace(video, label=video.label.replace("normal", "")))
    summary = evaluated(copy).summary
    assert summary["classes"] == ["benign", "malignant"]
    assert summary["notes"] == [f"Left out: {12 - summary['videos']} videos without a label."]
    result = usucl_eval("random", copy, "--out", tmp_path / "e", *OPTIONS)
    assert result.exit_code == 0, result.output
    assert summary["notes"][0] in result.stderr


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"protocols": ("knn", "svm")}, "--protocol svm: choose from knn, linear, finetune, gbcu, pocus"),
        ({"epochs": 3}, "--epochs has no effect with --protocol knn; remove it"),
        ({"protocols": ("knn", "linear"), "batch_size": 3}, "--batch-size has no effect with --protocol knn,linear;"),
    ],
)
def test_settings_that_cannot_be_meant_are_refused(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        EvaluateConfig(**settings)


def test_the_command_replaces_an_evaluation_only_when_told_to(phantoms: Path, tmp_path: Path) -> None:
    result = usucl_eval("random", phantoms, "--out", tmp_path / "e", *OPTIONS)
    assert result.exit_code == 0, result.output
    summary = json.loads((tmp_path / "e" / "summary.json").read_bytes())
    assert summary == evaluated(phantoms).summary
    assert "balanced accuracy" in result.stdout
    refused(usucl_eval("random", phantoms, "--out", tmp_path / "e", *OPTIONS), "holds an evaluation", "--overwrite")
    written = (tmp_path / "e" / "summary.json").stat().st_mtime_ns
    assert usucl_eval("random", phantoms, "--out", tmp_path / "e", *OPTIONS, "--overwrite").exit_code == 0
    assert (tmp_path / "e" / "summary.json").stat().st_mtime_ns > written
    (tmp_path / "e" / "thesis.txt").write_text("mine")
    result = usucl_eval("random", phantoms, "--out", tmp_path / "e", *OPTIONS, "--overwrite")
    refused(result, "files that are not an evaluation's")
    refused(usucl_eval("random", phantoms, "--out", tmp_path / "f", *OPTIONS, "--lr", 1), "--lr has no effect")
    assert not (tmp_path / "f").exists()


def test_weights_that_are_no_numbers_are_told_of(phantoms: Path, tmp_path: Path) -> None:
    state = make_backbone(ARCH)[0].state_dict()
    next(iter(state.values())).fill_(torch.nan)
    save_file(state, tmp_path / "broken.safetensors")
    with pytest.raises(DataError, match="features of 48 samples are not finite"):
        evaluated(phantoms, tmp_path / "broken.safetensors")


def test_several_protocols_have_a_folder_each(phantoms: Path, tmp_path: Path) -> None:
    options = [*OPTIONS, "--epochs", 1, "--positive", "malignant"]
    result = usucl_eval("random", phantoms, "--out", tmp_path / "e", "--protocol", "linear,finetune,linear", *options)
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


def test_an_evaluation_is_there_before_the_next_protocol_is_begun(phantoms: Path) -> None:
    """A later one may fail, or take hours."""
    config = EvaluateConfig(**SMALL, protocols=("knn", "finetune"), epochs=1, lr=1e30)
    evaluations = evaluate("random", phantoms, config)
    assert next(evaluations).protocol == "knn"
    with pytest.raises(DataError, match="lower the learning rate"):
        next(evaluations)


def test_by_frame_finds_labels_that_mean_nothing(phantoms: Path) -> None:
    scores = {}
    for by in ("group", "frame"):
        settings: dict[str, Any] = {"arch": "resnet18", "repeats": 3, "protocols": ("linear",), "shuffle_labels": True}
        summary = evaluated(phantoms, by=by, allow_leakage=True, **settings).summary
        scores[by] = summary["balanced_accuracy"]["mean"]
        notes = " ".join(summary["notes"])
        assert "permuted among the groups" in notes
        assert ("frames of one video are on both sides" in notes) == (by == "frame")
    assert scores["group"] < 0.6
    assert scores["frame"] > 0.7  # .83 or more, as the processor rounds


def test_images_of_a_list(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    lines = ["path,label,group"]
    for number in range(12):
        grey = rng.integers(0, 120, (40, 50)) + 120 * (number % 2)
        Image.fromarray(grey.astype(np.uint8)).save(tmp_path / f"{number}.png")
        lines.append(f"{number}.png,{['dark', 'bright'][number % 2]},p{number // 2 if number < 4 else number}")
    (tmp_path / "list.csv").write_text("\n".join(lines))
    summary = evaluated(tmp_path / "list.csv", protocols=("linear",), repeats=5).summary
    assert summary["sensitivity"]["mean"] > 0.9
    (tmp_path / "3.png").write_bytes(b"no picture")
    with pytest.raises(DataError, match="1 of 12 images"):
        evaluated(tmp_path / "list.csv")


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
    make_gbcu(tmp_path, 36)
    settings: dict[str, Any] = {"protocols": ("gbcu",), "epochs": 2, "folds": None, "repeats": None}
    for epoch, note in ((None, False), ("test", True)):
        found = evaluated(tmp_path, **settings, epoch=epoch)
        summary = found.summary
        assert (summary["folds"], summary["repeats"], summary["by"]) == (2, 1, "published lists")
        assert summary["finetune"]["epoch"] == (epoch or "inner")
        assert {"sensitivity", "specificity", "binary_accuracy"} <= summary.keys()
        assert ("chosen on the test fold" in " ".join(summary["notes"])) == note
        assert found.features is None
    with pytest.raises(
        UsageError, match=r"--folds, --by and --repeats have no effect with .*, which comes with its folds"
    ):
        evaluated(tmp_path, **{**settings, "folds": 3})


def test_comparison_of_evaluations(phantoms: Path, tmp_path: Path) -> None:
    means = []
    for name, size, seed in (("a", 32, 0), ("b", 48, 0), ("other-folds", 48, 1)):
        found = evaluated(phantoms, size=size, seed=seed, repeats=2)
        write_evaluation(tmp_path / name, found)
        means.append(found.summary["balanced_accuracy"]["mean"])
    out = tmp_path / "c"
    result = usucl_eval("compare", f"small={tmp_path / 'a'}", tmp_path / "b", "--out", out, "--baseline", "small")
    assert result.exit_code == 0, result.output
    comparison = json.loads((out / "comparison.json").read_bytes())
    assert list(comparison["arms"]) == ["small", "b"]
    assert (out / "comparison.png").exists()
    difference = comparison["differences"][0]["frame"]["balanced_accuracy"]
    assert difference["mean"] == pytest.approx(means[1] - means[0])
    arguments: Sequence[object]
    for arguments, word in (
        ([tmp_path / "a", tmp_path / "other-folds", "--out", tmp_path / "d"], "other folds"),
        ([tmp_path / "a", "--out", tmp_path / "d"], "give two or more"),
        ([tmp_path / "a", tmp_path, "--out", tmp_path / "d"], "not a folder that usucl-eval wrote"),
        ([tmp_path / "a", tmp_path / "b", "--out", out], "--overwrite"),
        ([tmp_path / "a", tmp_path / "b", "--out", tmp_path / "a"], "files that are not a comparison's"),
        ([tmp_path / "a", tmp_path / "b", "--out", tmp_path / "d", "--baseline", "z"], "--baseline z"),
    ):
        refused(usucl_eval("compare", *arguments), word)
    assert not (tmp_path / "d").exists()


def test_embeddings_of_all_frames(phantoms: Path) -> None:
    found = embed_shards("random", phantoms, InputConfig(arch=ARCH, size=32, device="cpu"))
    columns = found.columns()
    assert columns["frame_id"].tolist() == list(range(48))
    assert columns["frame"].tolist() == list(range(4)) * 12
    assert set(columns["label"]) == {"normal", "benign", "malignant"}
    assert len(set(columns["group"])) == 6
    store, ids, cpu = open_shards(phantoms), np.arange(48), torch.device("cpu")
    delivery = Delivery(size=32, channels=1, device=cpu, threads=0, most_frames=BATCH)
    frames = torch.cat(list(load_frames(store, ids, "torch", delivery)))
    assert np.allclose(found.features, embed(load_backbone(None, ARCH), [frames], 48, cpu), atol=1e-4)
    assert np.array_equal(found.pictures(ids[:2]), frames[:2, 0].numpy())


def test_the_command_embeds_and_draws_neighbours(phantoms: Path, tmp_path: Path) -> None:
    out, picture = tmp_path / "e.npz", tmp_path / "n.png"
    common = ["embed", "random", phantoms, *OPTIONS[:6], "--frames", 3]
    result = usucl_eval(*common, "--out", out, "--picture", picture, "--queries", 3, "--neighbours", 2)
    assert result.exit_code == 0, result.output
    with np.load(out) as found:
        assert found["embeddings"].shape == (36, 96)
        assert found["frame"].tolist() == [0, 2, 3] * 12
    assert Image.open(picture).width > 100
    refused(usucl_eval(*common, "--out", out), f"--out {out} is already there", "--overwrite")
    refused(usucl_eval(*common, "--out", tmp_path / "e.csv"), ".npz or .parquet")
    refused(usucl_eval(*common, "--out", tmp_path / "f.npz", "--picture", picture), f"--picture {picture} is already")
    refused(usucl_eval(*common, "--out", tmp_path / "f.npz", "--picture", tmp_path / "n.gif"), "ends in .png")


def test_there_are_as_many_folds_as_the_rarest_class_has_groups(phantoms: Path) -> None:
    assert evaluated(phantoms, folds=None).summary["folds"] == 2  # of six groups, three classes
