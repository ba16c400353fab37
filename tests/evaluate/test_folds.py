from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from usucl_fast.errors import UsageError
from usucl_fast.evaluate.folds import make_folds
from usucl_fast.evaluate.samples import Samples


def made_up(labels_of_groups: list[int], videos: int = 2, frames: int = 3) -> Samples:
    """Groups of that label, each with `videos` of `frames`."""
    video = np.repeat(np.arange(len(labels_of_groups) * videos), frames)
    labels = np.array(labels_of_groups)[video // videos]
    classes = [f"class{label}" for label in range(max(labels_of_groups) + 1)]
    return Samples(labels, video + 100, video // videos + 10, classes, [f"{v}/0" for v in video])


def of_groups(labels: list[list[int]]) -> Samples:
    """Groups of samples of those labels."""
    group = np.repeat(np.arange(len(labels)), [len(group) for group in labels])
    return Samples(np.concatenate(labels), group, group, ["class0", "class1", "class2"], [""] * len(group))


@given(
    seed=st.integers(0, 2**32 - 1),
    folds=st.integers(2, 4),
    sizes=st.lists(st.integers(1, 5), min_size=12, max_size=24),
    by=st.sampled_from(["group", "video"]),
)
@settings(max_examples=25, deadline=None)
def test_no_unit_is_on_both_sides_and_every_fold_has_every_class(
    seed: int, folds: int, sizes: list[int], by: str
) -> None:
    video = np.repeat(np.arange(len(sizes)), sizes)
    group = video if by == "group" else video // 6
    samples = Samples(video % 3, video, group, ["a", "b", "c"], [""] * len(video))
    splits = make_folds(samples, by, folds, 2, seed)
    assert [(split.repeat, split.fold) for split in splits] == [(r, f) for r in range(2) for f in range(folds)]
    units = samples.groups if by == "group" else samples.videos
    for split in splits:
        assert not set(units[split.train]) & set(units[split.test])
        assert sorted([*split.train, *split.test]) == list(range(len(samples)))
        assert set(samples.labels[split.train]) == set(samples.labels[split.test]) == {0, 1, 2}
    for repeat in range(2):
        tested = np.concatenate([split.test for split in splits if split.repeat == repeat])
        assert sorted(tested) == list(range(len(samples)))


def test_by_frame_every_fold_has_every_class_too() -> None:
    samples = made_up([0] * 4 + [1])
    for split in make_folds(samples, "frame", 3, 2, 0, allow_leakage=True):
        assert set(samples.labels[split.train]) == set(samples.labels[split.test]) == {0, 1}


def test_by_video_may_cut_a_group() -> None:
    samples = made_up([0, 1] * 6)
    splits = make_folds(samples, "video", 3, 1, 0)
    assert any(set(samples.groups[split.train]) & set(samples.groups[split.test]) for split in splits)


def test_a_split_is_drawn_again_until_it_will_do(monkeypatch: pytest.MonkeyPatch) -> None:
    """Groups of several classes: some random states leave a fold without a class."""
    samples = of_groups([[0, 2], [1, 1], [1, 2], [0, 1]])
    splits = make_folds(samples, "group", 2, 20, 0)
    assert all(len(set(samples.labels[split.test])) == 3 for split in splits)
    monkeypatch.setattr("usucl_fast.evaluate.folds.ATTEMPTS", 1)
    splits = make_folds(samples, "group", 2, 20, 0)  # those that one draw does not find are searched for
    assert len(splits) == 40
    assert all(len(set(samples.labels[split.test])) == 3 for split in splits)


@pytest.mark.parametrize("by", ["group", "video", "frame"])
def test_splits_depend_on_the_seed_and_the_repeat_alone(by: str) -> None:
    samples = made_up([0, 1, 2] * 6)

    def tests(repeats: int, seed: int) -> list[list[int]]:
        return [split.test.tolist() for split in make_folds(samples, by, 3, repeats, seed, allow_leakage=True)]

    assert tests(2, 0) == tests(2, 0)
    assert tests(3, 0)[:6] == tests(2, 0)
    assert tests(1, 0) != tests(1, 1)
    assert tests(2, 0)[:3] != tests(2, 0)[3:]
    assert tests(2, 0)[3:] != tests(1, 1)  # as it would be, were the repeat added to the seed


@pytest.mark.parametrize(
    ("labels", "by", "folds", "message"),
    [
        ([0, 0, 0], "group", 2, "all labelled videos are of one class"),
        ([0, 0, 1], "group", 2, "class class1 has 1 group: it cannot be both learned and tested; add groups of it"),
        ([0, 0, 2, 2], "group", 2, "class class1 has no groups"),
        ([0, 0, 1, 1], "group", 5, "--folds 5 needs as many groups, and there are 4; lower it"),
        ([0] * 9 + [1] * 3, "group", 5, "--folds 5: class class1 has 3 groups, so not every fold can test it; lower"),
        ([0] * 9 + [1] * 2, "video", 5, "--folds 5: class class1 has 4 videos"),
        ([0, 1] * 9, "frame", 3, "--by frame puts neighbouring frames of a video on both sides.* use --by group"),
    ],
)
def test_what_cannot_be_split_is_refused(labels: list[int], by: str, folds: int, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        make_folds(made_up(labels), by, folds, 1, 0)


def test_a_split_that_is_not_found_is_refused() -> None:
    """Every class is in two of three groups, another two each: one of two parts always lacks one."""
    message = (
        "--folds 2: there is no split in which every fold tests every class; class class0 has 2 groups; add groups"
    )
    with pytest.raises(UsageError, match=message):
        make_folds(of_groups([[0, 1], [1, 2], [2, 0]]), "group", 2, 1, 0)


def test_folds_that_exist_are_found_however_rare() -> None:
    """Compared with all ways to deal the groups, where patients have videos of several classes."""
    found = refused = 0
    for seed in range(60):
        rng = np.random.default_rng(seed)
        groups = np.sort(rng.integers(0, 6, 14))
        classes = int(rng.integers(2, 4))
        labels = np.where(rng.random(14) < 0.7, groups % classes, rng.integers(0, classes, 14))
        samples = Samples(labels, np.arange(14), groups, ["a", "b", "c"][:classes], [""] * 14)
        names = np.unique(groups)
        ways = (np.array(sides)[np.searchsorted(names, groups)] for sides in product((0, 1), repeat=len(names)))
        exist = any(all(len(set(labels[way == side])) == classes for side in (0, 1)) for way in ways)
        try:
            splits = make_folds(samples, "group", 2, 1, seed)
        except UsageError:
            refused += 1
            assert not exist
        else:
            found += 1
            for split in splits:
                assert not set(groups[split.train]) & set(groups[split.test])
                assert all(len(set(labels[side])) == classes for side in (split.train, split.test))
    assert found > 10
    assert refused > 3


def test_folds_that_hide_from_chance() -> None:
    groups = np.array([0, 0, 0, 1, 1, 1, 1, 1, 1, 2, 3, 4, 4, 4, 4])
    labels = np.array([0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1])
    samples = Samples(labels, np.arange(15), groups, ["a", "b"], [""] * 15)
    with pytest.raises(UsageError, match="--folds 3: class b has 2 groups"):
        make_folds(samples, "group", 3, 1, 0)
    first, second = make_folds(samples, "group", 2, 1, 0)
    assert sorted((len(set(groups[first.test])), len(set(groups[second.test])))) in ([1, 4], [2, 3])
