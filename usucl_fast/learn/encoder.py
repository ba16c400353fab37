"""A torchvision ResNet with a projection head, and its momentum copy."""

import copy

import torch
import torch.nn.functional as F
import torchvision
from torch import nn

from usucl_fast.errors import UsageError


class Encoder(nn.Module):
    """Pictures `[M, 3, H, W]` -> unit embeddings `[M, D]`, float32.

    backbone: a torchvision ResNet without its `fc`; parameter names as torchvision's.
    head: as wide as the features, twice linear, `batch norm and` ReLU between.

    A single picture has no batch statistics: it is normalised by the running ones.

    Raises:
        UsageError: `arch` is no torchvision ResNet.
    """

    def __init__(self, arch: str, dim: int, head_norm: bool) -> None:
        super().__init__()
        backbone = make_backbone(arch)
        width = backbone.fc.in_features
        backbone.fc = nn.Identity()
        self.backbone = backbone
        norm = [nn.BatchNorm1d(width)] if head_norm else []
        self.head = nn.Sequential(nn.Linear(width, width), *norm, nn.ReLU(inplace=True), nn.Linear(width, dim))

    def forward(self, x_MCHW: torch.Tensor) -> torch.Tensor:
        training = self.training
        self.train(training and len(x_MCHW) > 1)
        z = self.head(self.backbone(x_MCHW))
        self.train(training)
        return F.normalize(z.float(), dim=1)


def make_backbone(arch: str) -> torchvision.models.ResNet:
    """The torchvision ResNet of that name, with random weights.

    Raises:
        UsageError: there is none.
    """
    try:
        backbone = torchvision.models.get_model(arch, weights=None)
    except ValueError:
        backbone = None
    if not isinstance(backbone, torchvision.models.ResNet):
        names = [name for name in torchvision.models.list_models(torchvision.models) if "res" in name]
        raise UsageError(f"--arch {arch} is no torchvision ResNet; choose from {', '.join(names)}")
    return backbone


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
