"""CycleContrast: MoCo on neighbouring frames, and the way back from the nearest frames of other videos.

Source: Wu and Wang, "Contrastive Learning of Image Representations with Cross-Video Cycle-Consistency", ICCV 2021.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from usucl_fast.curriculum import Curriculum
from usucl_fast.errors import UsageError
from usucl_fast.feed import REACH
from usucl_fast.learn.config import OTHERS
from usucl_fast.learn.method import BankMethod
from usucl_fast.learn.methods.moco import MoCo, keep_in_state

if TYPE_CHECKING:
    from torch import Tensor, nn

    from usucl_fast.feed import BatchPlan
    from usucl_fast.learn.network import Network, Outcome, Tuples
    from usucl_fast.mining import MemoryBank

CYCLE_WEIGHT = 0.1
"""Of the cycle loss beside the intra-video one, as published."""


@dataclass(frozen=True, kw_only=True)
class CycleContrast(BankMethod, MoCo):
    """A momentum pair with two heads, a queue of keys for each, and a bank of the cycle head's keys of all frames."""

    method: str = "cycle"

    def check(self) -> None:
        if not min(self.cross_topk):
            raise UsageError("--cross-topk is at least 1 with --method cycle: the cycle leads through them")

    def make_curriculum(self) -> Curriculum:
        return Curriculum("cosine", cross_topk=self.cross_topk)

    def make_head(self, width: int) -> "nn.Module":
        """MoCo's twice: the embeddings `[M, 2 D]` of the intra-video loss, then those of the cycle loss."""
        from usucl_fast.learn.encoder import SideBySide

        return SideBySide([super().make_head(width), super().make_head(width)])

    def make_parts(self) -> "dict[str, nn.Module]":
        from lightly.models.modules.memory_bank import MemoryBankModule

        parts = super().make_parts()
        parts["cycle_queue"] = MemoryBankModule((self.queue, self.dim))
        keep_in_state(parts["cycle_queue"])
        return parts

    def forward(self, network: "Network", frames: "Tensor", plan: "BatchPlan") -> "Outcome":
        """L_intra + .1 L_cycle. Writes the keys to the queues after reading them.

        L_intra is MoCo's. L_cycle is the same with the cycle head, and with the soft nearest neighbour of q,
        q̂ = sum over S of softmax(q . u / tau) u, in place of q; it is 0 where S is empty. S are the bank's rows of
        other videos that are most similar to q; published is a random part of the queue, the rest being the negatives.
        """
        import torch
        import torch.nn.functional as F

        from usucl_fast.learn.network import Outcome
        from usucl_fast.mining import soft_negative

        bank, tuples = network.bank, network.tuples(plan)
        assert bank is not None
        first, second = network.views_first(frames, [0, 1]).chunk(2)
        query, cycle_query = network.gather(network.query(first), plan).chunk(2, dim=1)
        key, cycle_key = network.encode_keys(second, plan).chunk(2, dim=1)
        cycle_query, cycle_key = F.normalize(cycle_query, dim=1), F.normalize(cycle_key, dim=1)

        members = self._members(bank, cycle_query.detach(), plan, tuples)
        found = members >= 0
        neighbour = F.normalize(soft_negative(cycle_query, bank.rows(members), found, self.tau), dim=1)
        _, negatives = network.parts["cycle_queue"](cycle_key, update=True)
        logits = torch.cat([(neighbour * cycle_key).sum(1, keepdim=True), neighbour @ negatives], dim=1) / self.tau
        cycle = F.cross_entropy(logits, torch.zeros_like(members[:, 0]), reduction="none") * found.any(dim=1)
        loss = network.parts["loss"](query, key) + CYCLE_WEIGHT * cycle.mean()
        rows = tuples.frame_ids[:, 1], cycle_key
        return Outcome(loss, F.normalize(query.detach(), dim=1), members, rows)

    def _members(self, bank: "MemoryBank", query: "Tensor", plan: "BatchPlan", tuples: "Tuples") -> "Tensor":
        """int64 `[B, K]`, the frames of S."""
        exclude = None if self.exclude == "none" else tuples.video
        return bank.cross(query, exclude, plan.stage.cross_topk).frame_ids

    def mine(self, network: "Network", plan: "BatchPlan", tuples: "Tuples") -> "tuple[Tensor, Tensor]":
        bank = network.bank
        assert bank is not None
        rows = bank.rows(tuples.frame_ids[:, 0])
        return tuples.frame_ids[:, 2:], self._members(bank, rows, plan, tuples)


def cyclecontrast() -> CycleContrast:
    """Neighbouring frames, and the way back from other videos' frames. Source: Wu and Wang, ICCV 2021."""
    return CycleContrast(**OTHERS, reach=REACH, tau=0.2, exclude="video")


METHOD, RECIPES = CycleContrast, (cyclecontrast,)
