"""The order of an epoch: shuffled whole, or a few shards at a time where not all of them can be kept at hand."""

import numpy as np
from numpy.typing import NDArray

ORDER_STREAM = 0
GOLDEN = (5**0.5 - 1) / 2
"""Its multiples, less their whole parts, are spread evenly, however many there are."""


def shuffled(seed: int, epoch: int, tuples: int) -> NDArray[np.int64]:
    """Draws a random order of the numbers below `tuples`: int64 `[tuples]`."""
    return _generator(seed, epoch).permutation(tuples)


def by_shards(shard: NDArray[np.int64], lanes: int, seed: int, epoch: int) -> NDArray[np.int64]:
    """Draws a random order of tuples that reads `lanes` shards side by side, each to its end.

    Shard s is always in lane s % lanes. In a lane the shards come in random order, and the tuples of a shard in random
    order. Lanes are read evenly: a batch has as many tuples of each, up to one. So an epoch reads every shard once
    where `lanes` of them are kept.

    So that lanes do not all need their next shard at the same moment, the first shard of some is read up to twice as
    fast, and the last one more slowly.

    Args:
        shard: int64 `[T]`, the shard of each tuple.

    Returns:
        int64 `[T]`, numbers of tuples.
    """
    generator = _generator(seed, epoch)
    turn, within = generator.permutation(int(shard.max()) + 1)[shard], generator.permutation(len(shard))
    lanes = min(lanes, int(shard.max()) + 1)  # further ones would be empty
    order = np.lexsort((within, turn, shard % lanes))
    cuts = np.searchsorted(shard[order] % lanes, np.arange(1, lanes))
    moments = []
    for lane, of_lane in enumerate(np.split(turn[order], cuts)):
        tuples, (first, last) = len(of_lane), _ends(of_lane)
        shift = lane * GOLDEN % 1 / 2 * first if first < tuples else 0
        knots = [0, first, tuples - last, tuples], [0, first - shift, tuples - last - shift, tuples]
        moments.append(np.interp(np.arange(tuples) + 0.5, *knots) / max(1, tuples))
    return order[np.concatenate(moments).argsort(kind="stable")]


def _ends(turn: NDArray[np.int64]) -> tuple[int, int]:
    """How many tuples a lane has of its first and of its last shard."""
    return (int((turn == turn[0]).sum()), int((turn == turn[-1]).sum())) if len(turn) else (0, 0)


def _generator(seed: int, epoch: int) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(key=[seed, epoch], counter=[0, ORDER_STREAM, 0, 0]))
