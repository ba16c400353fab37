"""What was mined for each anchor, moment by moment, as the page shows it."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from usucl_fast.curriculum import NEAREST
from usucl_fast.shards import FrameTable

ALIKE = 0.99
"""Similarity from which on a negative counts as a near-duplicate of the anchor."""


def negatives(
    snapshots: dict[str, NDArray[Any]], table: FrameTable, tau: float, duplicates: Sequence[tuple[int, int]]
) -> dict[str, Any]:
    """What the page shows of the snapshots.

    Args:
        snapshots: of `read_snapshots`.
        tau: temperature of the weights in n̂.
        duplicates: pairs of videos that show the same, by their numbers.

    Returns:
        `anchors`, frame ids; `moments`, each with `step`, `counted` and `window`; and `mined`, for each moment and
        anchor: `written` (the step of its row, -1 for none), `positive` and `positive_similarity`, `intra` and
        `cross`: lists of `[frame id, similarity, weight, marks]`, the weight in n̂, null for intra-video negatives.
    """
    anchors = snapshots["anchors"].tolist()
    copies = {pair for one, other in duplicates for pair in ((one, other), (other, one))}
    moments = [
        {"step": step, "counted": counted, "window": window}
        for step, counted, window in zip(
            *(snapshots[name].tolist() for name in ("step", "counted", "window")), strict=True
        )
    ]
    mined = []
    for moment in range(len(moments)):
        row = []
        for number, anchor in enumerate(anchors):
            at = {name: snapshots[name][moment, number] for name in snapshots if name not in _OF_MOMENT}
            row.append(
                {
                    "written": int(at["written_at"]),
                    "positive": int(at["positive"]),
                    "positive_similarity": _number(at["positive_similarity"]),
                    "intra": _listed(anchor, at["intra"], at["intra_similarity"], None, table, copies),
                    "cross": _listed(anchor, at["cross"], at["cross_similarity"], tau, table, copies),
                }
            )
        mined.append(row)
    return {"anchors": anchors, "moments": moments, "mined": mined}


_OF_MOMENT = ("anchors", "step", "counted", "window")
"""Fields that have no entry an anchor."""


def soft_weights(similarity: NDArray[np.float32], tau: float) -> NDArray[np.float64]:
    """softmax(similarity / tau), the weights of the members of n̂; see `mining.soft_negative`."""
    scores = np.exp((similarity.astype(np.float64) - similarity.max(initial=-1)) / tau)
    return np.asarray(scores / scores.sum())


def _listed(
    anchor: int,
    frame_ids: NDArray[np.int64],
    similarity: NDArray[np.float32],
    tau: float | None,
    table: FrameTable,
    copies: set[tuple[int, int]],
) -> list[list[Any]]:
    kept = frame_ids >= 0
    ids, similarity = frame_ids[kept], similarity[kept]
    weights = [None] * len(ids) if tau is None else [_number(w) for w in soft_weights(similarity, tau)]
    video, of_anchor = table.rows["video"][ids].tolist(), int(table.rows["video"][anchor])
    rows = []
    for frame_id, alike, weight, own in zip(ids.tolist(), similarity.tolist(), weights, video, strict=True):
        marks = []
        if own == of_anchor and abs(frame_id - anchor) < NEAREST:
            marks.append(f"within {NEAREST - 1} frames of the anchor")
        near = ids[(ids != frame_id) & (abs(ids - frame_id) < NEAREST)]
        if len(near) and (table.rows["video"][near] == own).any():
            marks.append("next to another one")
        if alike >= ALIKE:
            marks.append(f"similarity of {ALIKE:g} or more")
        if (own, of_anchor) in copies:
            marks.append("its video is a copy of the anchor's")
        rows.append([frame_id, _number(alike), weight, marks])
    return rows


def _number(value: float) -> float | None:
    return None if np.isnan(value) else round(float(value), 4)
