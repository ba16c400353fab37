"""A map of the memory bank: some of its rows, in two dimensions."""

from typing import Any

import numpy as np
import torch

DOTS = 2000
"""Rows that are shown, at most."""
PICTURED = 1000
"""Of them, those whose frame is shown when they are pointed at, at most."""
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
        `of`, the number of rows that are written; and, for each dot, `frames`, their ids, `x`, `y`, from 0 to 1,
        `age`, in steps, and `pictured`, whether its frame is to be shown.
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
    pictured = np.zeros(count, bool)
    pictured[np.arange(min(count, PICTURED)) * count // min(count, PICTURED)] = True
    return {
        "of": len(written),
        "frames": frames.tolist(),
        "x": points[:, 0].round(4).astype(float).round(4).tolist(),
        "y": points[:, 1].round(4).astype(float).round(4).tolist(),
        "age": age.tolist(),
        "pictured": pictured.tolist(),
    }
