"""SimSiam: a view predicts the other one, which takes no gradient; there are no negatives, and no key encoder.

Source: Chen and He, "Exploring Simple Siamese Representation Learning", CVPR 2021.
"""

import torch
import torch.nn.functional as F
from lightly.loss.negative_cosine_similarity import NegativeCosineSimilarity
from lightly.models.modules.heads import SimSiamPredictionHead, SimSiamProjectionHead
from torch import nn

from usucl_fast.curriculum import Stage
from usucl_fast.feed import BatchPlan
from usucl_fast.frames import FrameTable
from usucl_fast.learn.method import Method, Outcome
from usucl_fast.learn.ranks import Ranks
from usucl_fast.learn.recipes import TrainConfig


class SimSiam(Method):
    """One encoder and a predictor; both views share a forward pass, and so their batch-norm statistics."""

    def __init__(self, config: TrainConfig, table: FrameTable, device: torch.device, ranks: Ranks) -> None:
        super().__init__(config, table, device, ranks)
        self.loss = NegativeCosineSimilarity(dim=2)
        predict = SimSiamPredictionHead(config.dim, max(1, config.dim // 4), config.dim)
        self.predict = predict.train(config.batch_norm != "frozen")

    def make_head(self, width: int) -> nn.Module:
        return SimSiamProjectionHead(width, self.config.dim, self.config.dim)

    def forward(self, frames: torch.Tensor, plan: BatchPlan, stage: Stage, step: int) -> Outcome:
        """The mean over both directions of -cos(p, z), with z of the other view and without gradient."""
        z = self.query(self.views_first(frames, [0, 1]))
        prediction = self.gather(self.predict(z).unflatten(0, (2, -1)).transpose(0, 1), plan)
        target = self.gather(z.detach().unflatten(0, (2, -1)).transpose(0, 1), plan)
        return Outcome(self.loss(prediction, target.flip(1)), F.normalize(target[:, 0], dim=1))
