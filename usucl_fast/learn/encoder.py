"""A backbone with a projection head, and its momentum copy."""

import copy

import torch
import torch.nn.functional as F
from torch import nn

from usucl_fast.learn.backbones import make_backbone


class Encoder(nn.Module):
    """Pictures `[M, 3, H, W]` -> unit embeddings `[M, D]`, float32.

    backbone: what `make_backbone` makes of `arch`; parameter names as torchvision's or timm's.
    head: as wide as the features, twice linear, `batch norm and` ReLU between.

    A single picture has no batch statistics: it is normalised by the running ones.

    Raises:
        UsageError: `arch` is no backbone.
    """

    def __init__(self, arch: str, dim: int, head_norm: bool) -> None:
        super().__init__()
        self.backbone, width = make_backbone(arch)
        norm = [nn.BatchNorm1d(width)] if head_norm else []
        self.head = nn.Sequential(nn.Linear(width, width), *norm, nn.ReLU(inplace=True), nn.Linear(width, dim))

    def forward(self, x_MCHW: torch.Tensor) -> torch.Tensor:
        training = self.training
        self.train(training and len(x_MCHW) > 1)
        z = self.head(self.backbone(x_MCHW))
        self.train(training)
        return F.normalize(z.float(), dim=1)


class MomentumPair(nn.Module):
    """The query encoder, and the key encoder that follows it: k <- m k + (1 - m) q, without gradient."""

    def __init__(self, query: Encoder) -> None:
        super().__init__()
        self.query = query
        self.key = copy.deepcopy(query).requires_grad_(False)

    @torch.no_grad()
    def follow(self, m: float) -> None:
        """Moves the key encoder's parameters; its batch-norm statistics are its own."""
        keys: list[torch.Tensor] = list(self.key.parameters())
        queries: list[torch.Tensor] = list(self.query.parameters())
        torch._foreach_lerp_(keys, queries, 1 - m)
