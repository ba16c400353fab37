"""A backbone with a projection head."""

from collections.abc import Callable

import torch
from torch import nn

from usucl_fast.learn.backbones import make_backbone


class Encoder(nn.Module):
    """Pictures `[M, 3, H, W]` -> embeddings `[M, D]`, float32 (float64 where the parameters are), of any length.

    A single picture has no batch statistics: it is normalised by the running ones, unless other ranks have some (sync).

    Args:
        arch: of the backbone, see `make_backbone`.
        make_head: of the width of its features.
        bf16: compute in bfloat16.
        frozen_norm: batch norm uses its running statistics, and leaves them as they are.

    Raises:
        UsageError: `arch` is no backbone.
    """

    def __init__(self, arch: str, make_head: Callable[[int], nn.Module], bf16: bool, frozen_norm: bool) -> None:
        super().__init__()
        self.backbone, width = make_backbone(arch)
        self.head = make_head(width)
        self._bf16, self._frozen_norm = bf16, frozen_norm
        self._encode: Callable[..., torch.Tensor] = _encode

    def compile(self) -> None:
        """Compiles what is done to a batch; parameters keep their names."""
        self._encode = torch.compile(_encode)

    def forward(self, x_MCHW: torch.Tensor) -> torch.Tensor:
        if self.training:
            for module in self.modules():
                if isinstance(module, nn.modules.batchnorm._BatchNorm):
                    # Of sync batch norm all ranks have to take part, or those that do wait for ever.
                    enough = len(x_MCHW) > 1 or isinstance(module, nn.SyncBatchNorm)
                    module.train(enough and not self._frozen_norm)
        return self._encode(self.backbone, self.head, x_MCHW, self._bf16)


class SideBySide(nn.ModuleList):
    """Several heads: features `[M, width]` -> the embeddings of all of them, side by side."""

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return torch.cat([head(features) for head in self], dim=1)


def _encode(backbone: nn.Module, head: nn.Module, x_MCHW: torch.Tensor, bf16: bool) -> torch.Tensor:
    with torch.autocast(x_MCHW.device.type, torch.bfloat16, enabled=bf16):
        z: torch.Tensor = head(backbone(x_MCHW))
    return z if z.dtype == torch.float64 else z.float()
