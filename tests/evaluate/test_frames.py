"""Evaluation of labels and values that single frames have."""

from pathlib import Path

import numpy as np
import pytest
from scipy.stats import spearmanr
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import r2_score
from sklearn.neighbors import KNeighborsRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import Normalizer, StandardScaler

from tests.helpers.commands import refused, usucl_eval, usucl_shard
from tests.helpers.feeding import table_of
from tests.helpers.videos import moving_texture, write_video
from usucl_fast.errors import UsageError
from usucl_fast.evaluate import Predictions, Samples, Split, compare, predict, summarise, summarise_videos
from usucl_fast.evaluate.logistic import fit_predict
from usucl_fast.evaluate.presence import presence
from usucl_fast.evaluate.samples import find_samples
from usucl_fast.evaluate.values import VALUE_SCORES, value_scores
from usucl_fast.shards import FrameLabels, FrameTable, Texts
from usucl_fast.shards.frame_labels import SEGMENT


def labelled(names: list[str], values: list[float] | None = None) -> FrameTable:
    """Two videos of ten frames with these labels."""
    table = table_of([10, 10])
    table.rows["video"] = np.repeat([0, 1], 10)
    numbers = np.array(values or [np.nan] * 20, np.float32)
    return FrameTable(table.rows, table.videos, FrameLabels(Texts.of(names), numbers, np.empty(0, SEGMENT)))


def test_frames_are_chosen_so_that_rare_labels_are_there() -> None:
    table = labelled(["wall"] * 8 + ["fluid"] * 2 + [""] * 5 + ["wall"] * 5)
    frame_ids, samples = find_samples(table, 3)
    assert frame_ids.tolist() == [0, 4, 7, 8, 9, 15, 17, 19]  # three of a label in a video, evenly spread
    assert samples.classes == ["fluid", "wall"]
    assert samples.labels.tolist() == [1, 1, 1, 0, 0, 1, 1, 1]
    assert samples.videos.tolist() == [0] * 5 + [1] * 3
    assert samples.numbers is not None
    assert samples.numbers.tolist() == [0, 4, 7, 8, 9, 5, 7, 9]
    assert samples.target == "frame"


def test_values_are_chosen_and_halved_by_their_median() -> None:
    table = labelled([""] * 20, [*range(10), *[np.nan] * 8, 20, 30])
    frame_ids, samples = find_samples(table, 4)
    assert (samples.target, frame_ids.tolist()) == ("value", [0, 3, 6, 9, 18, 19])
    assert samples.values is not None
    assert samples.values.tolist() == [0, 3, 6, 9, 20, 30]
    assert samples.labels.tolist() == [0, 0, 0, 1, 1, 1]
    with pytest.raises(UsageError, match="--target frame: SHARDS hold no frame with such"):
        find_samples(table, 4, "frame")
    with pytest.raises(UsageError, match="--split test: SHARDS have no splits"):
        find_samples(table, 4, None, "test")


def frame_predictions() -> Predictions:
    """Two videos, six and three frames, of which the second class is in the first alone."""
    found = np.array([0.1, 0.2, 0.9, 0.8, 0.9, 0.4, 0.3, 0.6, 0.0])
    samples = Samples(
        labels=np.array([0, 0, 1, 1, 1, 1, 0, 0, 0]),
        videos=np.array([4] * 6 + [7] * 3),
        groups=np.array([0] * 6 + [1] * 3),
        classes=["none", "lesion"],
        names=[f"v/{n}" for n in range(9)],
        target="frame",
        numbers=np.arange(9),
    )
    return Predictions(samples, np.stack([1 - found, found], axis=-1)[None], np.zeros((1, 9), np.int64))


