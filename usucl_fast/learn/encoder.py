"""A torchvision ResNet with a projection head."""

from collections.abc import Callable

import torch
import torchvision
from torch import nn

from usucl_fast.errors import UsageError


class Encoder(nn.Module):
    """Pictures `[M, 3, H, W]` -> embeddings `[M, D]`, float32, of any length.

    A single picture has no batch statistics: it is normalised by the running ones.

    Args:
        arch: of the backbone, see `make_backbone`.
        make_head: of the width of its features.
        bf16: compute in bfloat16.
        frozen_norm: batch norm uses its running statistics, and leaves them as they are.

    Raises:
        UsageError: `arch` is no torchvision ResNet.
    """

    def __init__(self, arch: str, make_head: Callable[[int], nn.Module], bf16: bool, frozen_norm: bool) -> None:
        super().__init__()
        backbone = make_backbone(arch)
        width = backbone.fc.in_features
        backbone.fc = nn.Identity()
        self.backbone = backbone
        self.head = make_head(width)
        self._bf16, self._frozen_norm = bf16, frozen_norm
        self._encode = self._plain

    def compile(self) -> None:
        """Compiles what is done to a batch; parameters keep their names."""
        self._encode = torch.compile(self._plain)

    def forward(self, x_MCHW: torch.Tensor) -> torch.Tensor:
        if self.training:
            for module in self.modules():
                if isinstance(module, nn.modules.batchnorm._BatchNorm):
                    module.train(len(x_MCHW) > 1 and not self._frozen_norm)
        return self._encode(x_MCHW)

    def _plain(self, x_MCHW: torch.Tensor) -> torch.Tensor:
        with torch.autocast(x_MCHW.device.type, torch.bfloat16, enabled=self._bf16):
            z: torch.Tensor = self.head(self.backbone(x_MCHW))
        return z.float()


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
