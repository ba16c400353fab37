from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import (
    accuracy_score,
    balanced_accuracy_score,
    confusion_matrix,
    f1_score,
    recall_score,
    roc_auc_score,
)

from usucl_fast.errors import DataError, UsageError
from usucl_fast.evaluate.metrics import _auroc, bootstrap_scores, fold_scores, group_draws, summarise
from usucl_fast.evaluate.samples import Predictions, Samples, shuffled_by_group

GBCU = ["normal", "benign", "malignant"]


def made_up(
    samples: int = 200, groups: int = 20, classes: int = 3, repeats: int = 2, folds: int = 3, seed: int = 0
) -> Predictions:
    """Probabilities in tenths, so that many are tied; every tenth sample is not tested."""
    rng = np.random.default_rng(seed)
    labels, group = rng.integers(0, classes, samples), rng.integers(0, groups, samples) * 3
    chances = np.ones(classes) + np.eye(classes)[labels]
    counts = rng.multinomial(10, chances / chances.sum(axis=1, keepdims=True), (repeats, samples))
    fold = rng.integers(0, folds, (repeats, samples))
    fold[:, ::10] = -1
    probabilities = np.where(fold[..., None] >= 0, counts / 10, np.nan)
    names = [f"v{number}/0" for number in range(samples)]
    return Predictions(Samples(labels, np.arange(samples), group, GBCU[:classes], names), probabilities, fold)


def of_confusion(confusion: list[list[int]], classes: list[str]) -> Predictions:
    """One fold with that `[true][predicted]`, every sample a group."""
    true, predicted = np.indices(np.shape(confusion)).reshape(2, -1).repeat(np.ravel(confusion), axis=1)
    number = np.arange(len(true))
    samples = Samples(true, number, number, classes, [str(n) for n in number])
    return Predictions(samples, np.eye(len(classes))[predicted][None], np.zeros((1, len(true)), np.int64))


@pytest.mark.parametrize("classes", [2, 3])
def test_figures_are_scikit_learns_of_each_fold(classes: int) -> None:
    predictions = made_up(classes=classes)
    labels = predictions.samples.labels
    expected: dict[str, list[float]] = {name: [] for name in ("accuracy", "balanced_accuracy", "f1", "auroc")}
    recalls, matrices = [], []
    for repeat in range(2):
        for fold in range(3):
            here = predictions.fold[repeat] == fold
            true, probabilities = labels[here], predictions.probabilities[repeat, here]
            predicted = probabilities.argmax(axis=1)
            expected["accuracy"].append(accuracy_score(true, predicted))
            expected["balanced_accuracy"].append(balanced_accuracy_score(true, predicted))
            expected["f1"].append(f1_score(true, predicted, average="macro"))
            scores = probabilities if classes > 2 else probabilities[:, 1]
            expected["auroc"].append(roc_auc_score(true, scores, multi_class="ovr", average="macro"))
            recalls.append(recall_score(true, predicted, average=None))
            matrices.append(confusion_matrix(true, predicted))
    summary = summarise(predictions)
    for name, values in expected.items():
        assert fold_scores(predictions)[name].ravel() == pytest.approx(values)
        assert summary[name]["mean"] == pytest.approx(np.mean(values))
        assert summary[name]["std"] == pytest.approx(np.std(values))
        assert summary[name]["low"] < summary[name]["mean"] < summary[name]["high"]
    assert [figure["mean"] for figure in summary["recall"].values()] == pytest.approx(list(np.mean(recalls, axis=0)))
    assert np.allclose(summary["confusion"], np.sum(matrices, axis=0) / 2)
    for name in ("accuracy", "balanced_accuracy"):
        assert [fold[name] for fold in summary["fold_scores"]] == pytest.approx(expected[name])
    assert [(f["repeat"], f["fold"]) for f in summary["fold_scores"]] == [(r, f) for r in range(2) for f in range(3)]
    assert [f["samples"] for f in summary["fold_scores"]] == [np.sum(matrix) for matrix in matrices]


def test_figures_of_a_confusion_matrix_by_hand() -> None:
    predictions = of_confusion([[6, 3, 1], [4, 10, 6], [2, 3, 15]], GBCU)
    assert "sensitivity" not in summarise(predictions)
    summary = summarise(predictions, positive="malignant")
    for name, value in {
        "accuracy": 31 / 50,
        "balanced_accuracy": (6 / 10 + 10 / 20 + 15 / 20) / 3,
        "f1": (12 / (10 + 12) + 20 / (20 + 16) + 30 / (20 + 22)) / 3,
        "sensitivity": 15 / 20,
        "specificity": (6 + 3 + 4 + 10) / 30,  # a normal called benign is right
        "binary_accuracy": (23 + 15) / 50,
    }.items():
        assert summary[name]["mean"] == pytest.approx(value), name
        assert summary[name]["std"] == 0
    assert summary["confusion"] == [[6, 3, 1], [4, 10, 6], [2, 3, 15]]
    assert summarise(predictions, positive="normal")["specificity"]["mean"] == pytest.approx((10 + 6 + 3 + 15) / 40)


