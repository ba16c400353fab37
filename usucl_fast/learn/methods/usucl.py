"""USUCL: intra-video negatives and a synthesised cross-video one, under a curriculum.

Source: Basu et al., "Unsupervised Contrastive Learning of Image Representations from Ultrasound Videos with Hard
Negative Mining", MICCAI 2022.
"""

import torch
import torch.nn.functional as F
from torch import nn

from usucl_fast.curriculum import Stage
from usucl_fast.feed import BatchPlan
from usucl_fast.frames import FrameTable
from usucl_fast.learn.losses import usucl_loss
from usucl_fast.learn.method import MomentumMethod, Outcome
from usucl_fast.learn.ranks import Ranks
from usucl_fast.learn.recipes import TrainConfig
from usucl_fast.mining import MemoryBank, nearest_in, soft_negative


class Usucl(MomentumMethod):
    """A momentum pair and a bank of all frames, and what one batch does with them."""

    bank: MemoryBank

    def __init__(self, config: TrainConfig, table: FrameTable, device: torch.device, ranks: Ranks) -> None:
        super().__init__(config, table, device, ranks)
        group = table.group if config.exclude == "group" else None
        self.bank = MemoryBank(table.first_row, config.dim, device=device, group=group)
        self._remembered: list[tuple[torch.Tensor, torch.Tensor]] = []

    @classmethod
    def tuples(cls, config: TrainConfig) -> str:
        if config.mining == "bank":
            return "pair"
        return "full" if config.candidates == "batch" else "mined"

    def make_head(self, width: int) -> nn.Module:
        """As wide as the features, twice linear, `batch norm and` ReLU between."""
        norm = [nn.BatchNorm1d(width)] if self.config.head_norm else []
        return nn.Sequential(nn.Linear(width, width), *norm, nn.ReLU(inplace=True), nn.Linear(width, self.config.dim))

    def get_extra_state(self) -> dict[str, torch.Tensor]:
        """The bank."""
        return self.bank.state_dict()

    def set_extra_state(self, state: dict[str, torch.Tensor]) -> None:
        self.bank.load_state_dict(state)

    def end(self, step: int) -> None:
        for frame_ids, z in self._remembered:
            self.bank.write(frame_ids, z, step)
        self._remembered.clear()

    def forward(self, frames: torch.Tensor, plan: BatchPlan, stage: Stage, step: int) -> Outcome:
        """The embeddings are written to the bank when the step ends: no part of a batch finds those of another."""
        config = self.config
        tuples, views = frames.shape[:2]
        frame_ids = torch.from_numpy(plan.frame_ids).to(self.device)
        valid = torch.from_numpy(plan.valid).to(self.device)
        # All that one encoder sees shares one forward pass, and so its batch-norm statistics.
        if config.symmetric:
            z = self._encode(self.views_first(frames, [*range(views)]), tuples, plan)
            positive, encoded_negatives = z[:, 1], z[:, 2:]
        else:
            pictures = self.views_first(frames, [1, 0, *range(2, views)])
            z = self._encode(pictures[tuples:], tuples, plan)
            positive, encoded_negatives = F.normalize(self.encode_keys(pictures[:tuples], plan), dim=1), z[:, 1:]
        query = z[:, 0]
        loss, members = self._contrast(query, positive, encoded_negatives, frame_ids, valid, stage, step)
        if config.symmetric:
            swapped = frame_ids[:, [1, 0, *range(2, views)]]
            back, _ = self._contrast(positive, query, encoded_negatives, swapped, valid, stage, step)
            loss = (loss + back) / 2
        remembered = torch.cat([query[:, None], positive[:, None], encoded_negatives], dim=1).detach()
        self._remembered.append((frame_ids[valid], remembered[valid]))
        return Outcome(loss, query.detach(), members)

    def _encode(self, pictures: torch.Tensor, tuples: int, plan: BatchPlan) -> torch.Tensor:
        """Pictures of this rank, one view after the other, -> embeddings of all ranks' tuples, `[B, views, D]`."""
        z = F.normalize(self.query(pictures), dim=1).unflatten(0, (-1, tuples)).transpose(0, 1)
        return self.gather(z, plan)

    def _contrast(
        self,
        query: torch.Tensor,
        positive: torch.Tensor,
        encoded_negatives: torch.Tensor,
        frame_ids: torch.Tensor,
        valid: torch.Tensor,
        stage: Stage,
        step: int,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The loss, and the frames `[B, K]` that each n̂ is made of; the anchors are the first column of `frame_ids`."""
        config = self.config
        candidates, members = self._candidates(query, encoded_negatives, frame_ids, valid, stage, step)
        synthetic = soft_negative(query, candidates, members >= 0, config.tau)
        negatives, negatives_valid = encoded_negatives, valid[:, 2:]
        if config.mining == "bank" and stage.intra and stage.negatives:
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
            self._others(frame_ids[:, 0]) if config.in_batch else None,
        )
        return loss, members

    def _others(self, anchors: torch.Tensor) -> torch.Tensor:
        """bool `[B, B]`, whether a tuple's positive is a negative of an anchor: not its own, and none of its group."""
        group = self.bank.group_of(anchors)
        return group[:, None] != group

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
        if not stage.hard:
            return query.new_empty(len(query), 0, config.dim), frame_ids.new_empty(len(query), 0)
        exclude = None if config.exclude == "none" else self.bank.video_of(frame_ids[:, 0])
        found = self.bank.cross(
            query.detach(), exclude, stage.hard, max_age=config.max_age or None, step=step, band=stage.band
        )
        return self.bank.rows(found.frame_ids), found.frame_ids
