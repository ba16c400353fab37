"""Metrics of a run as curves for its page."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

POINTS = 500
"""Of a curve, at most: a longer run is shown as means of as many equal parts, with least and greatest."""
CURVES = {
    "loss": "loss",
    "gradient": "gradient's norm",
    "lr": "learning rate",
    "mean_cosine": "mean cosine of the anchors (1: collapsed)",
    "effective_rank": "effective rank of the anchors",
    "near_duplicates": "near-duplicates among the members of n̂, share",
    "frames_per_second": "frames/s",
    "data_wait": "waiting for data, share of the time",
}
"""Metrics that are shown as they are, and their titles."""
COUNTS = {
    "intra_negatives": "intra-video negatives that count",
    "intra_hard_share": "hardest among them, share",
    "cross_topk": "members of n̂",
}
BANDS = {
    "window": "window of the intra-video negatives, share of the video",
    "cross_band": "where the members of n̂ come from, share of the bank",
}
OF_BANK = {"written": "rows of the bank that are written, share", "age": "age of the bank's rows, steps (.1 to .9)"}


def curves(lines: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The curves of a run, each with `title`, `steps`, `values`, and `low` and `high`, from which to which it spreads.

    lines: of metrics, in the order of their steps. A metric that they do not have, or a curriculum that stands still
        at nothing, makes no curve.
    """
    found = [_curve(title, lines, [line.get(name) for line in lines]) for name, title in CURVES.items()]
    counting = [line if line.get("intra") else {**line, "intra_negatives": 0, "intra_hard_share": 0} for line in lines]
    for name, title in COUNTS.items():
        values = [line.get(name) for line in counting]
        if any(values):
            found.append(_curve(title, lines, values))
    for name, title in BANDS.items():
        spans = [line.get(name) if line.get("intra") or name != "window" else None for line in lines]
        found.append(_band(title, lines, spans, [None if span is None else sum(span) / 2 for span in spans]))
    reports = [line for line in lines if "bank" in line]
    found.append(_curve(OF_BANK["written"], reports, [line["bank"]["written"] for line in reports]))
    ages = [line["bank"].get("age") for line in reports]
    spans = [None if age is None else (age[0], age[-1]) for age in ages]
    found.append(_band(OF_BANK["age"], reports, spans, [None if age is None else age[1] for age in ages]))
    return [curve for curve in found if curve is not None]


def _curve(title: str, lines: Sequence[dict[str, Any]], values: Sequence[float | None]) -> dict[str, Any] | None:
    return _band(title, lines, [None if value is None else (value, value) for value in values], values)


def _band(
    title: str,
    lines: Sequence[dict[str, Any]],
    spans: Sequence[Sequence[float] | None],
    middle: Sequence[float | None],
) -> dict[str, Any] | None:
    kept = [
        (line["step"], float(value), *map(float, span))
        for line, span, value in zip(lines, spans, middle, strict=True)
        if span is not None and value is not None and math.isfinite(value)
    ]
    if not kept:
        return None
    parts = np.array_split(np.array(kept), min(len(kept), POINTS))
    return {
        "title": title,
        "steps": [int(part[len(part) // 2, 0]) for part in parts],
        "values": [_short(part[:, 1].mean()) for part in parts],
        "low": [_short(part[:, 2].min()) for part in parts],
        "high": [_short(part[:, 3].max()) for part in parts],
    }


def _short(value: float) -> float:
    return float(f"{value:.5g}")