def test_what_frames_say_of_their_video() -> None:
    told = presence(frame_predictions())
    assert told.truth.tolist() == [[True, True], [True, False]]
    assert told.score[0, :, 1] == pytest.approx([(0.2 + 0.9 + 0.8 + 0.9 + 0.4) / 5, 0.3])  # of 5, and of all 3
    assert told.overlap[0, 0] == pytest.approx([2 / 3, 3 / 4])  # frames 0, 1 of 0, 1, 5; frames 2, 3, 4 of 2 to 5
    assert told.overlap[0, 1, 0] == pytest.approx(2 / 3)
    assert np.isnan(told.overlap[0, 1, 1])
    figures = summarise_videos(frame_predictions())
    assert figures["auroc"]["mean"] == figures["AUROC of lesion"]["mean"] == 1
    assert "AUROC of none" not in figures  # it is in every video
    assert figures["overlap"]["mean"] == pytest.approx((2 / 3 + 3 / 4 + 2 / 3) / 3)


def test_frames_in_any_order_and_saved(tmp_path: Path) -> None:
    whole = frame_predictions()
    whole.save(tmp_path / "p.npz")
    loaded = Predictions.load(tmp_path / "p.npz")
    assert loaded.samples.target == "frame"
    assert summarise_videos(loaded) == summarise_videos(whole)
    turned = np.arange(9)[::-1]
    samples = whole.samples
    assert samples.numbers is not None
    shuffled = Samples(
        samples.labels[turned],
        samples.videos[turned],
        samples.groups[turned],
        samples.classes,
        [samples.names[n] for n in turned],
        "frame",
        samples.numbers[turned],
    )
    told = presence(Predictions(shuffled, whole.probabilities[:, turned], whole.fold))
    np.testing.assert_allclose(told.score, presence(whole).score)


def test_value_scores_are_scipys_and_sklearns() -> None:
    rng = np.random.default_rng(0)
    videos = np.repeat(np.arange(6), 5)
    truth = rng.integers(0, 8, 30).astype(np.float64) + videos
    found = truth + rng.normal(0, 2, 30)
    found[3] = found[4]
    counts = rng.integers(0, 3, 6)
    drawn = np.repeat(np.arange(30), counts[videos])  # the same videos, really drawn
    told = value_scores(truth, found, videos, np.stack([np.ones(30), counts[videos]], axis=1))
    for column, places in enumerate((np.arange(30), drawn)):
        assert told["r2"][column] == pytest.approx(r2_score(truth[places], found[places]))
        assert told["spearman"][column] == pytest.approx(spearmanr(truth[places], found[places]).statistic)
    own = [spearmanr(truth[videos == v], found[videos == v]).statistic for v in range(6)]
    assert told["spearman_within"][0] == pytest.approx(np.mean(own))
    assert told["spearman_within"][1] == pytest.approx(np.average(own, weights=counts))
    centred = [values - np.array([values[videos == v].mean() for v in videos]) for values in (truth, found)]
    assert told["r2_within"][0] == pytest.approx(r2_score(*centred))


@pytest.mark.parametrize(("samples", "width", "classes"), [(150, 20, 2), (80, 200, 3), (400, 30, 5)])
def test_logistic_regression_has_sklearns_optimum(samples: int, width: int, classes: int) -> None:
    rng = np.random.default_rng(samples)
    shares = np.arange(1, classes + 1) / np.arange(1, classes + 1).sum()
    labels = rng.choice(classes, samples, p=shares)
    features = rng.normal(size=(samples, 8)) @ rng.normal(size=(8, width)) + rng.normal(size=(samples, width))
    features += rng.normal(size=(classes, width))[labels]
    features *= np.exp(rng.normal(size=width))
    features[:, 0] = 3  # always the same
    narrow = features.astype(np.float32)
    trains = [np.flatnonzero(np.arange(samples) % 4 != part) for part in range(4)]
    trains.append(np.flatnonzero(labels != classes - 1))  # a class is missing
    for train, found in zip(trains, fit_predict(narrow, labels, classes, trains), strict=True):
        present = np.unique(labels[train])
        if len(present) < 2:
            assert found[:, present[0]] == pytest.approx(1)
            continue
        model = LogisticRegression(C=0.01, class_weight="balanced", tol=1e-10, max_iter=10000)
        wide = narrow.astype(np.float64)
        expected = make_pipeline(StandardScaler(), model).fit(wide[train], labels[train]).predict_proba(wide)
        np.testing.assert_allclose(found[:, present], expected, atol=1e-4)