def test_the_last_of_two_classes_is_positive() -> None:
    predictions = of_confusion([[8, 2], [1, 3]], ["benign", "malignant"])
    summary = summarise(predictions)
    assert summary["sensitivity"]["mean"] == pytest.approx(3 / 4)
    assert summary["specificity"]["mean"] == pytest.approx(8 / 10)
    assert summary["binary_accuracy"] == summary["accuracy"]
    assert summarise(predictions, positive="benign")["sensitivity"] == summary["specificity"]
    with pytest.raises(UsageError, match="--positive cyst is not a class; there are benign, malignant"):
        summarise(predictions, positive="cyst")


def test_weighted_auroc_is_scikit_learns() -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        score, positive = rng.integers(0, 6, 40) / 5, rng.random(40) < 0.4
        group, weights = rng.integers(0, 12, 40), rng.integers(1, 4, (3, 12)).astype(float)
        expected = [roc_auc_score(positive, score, sample_weight=own[group]) for own in weights]
        assert _auroc(score, positive, group, weights) == pytest.approx(expected)


def test_the_bootstrap_is_that_of_a_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    """Groups are repeated as often as drawn, each fold is scored by the classes that it then has."""
    monkeypatch.setattr("usucl_fast.evaluate.metrics._CHUNK", 30)  # a table in several parts
    predictions = made_up(samples=24, groups=6, repeats=2, folds=2, seed=3)
    labels, groups = predictions.samples.labels, np.unique(predictions.samples.groups, return_inverse=True)[1]
    draws = group_draws(groups.max() + 1, seed=1)[:40]
    assert (draws.sum(axis=1) == groups.max() + 1).all()
    expected: dict[str, list[float]] = {"accuracy": [], "balanced_accuracy": [], "auroc": [], "f1": []}
    lacking = 0
    for draw in draws:
        scores: dict[str, list[float]] = {name: [] for name in expected}
        for repeat in range(2):
            for fold in range(2):
                here = np.flatnonzero(predictions.fold[repeat] == fold)
                here = np.repeat(here, draw[groups[here]].astype(int))
                true, probabilities = labels[here], predictions.probabilities[repeat, here]
                classes = np.unique(true)
                lacking += len(classes) < 3
                if len(here):
                    predicted = probabilities.argmax(axis=1)
                    scores["accuracy"].append(accuracy_score(true, predicted))
                    scores["balanced_accuracy"].append(np.mean([np.mean(predicted[true == c] == c) for c in classes]))
                    scores["f1"].append(f1_score(true, predicted, labels=classes, average="macro"))
                if len(classes) > 1:
                    areas = [roc_auc_score(true == c, probabilities[:, c]) for c in classes]
                    scores["auroc"].append(float(np.mean(areas)))
        for name, values in scores.items():
            expected[name].append(float(np.mean(values)) if values else np.nan)
    assert lacking  # or the test does not see what it is for
    for name, values in expected.items():
        assert bootstrap_scores(predictions, draws, name) == pytest.approx(values, nan_ok=True), name


def test_the_interval_is_that_of_the_same_draws() -> None:
    predictions = made_up()
    boot = bootstrap_scores(predictions, group_draws(len(np.unique(predictions.samples.groups)), seed=5), "f1")
    figure = summarise(predictions, seed=5)["f1"]
    assert [figure["low"], figure["high"]] == pytest.approx(list(np.percentile(boot, [2.5, 97.5])))
    assert figure != summarise(predictions, seed=6)["f1"]


def test_the_interval_narrows_with_the_groups_not_with_their_samples() -> None:
    def width(groups: int, each: int) -> float:
        """Right in 7 groups of 10, in all samples of a group or in none."""
        group = np.repeat(np.arange(groups), each)
        label, right = group // 10 % 2, group % 10 < 7
        samples = Samples(label, group, group, ["a", "b"], [""] * len(group))
        predictions = Predictions(
            samples, np.eye(2)[np.where(right, label, 1 - label)][None], np.zeros((1, len(group)), np.int64)
        )
        figure = summarise(predictions)["accuracy"]
        return float(figure["high"] - figure["low"])

    assert width(20, 10) == pytest.approx(width(20, 1))
    assert width(20, 1) == pytest.approx(2 * 1.96 * np.sqrt(0.7 * 0.3 / 20), rel=0.2)
    assert width(320, 1) == pytest.approx(width(20, 1) / 4, rel=0.2)


