import dataclasses
from collections import Counter

import numpy as np
import pytest

from tests.helpers.feeding import planner_of, table_of
from usucl_fast.curriculum import Curriculum, window_bounds
from usucl_fast.feed import AUGMENTATIONS, BatchPlan
from usucl_fast.feed.tuples import draw_tuple
from usucl_fast.shards import ShardStore


@pytest.mark.parametrize("batch_size", [1, 4, 7, 100])
def test_an_epoch_has_one_tuple_a_video(batch_size: int) -> None:
    table = table_of([30] * 7 + [1, 2, 9])
    plans = planner_of(table, batch_size=batch_size)
    epoch = [plans.plan(20, step) for step in range(plans.steps_per_epoch)]
    anchors = np.concatenate([plan.frame_ids[:, 0] for plan in epoch])
    sizes = [len(plan.frame_ids) for plan in epoch]
    assert max(sizes) <= batch_size
    assert max(sizes) - min(sizes) <= 1
    assert max(plan.frame_ids.size for plan in epoch) <= plans.most_frames
    assert sorted(np.searchsorted(table.first_row, anchors, side="right") - 1) == list(range(10))


def test_a_plan_depends_on_seed_epoch_and_step_alone(store: ShardStore) -> None:
    plans = planner_of(store.table)
    again = [planner_of(store.table).plan(e, s).digest() for e in (0, 20) for s in (1, 0)]
    assert again == [plans.plan(e, s).digest() for e in (0, 20) for s in (1, 0)]
    assert len({plans.plan(e, s).digest() for e in range(5) for s in range(3)}) == 15
    assert plans.plan(0, 0).digest() != planner_of(store.table, seed=4).plan(0, 0).digest()
    resumed = [plan.digest() for plan in planner_of(store.table).plans(start=7)]
    assert resumed == [plan.digest() for plan in plans.plans()][7:]


def test_tuples_do_not_depend_on_the_batch_they_are_in(store: ShardStore) -> None:
    augmentation = AUGMENTATIONS["ultrasound"]
    whole = planner_of(store.table, augmentation=augmentation).plan_tuples(20, 0, 8)
    parts = [
        planner_of(store.table, augmentation=augmentation, batch_size=2).plan_tuples(20, n, n + 2) for n in (0, 2, 4, 6)
    ]
    for field in ("frame_ids", "valid", "boxes", "flips", "photometry"):
        assert np.array_equal(getattr(whole, field), np.concatenate([getattr(part, field) for part in parts]))


def test_a_look_is_drawn_beside_all_else(store: ShardStore) -> None:
    """It has draws of its own: boxes and blur are those of the same augmentation without it."""
    look = AUGMENTATIONS["look"]
    plain = dataclasses.replace(look, log_gamma=(0, 0), ramp=(0, 0), texture=(0, 0), haze=(0, 0))
    with_it, without = (planner_of(store.table, augmentation=which).plan(20, 0) for which in (look, plain))
    assert np.array_equal(with_it.boxes, without.boxes)
    assert np.array_equal(with_it.photometry["blur"], without.photometry["blur"])
    assert len(np.unique(with_it.photometry["texture"])) == with_it.frame_ids.size
    assert with_it.digest() != without.digest()


def test_negatives_are_planned_when_they_count_or_are_candidates() -> None:
    table = table_of([100] * 4)
    assert planner_of(table).plan(0, 0).frame_ids.shape == (4, 2)
    assert planner_of(table, tuples="full").plan(0, 0).frame_ids.shape == (4, 5)
    assert planner_of(table).plan(10, 0).frame_ids.shape == (4, 5)
    both = [planner_of(table, tuples=which).plan(0, 0) for which in ("mined", "full")]
    assert np.array_equal(both[0].frame_ids, both[1].frame_ids[:, :2])


def test_several_tuples_of_every_video_by_hand() -> None:
    """Two videos and three tuples of each are six places in an epoch's order; place i is of video i % 2."""
    planner = planner_of(table_of([30, 40]), tuples_per_video=3, batch_size=4, epochs=2, tuples="pair")
    assert (planner.steps_per_epoch, planner.steps, planner.most_frames) == (2, 4, 3 * 2)
    for epoch in range(2):
        philox = np.random.Philox(key=[3, epoch], counter=[0, 0, 0, 0])
        order = np.random.Generator(philox).permutation(6)
        plans = [planner.plan(epoch, step) for step in range(2)]
        assert np.concatenate([plan.video for plan in plans]).tolist() == [number % 2 for number in order.tolist()]
        anchors = np.concatenate([plan.frame_ids[:, 0] for plan in plans])
        assert len(set(anchors.tolist())) > 2  # drawn for each tuple, not for each video


