import base64
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from usucl_fast.evaluate.metrics import summarise
from usucl_fast.evaluate.page import write_page
from usucl_fast.evaluate.plots import plot_text
from usucl_fast.evaluate.samples import Predictions, Samples
from usucl_fast.evaluate.table import show
from usucl_fast.html import paragraph, table_html, write_html

PLOTS = ["confusion.png", "roc.png", "folds.png", "map.png"]


def figure(mean: float) -> dict[str, float]:
    return {"mean": mean, "std": 0.011, "low": mean - 0.1, "high": mean + 0.1}


def figures(mean: float) -> dict[str, Any]:
    return {
        "balanced_accuracy": figure(mean),
        "accuracy": figure(mean + 0.001),
        "auroc": figure(mean + 0.002),
        "recall": {"<b>": figure(mean + 0.003), "_$x$": figure(mean + 0.004), "[c]": figure(mean + 0.005)},
        "confusion": [[8.5, 1.5, 0], [0, 10, 0], [0, 0, 0]],
        "fold_scores": [
            {"repeat": repeat, "fold": fold, "balanced_accuracy": mean, "accuracy": mean, "samples": 15}
            for repeat in range(2)
            for fold in range(2)
        ],
    }


SUMMARY = {
    "model": "run & <script>",
    "protocol": "knn",
    "by": "group",
    "folds": 2,
    "repeats": 2,
    "classes": ["<b>", "_$x$", "[c]"],
    "videos": 10,
    "frames": 30,
    "groups": 5,
    "notes": ["frames of one video are alike, so <folds by frame> leak"],
    "chance": 1 / 3,
    **figures(0.4),
    "video": figures(0.6),
}


def predictions(frames: int = 30) -> Predictions:
    rng = np.random.default_rng(0)
    videos = np.arange(frames) // 3
    labels = videos % 3
    samples = Samples(labels, videos, videos // 2, ["<b>", "_$x$", "[c]"], [f"v{v}/{n}" for n, v in enumerate(videos)])
    probabilities = rng.dirichlet(np.ones(3), (2, frames)) * 0.5 + 0.5 * np.eye(3)[labels]
    fold = np.tile(videos // 2 % 2, (2, 1))
    fold[1, :3] = -1
    probabilities[1, :3] = np.nan
    return Predictions(samples, probabilities, fold)


def features(frames: int = 30) -> np.ndarray:
    return np.random.default_rng(1).standard_normal((frames, 6)).astype(np.float32)


class Nesting(HTMLParser):
    """Checks that every element that is opened is closed."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_a_page_holds_all_figures_and_plots(tmp_path: Path) -> None:
    out = tmp_path / "made/out"
    write_page(out, SUMMARY, predictions(), features())
    assert sorted(path.name for path in out.iterdir()) == sorted([*PLOTS, "page.html"])
    page = (out / "page.html").read_text()
    embedded = re.findall('src="data:image/png;base64,([^"]*)"', page)
    assert [base64.b64decode(data) for data in embedded] == [(out / name).read_bytes() for name in PLOTS]
    for name in PLOTS:
        with Image.open(out / name) as picture:
            picture.load()
            assert min(picture.size) > 200
    text = re.sub('src="[^"]*"', "", page)
    assert "://" not in text
    assert "<script" not in text
    assert "<b>" not in text
    for piece in ("recall of &lt;b&gt;", "run &amp; &lt;script&gt;", "so &lt;folds by frame&gt; leak", "30 frames"):
        assert piece in text
    for level in (SUMMARY, SUMMARY["video"]):
        for found in (level["balanced_accuracy"], level["accuracy"], level["auroc"], *level["recall"].values()):
            assert f"{found['mean']:.3f} ± 0.011 ({found['low']:.3f} to {found['high']:.3f})" in text
    assert "nan" not in text
    nesting = Nesting()
    nesting.feed(text)
    assert nesting.open == []


def test_a_page_of_real_figures_is_the_same_each_time(tmp_path: Path) -> None:
    found = summarise(predictions())
    summary = {"classes": SUMMARY["classes"], **found, "video": summarise(predictions().by_video())}
    for name in ("a", "b"):
        write_page(tmp_path / name, summary, predictions(), features())
    page = (tmp_path / "a/page.html").read_text()
    assert page.count("base64") == len(PLOTS)
    assert f"{found['auroc']['mean']:.3f} ± {found['auroc']['std']:.3f}" in page
    assert (tmp_path / "a/page.html").read_bytes() == (tmp_path / "b/page.html").read_bytes()


@pytest.mark.parametrize("without", [None, np.ones((30, 6), np.float32)])
def test_no_map_without_features_that_differ(tmp_path: Path, without: np.ndarray | None) -> None:
    (tmp_path / "map.png").write_bytes(b"of an evaluation before")
    write_page(tmp_path, SUMMARY, predictions(), without)
    assert not (tmp_path / "map.png").exists()
    assert (tmp_path / "page.html").read_text().count("base64") == 3


def test_what_is_missing_is_left_out(tmp_path: Path) -> None:
    one_class = predictions()
    one_class = replace(one_class, samples=replace(one_class.samples, labels=np.zeros(30, np.int64)))
    write_page(tmp_path, {"classes": ["<b>", "_$x$", "[c]"], "accuracy": figure(0.5)}, one_class, None)
    assert [path.name for path in tmp_path.iterdir()] == ["page.html"]
    assert "0.500 ± 0.011" in (tmp_path / "page.html").read_text()


def test_figures_are_shown_in_a_pipe(capsys: pytest.CaptureFixture[str]) -> None:
    show({**SUMMARY, "model": "a-long-name-of-a-run/" * 8})
    shown = capsys.readouterr().out
    row = next(line for line in shown.splitlines() if "recall of [c]" in line)
    assert "0.405 ± 0.011 (0.305 to 0.505)" in row
    assert "0.605 ± 0.011 (0.505 to 0.705)" in row
    assert "F1" not in shown
    last = "mean ± std over 2 repeats of 2 folds by group; 95 % interval over the 5 groups drawn anew; chance is 0.333"
    assert shown.splitlines()[-1] == last
    assert "\x1b" not in shown


def test_hostile_names_stay_text_on_pages_and_terminals(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    name = "<script>[/]$x_$\x1b[2J\n\u202e"
    write_html(tmp_path / "page.html", name, [table_html((name,), [(name, name)]), paragraph(name)])
    page = (tmp_path / "page.html").read_text()
    assert "<script>" not in page
    assert not {"\x1b", "\u202e"} & set(page)
    assert page.count(r"&lt;script&gt;[/]$x_$\x1b[2J\n\u202e") == 6
    show({"model": name, "protocol": "knn", "classes": [name], "recall": {name: figure(0.5)}})
    shown = capsys.readouterr().out
    assert "<script>" in shown
    assert all(line.isprintable() for line in shown.splitlines())
    plot = Figure()
    plot.suptitle(plot_text(name))
    plot.savefig(tmp_path / "plot.png")
