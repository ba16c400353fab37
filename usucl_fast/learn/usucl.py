"""The USUCL step: encode, mine, contrast, remember."""

from typing import NamedTuple

import numpy as np
import torch

from usucl_fast.feed import Batch, Normaliser
from usucl_fast.frames import FrameTable
from usucl_fast.learn.encoder import MomentumPair
from usucl_fast.learn.losses import usucl_loss
from usucl_fast.learn.recipes import TrainConfig
from usucl_fast.mining import MemoryBank, Stage, nearest_in, soft_negative


class Outcome(NamedTuple):
    """What one batch comes to.

    loss: scalar, with gradient.
    query: `[B, D]`, the anchors' embeddings, without.
    members: int64 `[B, K]`, the frames that each n̂ is made of; -1 where there are fewer.
    """

    loss: torch.Tensor
    query: torch.Tensor
    members: torch.Tensor


class Usucl:
    """The method: a momentum pair and a bank, and what one batch does with them."""

    def __init__(self, config: TrainConfig, table: FrameTable, pair: MomentumPair, device: torch.device) -> None:
        self.config = config
        self.pair = pair
        self.device = device
        self._to_query = Normaliser(device, torch.channels_last)
        self._to_key = Normaliser(device, torch.channels_last)
        self.bank = MemoryBank(
            table.first_row,
            config.dim,
            device=device,
            group=table.group if config.exclude == "group" else None,
        )

    def loss(self, batch: Batch, stage: Stage, step: int) -> Outcome:
        """The loss of one batch.

        Moves the key encoder before encoding with it, and writes the embeddings to the bank after reading it.
        """
        config, plan = self.config, batch.plan
        self.pair.follow(config.key_momentum)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=config.precision == "bf16"):
            # The anchor and the negatives share one forward pass, and so their batch-norm statistics.
            encoded = batch.frames[:, [0, *range(2, batch.frames.shape[1])]]
            z = self.pair.query(self._to_query(encoded.flatten(0, 1))).unflatten(0, encoded.shape[:2])
            with torch.no_grad():
                positive = self.pair.key(self._to_key(batch.frames[:, 1]))
        query, encoded_negatives = z[:, 0], z[:, 1:]
        frame_ids = torch.from_numpy(plan.frame_ids).to(self.device)
        valid = torch.from_numpy(plan.valid).to(self.device)
        candidates, members = self._candidates(query, encoded_negatives, frame_ids, valid, stage, step)
        synthetic = soft_negative(query, candidates, members >= 0, config.tau)
        negatives, negatives_valid = encoded_negatives, valid[:, 2:]
        if config.mining == "bank" and stage.intra:
            found = self.bank.intra(
                frame_ids[:, 0],
                query.detach(),
                stage.window,
                stage.negatives,
                max_age=config.max_age or None,
                step=step,
            ).frame_ids
            negatives, negatives_valid = self.bank.rows(found), found >= 0
        counted = negatives.shape[1] if stage.intra else 0
        loss = usucl_loss(
            query,
            positive,
            negatives[:, :counted],
            negatives_valid[:, :counted],
            synthetic,
            (members >= 0).any(dim=1),
            config.tau,
        )
        remembered = torch.cat([query[:, None], positive[:, None], encoded_negatives], dim=1).detach()
        self.bank.write(frame_ids[valid], remembered[valid], step)
        return Outcome(loss, query.detach(), members)

    def _candidates(
        self,
        query: torch.Tensor,
        negatives: torch.Tensor,
        frame_ids: torch.Tensor,
        valid: torch.Tensor,
        stage: Stage,
        step: int,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The set S of each query: embeddings `[B, K, D]` and frame ids `[B, K]`, -1 where there are fewer."""
        config = self.config
        if config.candidates == "batch":
            buffer, of = negatives.detach()[valid[:, 2:]], frame_ids[:, 2:][valid[:, 2:]]
            nearest = nearest_in(query, buffer, stage.hard)
            return buffer[nearest], of[nearest]
        exclude = None
        if config.exclude != "none":
            videos = np.searchsorted(self.bank.first_row, frame_ids[:, 0].cpu().numpy(), side="right") - 1
            exclude = torch.from_numpy(videos).to(self.device)
        found = self.bank.cross(
            query.detach(), exclude, stage.hard, max_age=config.max_age or None, step=step, band=stage.band
        )
        return self.bank.rows(found.frame_ids), found.frame_ids
