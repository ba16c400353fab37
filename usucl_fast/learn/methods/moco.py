"""MoCo v2: a view is told from the keys of earlier batches by the key of the other view.

Source: He et al., "Momentum Contrast", CVPR 2020; Chen et al., "Improved Baselines with Momentum Contrastive Learning",
arXiv 2003.04297.
"""

import torch
import torch.nn.functional as F
from lightly.loss.ntx_ent_loss import NTXentLoss
from lightly.models.modules.heads import MoCoProjectionHead
from lightly.models.modules.memory_bank import MemoryBankModule
from torch import nn

from usucl_fast.curriculum import Stage
from usucl_fast.feed import BatchPlan
from usucl_fast.frames import FrameTable
from usucl_fast.learn.method import MomentumMethod, Outcome
from usucl_fast.learn.ranks import Ranks
from usucl_fast.learn.recipes import TrainConfig


class MoCo(MomentumMethod):
    """A momentum pair and a queue of keys, which begins with random ones."""

    def __init__(self, config: TrainConfig, table: FrameTable, device: torch.device, ranks: Ranks) -> None:
        super().__init__(config, table, device, ranks)
        self.loss = NTXentLoss(config.tau, (config.queue, config.dim))
        keep_in_state(self.loss.memory_bank)

    def make_head(self, width: int) -> nn.Module:
        return MoCoProjectionHead(width, width, self.config.dim, batch_norm=self.config.head_norm)

    def forward(self, frames: torch.Tensor, plan: BatchPlan, stage: Stage, step: int) -> Outcome:
        """Writes the keys to the queue after reading it."""
        first, second = self.views_first(frames, [0, 1]).chunk(2)
        query = self.gather(self.query(first), plan)
        key = self.encode_keys(second, plan)
        return Outcome(self.loss(query, key), F.normalize(query.detach(), dim=1))


def keep_in_state(queue: MemoryBankModule) -> None:
    """Makes a queue part of `state_dict`, which lightly leaves it out of."""
    for name, buffer in list(queue.named_buffers()):
        queue.register_buffer(name, buffer)
