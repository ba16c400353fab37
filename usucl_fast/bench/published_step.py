"""A training step in the published manner, one sample after the other, to compare our step with.

Source: Basu et al., MICCAI 2022, and what its published code computes.
"""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
import torchvision
from torch import nn


class PublishedOutcome(NamedTuple):
    """The loss and embeddings of one step, without gradient.

    loss: scalar.
    members: int64 `[B, K]`, the set S of each anchor: places in the buffer Q, which holds the negatives `[B J]`.
    synthetic: `[B, D]`, n̂.
    """

    loss: torch.Tensor
    members: torch.Tensor
    synthetic: torch.Tensor


class PublishedEncoder(nn.Module):
    """A torchvision ResNet with a head of two linear layers, and a second such head for `cycle`.

    The other parameters are named as those of `usucl_fast.learn.encoder.Encoder`.
    """

    def __init__(self, arch: str, dim: int, cycle: bool) -> None:
        super().__init__()
        self.backbone = torchvision.models.get_model(arch, weights=None)
        width = self.backbone.fc.in_features
        self.backbone.fc = nn.Identity()
        self.head = _head(width, dim)
        self.cycle_head = _head(width, dim) if cycle else None


class PublishedStep(nn.Module):
    """Encoders, optimiser and queues.

    Args:
        arch: name of a torchvision ResNet.
        epochs: of the run, for the learning rate.
        joint: anchors and negatives share one pass, and so their batch-norm statistics; else each has its own, as
            published.
        unused: compute also what the published code does not use: the second crops' keys, the cycle heads' embeddings,
            and a queue of either.
        bf16: compute the encoders in bfloat16.
        frozen_norm: batch norm uses its running statistics, and does not update them.
    """

    tau, hard, momentum, lr = 0.07, 4, 0.999, 0.003

    def __init__(
        self,
        arch: str,
        epochs: int,
        *,
        joint: bool,
        unused: bool,
        device: torch.device,
        bf16: bool = False,
        frozen_norm: bool = False,
        dim: int = 128,
    ) -> None:
        super().__init__()
        self.epochs, self.joint, self.unused, self.bf16, self.dim = epochs, joint, unused, bf16, dim
        self.query, self.key = PublishedEncoder(arch, dim, unused), PublishedEncoder(arch, dim, unused)
        self.key.load_state_dict(self.query.state_dict())
        self.key.requires_grad_(False)
        self.to(device)
        self.train(not frozen_norm)  # nothing else in it knows of training
        self.optimizer = torch.optim.SGD(self.query.parameters(), self.lr, momentum=0.9, weight_decay=1e-4)
        self.queues: dict[str, torch.Tensor] = {}

    def step(
        self, pictures_BV3HW: torch.Tensor, epoch: int, intra: bool, second_BV3HW: torch.Tensor | None = None
    ) -> PublishedOutcome:
        """Trains on one batch.

        Args:
            pictures_BV3HW: normalised; of each tuple the anchor, the positive and the negatives.
            epoch: counted from 0.
            intra: whether the intra-video negatives count in the loss.
            second_BV3HW: with `unused`, the second crops.
        """
        for group in self.optimizer.param_groups:
            group["lr"] = self.lr * 0.5 * (1 + math.cos(math.pi * epoch / self.epochs))
        self.move_keys()
        anchors, negatives = pictures_BV3HW[:, 0], pictures_BV3HW[:, 2:].flatten(0, 1)
        if self.joint:
            query, encoded = self.encode(self.query, torch.cat([anchors, negatives])).tensor_split([len(anchors)])
        else:
            query, encoded = self.encode(self.query, anchors), self.encode(self.query, negatives)
        with torch.no_grad():
            keys = self.encode(self.key, pictures_BV3HW[:, 1])
            if self.unused and second_BV3HW is not None:
                self.enqueue("second", self.encode(self.key, second_BV3HW.flatten(0, 1)))
        outcomes = [
            self.sample(*sample, encoded.detach(), intra)
            for sample in zip(query, keys, encoded.unflatten(0, (len(query), -1)), strict=True)
        ]
        loss = torch.stack([outcome.loss for outcome in outcomes]).mean()
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        members = torch.stack([outcome.members for outcome in outcomes])
        return PublishedOutcome(loss.detach(), members, torch.stack([o.synthetic for o in outcomes]).detach())

    @torch.no_grad()
    def move_keys(self) -> None:
        """k <- m k + (1 - m) q, when a step begins, as ours does."""
        for key, query in zip(self.key.parameters(), self.query.parameters(), strict=True):
            key.mul_(self.momentum).add_(query, alpha=1 - self.momentum)

    def encode(self, encoder: PublishedEncoder, pictures_M3HW: torch.Tensor) -> torch.Tensor:
        """Embeddings `[M, D]` of unit length, in one pass."""
        with torch.autocast(pictures_M3HW.device.type, torch.bfloat16, enabled=self.bf16):
            features = encoder.backbone(pictures_M3HW)
            z: torch.Tensor = encoder.head(features)
            if encoder.cycle_head is not None:
                self.enqueue("cycle", encoder.cycle_head(features).detach())
        return F.normalize(z if z.dtype == torch.float64 else z.float(), dim=1)

    def enqueue(self, name: str, z: torch.Tensor) -> None:
        """Puts embeddings `[M, D]` at the end of a queue, which holds three batches of them."""
        z = F.normalize(z.float(), dim=1)
        self.queues[name] = torch.cat([self.queues.get(name, z[:0]), z])[-3 * len(z) :]

    def sample(
        self, query: torch.Tensor, key: torch.Tensor, negatives: torch.Tensor, buffer: torch.Tensor, intra: bool
    ) -> PublishedOutcome:
        """One anchor `[D]` with its key `[D]`, its negatives `[J, D]` and the buffer Q `[B J, D]`, of which its own
        video's entries are not left out."""
        members = (buffer @ query.detach()).topk(min(self.hard, len(buffer))).indices
        nearest = buffer[members]
        synthetic = (nearest @ query / self.tau).softmax(dim=0) @ nearest
        top = torch.exp(query @ key / self.tau)
        bottom = top + torch.exp(query @ synthetic / self.tau)
        if intra:
            bottom = bottom + torch.exp(negatives @ query / self.tau).sum()
        return PublishedOutcome(-torch.log(top / bottom), members, synthetic)


def _head(width: int, dim: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(width, width), nn.ReLU(inplace=True), nn.Linear(width, dim))
