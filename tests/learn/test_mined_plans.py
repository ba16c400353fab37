"""The feedback from bank to plan against a naive one, and what a checkpoint needs of it."""

import numpy as np
import pytest
import torch

from tests.helpers.feeding import planner_of, table_of
from usucl_fast.curriculum import Curriculum, window_bounds
from usucl_fast.feed import LOOKAHEAD, Planner
from usucl_fast.learn.mined_plans import MinedPlans
from usucl_fast.mining import MemoryBank
from usucl_fast.shards import FrameTable

LENGTHS = [40, 25, 60, 1, 12, 33, 9, 50]


def mining(table: FrameTable) -> Planner:
    return planner_of(
        table, epochs=8, curriculum=Curriculum("step", intra_negatives=(3, 5), intra_hard_share=(0.34, 0.8))
    )


def write(bank: MemoryBank, step: int) -> None:
    """What a training step does, made up: anchors, positives and others, a function of the step."""
    generator = torch.Generator().manual_seed(step)
    z = torch.nn.functional.normalize(torch.randn(30, 8, generator=generator), dim=1)
    bank.write(torch.randint(len(bank), (30,), generator=generator), z, step)


def naive(plans: Planner, bank: MemoryBank, step: int, now: int, max_age: int) -> tuple[list[list[int]], int]:
    """The frame ids of the plan of `step` made at the step `now`, by a loop, and how many were chosen by hardness."""
    table, epoch = plans.table, step // plans.steps_per_epoch
    stage, chosen = plans.stage(step), 0
    frame_ids: list[list[int]] = plans.plan(epoch, step % plans.steps_per_epoch).frame_ids.tolist()
    for views in frame_ids:
        anchor, negatives = views[0], len(views) - 2
        video = int(np.searchsorted(table.first_row, anchor, side="right")) - 1
        first, length = table.first_row[video], table.first_row[video + 1] - table.first_row[video]
        left, left_end, right, right_end = window_bounds(np.array([anchor - first]), np.array([length]), stage.window)[
            0
        ]
        rows = [int(first + frame) for frame in (*range(left, left_end), *range(right, right_end))]
        rows = [row for row in rows if bank.written_at[row] >= max(0, now - max_age)]
        rows.sort(key=lambda row: float(bank.embeddings[anchor] @ bank.embeddings[row]), reverse=True)
        if bank.written_at[anchor] < 0:
            rows = []
        for place, row in enumerate(rows[: int(stage.intra_hard_share * negatives + 0.5)]):
            views[2 + place] = row
            chosen += 1
    return frame_ids, chosen


def test_plans_against_a_naive_feedback() -> None:
    table = table_of(LENGTHS)
    plans, bank = mining(table), MemoryBank(table.first_row, 8, dtype=torch.float32)
    mined = MinedPlans(plans, bank, max_age=6)
    delivered = iter(mined)
    pure = list(plans.plans())
    expected, chosen = [plan.frame_ids.tolist() for plan in pure[: LOOKAHEAD + 1]], 0
    for step, plan in enumerate(pure):
        given = next(delivered)
        assert given.frame_ids.tolist() == expected[step]
        for field in ("valid", "boxes", "flips", "photometry"):
            assert np.array_equal(getattr(given, field), getattr(plan, field))
        write(bank, step)
        mined.advance()
        if step + 1 + LOOKAHEAD < len(pure):
            frame_ids, hard = naive(plans, bank, step + 1 + LOOKAHEAD, step + 1, max_age=6)
            expected.append(frame_ids)
            chosen += hard
    assert next(delivered, None) is None
    assert chosen > 30  # and where the bank had none, the draw stayed:
    assert chosen < sum(plan.valid[:, 2:].sum() for plan in pure)


@pytest.mark.parametrize("stop", [0, 5, 9, 14, 16])
def test_going_on_needs_the_plans_under_way(stop: int) -> None:
    table = table_of(LENGTHS)
    plans = mining(table)

    def go(mined: MinedPlans, bank: MemoryBank, first: int, last: int) -> list[list[list[int]]]:
        given, plans = iter(mined), []
        for step in range(first, last):
            plans.append(next(given).frame_ids.tolist())
            write(bank, step)
            mined.advance()
        return plans

    def fresh() -> tuple[MinedPlans, MemoryBank]:
        bank = MemoryBank(table.first_row, 8, dtype=torch.float32)
        return MinedPlans(plans, bank, max_age=None), bank

    whole = go(*fresh(), 0, plans.steps)
    stopped, bank = fresh()
    assert go(stopped, bank, 0, stop) == whole[:stop]
    for under_way, same in ((stopped.frame_ids_under_way(), True), (None, stop in (0, plans.steps))):
        resumed, its_bank = fresh()
        its_bank.load_state_dict(bank.state_dict())
        resumed.start(stop, under_way)
        assert (go(resumed, its_bank, stop, plans.steps) == whole[stop:]) == same
