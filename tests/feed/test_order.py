from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.helpers.feeding import planner_of, table_of
from usucl_fast.feed import BatchPlan
from usucl_fast.feed.order import by_shards, shuffled
from usucl_fast.shards import FrameTable

SHARDS, LANES, BATCH = 40, 8, 32


def shards(seed: int = 0) -> NDArray[np.int64]:
    """The shard of each of about a thousand tuples; in random order, as nothing depends on it."""
    generator = np.random.default_rng(seed)
    return generator.permutation(np.repeat(np.arange(SHARDS), generator.integers(15, 35, SHARDS)))


@pytest.mark.parametrize("lanes", [1, 3, 8, 40, 100])
def test_an_order_has_every_tuple_once_and_is_drawn_anew_each_epoch(lanes: int) -> None:
    shard = shards()
    first, again, next_epoch, other = (by_shards(shard, lanes, *key) for key in ((1, 0), (1, 0), (1, 1), (2, 0)))
    assert sorted(first.tolist()) == list(range(len(shard)))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, next_epoch)
    assert not np.array_equal(first, other)


def test_each_lane_reads_one_shard_after_the_other() -> None:
    order = shards()[by_shards(shards(), LANES, 1, 0)]
    for lane in range(LANES):
        read = order[order % LANES == lane]
        assert sorted(set(read.tolist())) == list(range(lane, SHARDS, LANES))
        assert np.count_nonzero(np.diff(read)) == len(set(read.tolist())) - 1


def test_lanes_are_read_evenly_and_change_shards_at_different_times() -> None:
    """In the middle of the epoch: at its ends the first lane's first shard is read up to twice as fast."""
    order = shards()[by_shards(shards(), LANES, 1, 0)]
    middle = order[len(order) // 4 : len(order) * 3 // 4]
    for start in range(0, len(middle) - BATCH, BATCH):
        counts = np.bincount(middle[start : start + BATCH] % LANES, minlength=LANES)
        assert abs(counts - BATCH / LANES).max() <= 2
    first = {shard: place for place, shard in reversed(list(enumerate(order.tolist())))}
    begins = np.sort([place for place in first.values() if place > LANES * 2])
    assert np.bincount(begins // BATCH).max() <= LANES / 2


def test_as_many_lanes_as_shards_are_all_of_them_at_once() -> None:
    order = shards()[by_shards(shards(), SHARDS, 1, 0)]
    assert len(set(order[: 2 * SHARDS].tolist())) > SHARDS * 0.9


def table_of_shards() -> FrameTable:
    table = table_of([20] * len(shards()))
    rows = table.rows.copy()
    rows["shard"] = np.sort(shards()).repeat(20)
    rows["video"] = np.arange(len(shards())).repeat(20)
    return replace(table, rows=rows)


def shards_read(plan: BatchPlan, table: FrameTable) -> set[int]:
    return set(table.rows["shard"][plan.frame_ids].ravel().tolist())


@pytest.mark.parametrize("world", [1, 2, 4])
@pytest.mark.parametrize("accumulate", [1, 2])
def test_ranks_read_few_shards_each_and_know_which(accumulate: int, world: int) -> None:
    table = table_of_shards()
    planner = planner_of(table, batch_size=BATCH, shuffle_shards=LANES, epochs=2)
    alone = planner_of(table, batch_size=BATCH, epochs=2)
    for rank in range(world):
        told = list(planner.shards(3, accumulate, rank, world))
        read: list[set[int]] = []
        for plan in planner.plans(3):
            own = BatchPlan.joined([part.own for part in plan.parts(accumulate, rank, world)])
            read.append(shards_read(own, table))
        assert [set(shards.tolist()) for shards in told] == read
        assert len(told) == planner.steps - 3
        epoch = set().union(*read[planner.steps_per_epoch - 3 :])
        assert len(epoch) <= SHARDS / world + 2 * SHARDS / LANES * (world > 1)  # and those of the lanes beside
    assert planner.steps == alone.steps
    videos = [sorted(np.concatenate([plan.video for plan in one.plans()]).tolist()) for one in (planner, alone)]
    assert videos[0] == videos[1]


def test_mixing_is_what_the_formula_says() -> None:
    """Of two tuples of a batch, the share that is of one shard: 1 / lanes, less what the tuple itself is."""
    shard = shards()
    for lanes in (4, 8, 16):
        same = total = 0
        for epoch in range(20):
            order = shard[by_shards(shard, lanes, 0, epoch)]
            for start in range(0, len(order) - BATCH, BATCH):
                counts = np.array(list(Counter(order[start : start + BATCH].tolist()).values()))
                same += int((counts * (counts - 1)).sum())
                total += BATCH * (BATCH - 1)
        expected = (BATCH / lanes - 1) / (BATCH - 1)
        assert 0.75 * expected < same / total < 1.25 * expected


def test_all_shards_shuffled_is_the_order_it_always_was() -> None:
    """Plans of runs begun before there was a choice stay what they are."""
    assert (
        shuffled(3, 5, 8).tolist()
        == np.random.Generator(np.random.Philox(key=[3, 5], counter=[0, 0, 0, 0])).permutation(8).tolist()
    )
