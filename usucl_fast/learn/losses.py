"""The contrastive loss, on tensors and nothing else."""

import torch
import torch.nn.functional as F


def usucl_loss(
    query: torch.Tensor,
    positive: torch.Tensor,
    negatives: torch.Tensor,
    valid: torch.Tensor,
    synthetic: torch.Tensor,
    synthetic_valid: torch.Tensor,
    tau: float,
    others: torch.Tensor | None = None,
    others_valid: torch.Tensor | None = None,
) -> torch.Tensor:
    """Mean over the batch of

        L = -log( e^(q.z+/tau) / (e^(q.z+/tau) + sum_j e^(q.n_j/tau) + e^(q.n̂/tau) + sum_o e^(q.z_o/tau)) ).

    Source: Basu et al., MICCAI 2022, which has no last sum. While the curriculum leaves out the intra-video negatives,
    pass J = 0.

    Args:
        query: `[B, D]`, anchors.
        positive: `[B, D]`, their positives.
        negatives: `[B, J, D]`, their intra-video negatives.
        valid: bool `[B, J]`; False entries take no part in the sum.
        synthetic: `[B, D]`, n̂ of each anchor.
        synthetic_valid: bool `[B]`; False where there was nothing to make n̂ of.
        tau: temperature.
        others: `[M, D]`, views z_o of the batch that are negatives of anchors of other tuples; None for none.
        others_valid: bool `[B, M]`, of which anchors.

    Returns:
        A scalar.
    """
    terms = torch.cat([positive[:, None], synthetic[:, None], negatives], dim=1)
    logits = torch.einsum("bd,bjd->bj", query, terms) / tau
    present = torch.cat([valid.new_ones(len(query), 1), synthetic_valid[:, None], valid], dim=1)
    if others is not None and others_valid is not None:
        logits = torch.cat([logits, query @ others.T / tau], dim=1)
        present = torch.cat([present, others_valid], dim=1)
    logits = logits.masked_fill(~present, -torch.inf)
    return F.cross_entropy(logits, torch.zeros(len(query), dtype=torch.int64, device=query.device))
