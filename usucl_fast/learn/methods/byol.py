"""BYOL: a view predicts the key of the other one; there are no negatives.

Source: Grill et al., "Bootstrap Your Own Latent", NeurIPS 2020.
"""

import torch
import torch.nn.functional as F
from lightly.loss.negative_cosine_similarity import NegativeCosineSimilarity
from lightly.models.modules.heads import BYOLPredictionHead, BYOLProjectionHead
from torch import nn

from usucl_fast.curriculum import Stage
from usucl_fast.feed import BatchPlan
from usucl_fast.frames import FrameTable
from usucl_fast.learn.method import MomentumMethod, Outcome
from usucl_fast.learn.ranks import Ranks
from usucl_fast.learn.recipes import TrainConfig

HIDDEN = 4096


class BYOL(MomentumMethod):
    """A momentum pair, and a predictor on the query encoder. The query encoder sees both views in one pass."""

    def __init__(self, config: TrainConfig, table: FrameTable, device: torch.device, ranks: Ranks) -> None:
        super().__init__(config, table, device, ranks)
        self.loss = NegativeCosineSimilarity(dim=2)
        self.predict = BYOLPredictionHead(config.dim, HIDDEN, config.dim).train(config.batch_norm != "frozen")

    def make_head(self, width: int) -> nn.Module:
        return BYOLProjectionHead(width, HIDDEN, self.config.dim)

    def forward(self, frames: torch.Tensor, plan: BatchPlan, stage: Stage, step: int) -> Outcome:
        """The sum over both directions of |p - k|^2 = 2 - 2 cos(p, k), with p and k of unit length."""
        pictures = self.views_first(frames, [0, 1])
        z = self.query(pictures)
        prediction = self.gather(self.predict(z).unflatten(0, (2, -1)).transpose(0, 1), plan)
        keys = torch.stack([self.encode_keys(view, plan) for view in pictures.chunk(2)], dim=1)
        loss = 4 + 4 * self.loss(prediction, keys.flip(1))  # the mean over both directions, of -cos
        return Outcome(loss, F.normalize(self.gather(z[: len(frames)].detach(), plan), dim=1))
