"""A map of the memory bank: some of its rows, in two dimensions."""

from typing import Any

import numpy as np
import torch

DOTS = 1000
"""Rows that are shown, at most, each with its picture: five times as many take half a minute, and 5 MB."""
FEWEST = 5
PERPLEXITY = 30


def bank_map(embeddings: torch.Tensor, written_at: torch.Tensor, step: int, seed: int) -> dict[str, Any] | None:
    """Rows of a bank in two dimensions, by t-SNE; None where fewer than `FEWEST` are written, or all are alike.

    Of the written rows, in the order of their frames, as many equal parts are made as there are dots, and of each part
    one is drawn: every video has its share of them.

    Args:
        embeddings: `[N, D]`.
        written_at: int64 `[N]`, -1 for a row that is not written.
        step: the present one.
        seed: of the draw.

    Returns:
        `of`, the number of rows that are written; and, for each dot, `frames`, their ids, `x`, `y`, from 0 to 1, and
        `age`, in steps.
    """
    written = torch.nonzero(written_at >= 0)[:, 0].cpu().numpy()
    count = min(DOTS, len(written))
    if count < FEWEST:
        return None
    ends = len(written) * np.arange(count + 1) // count
    generator = np.random.Generator(np.random.Philox(key=[seed, 1]))
    frames = written[generator.integers(ends[:-1], ends[1:])]
    rows = embeddings[torch.from_numpy(frames).to(embeddings.device)].float().cpu().numpy()
    if not np.ptp(rows, axis=0).any():
        return None
    from sklearn.manifold import TSNE  # takes as long to import as all else here

    perplexity = min(PERPLEXITY, (count - 1) / 3)
    points = TSNE(init="pca", perplexity=perplexity, random_state=0).fit_transform(rows)
    points = (points - points.min(axis=0)) / np.maximum(np.ptp(points, axis=0), 1e-9)
    age = step - 1 - written_at[torch.from_numpy(frames).to(written_at.device)].cpu().numpy()
    return {
        "of": len(written),
        "frames": frames.tolist(),
        "x": points[:, 0].astype(float).round(4).tolist(),
        "y": points[:, 1].astype(float).round(4).tolist(),
        "age": age.tolist(),
    }
