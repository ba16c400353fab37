"""DINO: a network predicts, from small crops too, to which prototypes its own slow copy assigns two large ones.

Source: Caron et al., "Emerging Properties in Self-Supervised Vision Transformers", ICCV 2021. The last layer is not
held still in the first epoch: the warm-up of the learning rate does as much. Weight decay stays what it is.
"""

import dataclasses
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from usucl_fast.errors import UsageError
from usucl_fast.feed import Planner
from usucl_fast.learn.config import OTHERS, setting
from usucl_fast.learn.method import HeadNormMethod, MomentumMethod, PairMethod, TemperatureMethod
from usucl_fast.shards import FrameTable

if TYPE_CHECKING:
    from torch import Tensor, nn

    from usucl_fast.feed import BatchPlan
    from usucl_fast.learn.network import Network, Outcome

HIDDEN, BOTTLENECK = 2048, 256
SMALL = 3 / 7
"""Side of the small crops as a share of `--size`: 96 of 224 pixels, as published."""


@dataclass(frozen=True, kw_only=True)
class DINO(MomentumMethod, HeadNormMethod, TemperatureMethod, PairMethod):
    """A momentum pair. The query encoder sees two large views and some small crops, the key encoder the large ones.

    The embedding is what the head says of each of `--dim` prototypes. Loaders deliver the small crops enlarged to
    `--size`, as all pictures of a batch; they are made small, antialiased, on the device.
    """

    needs_lightly: ClassVar[bool] = True

    method: str = "dino"
    key_tau: float = setting(0.04, "Temperature of the keys' assignments; that of the queries' is --tau.", low=1e-3)
    small_crops: int = setting(6, "Small crops of the anchor's frame, beside the two large views.", low=0)
    small_area: tuple[float, float] = setting(
        (0.05, 0.4),
        "Area of the small crops, as shares of the largest centred square.",
        low=1e-3,
        high=1,
        interval=True,
    )

    def check(self) -> None:
        if self.small_area[0] > self.small_area[1]:
            raise UsageError("--small-area {:g}:{:g} is empty; its start is not above its end".format(*self.small_area))

    def make_planner(self, table: FrameTable) -> Planner:
        planner = super().make_planner(table)
        return dataclasses.replace(planner, small_crops=self.small_crops, small_area=self.small_area)

    def make_head(self, width: int) -> "nn.Module":
        from lightly.models.modules.heads import DINOProjectionHead

        with warnings.catch_warnings(action="ignore"):  # torch deprecates this name of its weight norm
            return DINOProjectionHead(width, HIDDEN, BOTTLENECK, self.dim, self.head_norm)

    def make_parts(self) -> "dict[str, nn.Module]":
        from lightly.loss.dino_loss import DINOLoss

        return {"loss": DINOLoss(self.dim, teacher_temp=self.key_tau, student_temp=self.tau)}

    def forward(self, network: "Network", frames: "Tensor", plan: "BatchPlan") -> "Outcome":
        """The mean of H(key of a large view, query of another view), over all pairs of them; moves the centre after."""
        import torch
        import torch.nn.functional as F

        from usucl_fast.learn.network import Outcome

        views = frames.shape[1]
        pictures = network.views_first(frames, list(range(views)))
        large, small = pictures[: 2 * len(frames)], pictures[2 * len(frames) :]
        z = network.query(large)
        if views > 2:
            side = max(1, round(SMALL * self.size))
            small = F.interpolate(small, (side, side), mode="bilinear", antialias=True)
            z = torch.cat([z, network.query(small)])
        queries = network.gather(z.unflatten(0, (views, -1)).transpose(0, 1), plan).unbind(1)
        keys = [network.encode_keys(view, plan) for view in large.chunk(2)]
        loss = network.parts["loss"](keys, list(queries))
        return Outcome(loss, F.normalize(queries[0].detach(), dim=1))


def dino() -> DINO:
    """Predicts the key encoder's assignment of two large views, from small crops too; no negatives. For ResNets and
    timm/vit_*. Source: Caron et al., ICCV 2021, with fewer prototypes and a faster key encoder, for short runs."""
    adamw = {"optimizer": "adamw", "lr": 5e-4, "weight_decay": 0.04}
    return DINO(**{**OTHERS, **adamw}, dim=4096, key_momentum=(0.99, 1.0))


METHOD, RECIPES = DINO, (dino,)
