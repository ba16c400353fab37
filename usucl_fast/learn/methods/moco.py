"""MoCo v2: a view is matched with the key of the other view, against the keys of earlier batches.

Source: He et al., "Momentum Contrast", CVPR 2020; Chen et al., "Improved Baselines with Momentum Contrastive Learning",
arXiv 2003.04297.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from usucl_fast.learn.config import OTHERS, setting
from usucl_fast.learn.method import HeadNormMethod, MomentumMethod, PairMethod, TemperatureMethod

if TYPE_CHECKING:
    from lightly.models.modules.memory_bank import MemoryBankModule
    from torch import Tensor, nn

    from usucl_fast.feed import BatchPlan
    from usucl_fast.learn.network import Network, Outcome


@dataclass(frozen=True, kw_only=True)
class MoCo(MomentumMethod, HeadNormMethod, TemperatureMethod, PairMethod):
    """A momentum pair and a queue of keys, which begins with random ones."""

    needs_lightly: ClassVar[bool] = True

    method: str = "moco"
    queue: int = setting(1024, "Keys of earlier batches that are negatives.", low=1)

    def make_head(self, width: int) -> "nn.Module":
        from lightly.models.modules.heads import MoCoProjectionHead

        return MoCoProjectionHead(width, width, self.dim, batch_norm=self.head_norm)

    def make_parts(self) -> "dict[str, nn.Module]":
        from lightly.loss.ntx_ent_loss import NTXentLoss

        loss = NTXentLoss(self.tau, (self.queue, self.dim))
        keep_in_state(loss.memory_bank)
        return {"loss": loss}

    def forward(self, network: "Network", frames: "Tensor", plan: "BatchPlan") -> "Outcome":
        """Writes the keys to the queue after reading it."""
        import torch.nn.functional as F

        from usucl_fast.learn.network import Outcome

        first, second = network.views_first(frames, [0, 1]).chunk(2)
        query = network.gather(network.query(first), plan)
        key = network.encode_keys(second, plan)
        return Outcome(network.parts["loss"](query, key), F.normalize(query.detach(), dim=1))


def keep_in_state(queue: "MemoryBankModule") -> None:
    """Makes a queue part of `state_dict`; lightly leaves it out."""
    for name, buffer in list(queue.named_buffers()):
        queue.register_buffer(name, buffer)


def mocov2() -> MoCo:
    """Two views of one frame; earlier batches are negatives. Source: Chen et al., arXiv 2003.04297, with a rate for
    batches smaller than its 256."""
    return MoCo(**{**OTHERS, "lr": 0.01}, tau=0.2, head_norm=False)


METHOD, RECIPES = MoCo, (mocov2,)
