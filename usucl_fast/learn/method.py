"""What a method is: encoders, and what becomes of a batch."""

import math
from typing import NamedTuple

import torch
from torch import nn

from usucl_fast.curriculum import Stage
from usucl_fast.feed import BatchPlan, Normaliser
from usucl_fast.frames import FrameTable
from usucl_fast.learn.encoder import Encoder
from usucl_fast.learn.ranks import Ranks
from usucl_fast.learn.recipes import TrainConfig
from usucl_fast.mining import MemoryBank


class Outcome(NamedTuple):
    """What one batch comes to.

    loss: scalar, with gradient.
    query: `[B, D]`, the anchors' embeddings, of unit length, without gradient.
    members: int64 `[B, K]`, the frames that each n̂ is made of; -1 where there are fewer. None in a method without n̂.
    """

    loss: torch.Tensor
    query: torch.Tensor
    members: torch.Tensor | None = None


class Method(nn.Module):
    """Encoders and the loss. The engine trains all parameters that take a gradient; `query.backbone` is the result.

    `state_dict` is all that a checkpoint needs. `forward` is told of this rank's frames and of all ranks' tuples, and
    returns what is the same on every rank.

    Args:
        config: the run's.
        table: of the shards.
        device: of the frames.
        ranks: that train together.
    """

    bank: MemoryBank | None = None

    def __init__(self, config: TrainConfig, table: FrameTable, device: torch.device, ranks: Ranks) -> None:
        super().__init__()
        self.config, self.device, self.ranks = config, device, ranks
        self.normalise = Normaliser(device, torch.channels_last)
        self.query = Encoder(config.arch, self.make_head, config.precision == "bf16", config.batch_norm == "frozen")

    @classmethod
    def tuples(cls, config: TrainConfig) -> str:
        """What its tuples are made of, see `Planner`."""
        return "pair"

    def make_head(self, width: int) -> nn.Module:
        """Features `[M, width]` -> embeddings `[M, D]`."""
        raise NotImplementedError

    def encoders(self) -> list[Encoder]:
        """All that encode pictures."""
        return [self.query]

    def start_with(self, backbone: dict[str, torch.Tensor]) -> None:
        """Takes the weights of a backbone, those of `query.backbone`."""
        for encoder in self.encoders():
            encoder.backbone.load_state_dict(backbone)

    def begin(self, progress: float) -> None:
        """Called before each step, with the share of the run that is done."""

    def end(self, step: int) -> None:
        """Called after each step."""

    def forward(self, frames: torch.Tensor, plan: BatchPlan, stage: Stage, step: int) -> Outcome:
        """The loss of a batch, or of one of the parts that it is accumulated from.

        Args:
            frames: uint8 `[b, V, C, H, W]`, of this rank's tuples.
            plan: of all ranks' tuples; `b` of its `B` are this rank's.
            stage: what the curriculum asks for.
            step: of the run.
        """
        raise NotImplementedError

    def views_first(self, frames: torch.Tensor, views: list[int]) -> torch.Tensor:
        """Some views, normalised: `[b, V, C, H, W]` -> `[len(views) b, 3, H, W]`, one view after the other.

        Call it once a step: its memory is used again.
        """
        return self.normalise(frames.transpose(0, 1)[views].flatten(0, 1))

    def gather(self, z: torch.Tensor, plan: BatchPlan) -> torch.Tensor:
        """The embeddings of all ranks' tuples, `[b, ...]` -> `[B, ...]`."""
        return self.ranks.gather(z, len(plan.frame_ids))


class MomentumMethod(Method):
    """A method with a key encoder, which follows the query encoder: k <- m k + (1 - m) q, without gradient."""

    def __init__(self, config: TrainConfig, table: FrameTable, device: torch.device, ranks: Ranks) -> None:
        super().__init__(config, table, device, ranks)
        self.key = Encoder(config.arch, self.make_head, config.precision == "bf16", config.batch_norm == "frozen")
        self.key.requires_grad_(False)
        self.key.load_state_dict(self.query.state_dict())

    def encoders(self) -> list[Encoder]:
        return [self.query, self.key]

    @torch.no_grad()
    def begin(self, progress: float) -> None:
        """Moves the key encoder's parameters; its batch-norm statistics are its own."""
        first, last = self.config.key_momentum
        m = last - (last - first) * (1 + math.cos(math.pi * progress)) / 2
        keys: list[torch.Tensor] = list(self.key.parameters())
        queries: list[torch.Tensor] = list(self.query.parameters())
        torch._foreach_lerp_(keys, queries, 1 - m)

    @torch.no_grad()
    def encode_keys(self, pictures: torch.Tensor, plan: BatchPlan) -> torch.Tensor:
        """Pictures `[b, 3, H, W]` of this rank's tuples -> keys `[B, D]` of all ranks' tuples.

        With `--batch-norm shuffle` a rank encodes other ranks' pictures, so that keys and queries of a tuple share no
        statistics. Source: He et al., "Momentum Contrast", CVPR 2020.
        """
        if self.config.batch_norm != "shuffle" or self.ranks.count == 1:
            return self.gather(self.key(pictures), plan)
        count, tuples = self.ranks.count, len(plan.frame_ids)
        # Tuples are in shuffled order already: every count-th one is as good as any.
        order = torch.cat([torch.arange(first, tuples, count) for first in range(count)]).to(pictures.device)
        first, end = (number * tuples // count for number in (self.ranks.rank, self.ranks.rank + 1))
        shuffled = self.gather(self.key(self.gather(pictures, plan)[order[first:end]]), plan)
        keys = torch.empty_like(shuffled)
        keys[order] = shuffled
        return keys
