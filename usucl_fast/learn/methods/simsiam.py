"""SimSiam: a view predicts the other one, which takes no gradient; there are no negatives, and no key encoder.

Source: Chen and He, "Exploring Simple Siamese Representation Learning", CVPR 2021.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from usucl_fast.learn.config import OTHERS
from usucl_fast.learn.method import PairMethod

if TYPE_CHECKING:
    from torch import Tensor, nn

    from usucl_fast.feed import BatchPlan
    from usucl_fast.learn.network import Network, Outcome


@dataclass(frozen=True, kw_only=True)
class SimSiam(PairMethod):
    """One encoder and a predictor; both views share a forward pass, and so their batch-norm statistics."""

    needs_lightly: ClassVar[bool] = True

    method: str = "simsiam"

    def make_head(self, width: int) -> "nn.Module":
        from lightly.models.modules.heads import SimSiamProjectionHead

        return SimSiamProjectionHead(width, self.dim, self.dim)

    def make_parts(self) -> "dict[str, nn.Module]":
        from lightly.loss.negative_cosine_similarity import NegativeCosineSimilarity
        from lightly.models.modules.heads import SimSiamPredictionHead

        predict = SimSiamPredictionHead(self.dim, max(1, self.dim // 4), self.dim)
        return {"loss": NegativeCosineSimilarity(dim=2), "predict": predict.train(self.batch_norm != "frozen")}

    def forward(self, network: "Network", frames: "Tensor", plan: "BatchPlan") -> "Outcome":
        """The mean over both directions of -cos(p, z), with z of the other view and without gradient."""
        import torch.nn.functional as F

        from usucl_fast.learn.network import Outcome

        z = network.query(network.views_first(frames, [0, 1]))
        prediction = network.gather(network.parts["predict"](z).unflatten(0, (2, -1)).transpose(0, 1), plan)
        target = network.gather(z.detach().unflatten(0, (2, -1)).transpose(0, 1), plan)
        return Outcome(network.parts["loss"](prediction, target.flip(1)), F.normalize(target[:, 0], dim=1))


def simsiam() -> SimSiam:
    """Predicts the other view, without gradient; no negatives, no key encoder. Source: Chen and He, CVPR 2021."""
    return SimSiam(**OTHERS, dim=2048)


METHOD, RECIPES = SimSiam, (simsiam,)
