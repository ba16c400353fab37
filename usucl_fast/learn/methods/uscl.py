"""USCL: SimCLR on pairs that are mixed of three frames of a video.

Source: Chen et al., "USCL: Pretraining Deep Ultrasound Image Diagnosis Model through Video Contrastive Representation
Learning", MICCAI 2021. Its classification loss, for which some videos need labels, is left out.
"""

import torch

from usucl_fast.feed import BatchPlan
from usucl_fast.learn.methods.simclr import SimCLR
from usucl_fast.learn.recipes import TrainConfig


class USCL(SimCLR):
    """SimCLR of other pairs: x1 = ξ1 a + (1 - ξ1) m and x2 = ξ2 b + (1 - ξ2) m, with m of the middle third of the
    video, a of the first and b of the last, and ξ ~ Beta(.5, .5)."""

    @classmethod
    def tuples(cls, config: TrainConfig) -> str:
        return "thirds"

    def pairs(self, frames: torch.Tensor, plan: BatchPlan) -> torch.Tensor:
        middle, first, last = self.views_first(frames, [0, 1, 2]).chunk(3)
        uniform = torch.from_numpy(plan.share(self.ranks.rank, self.ranks.count).mix)
        # The inverse of the distribution function of Beta(.5, .5), which is 2 arcsin(sqrt(ξ)) / π.
        xi = (torch.pi / 2 * uniform).sin().square().to(middle)[..., None, None, None]
        return torch.cat([middle.lerp(first, xi[:, 0]), middle.lerp(last, xi[:, 1])])
