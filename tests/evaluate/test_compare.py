import itertools
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from usucl_fast.errors import UsageError
from usucl_fast.evaluate.comparison import COLUMNS, ArmFigure, compare
from usucl_fast.evaluate.comparison_page import show_comparison, write_comparison
from usucl_fast.evaluate.metrics import fold_scores
from usucl_fast.evaluate.samples import Predictions, Samples

GROUPS, PER_GROUP, REPEATS, FOLDS = 24, 8, 2, 3


def made_up(skill: float, seed: int, shared: float = 0.0) -> Predictions:
    """Predictions that are right the more, the greater the skill; `shared` is how hard each group is for all."""
    groups = np.repeat(np.arange(GROUPS), PER_GROUP)
    labels, videos = groups % 2, np.arange(len(groups)) // 2
    names = [f"video{video}/{place % 2}" for place, video in enumerate(videos)]
    rng = np.random.default_rng(seed)
    hard = np.random.default_rng(99).standard_normal(GROUPS)[groups] * shared
    logits = (2 * labels - 1) * (skill + hard + rng.standard_normal((REPEATS, len(groups))))
    true = 1 / (1 + np.exp(-logits))
    fold = np.tile(groups // 2 % FOLDS, (REPEATS, 1))
    samples = Samples(labels, videos, groups, ["<b>", "$n_"], names)
    return Predictions(samples, np.stack([1 - true, true], axis=-1), fold)


def test_an_arm_is_no_better_than_itself() -> None:
    found = compare({"a": [made_up(0.5, 0)], "b": [made_up(0.5, 0)]})
    for pair, (score, level) in itertools.product(found["differences"], COLUMNS["video"]):
        assert pair[level][score] == {"mean": 0, "low": 0, "high": 0, "higher": 0, "lower": 0}


def test_a_better_arm_is_above_zero_and_a_worse_one_below() -> None:
    found = compare({"good": [made_up(2, 0), made_up(2, 1)], "bad": [made_up(0.3, 2)]})
    assert [(pair["arm"], pair["other"]) for pair in found["differences"]] == [("good", "bad"), ("bad", "good")]
    for score, level in COLUMNS["video"]:
        up, down = (pair[level][score] for pair in found["differences"])
        good, bad = (known(found["arms"][name][level][score]) for name in ("good", "bad"))
        assert 0 < up["low"] < up["mean"] < up["high"]
        assert up["mean"] == pytest.approx(good["mean"] - bad["mean"])
        assert [down["low"], down["high"]] == pytest.approx([-up["high"], -up["low"]])
        assert up["higher"] == down["lower"] > 0.9
        seeds = [
            fold_scores(one if level == "frame" else one.by_video())[score] for one in (made_up(2, 0), made_up(2, 1))
        ]
        assert good["seeds"] == pytest.approx([scores.mean() for scores in seeds])
        assert good["std_seeds"] == pytest.approx(np.std(good["seeds"], ddof=1))
        assert good["std_folds"] == pytest.approx(np.mean(seeds, axis=0).std())
        assert "std_seeds" not in bad


def known(figure: ArmFigure) -> dict[str, Any]:
    """The figure, of which nothing is missing."""
    assert None not in figure.values()
    return dict(figure)


def test_what_is_hard_for_all_does_not_widen_a_difference() -> None:
    found = compare({"a": [made_up(0.8, 0, shared=1.5)], "b": [made_up(0.5, 1, shared=1.5)]})
    a, b = (known(found["arms"][name]["frame"]["accuracy"]) for name in "ab")
    paired = found["differences"][0]["frame"]["accuracy"]
    unpaired = np.hypot(a["high"] - a["low"], b["high"] - b["low"])
    assert paired["high"] - paired["low"] < 0.7 * unpaired


def test_seeds_that_disagree_widen_the_interval() -> None:
    alike = compare({"a": [made_up(0.8, 0), made_up(0.8, 0)], "b": [made_up(0.8, 1)]}, baseline="b")
    apart = compare({"a": [made_up(0.1, 0), made_up(2.0, 0)], "b": [made_up(0.8, 1)]}, baseline="b")
    pairs = [*alike["differences"], *apart["differences"]]
    widths = [pair["frame"]["accuracy"]["high"] - pair["frame"]["accuracy"]["low"] for pair in pairs]
    assert widths[1] > 1.5 * widths[0]


def test_all_are_compared_with_the_baseline_only() -> None:
    arms = {name: [made_up(1, seed)] for seed, name in enumerate("abc")}
    assert [(pair["arm"], pair["other"]) for pair in compare(arms, "b")["differences"]] == [("a", "b"), ("c", "b")]
    assert len(compare(arms)["differences"]) == 6
    with pytest.raises(UsageError, match=r"--baseline d is none of the methods; name one of a, b, c"):
        compare(arms, "d")
    with pytest.raises(UsageError, match="without an evaluation"):
        compare({"a": []})


@pytest.mark.parametrize("what", ["samples", "labels", "groups", "folds"])
def test_evaluations_of_other_samples_or_folds_are_refused(what: str) -> None:
    one = made_up(1, 0)
    names = [f"other/{name}" for name in one.samples.names]
    other = {
        "samples": replace(one, samples=replace(one.samples, names=names)),
        "labels": replace(one, samples=replace(one.samples, labels=1 - one.samples.labels)),
        "groups": replace(one, samples=replace(one.samples, groups=one.samples.groups // 2)),
        "folds": replace(one, fold=(one.fold + 1) % FOLDS),
    }[what]
    with pytest.raises(UsageError, match=rf"b \(evaluation 2\) was evaluated on other {what} than a; .*--seed"):
        compare({"a": [one], "b": [one, other]})


def test_a_comparison_is_written_and_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arms = {"<i>new": [made_up(2, 0), made_up(2, 1)], "[old]": [made_up(0.3, 2)], "none": [made_up(0, 3)]}
    found = compare(arms)
    write_comparison(tmp_path / "out", found)
    assert json.loads((tmp_path / "out/comparison.json").read_text()) == found
    with Image.open(tmp_path / "out/comparison.png") as picture:
        picture.load()
    page = (tmp_path / "out/page.html").read_text()
    assert "&lt;i&gt;new − [old]" in page
    assert "<i>" not in page
    assert page.count("data:image/png;base64,") == 1
    show_comparison(found)
    shown = capsys.readouterr().out
    best = found["arms"]["<i>new"]["video"]["auroc"]
    pair = next(pair for pair in found["differences"] if (pair["arm"], pair["other"]) == ("[old]", "<i>new"))
    difference = pair["video"]["auroc"]
    assert f"{best['mean']:.3f} ± {best['std_seeds']:.3f} ({best['low']:.3f} to {best['high']:.3f})" in shown
    assert "minus <i>new" in shown
    assert f"{difference['mean']:+.3f} ({difference['low']:+.3f} to {difference['high']:+.3f})" in shown
    assert "[old]" in shown
    assert "…" not in shown
    assert "\x1b" not in shown
    two = compare({name: arms[name] for name in ("<i>new", "[old]")}, "[old]")
    show_comparison(two)
    shown = capsys.readouterr().out
    better = two["differences"][0]["frame"]["auroc"]
    assert f"{better['mean']:+.3f} ({better['low']:+.3f} to {better['high']:+.3f})" in shown
    assert "<i>new − [old]" in shown
    assert max(map(len, shown.splitlines()[:-1])) <= 100
