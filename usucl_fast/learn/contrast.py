"""The loss of a batch of USUCL: embeddings, what each anchor is contrasted with, and what is written to the bank."""

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from usucl_fast import mining
from usucl_fast.curriculum import NEAREST
from usucl_fast.feed import BatchPlan
from usucl_fast.learn.losses import usucl_loss
from usucl_fast.learn.network import Network, Outcome, Tuples

if TYPE_CHECKING:
    from usucl_fast.learn.methods.usucl import Usucl


def contrast(config: "Usucl", network: Network, frames: torch.Tensor, plan: BatchPlan) -> Outcome:
    """See `Method.forward`. All that one encoder sees shares one forward pass, and so its batch-norm statistics."""
    count, views = frames.shape[:2]
    tuples = network.tuples(plan)
    if config.symmetric:
        z = _encode(network, network.views_first(frames, [*range(views)]), count, plan)
        positive, encoded = z[:, 1], z[:, 2:]
    else:
        pictures = network.views_first(frames, [1, 0, *range(2, views)])
        z = _encode(network, pictures[count:], count, plan)
        positive, encoded = F.normalize(network.encode_keys(pictures[:count], plan), dim=1), z[:, 1:]
    query = z[:, 0]
    loss, members = _of_view(config, network, plan, tuples, 0, query, positive, encoded)
    if config.symmetric:
        back, _ = _of_view(config, network, plan, tuples, 1, positive, query, encoded)
        loss = (loss + back) / 2
    seen = torch.cat([query[:, None], positive[:, None], encoded], dim=1).detach().flatten(0, 1)
    valid = _places(plan.valid, network)
    return Outcome(loss, query.detach(), members, (tuples.frame_ids.flatten()[valid], seen[valid]))


def _of_view(
    config: "Usucl",
    network: Network,
    plan: BatchPlan,
    tuples: Tuples,
    view: int,
    query: torch.Tensor,
    positive: torch.Tensor,
    encoded: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The loss of the queries, of the plan's view `view`, and the frames `[B, K]` that each n̂ is made of.

    encoded: `[B, J, D]`, the embeddings of the negatives that were loaded.
    """
    stage, bank = plan.stage, network.bank
    assert bank is not None
    found = mine(config, network, plan, tuples, view, query, encoded)
    synthetic = mining.soft_negative(query, found.candidates, found.members >= 0, config.tau)
    counted = found.negatives.shape[1] if stage.intra else 0
    others = others_valid = None
    if config.in_batch:  # both views, where both take a gradient, as in NT-Xent
        views = [1 - view, view] if config.symmetric else [1]
        others = torch.cat([positive, query]) if config.symmetric else positive
        by_group = config.exclude == "group"
        allowed = [others_allowed(plan, bank.first_row, by_group, view, other) for other in views]
        others_valid = torch.from_numpy(np.concatenate(allowed, axis=1)).to(network.device, non_blocking=True)
    loss = usucl_loss(
        query,
        positive,
        found.negatives[:, :counted],
        found.intra[:, :counted] >= 0,
        synthetic,
        (found.members >= 0).any(dim=1),
        config.tau,
        others,
        others_valid,
    )
    return loss, found.members


class Mined(NamedTuple):
    """The hard negatives of B anchors.

    intra: int64 `[B, J]`, the frames of the intra-video negatives; -1 where there are fewer.
    negatives: `[B, J, D]`, their embeddings.
    members: int64 `[B, K]`, the set S, the frames that each n̂ is made of; -1 where there are fewer.
    candidates: `[B, K, D]`, their embeddings.
    """

    intra: torch.Tensor
    negatives: torch.Tensor
    members: torch.Tensor
    candidates: torch.Tensor


def mine(
    config: "Usucl",
    network: Network,
    plan: BatchPlan,
    tuples: Tuples,
    view: int,
    query: torch.Tensor,
    encoded: torch.Tensor,
) -> Mined:
    """Chooses the hard negatives of the queries, of the plan's view `view`, as its stage says.

    query: `[B, D]`.
    encoded: `[B, J, D]`, the embeddings of the negatives that were loaded.
    """
    stage, bank, limit = plan.stage, network.bank, config.max_row_age()
    assert bank is not None
    intra, negatives = tuples.frame_ids[:, 2:].masked_fill(~tuples.valid[:, 2:], -1), encoded
    if config.intra_mining == "bank" and stage.intra and stage.intra_negatives:
        intra = bank.intra(
            plan.frame_ids[:, view],
            query.detach(),
            stage.window,
            stage.intra_negatives,
            max_age=limit,
            step=plan.step,
        ).frame_ids
        negatives = bank.rows(intra)
    if not stage.cross_topk:
        return Mined(intra, negatives, intra.new_empty(len(query), 0), query.new_empty(len(query), 0, config.dim))
    if config.cross_candidates == "batch":
        valid = _places(plan.valid[:, 2:], network)
        buffer, of = encoded.detach().flatten(0, 1)[valid], tuples.frame_ids[:, 2:].flatten()[valid]
        nearest = mining.nearest_in(query, buffer, stage.cross_topk)
        return Mined(intra, negatives, of[nearest], buffer[nearest])
    exclude = None if config.exclude == "none" else tuples.video
    members = bank.cross(
        query.detach(), exclude, stage.cross_topk, max_age=limit, step=plan.step, band=stage.cross_band
    ).frame_ids
    return Mined(intra, negatives, members, bank.rows(members))


def others_allowed(
    plan: BatchPlan, first_row: NDArray[np.int64], by_group: bool, view: int, other: int
) -> NDArray[np.bool_]:
    """Which anchors, of the view `view`, have which tuples' view `other` as a negative: bool `[B, B]`.

    None of the anchor's own video, or of its group; but frames of its video that are as far away as the window begins
    are intra-video negatives, and are in where such ones count.
    """
    of = plan.group if by_group else plan.video
    allowed = of[:, None] != of
    if plan.stage.intra and plan.stage.intra_negatives:
        length = first_row[plan.video + 1] - first_row[plan.video]
        nearest = np.maximum(np.floor(plan.stage.window[0] * length), NEAREST)
        far = abs(plan.frame_ids[:, view, None] - plan.frame_ids[:, other]) >= nearest[:, None]
        allowed |= far & (plan.video[:, None] == plan.video) & ~np.eye(len(of), dtype=np.bool_)
    return allowed


def _encode(network: Network, pictures: torch.Tensor, count: int, plan: BatchPlan) -> torch.Tensor:
    """Pictures of this rank, one view after the other, -> embeddings of all ranks' tuples, `[B, views, D]`."""
    z = F.normalize(network.query(pictures), dim=1).unflatten(0, (-1, count)).transpose(0, 1)
    return network.gather(z, plan)


def _places(valid: NDArray[np.bool_], network: Network) -> torch.Tensor:
    """Where a mask `[B, V]` of the plan is True, as places in the flattened rows; without waiting for a GPU."""
    return torch.from_numpy(np.flatnonzero(valid)).to(network.device, non_blocking=True)
