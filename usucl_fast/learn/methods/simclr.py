"""SimCLR: two views of a tuple are alike, and unlike all else of the batch.

Source: Chen et al., "A Simple Framework for Contrastive Learning of Visual Representations", ICML 2020.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from usucl_fast.learn.config import OTHERS
from usucl_fast.learn.method import PairMethod, TemperatureMethod

if TYPE_CHECKING:
    from torch import Tensor, nn

    from usucl_fast.feed import BatchPlan
    from usucl_fast.learn.network import Network, Outcome


@dataclass(frozen=True, kw_only=True)
class NTXentMethod(TemperatureMethod):
    """SimCLR's head and loss on two pictures a tuple. Both share a forward pass, and so their batch-norm statistics."""

    needs_lightly: ClassVar[bool] = True

    def make_head(self, width: int) -> "nn.Module":
        from lightly.models.modules.heads import SimCLRProjectionHead

        return SimCLRProjectionHead(width, width, self.dim)

    def make_parts(self) -> "dict[str, nn.Module]":
        from lightly.loss.ntx_ent_loss import NTXentLoss

        return {"loss": NTXentLoss(self.tau)}

    def pairs(self, network: "Network", frames: "Tensor", plan: "BatchPlan") -> "Tensor":
        """The two pictures of each of this rank's tuples, `[2 b, 3, H, W]`, one view after the other."""
        return network.views_first(frames, [0, 1])

    def forward(self, network: "Network", frames: "Tensor", plan: "BatchPlan") -> "Outcome":
        import torch.nn.functional as F

        from usucl_fast.learn.network import Outcome

        z = network.query(self.pairs(network, frames, plan)).unflatten(0, (2, -1)).transpose(0, 1)
        first, second = network.gather(z, plan).unbind(1)
        return Outcome(network.parts["loss"](first, second), F.normalize(first.detach(), dim=1))


@dataclass(frozen=True, kw_only=True)
class SimCLR(PairMethod, NTXentMethod):
    """The two pictures are two views of a frame, or of two near ones."""

    method: str = "simclr"


def simclr() -> SimCLR:
    """Two views of one frame; all else of the batch is negative. Source: Chen et al., ICML 2020."""
    return SimCLR(**OTHERS)


METHOD, RECIPES = SimCLR, (simclr,)
