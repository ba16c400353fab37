"""USCL: SimCLR on pairs that are mixed of three frames of a video.

Source: Chen et al., "USCL: Pretraining Deep Ultrasound Image Diagnosis Model through Video Contrastive Representation
Learning", MICCAI 2021. Its classification loss, for which some videos need labels, is left out.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from usucl_fast.learn.config import OTHERS
from usucl_fast.learn.methods.simclr import NTXentMethod

if TYPE_CHECKING:
    from torch import Tensor

    from usucl_fast.feed import BatchPlan
    from usucl_fast.learn.network import Network


@dataclass(frozen=True, kw_only=True)
class USCL(NTXentMethod):
    """SimCLR of other pairs: x1 = ξ1 a + (1 - ξ1) m and x2 = ξ2 b + (1 - ξ2) m, with m of the middle third of the
    video, a of the first and b of the last, and ξ ~ Beta(.5, .5)."""

    method: str = "uscl"

    def tuples(self) -> str:
        return "thirds"

    def pairs(self, network: "Network", frames: "Tensor", plan: "BatchPlan") -> "Tensor":
        import torch

        middle, first, last = network.views_first(frames, [0, 1, 2]).chunk(3)
        (part,) = plan.parts(1, network.ranks.rank, network.ranks.count)
        uniform = torch.from_numpy(part.own.mix)
        # The inverse of the distribution function of Beta(.5, .5), which is 2 arcsin(sqrt(ξ)) / π.
        xi = (torch.pi / 2 * uniform).sin().square().to(middle, non_blocking=True)[..., None, None, None]
        return torch.cat([middle.lerp(first, xi[:, 0]), middle.lerp(last, xi[:, 1])])


def uscl() -> USCL:
    """SimCLR on pairs mixed of three frames. Source: Chen et al., MICCAI 2021; without its labels."""
    return USCL(**OTHERS, tau=0.5)


METHOD, RECIPES = USCL, (uscl,)
