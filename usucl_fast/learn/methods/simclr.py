"""SimCLR: two views of a tuple are alike, and unlike all else of the batch.

Source: Chen et al., "A Simple Framework for Contrastive Learning of Visual Representations", ICML 2020.
"""

import torch
import torch.nn.functional as F
from lightly.loss.ntx_ent_loss import NTXentLoss
from lightly.models.modules.heads import SimCLRProjectionHead
from torch import nn

from usucl_fast.curriculum import Stage
from usucl_fast.feed import BatchPlan
from usucl_fast.frames import FrameTable
from usucl_fast.learn.method import Method, Outcome
from usucl_fast.learn.ranks import Ranks
from usucl_fast.learn.recipes import TrainConfig


class SimCLR(Method):
    """One encoder; both views share a forward pass, and so their batch-norm statistics."""

    def __init__(self, config: TrainConfig, table: FrameTable, device: torch.device, ranks: Ranks) -> None:
        super().__init__(config, table, device, ranks)
        self.loss = NTXentLoss(config.tau)

    def make_head(self, width: int) -> nn.Module:
        return SimCLRProjectionHead(width, width, self.config.dim)

    def pairs(self, frames: torch.Tensor, plan: BatchPlan) -> torch.Tensor:
        """The two pictures of each of this rank's tuples, `[2 b, 3, H, W]`, one view after the other."""
        return self.views_first(frames, [0, 1])

    def forward(self, frames: torch.Tensor, plan: BatchPlan, stage: Stage, step: int) -> Outcome:
        z = self.query(self.pairs(frames, plan)).unflatten(0, (2, -1)).transpose(0, 1)
        first, second = self.gather(z, plan).unbind(1)
        return Outcome(self.loss(first, second), F.normalize(first.detach(), dim=1))
