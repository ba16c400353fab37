"""Is the embedding collapsing?"""

import torch


def mean_cosine(z: torch.Tensor) -> float | None:
    """Mean cosine of all pairs of different rows of `z` `[M, D]`, unit length; None for fewer than two.

    Near 1, all embeddings are alike: the network has collapsed.
    """
    count = len(z)
    if count < 2:
        return None
    total = z.sum(0).square().sum() - z.square().sum()
    return float(total / (count * (count - 1)))


def effective_rank(z: torch.Tensor) -> float:
    """exp of the entropy of the normalised singular values of `z` `[M, D]`: between 1 and min(M, D).

    Source: Roy and Vetterli, "The effective rank", EUSIPCO 2007.
    """
    values = torch.linalg.svdvals(z.float())
    p = values / values.sum().clamp_min(1e-12)
    return float(torch.special.entr(p).sum().exp())
