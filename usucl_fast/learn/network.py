"""What is trained: the encoders of a method, its memory bank, and the tensors of a batch."""

import importlib
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import torch
from torch import nn

from usucl_fast.feed import BatchPlan, Normaliser
from usucl_fast.learn.backbones import normalisation
from usucl_fast.learn.encoder import Encoder
from usucl_fast.learn.execution import BANKS, PARTITIONED
from usucl_fast.learn.method import Method
from usucl_fast.learn.ranks import Ranks
from usucl_fast.mining import MemoryBank, PartitionedBank
from usucl_fast.optional import needed
from usucl_fast.shards import FrameTable


class Outcome(NamedTuple):
    """The result of one batch, or of a part of it.

    loss: scalar, with gradient.
    query: `[B, D]`, the anchors' embeddings, of unit length, without gradient.
    members: int64 `[B, K]`, the frames that each n̂ is made of; -1 where there are fewer. None in a method without n̂.
    rows: frame ids `[M]` and embeddings `[M, D]` that are written to the bank when the step ends. None without a bank.
    """

    loss: torch.Tensor
    query: torch.Tensor
    members: torch.Tensor | None = None
    rows: tuple[torch.Tensor, torch.Tensor] | None = None


class Tuples(NamedTuple):
    """What a method needs of a plan, on the device.

    frame_ids: int64 `[B, V]`.
    valid: bool `[B, V]`.
    video, group: int64 `[B]`.
    """

    frame_ids: torch.Tensor
    valid: torch.Tensor
    video: torch.Tensor
    group: torch.Tensor


class Network(nn.Module):
    """The encoders of a method, its other parts and its bank. All parameters that take a gradient are trained;
    `query.backbone` is the result.

    `state_dict` has all but the bank. `forward` takes this rank's frames and all ranks' tuples, and returns
    what is the same on every rank.

    Args:
        config: the method and its settings.
        table: of the shards.
        device: of the frames.
        ranks: that train together.
        bank: of `BANKS`.

    Raises:
        UsageError: the method needs lightly, which is not installed, or there is no such backbone.
    """

    def __init__(
        self, config: Method, table: FrameTable, device: torch.device, ranks: Ranks, bank: str = BANKS[0]
    ) -> None:
        super().__init__()
        if config.needs_lightly:
            with needed("lightly", f"--method {config.method}", "baselines"):
                importlib.import_module("lightly")
        self.config, self.device, self.ranks = config, device, ranks
        self.query = self._make_encoder()
        self.normalise = Normaliser(device, torch.channels_last, *normalisation(self.query.backbone))
        self.key = self._make_encoder() if config.has_keys() else None
        if self.key is not None:
            self.key.requires_grad_(False)
            self.key.load_state_dict(self.query.state_dict())
        self.parts = nn.ModuleDict(config.make_parts())
        spread = bank == PARTITIONED and ranks.count > 1
        self.bank = config.make_bank(table, device, PartitionedBank if spread else MemoryBank)

    def _make_encoder(self) -> Encoder:
        config = self.config
        return Encoder(config.arch, config.make_head, config.precision == "bf16", config.batch_norm == "frozen")

    def encoders(self) -> list[Encoder]:
        """All networks that encode pictures."""
        return [self.query] if self.key is None else [self.query, self.key]

    def start_with(self, backbone: dict[str, torch.Tensor]) -> None:
        """Takes the weights of a backbone, those of `query.backbone`."""
        for encoder in self.encoders():
            encoder.backbone.load_state_dict(backbone)

    @torch.no_grad()
    def begin(self, progress: float) -> None:
        """Begins a step, at this share of the run: the key encoder follows, k <- m k + (1 - m) q.

        Its batch-norm statistics are its own.
        """
        if self.key is None:
            return
        keys: list[torch.Tensor] = list(self.key.parameters())
        queries: list[torch.Tensor] = list(self.query.parameters())
        torch._foreach_lerp_(keys, queries, 1 - self.config.key_momentum_at(progress))

    def end(self, outcomes: Iterable[Outcome], step: int) -> None:
        """Ends a step: writes the bank. No part of a batch finds the rows of another."""
        for outcome in outcomes:
            if self.bank is not None and outcome.rows is not None:
                self.bank.write(*outcome.rows, step)

    def forward(self, frames: torch.Tensor, plan: BatchPlan) -> Outcome:
        """See `Method.forward`."""
        return self.config.forward(self, frames, plan)

    def tuples(self, plan: BatchPlan) -> Tuples:
        """Moves what a method needs of a plan to the device, all at once and without waiting for it."""
        views = plan.frame_ids.shape[1]
        packed = np.concatenate([plan.frame_ids, plan.valid, plan.video[:, None], plan.group[:, None]], axis=1)
        moved = torch.from_numpy(packed).to(self.device, non_blocking=True)
        return Tuples(moved[:, :views], moved[:, views:-2] > 0, moved[:, -2], moved[:, -1])

    def views_first(self, frames: torch.Tensor, views: list[int]) -> torch.Tensor:
        """Some views, normalised: `[b, V, C, H, W]` -> `[len(views) b, 3, H, W]`, one view after the other.

        Call it once a step: its memory is used again.
        """
        return self.normalise(frames.transpose(0, 1)[views].flatten(0, 1))

    def gather(self, z: torch.Tensor, plan: BatchPlan) -> torch.Tensor:
        """The embeddings of all ranks' tuples, in the plan's order: `[b, ...]` -> `[B, ...]`."""
        z = self.ranks.gather(z, len(plan.frame_ids))
        if not plan.lane.any():
            return z
        places = torch.from_numpy(plan.dealt().argsort()).to(self.device, non_blocking=True)
        return z[places]

    @torch.no_grad()
    def encode_keys(self, pictures: torch.Tensor, plan: BatchPlan) -> torch.Tensor:
        """Pictures `[b, 3, H, W]` of this rank's tuples -> keys `[B, D]` of all ranks' tuples.

        With `--batch-norm shuffle` a rank encodes other ranks' pictures, so that keys and queries of a tuple share no
        statistics. Source: He et al., "Momentum Contrast", CVPR 2020.
        """
        assert self.key is not None
        if self.config.batch_norm != "shuffle" or self.ranks.count == 1:
            return self.gather(self.key(pictures), plan)
        count, tuples = self.ranks.count, len(plan.frame_ids)
        # Tuples are in shuffled order already: every count-th one is as good as any.
        order = torch.cat([torch.arange(first, tuples, count) for first in range(count)]).to(pictures.device)
        first, end = (number * tuples // count for number in (self.ranks.rank, self.ranks.rank + 1))
        shuffled = self.ranks.gather(self.key(self.gather(pictures, plan)[order[first:end]]), tuples)
        keys = torch.empty_like(shuffled)
        keys[order] = shuffled
        return keys
