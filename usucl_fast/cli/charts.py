"""Figures as text for a terminal: a series of numbers as one line of bars, a curriculum as a table."""

import itertools
from collections.abc import Sequence

from usucl_fast.curriculum import Stage

BARS = "▁▂▃▄▅▆▇█"
HEADER = ("intra-video", "window %", "hardest %", "cross-video", "band %")


def curriculum_text(unit: str, stages: Sequence[Stage]) -> str:
    """The stages of a run, one a `unit`: epochs or steps.

    A line of the table stands for all of them in a row that look the same in it: shares are rounded to whole percents.
    """
    rows: list[tuple[str, ...]] = [(unit, *HEADER)]
    first = 0
    for cells, alike in itertools.groupby(map(_cells, stages)):
        last = first + len(list(alike)) - 1
        rows.append((f"{first}-{last}" if last > first else f"{first}", *cells))
        first = last + 1
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    table = ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
    return "\n".join([*table, "", *_curves(stages)])


def _cells(stage: Stage) -> tuple[str, ...]:
    start, end = stage.cross_band or (0, 1)
    return (
        str(stage.intra_negatives) if stage.intra else "-",
        _percents(stage.window) if stage.intra else "-",
        f"{stage.intra_hard_share:.0%}".rstrip("%") if stage.intra else "-",
        str(stage.cross_topk) if stage.cross_topk else "-",
        _percents((start, end)) if stage.cross_band else "-",
    )


def _percents(shares: tuple[float, float]) -> str:
    return "{:.0f}-{:.0f}".format(*(100 * share for share in shares))


def _curves(stages: Sequence[Stage]) -> list[str]:
    figures: dict[str, list[float]] = {
        "intra-video": [stage.intra_negatives * stage.intra for stage in stages],
        "window %": [100 * stage.window[1] for stage in stages],
        "hardest %": [100 * stage.intra_hard_share for stage in stages],
        "cross-video": [stage.cross_topk for stage in stages],
        "band from %": [100 * (stage.cross_band or (0, 1))[0] for stage in stages],
        "band to %": [100 * (stage.cross_band or (0, 1))[1] for stage in stages],
    }
    return [
        f"{name:>11}  {values[0]:3.0f} {sparkline(values)} {values[-1]:.0f}"
        for name, values in figures.items()
        if min(values) < max(values)
    ]


def sparkline(values: Sequence[float], width: int = 60) -> str:
    """The values, averaged into at most `width` bins, as bars between their least and greatest."""
    count = min(width, len(values))
    edges = [round(i * len(values) / count) for i in range(count + 1)]
    bins = [sum(values[a:b]) / (b - a) for a, b in itertools.pairwise(edges)]
    low, span = min(bins), max(bins) - min(bins)
    return "".join(BARS[round((value - low) / span * (len(BARS) - 1)) if span else 0] for value in bins)
