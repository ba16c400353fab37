"""The feedback from bank to plan: some of the random negatives give way to the hardest ones of their windows.

The plan of step t + LOOKAHEAD is made when step t - 1 is done, from the bank as it then stands, however fast the loader
and its threads are. Plans under way are part of the checkpoint.
"""

import dataclasses
from collections.abc import Iterator

import torch

from usucl_fast.curriculum import rounded
from usucl_fast.feed import LOOKAHEAD, BatchPlan, Planner
from usucl_fast.mining import MemoryBank, hardest_in_window


class MinedPlans:
    """The plans of a run from one step on.

    bank: None in a method without one, whose plans are as they are drawn.
    max_age: rows written longer ago, in steps, are not hard negatives; None for no limit.
    """

    def __init__(self, planner: Planner, bank: MemoryBank | None, max_age: int | None) -> None:
        self._planner, self._bank, self._max_age = planner, bank, max_age
        self.start(0)

    def start(self, step: int, under_way: list[torch.Tensor] | None = None) -> None:
        """Goes to a step, counted over the whole run: its plan is the next.

        under_way: what `frame_ids_under_way` returned when this was the next step; None for those that are drawn.
        """
        self._step = step
        last = min(step + LOOKAHEAD, self._planner.steps - 1)
        self._plans = {step: self._drawn(step) for step in range(step, last + 1)}
        if under_way is not None:
            for plan_step, frame_ids in zip(self._plans, under_way, strict=True):
                self._plans[plan_step] = dataclasses.replace(self._plans[plan_step], frame_ids=frame_ids.numpy())

    def frame_ids_under_way(self) -> list[torch.Tensor]:
        """int64 `[B, V]` of the plans from the next step on; all else of them is drawn, whatever the bank holds."""
        return [torch.from_numpy(plan.frame_ids) for plan in self._plans.values()]

    @property
    def next(self) -> BatchPlan:
        """The plan of the next step."""
        return self._plans[self._step]

    def __iter__(self) -> Iterator[BatchPlan]:
        """All plans from the next step on, for a loader."""
        for step in range(self._step, self._planner.steps):
            yield self._plans[step]

    def advance(self) -> None:
        """Makes one more plan; the step is done, and the bank has been written."""
        del self._plans[self._step]
        self._step += 1
        last = self._step + LOOKAHEAD
        if last < self._planner.steps:
            self._plans[last] = self._harden(self._drawn(last))

    def _drawn(self, step: int) -> BatchPlan:
        return self._planner.plan(*divmod(step, self._planner.steps_per_epoch))

    def _harden(self, plan: BatchPlan) -> BatchPlan:
        """The plan with its first intra-video negatives replaced by the hardest, as many of them as the stage says and
        the bank has."""
        hard = rounded(plan.stage.intra_hard_share * (plan.frame_ids.shape[1] - 2))
        if not hard or self._bank is None:
            return plan
        anchors = torch.from_numpy(plan.frame_ids[:, 0]).to(self._bank.embeddings.device)
        found = hardest_in_window(self._bank, anchors, plan.stage.window, hard, self._max_age, self._step).cpu().numpy()
        frame_ids = plan.frame_ids.copy()
        chosen = frame_ids[:, 2 : 2 + hard]
        chosen[found >= 0] = found[found >= 0]
        return dataclasses.replace(plan, frame_ids=frame_ids)
