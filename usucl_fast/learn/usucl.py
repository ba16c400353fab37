"""The USUCL step: encode, mine, contrast, remember."""

import numpy as np
import torch

from usucl_fast.feed import Batch, Normaliser
from usucl_fast.frames import FrameTable
from usucl_fast.learn.encoder import MomentumPair
from usucl_fast.learn.losses import usucl_loss
from usucl_fast.learn.recipes import TrainConfig
from usucl_fast.mining import MemoryBank, Stage, nearest_in, soft_negative


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

    def loss(self, batch: Batch, stage: Stage, step: int) -> tuple[torch.Tensor, torch.Tensor]:
        """The loss of one batch, with gradient, and the anchors' embeddings `[B, D]`, without.

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
        query, negatives = z[:, 0], z[:, 1:]
        frame_ids = torch.from_numpy(plan.frame_ids).to(self.device)
        valid = torch.from_numpy(plan.valid).to(self.device)
        candidates, candidates_valid = self._candidates(query, negatives, valid[:, 2:], plan.frame_ids[:, 0])
        synthetic = soft_negative(query, candidates, candidates_valid, config.tau)
        counted = negatives.shape[1] if stage.intra else 0
        loss = usucl_loss(
            query,
            positive,
            negatives[:, :counted],
            valid[:, 2 : 2 + counted],
            synthetic,
            candidates_valid.any(dim=1),
            config.tau,
        )
        remembered = torch.cat([query[:, None], positive[:, None], negatives], dim=1).detach()
        self.bank.write(frame_ids[valid], remembered[valid], step)
        return loss, query.detach()

    def _candidates(
        self, query: torch.Tensor, negatives: torch.Tensor, valid: torch.Tensor, anchors: np.ndarray
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The set S of each query: `[B, K, D]` and which of them exist, bool `[B, K]`."""
        hard = self.config.hard
        if self.config.candidates == "batch":
            buffer = negatives.detach()[valid]
            nearest = nearest_in(query, buffer, hard)
            return buffer[nearest], torch.ones_like(nearest, dtype=torch.bool)
        exclude = None
        if self.config.exclude != "none":
            videos = np.searchsorted(self.bank.first_row, anchors, side="right") - 1
            exclude = torch.from_numpy(videos).to(self.device)
        found = self.bank.cross(query.detach(), exclude, hard)
        return self.bank.rows(found.frame_ids), found.frame_ids >= 0