def test_a_run_of_so_many_steps_goes_through_the_curriculum_step_by_step() -> None:
    """Ten steps of four an epoch: two and a half epochs, the window halved where the cosine is at a half, at 7.5."""
    table = table_of([100] * 8)
    planner = planner_of(table, batch_size=2, length=10, epochs=0)
    assert planner.steps == 10
    plans = list(planner.plans())
    assert [(plan.step, plan.epoch) for plan in plans] == [(step, step // 4) for step in range(10)]
    assert [plan.stage for plan in plans] == [Curriculum("cosine")(step / 10) for step in range(10)]
    assert [plan.stage.intra for plan in plans] == [False, False, *[True] * 8]  # from a sixth on
    assert [plan.digest() for plan in planner.plans(start=7)] == [plan.digest() for plan in plans[7:]]
    in_epochs = planner_of(table, batch_size=2, epochs=60)
    same = [plan.frame_ids[:, :2].tolist() for plan in plans]
    assert same == [in_epochs.plan(*divmod(step, 4)).frame_ids[:, :2].tolist() for step in range(10)]


def test_small_crops_are_of_the_anchors_frame_from_anywhere_in_it() -> None:
    """Of frames of 60 by 80 pixels the largest square has 60 x 60, a crop of a ninth to a quarter of it 20 to 30."""
    look = AUGMENTATIONS["look"]
    small = {"small_crops": 5, "small_area": (1 / 9, 1 / 4)}
    planner = planner_of(table_of([30, 1, 12, 7]), tuples="pair", augmentation=look, **small)
    assert planner.most_frames == 4 * 7
    plans = [planner.plan(epoch, 0) for epoch in range(100)]
    for plan in plans:
        assert plan.frame_ids.shape == plan.valid.shape == (4, 7)
        assert plan.valid.all()
        assert (plan.frame_ids[:, 2:] == plan.frame_ids[:, :1]).all()
        assert (abs(plan.frame_ids[:, 0] - plan.frame_ids[:, 1]) <= 3).all()
    boxes = np.concatenate([plan.boxes for plan in plans])
    top, left, height, width = np.moveaxis(boxes[:, 2:], -1, 0)
    stretch = look.ratio[1] ** 0.5
    assert boxes[:, :2, 2:].min() >= 80 * 0.6**0.5 / stretch - 1  # of the large ones, as without
    for side in (height, width):
        assert 20 / stretch - 1 <= side.min() < 21
        assert 29 < side.max() <= 30 * stretch + 1
    assert top.min() == left.min() == 0  # and never from beyond it
    assert ((top + height).max(), (left + width).max()) == (60, 80)
    assert len(np.unique(boxes.reshape(-1, 4), axis=0)) > 0.9 * boxes[..., 0].size
    assert 0.4 < np.concatenate([plan.flips[:, 2:] for plan in plans]).mean() < 0.6


@pytest.mark.parametrize("n", [1, 2, 5, 7, 8, 9, 12, 50, 333])
@pytest.mark.parametrize("window", [(0.2, 0.4), (0.03, 0.06), (0.0, 0.0)])
def test_tuples_against_the_published_rules(n: int, window: tuple[float, float]) -> None:
    """The rules written out with sets, for 2,000 draws each."""
    draws = np.random.default_rng(0).random((2000, 5))
    frames, valid = draw_tuple(np.full(2000, n), window, draws)
    d0, d1 = window
    allowed_anchors = set(range(int(np.ceil(0.2 * n)), int(np.ceil(0.5 * n)))) or {min(int(np.ceil(0.2 * n)), n - 1)}
    assert set(frames[:, 0]) <= allowed_anchors
    if n >= 8:
        assert set(frames[:, 0]) == allowed_anchors
    for a, p, *negatives in frames.tolist():
        assert p in ({x for x in range(a - 3, a + 4) if 0 <= x < n} - {a} or {a})
        left = range(max(0, min(a - int(d1 * n), a - 6)), max(0, min(a - int(d0 * n), a - 4)))
        right = range(min(n, max(a + int(d0 * n), a + 4)), min(n, max(a + int(np.ceil(d1 * n)), a + 6)))
        assert set(negatives) <= ({*left, *right} or {a})
        assert not (set(negatives) & {a}) or not {*left, *right}
    found = valid[:, 2:]
    assert valid[:, :2].all()
    assert (found == (frames[:, 2:] != frames[:, :1])).all()
    assert found.all() or n < 12


def test_the_curriculum_says_how_many_negatives_are_planned() -> None:
    table = table_of([100] * 4)
    moving = planner_of(table, curriculum=Curriculum("step", intra_negatives=(2, 6)))
    assert [moving.plan(epoch, 0).frame_ids.shape[1] for epoch in (0, 10, 30, 50)] == [2, 4, 6, 8]
    assert moving.most_frames == 4 * 8
    assert planner_of(table, curriculum=Curriculum("step", intra_negatives=(6, 2))).most_frames == 4 * 8


def test_anchors_lie_anywhere_where_negatives_are_not_loaded() -> None:
    table = table_of([30, 1, 12, 7])
    bank = planner_of(table, tuples="pair", batch_size=4)
    plans = [bank.plan(epoch, 0) for epoch in range(400)]
    assert {plan.frame_ids.shape for plan in plans} == {(4, 2)}
    assert bank.most_frames == 4 * 2
    assert {int(frame) for plan in plans for frame in plan.frame_ids[:, 0]} == set(range(50))
    for plan in plans:
        off = np.abs(plan.frame_ids[:, 0] - plan.frame_ids[:, 1])
        assert (off <= 3).all()
        assert ((off == 0) == (plan.frame_ids[:, 0] == 30)).all()  # the video of one frame


def test_draws_are_uniform() -> None:
    draws = np.random.default_rng(1).random((60_000, 5))
    frames, _ = draw_tuple(np.full(60_000, 20), (0.2, 0.4), draws)
    positives = Counter((frames[:, 1] - frames[:, 0]).tolist())
    assert set(positives) == {-3, -2, -1, 1, 2, 3}
    assert max(positives.values()) / min(positives.values()) < 1.1
    anchors = Counter(frames[:, 0].tolist())
    assert set(anchors) == {4, 5, 6, 7, 8, 9}
    assert max(anchors.values()) / min(anchors.values()) < 1.1
    negatives = Counter(frames[frames[:, 0] == 9][:, 2:].ravel().tolist())
    assert set(negatives) == {1, 2, 3, 4, 13, 14, 15, 16}
    assert max(negatives.values()) / min(negatives.values()) < 1.2


def test_a_plan_says_where_it_belongs(store: ShardStore) -> None:
    planner = planner_of(store.table, batch_size=3)
    assert [plan.step for plan in planner.plans()] == list(range(planner.steps))
    for plan in planner.plans():
        assert plan.epoch == plan.step // planner.steps_per_epoch
        assert plan.stage == planner.stage(plan.step)
        assert np.array_equal(plan.video, store.table.rows["video"][plan.frame_ids[:, 0]])
        assert np.array_equal(plan.group, store.table.group[plan.video])


@pytest.mark.parametrize(("accumulate", "world"), [(1, 1), (2, 1), (1, 3), (2, 2), (3, 2)])
def test_parts_of_all_ranks_are_the_plan(store: ShardStore, accumulate: int, world: int) -> None:
    plan = planner_of(store.table, batch_size=8).plan(3, 0)
    by_rank = [plan.parts(accumulate, rank, world) for rank in range(world)]
    assert BatchPlan.joined([part.whole for part in by_rank[0]]).digest() == plan.digest()
    for number, whole in enumerate(part.whole for part in by_rank[0]):
        owns = [parts[number].own for parts in by_rank]
        assert BatchPlan.joined(owns).digest() == whole.digest()
        assert (whole.step, whole.epoch, whole.stage) == (plan.step, plan.epoch, plan.stage)
        sizes = [len(own.frame_ids) for own in owns]
        assert max(sizes) - min(sizes) <= 1


@pytest.mark.parametrize("tuples", ["pair", "mined", "full", "thirds"])
def test_a_plan_around_given_anchors(store: ShardStore, tuples: str) -> None:
    """Anchors as given, all else as a step draws it: of the anchor's video, within the window, the same each time."""
    table = store.table
    planner = planner_of(table, epochs=8, curriculum=Curriculum("step", intra_negatives=(3, 3)), tuples=tuples)
    videos = np.arange(len(table.videos))
    own_numbers = table.videos.frames.astype(np.int64) // 2
    anchors = table.first_row[:-1] + own_numbers
    for step in (0, planner.steps // 2, planner.steps - 1):
        plan, again = planner.plan_around(anchors, step), planner.plan_around(anchors, step)
        assert plan.digest() == again.digest()
        assert plan.frame_ids[:, 0].tolist() == anchors.tolist()
        assert plan.stage == planner.stage(step)
        assert (table.rows["video"][plan.frame_ids] == videos[:, None]).all()
        assert (plan.video == videos).all()
        if tuples == "thirds":
            continue
        assert (abs(plan.frame_ids[:, 1] - anchors) <= planner.reach).all()
        bounds = window_bounds(own_numbers, table.videos.frames.astype(np.int64), plan.stage.window)
        for video, (left, left_end, right, right_end) in enumerate(bounds.tolist()):
            own = set(plan.frame_ids[video, 2:][plan.valid[video, 2:]] - table.first_row[video])
            assert own <= {*range(left, left_end), *range(right, right_end)}
