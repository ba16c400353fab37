"""Hard negatives: the hardest of a window, the nearest few of candidates, and the one made of them."""

import torch

from usucl_fast.checks import FLOATING, check_count, check_number, check_tensor
from usucl_fast.mining.bank import MemoryBank

LEAST_TAU = 1e-3
"""Similarities divided by less leave float32."""


def hardest_in_window(
    bank: MemoryBank, anchors: torch.Tensor, window: tuple[float, float], k: int, max_age: int | None, step: int
) -> torch.Tensor:
    """The frames of each anchor's window that the bank finds most similar to the anchor's own row, hardest first.

    Args:
        anchors: int64 `[B]`, frame ids.
        window: see `window_bounds`.
        max_age, step: see `MemoryBank`.

    Returns:
        int64 `[B, k]`; -1 where fewer rows of the window are written, and for an anchor that is not.

    Raises:
        ValueError: as `MemoryBank.intra`.
    """
    found = bank.intra(anchors, bank.rows(anchors), window, k, max_age=max_age, step=step).frame_ids
    return found.masked_fill((bank.written(anchors) < 0)[:, None], -1)


def soft_negative(query: torch.Tensor, candidates: torch.Tensor, valid: torch.Tensor, tau: float) -> torch.Tensor:
    """The synthesised hard negative n̂ = sum over S of softmax(q . Q_S / tau) Q_S, not renormalised.

    The gradient reaches the query through the weights; the candidates carry none.
    Source: Basu et al., MICCAI 2022, cross-video hard negative.

    Args:
        query: `[B, D]`, unit length.
        candidates: `[B, K, D]`, the set S of each query.
        valid: bool `[B, K]`; False entries take no part. A query without any gets zeros.
        tau: temperature, `LEAST_TAU` at least.

    Returns:
        `[B, D]`.

    Raises:
        ValueError: a shape, type or device is another.
    """
    check_tensor("query", query, ("B", "D"), *FLOATING, device=_device_of(query))
    check_tensor("candidates", candidates, (len(query), "K", query.shape[1]), *FLOATING, device=query.device)
    check_tensor("valid", valid, tuple(candidates.shape[:2]), "bool", device=query.device)
    tau = check_number("tau", tau, LEAST_TAU)
    candidates = candidates.detach().to(query.dtype).masked_fill(~valid[..., None], 0)  # 0 times NaN is no number
    scores = torch.einsum("bd,bkd->bk", query, candidates) / tau
    # A row without any candidate gets equal weights first, so that its gradient is finite.
    is_empty = ~valid.any(dim=1, keepdim=True)
    weights = scores.masked_fill(~valid, -torch.inf).masked_fill(is_empty, 0).softmax(dim=1) * valid
    return torch.einsum("bk,bkd->bd", weights, candidates)


def nearest_in(query: torch.Tensor, buffer: torch.Tensor, k: int) -> torch.Tensor:
    """Indices `[B, min(k, M)]` of the rows of `buffer` `[M, D]` most similar to each query `[B, D]`.

    Raises:
        ValueError: a shape, type or device is another.
    """
    check_tensor("query", query, ("B", "D"), *FLOATING, device=_device_of(query))
    check_tensor("buffer", buffer, ("M", query.shape[1]), *FLOATING, device=query.device)
    k = check_count("k", k, 0)
    with torch.no_grad():
        return (query @ buffer.to(query.dtype).T).topk(min(k, len(buffer)), dim=1).indices


def _device_of(query: object) -> "torch.device | str":
    return getattr(query, "device", "cpu")
