"""Hard negatives: the hardest of a window, the nearest few of candidates, and the one made of them."""

import torch

from usucl_fast.checks import FLOATING, check_array, check_number
from usucl_fast.mining.bank import MemoryBank


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
        ValueError: as `MemoryBank.intra`; or the bank is spread over ranks.
    """
    if len(bank.held) < len(bank):
        raise ValueError("bank holds some of its rows alone, being spread over ranks, and must hold all")
    found = bank.intra(anchors, bank.rows(anchors), window, k, max_age=max_age, step=step).frame_ids
    return found.masked_fill((bank.written_at[anchors] < 0)[:, None], -1)


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

    Raises:
        ValueError: a shape, type or device is another.
    """
    check_array("query", query, ("B", "D"), *FLOATING)
    check_array("candidates", candidates, (len(query), "K", query.shape[1]), *FLOATING, device=query.device)
    check_array("valid", valid, tuple(candidates.shape[:2]), "bool", device=query.device)
    if not tau > 0:
        raise ValueError(f"tau is {tau}, and must be above 0")
    candidates = candidates.detach().to(query.dtype)
    scores = torch.einsum("bd,bkd->bk", query, candidates) / tau
    # A finite fill keeps the gradient finite where a row has no candidate at all.
    weights = scores.masked_fill(~valid, torch.finfo(scores.dtype).min).softmax(dim=1) * valid
    return torch.einsum("bk,bkd->bd", weights, candidates)


def nearest_in(query: torch.Tensor, buffer: torch.Tensor, k: int) -> torch.Tensor:
    """Indices `[B, min(k, M)]` of the rows of `buffer` `[M, D]` most similar to each query `[B, D]`.

    Raises:
        ValueError: a shape, type or device is another.
    """
    check_array("query", query, ("B", "D"), *FLOATING)
    check_array("buffer", buffer, ("M", query.shape[1]), *FLOATING, device=query.device)
    check_number("k", k, 0)
    with torch.no_grad():
        return (query @ buffer.to(query.dtype).T).topk(min(k, len(buffer)), dim=1).indices
