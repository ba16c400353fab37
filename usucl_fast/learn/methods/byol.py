"""BYOL: a view predicts the key of the other one; there are no negatives.

Source: Grill et al., "Bootstrap Your Own Latent", NeurIPS 2020.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from usucl_fast.learn.config import OTHERS
from usucl_fast.learn.method import MomentumMethod, PairMethod

if TYPE_CHECKING:
    from torch import Tensor, nn

    from usucl_fast.feed import BatchPlan
    from usucl_fast.learn.network import Network, Outcome

HIDDEN = 4096


@dataclass(frozen=True, kw_only=True)
class BYOL(MomentumMethod, PairMethod):
    """A momentum pair, and a predictor on the query encoder. The query encoder sees both views in one pass."""

    needs_lightly: ClassVar[bool] = True

    method: str = "byol"

    def make_head(self, width: int) -> "nn.Module":
        from lightly.models.modules.heads import BYOLProjectionHead

        return BYOLProjectionHead(width, HIDDEN, self.dim)

    def make_parts(self) -> "dict[str, nn.Module]":
        from lightly.loss.negative_cosine_similarity import NegativeCosineSimilarity
        from lightly.models.modules.heads import BYOLPredictionHead

        predict = BYOLPredictionHead(self.dim, HIDDEN, self.dim)
        return {"loss": NegativeCosineSimilarity(dim=2), "predict": predict.train(self.batch_norm != "frozen")}

    def forward(self, network: "Network", frames: "Tensor", plan: "BatchPlan") -> "Outcome":
        """The sum over both directions of |p - k|^2 = 2 - 2 cos(p, k), with p and k of unit length."""
        import torch
        import torch.nn.functional as F

        from usucl_fast.learn.network import Outcome

        pictures = network.views_first(frames, [0, 1])
        z = network.query(pictures)
        prediction = network.gather(network.parts["predict"](z).unflatten(0, (2, -1)).transpose(0, 1), plan)
        keys = torch.stack([network.encode_keys(view, plan) for view in pictures.chunk(2)], dim=1)
        loss = 4 + 4 * network.parts["loss"](prediction, keys.flip(1))  # the mean over both directions, of -cos
        return Outcome(loss, F.normalize(network.gather(z[: len(frames)].detach(), plan), dim=1))


def byol() -> BYOL:
    """Predicts the key encoder's view; no negatives. Source: Grill et al., NeurIPS 2020."""
    return BYOL(**OTHERS, dim=256, key_momentum=(0.99, 1.0))


METHOD, RECIPES = BYOL, (byol,)