def test_values_are_predicted_by_neighbours_and_by_weights() -> None:
    rng = np.random.default_rng(0)
    features = rng.normal(size=(120, 10)).astype(np.float32)
    values = features[:, 0] * 3.0 + 50 + rng.normal(size=120) * 0.1
    groups = np.repeat(np.arange(12), 10)
    samples = Samples(
        (values > 50).astype(int),
        groups,
        groups,
        ["l", "u"],
        [f"v/{n}" for n in range(120)],
        "value",
        np.arange(120),
        values,
    )
    splits = [
        Split(0, part, np.flatnonzero(groups % 3 != part), np.flatnonzero(groups % 3 == part)) for part in range(3)
    ]
    figures = summarise(predict("linear", features, samples, splits))
    assert set(figures) == set(VALUE_SCORES)
    assert figures["r2"]["low"] < figures["r2"]["mean"] < figures["r2"]["high"] <= 1
    assert figures["r2_within"]["mean"] > 0.6
    near = predict("knn", features, samples, splits)
    model = make_pipeline(
        StandardScaler(with_std=False), Normalizer(), KNeighborsRegressor(20, weights="distance")
    ).fit(features[splits[0].train], values[splits[0].train])
    np.testing.assert_allclose(near.probabilities[0, splits[0].test, 0], model.predict(features[splits[0].test]))
    assert summarise_videos(near) == {}
    pair = compare({"linear": [predict("linear", features, samples, splits)], "knn": [near]}, "knn")
    assert pair["differences"][0]["frame"]["r2"]["low"] > 0


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Nine patients; bright frames are in the middle of each video, and have the label `bright`."""
    root = tmp_path_factory.mktemp("frames")
    lines = ["video,first,last,label,value,group,split"]
    for number in range(9):
        pictures = moving_texture(12, 32, 32, number) // 3
        pictures[4:8] += 120
        name, split = f"{number}.mp4", "test" if number < 4 else "train"
        write_video(root / name, pictures, "libx264")
        for first, last, label in ((0, 3, "dark"), (4, 7, "bright"), (8, 11, "dark")):
            lines.append(f"{name},{first},{last},{label},{pictures[first].mean():.1f},p{number},{split}")
    (root / "l.csv").write_text("\n".join(lines))
    out = root / "shards"
    assert usucl_shard(root, out, "--labels", root / "l.csv", "--size", 32, "--sector", "none").exit_code == 0
    return out


def test_the_command_evaluates_frames(shards: Path, tmp_path: Path) -> None:
    done = usucl_eval(
        "random", shards, "--size", 32, "--protocol", "knn,linear", "--repeats", 1, "--out", tmp_path / "e"
    )
    assert done.exit_code == 0, done.output
    for name in ("balanced accuracy", "recall of bright", "intersection over union"):
        assert name in done.output
    assert "108 of 108 frames have a label; 108 of them are evaluated" in done.stderr
    assert (tmp_path / "e" / "knn" / "along.png").exists()
    both = usucl_eval("compare", tmp_path / "e" / "knn", tmp_path / "e" / "linear", "--out", tmp_path / "c")
    assert both.exit_code == 0, both.output
    assert "intersection over union" in both.output
    value = usucl_eval("random", shards, "--size", 32, "--target", "value", "--repeats", 1, "--out", tmp_path / "v")
    assert value.exit_code == 0, value.output
    assert "R² within videos" in value.output
    refused(
        usucl_eval("random", shards, "--target", "value", "--protocol", "finetune", "--out", tmp_path / "n"),
        "--protocol finetune is for labels",
    )
    refused(usucl_eval("random", shards, "--target", "video", "--out", tmp_path / "n"), "no labelled video")
    refused(usucl_eval("random", shards, "--split", "val", "--out", tmp_path / "n"), "--split val", "test, train")
    part = usucl_eval(
        "random", shards, "--size", 32, "--split", "test", "--repeats", 1, "--frames", 2, "--out", tmp_path / "s"
    )
    assert part.exit_code == 0, part.output
    assert "Only the split test: 4 of 9 videos." in part.stderr
    assert "16 of them are evaluated" in part.stderr
