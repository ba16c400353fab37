"""Hard negatives from candidates: the nearest few, and the one made of them."""

import torch


def soft_negative(query: torch.Tensor, candidates: torch.Tensor, valid: torch.Tensor, tau: float) -> torch.Tensor:
    """The synthesised hard negative n̂ = sum over S of softmax(q . Q_S / tau) Q_S, not renormalised.

    The gradient reaches the query through the weights; the candidates carry none.
    Source: Basu et al., MICCAI 2022, cross-video hard negative.

    Args:
        query: `[B, D]`, unit length.
        candidates: `[B, K, D]`, the set S of each query.
        valid: bool `[B, K]`; False entries take no part. A query without any gets zeros.
        tau: temperature.

    Returns:
        `[B, D]`.
    """
    candidates = candidates.detach()
    scores = torch.einsum("bd,bkd->bk", query, candidates) / tau
    # A finite fill keeps the gradient finite where a row has no candidate at all.
    weights = scores.masked_fill(~valid, torch.finfo(scores.dtype).min).softmax(dim=1) * valid
    return torch.einsum("bk,bkd->bd", weights, candidates)


def nearest_in(query: torch.Tensor, buffer: torch.Tensor, k: int) -> torch.Tensor:
    """Indices `[B, min(k, M)]` of the rows of `buffer` `[M, D]` most similar to each query `[B, D]`."""
    with torch.no_grad():
        return (query @ buffer.T).topk(min(k, len(buffer)), dim=1).indices
