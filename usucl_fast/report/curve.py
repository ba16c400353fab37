"""A curve as one line of text."""

import itertools
from collections.abc import Sequence

BARS = "▁▂▃▄▅▆▇█"


def sparkline(values: Sequence[float], width: int = 60) -> str:
    """The values, averaged into at most `width` bins, as bars between their least and greatest."""
    count = min(width, len(values))
    edges = [round(i * len(values) / count) for i in range(count + 1)]
    bins = [sum(values[a:b]) / (b - a) for a, b in itertools.pairwise(edges)]
    low, span = min(bins), max(bins) - min(bins)
    return "".join(BARS[round((value - low) / span * (len(BARS) - 1)) if span else 0] for value in bins)