def test_a_class_that_no_fold_tested_has_no_figure() -> None:
    summary = summarise(of_confusion([[3, 1, 0], [1, 3, 0], [0, 0, 0]], GBCU))
    assert set(summary["recall"]) == {"normal", "benign"}
    assert summary["balanced_accuracy"]["mean"] == pytest.approx(0.75)


def test_by_video_is_the_mean_of_its_tested_frames() -> None:
    videos = np.array([7, 3, 7, 3, 3, 9])
    samples = Samples(
        (videos == 7).astype(np.int64), videos, videos * 2, ["a", "b"], ["x/w/0", "v/0", "x/w/1", "v/1", "v/2", "y.png"]
    )
    probabilities = np.arange(24.0).reshape(2, 6, 2)
    fold = np.array([[1, 0, 1, 0, 0, 2], [-1, -1, 0, 1, 2, -1]])
    probabilities[fold < 0] = np.nan
    found = Predictions(samples, probabilities, fold).by_video()
    first = [probabilities[0, [1, 3, 4]].mean(0), probabilities[0, [0, 2]].mean(0), probabilities[0, 5]]
    second = [probabilities[1, [3, 4]].mean(0), probabilities[1, 2], [np.nan, np.nan]]
    assert np.allclose(found.probabilities, [first, second], equal_nan=True)
    assert found.fold.tolist() == [[0, 1, 2], [1, 0, -1]]
    assert found.samples.videos.tolist() == [3, 7, 9]
    assert found.samples.groups.tolist() == [6, 14, 18]
    assert found.samples.labels.tolist() == [0, 1, 0]
    assert found.samples.names == ["v", "x/w", "y.png"]


def test_predictions_are_kept(tmp_path: Path) -> None:
    predictions = made_up()
    predictions.samples.names[3] = "Gefäß/größe 3"
    predictions.save(tmp_path / "p.npz")
    again = Predictions.load(tmp_path / "p.npz")
    assert again.samples.names == predictions.samples.names
    assert again.samples.classes == predictions.samples.classes
    for name in ("labels", "videos", "groups"):
        assert np.array_equal(getattr(again.samples, name), getattr(predictions.samples, name))
    assert np.array_equal(again.fold, predictions.fold)
    assert np.array_equal(again.probabilities, predictions.probabilities, equal_nan=True)
    assert summarise(again) == summarise(predictions)


def test_what_holds_no_predictions_is_refused(tmp_path: Path) -> None:
    made_up().save(tmp_path / "whole.npz")
    whole = (tmp_path / "whole.npz").read_bytes()
    (tmp_path / "cut.npz").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "empty.npz").write_bytes(b"")
    np.savez(tmp_path / "other.npz", a=np.zeros(3))
    np.save(tmp_path / "array.npy", np.zeros(3))
    np.savez(tmp_path / "pickled.npz", labels=np.array([{}], object))
    for name in ("cut.npz", "empty.npz", "other.npz", "array.npy", "pickled.npz", "missing.npz"):
        with pytest.raises(DataError, match=f"{name} holds no predictions") as caught:
            Predictions.load(tmp_path / name)
        assert "\n" not in str(caught.value)
    with np.load(tmp_path / "whole.npz") as file:
        np.savez(tmp_path / "short.npz", **{**file, "labels": file["labels"][1:]})
    with pytest.raises(DataError, match=r"short\.npz is damaged"):
        Predictions.load(tmp_path / "short.npz")


def test_labels_are_dealt_to_whole_groups() -> None:
    samples = made_up(samples=300, groups=30).samples

    def most_frequent(labels: np.ndarray) -> list[int]:
        return [int(np.bincount(labels[samples.groups == g]).argmax()) for g in np.unique(samples.groups)]

    shuffled = shuffled_by_group(samples, seed=0)
    assert sorted(most_frequent(shuffled.labels)) == sorted(most_frequent(samples.labels))
    assert most_frequent(shuffled.labels) != most_frequent(samples.labels)
    assert all(len(np.unique(shuffled.labels[samples.groups == g])) == 1 for g in np.unique(samples.groups))
    assert np.array_equal(shuffled.labels, shuffled_by_group(samples, seed=0).labels)
    assert not np.array_equal(shuffled.labels, shuffled_by_group(samples, seed=1).labels)
