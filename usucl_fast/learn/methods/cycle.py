"""CycleContrast: MoCo on neighbouring frames, and the way back from the nearest frames of other videos.

Source: Wu and Wang, "Contrastive Learning of Image Representations with Cross-Video Cycle-Consistency", ICCV 2021.
"""

import torch
import torch.nn.functional as F
from lightly.models.modules.memory_bank import MemoryBankModule
from torch import nn

from usucl_fast.curriculum import Stage
from usucl_fast.feed import BatchPlan
from usucl_fast.frames import FrameTable
from usucl_fast.learn.method import Outcome
from usucl_fast.learn.methods.moco import MoCo, keep_in_state
from usucl_fast.learn.ranks import Ranks
from usucl_fast.learn.recipes import TrainConfig
from usucl_fast.mining import MemoryBank, soft_negative

CYCLE_WEIGHT = 0.1
"""Of the cycle loss beside the intra-video one, as published."""


class CycleContrast(MoCo):
    """A momentum pair with two heads, a queue of keys for each, and a bank of the cycle head's keys of all frames."""

    bank: MemoryBank

    def __init__(self, config: TrainConfig, table: FrameTable, device: torch.device, ranks: Ranks) -> None:
        super().__init__(config, table, device, ranks)
        self.cycle_queue = MemoryBankModule((config.queue, config.dim))
        keep_in_state(self.cycle_queue)
        group = table.group if config.exclude == "group" else None
        self.bank = MemoryBank(table.first_row, config.dim, device=device, group=group)

    def make_head(self, width: int) -> nn.Module:
        """MoCo's twice: the embeddings `[M, 2 D]` of the intra-video loss, then those of the cycle loss."""
        return _Heads([super().make_head(width), super().make_head(width)])

    def get_extra_state(self) -> dict[str, torch.Tensor]:
        """The bank."""
        return self.bank.state_dict()

    def set_extra_state(self, state: dict[str, torch.Tensor]) -> None:
        self.bank.load_state_dict(state)

    def forward(self, frames: torch.Tensor, plan: BatchPlan, stage: Stage, step: int) -> Outcome:
        """L_intra + .1 L_cycle. Writes the keys to the queues and the bank after reading them.

        L_intra is MoCo's. L_cycle is the same with the cycle head, and with the soft nearest neighbour of q,
        q̂ = sum over S of softmax(q . u / tau) u, in place of q; it is 0 where S is empty. S are the bank's rows of
        other videos that are most similar to q; published is a random part of the queue, the rest being the negatives.
        """
        tau = self.config.tau
        first, second = self.views_first(frames, [0, 1]).chunk(2)
        query, cycle_query = self.gather(self.query(first), plan).chunk(2, dim=1)
        key, cycle_key = self.encode_keys(second, plan).chunk(2, dim=1)
        cycle_query, cycle_key = F.normalize(cycle_query, dim=1), F.normalize(cycle_key, dim=1)
        frame_ids = torch.from_numpy(plan.frame_ids).to(self.device)

        exclude = None if self.config.exclude == "none" else self.bank.video_of(frame_ids[:, 0])
        members = self.bank.cross(cycle_query.detach(), exclude, stage.hard).frame_ids
        found = members >= 0
        neighbour = F.normalize(soft_negative(cycle_query, self.bank.rows(members), found, tau), dim=1)
        _, negatives = self.cycle_queue(cycle_key, update=True)
        logits = torch.cat([(neighbour * cycle_key).sum(1, keepdim=True), neighbour @ negatives], dim=1) / tau
        cycle = F.cross_entropy(logits, torch.zeros_like(members[:, 0]), reduction="none") * found.any(dim=1)
        self.bank.write(frame_ids[:, 1], cycle_key, step)
        loss = self.loss(query, key) + CYCLE_WEIGHT * cycle.mean()
        return Outcome(loss, F.normalize(query.detach(), dim=1), members)


class _Heads(nn.ModuleList):
    """Features `[M, width]` -> the embeddings of all heads, side by side."""

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return torch.cat([head(features) for head in self], dim=1)
