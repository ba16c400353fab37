"""The mistakes that a page shows, of predictions made by hand."""

from pathlib import Path

import numpy as np

from usucl_fast.evaluate.mistakes import by_group, mistakes_html, worst_samples
from usucl_fast.evaluate.page import write_page
from usucl_fast.evaluate.samples import Predictions, Samples


def made() -> Predictions:
    """Four videos of three groups, two frames each; two repeats. Video 3 and frame 0 are wrong in the first one."""
    videos = np.repeat(np.arange(4), 2)
    labels = np.array([0, 0, 0, 0, 1, 1, 1, 1])
    names = [f"v{video}/{number:06d}" for number, video in enumerate(videos)]
    samples = Samples(labels, videos, np.array([0, 0, 0, 0, 1, 1, 2, 2]), ["<a>", "b"], names)
    of_second = np.array([0.6, 0.1, 0.2, 0.3, 0.9, 0.8, 0.1, 0.25])
    once = np.stack([1 - of_second, of_second], axis=1)
    again = once.copy()
    again[0] = [0.9, 0.1]
    fold = np.array([0, 0, 0, 0, 1, 1, 2, 2])
    return Predictions(samples, np.stack([once, again]), np.stack([fold, fold]))


def test_the_most_confidently_wrong_by_class_one_a_video() -> None:
    features = np.eye(8, 3, dtype=np.float32)
    features[6] = [1, 0.1, 0]  # most like frame 0, which is of another fold
    worst = worst_samples(made(), features)
    assert {name: [one.place for one in found] for name, found in worst.items()} == {"<a>": [0], "b": [6]}
    assert worst["<a>"][0].said == "taken for b (0.60)"
    assert worst["b"][0].said == "taken for <a> (0.90)"
    neighbours = worst["b"][0].neighbours.tolist()
    assert neighbours[0] == 0
    videos = made().samples.videos[neighbours].tolist()
    assert len(set(videos)) == len(videos) == 3
    assert 3 not in videos  # its own fold


def test_by_group_the_worst_first() -> None:
    assert by_group(made()) == [
        ("v3", "2", "0.000", "<a>"),
        ("v0 and 1 more", "4", "0.875", "b"),  # 3 of 4, then 4 of 4
        ("v2", "2", "1.000", ""),
    ]


def test_values_are_ranked_by_their_error() -> None:
    predictions = made()
    samples = predictions.samples
    values = np.array([1.0, 1, 2, 2, 3, 3, 9, 4])
    of_values = Samples(
        samples.labels, samples.videos, samples.groups, samples.classes, samples.names, "value", None, values
    )
    found = np.array([1.5, 1, 2, 2, 3, 1, 4, 4])[None, :, None]
    valued = Predictions(of_values, found, predictions.fold[:1])
    (worst,) = worst_samples(valued, None).values()
    assert [one.place for one in worst] == [6, 5, 0, 2]
    assert worst[0].said == "predicted 4, true 9"
    assert [row[0] for row in by_group(valued)] == ["v3", "v2", "v0 and 1 more"]
    assert by_group(valued)[0][2] == "2.5"


def test_a_page_shows_the_pictures_of_the_mistakes_and_names_are_text(tmp_path: Path) -> None:
    asked: list[list[int]] = []

    def pictures(places: np.ndarray) -> np.ndarray:
        asked.append(places.tolist())
        return np.zeros((len(places), 1, 200, 200), np.uint8)

    write_page(tmp_path, {"classes": ["<a>", "b"]}, made(), None, pictures)
    assert asked == [[0, 6]]
    page = (tmp_path / "page.html").read_text()
    assert page.count("data:image/jpeg") == 2
    assert "taken for &lt;a&gt; (0.90)" in page
    assert "3 of 3 groups shown." in page
    right = made()
    right.probabilities[:] = np.eye(2)[right.samples.labels]
    assert "Nothing is predicted wrongly" in "".join(mistakes_html(right, None, None))
