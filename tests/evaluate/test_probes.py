import numpy as np
import pytest

from usucl_fast.errors import DataError
from usucl_fast.evaluate.folds import make_folds
from usucl_fast.evaluate.metrics import summarise
from usucl_fast.evaluate.probes import predict
from usucl_fast.evaluate.samples import Samples, shuffled_by_group


def made_up(groups: int, per_group: int, signal: float, seed: int = 0, width: int = 16) -> tuple[np.ndarray, Samples]:
    """Features that tell the group very well and the class as well as `signal` says."""
    rng = np.random.default_rng(seed)
    group = np.repeat(np.arange(groups), per_group)
    label = group % 3
    features = rng.standard_normal((groups, width))[group] * 3 + rng.standard_normal((len(group), width)) * 0.3
    features[:, :3] += signal * np.eye(3)[label]
    names = [f"v{g}/{number}" for number, g in enumerate(group)]
    return features.astype(np.float32), Samples(label, group, group, ["a", "b", "c"], names)


@pytest.mark.parametrize("protocol", ["knn", "linear"])
def test_a_class_that_shows_is_found(protocol: str) -> None:
    features, samples = made_up(30, 6, 12.0)
    splits = make_folds(samples, "group", 5, 2, 0)
    predictions = predict(protocol, features, samples, splits)
    assert np.allclose(predictions.probabilities.sum(axis=-1), 1)
    for split in splits:
        assert (predictions.fold[split.repeat, split.test] == split.fold).all()
    assert summarise(predictions)["balanced_accuracy"]["mean"] > 0.95


@pytest.mark.parametrize("protocol", ["knn", "linear"])
def test_groups_recognised_are_no_classes_found(protocol: str) -> None:
    """Features tell the group, labels are dealt to groups: by group it is chance, by frame it looks like knowledge."""

    def score(by: str, seed: int) -> dict[str, float]:
        features, samples = made_up(60, 4, 0.0, seed, width=128)
        control = shuffled_by_group(samples, seed)
        splits = make_folds(control, by, 5, 1, seed, allow_leakage=True)
        figure: dict[str, float] = summarise(predict(protocol, features, control, splits))["balanced_accuracy"]
        return figure

    honest = [score("group", seed) for seed in range(4)]
    assert np.mean([figure["mean"] for figure in honest]) == pytest.approx(1 / 3, abs=0.08)
    assert sum(figure["low"] < 1 / 3 < figure["high"] for figure in honest) >= 3  # one 95 % interval may miss
    assert score("frame", 0)["mean"] > 0.9


def test_a_rare_class_is_not_outvoted() -> None:
    """One class in ten samples has no less recall than the others where the features tell them apart equally well."""
    rng = np.random.default_rng(0)
    labels, group = np.repeat([0, 1], [900, 100]), np.arange(1000)
    features = (rng.standard_normal((1000, 8)) + labels[:, None] * 0.8).astype(np.float32)
    samples = Samples(labels, group, group, ["many", "few"], [str(n) for n in group])
    splits = make_folds(samples, "frame", 5, 1, 0, allow_leakage=True)
    recall = summarise(predict("knn", features, samples, splits))["recall"]
    assert abs(recall["many"]["mean"] - recall["few"]["mean"]) < 0.15


def test_what_is_not_tested_has_no_prediction() -> None:
    features, samples = made_up(12, 2, 2.0)
    splits = [split for split in make_folds(samples, "group", 3, 2, 0) if (split.repeat, split.fold) != (1, 2)]
    predictions = predict("knn", features, samples, splits)
    missing = predictions.fold < 0
    assert missing.sum(axis=1).tolist() == [0, 8]
    assert np.array_equal(np.isnan(predictions.probabilities).all(axis=-1), missing)
    assert len(summarise(predictions)["fold_scores"]) == 5


def test_a_class_that_was_not_learned_has_no_chance() -> None:
    features, samples = made_up(12, 2, 2.0)
    split = make_folds(samples, "group", 3, 1, 0)[0]
    narrow = type(split)(0, 0, split.train[samples.labels[split.train] != 1], split.test)
    probabilities = predict("linear", features, samples, [narrow]).probabilities[0, split.test]
    assert (probabilities[:, 1] == 0).all()
    assert np.allclose(probabilities.sum(axis=1), 1)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_features_that_are_no_numbers_are_refused(value: float) -> None:
    features, samples = made_up(12, 2, 2.0)
    features[[5, 9], 3] = value
    with pytest.raises(DataError, match="features of 2 samples are not finite, the first of v2/5"):
        predict("knn", features, samples, make_folds(samples, "group", 3, 1, 0))
