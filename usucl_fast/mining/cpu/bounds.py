"""The error bounds of the compiled search: why it misses none of the top k.

What is answered is the product q . x of a query and a row in float64. The worst of the k best so far sets the query's
threshold; whatever is cheaper only decides which rows cannot come up to it, and so must never be too low by more than
its bound. In all that follows |q . v| <= |q| |v| (Cauchy-Schwarz).

**Balls.** The written rows x of a block lie within r, its radius, of its centroid c:

    q . x = q . c + q . (x - c) <= q . c + |q| r

The centroids of many blocks are the rows of a block of the level above. Where W is the greatest radius of these blocks,
a row in one of them is within W of its centroid, and its product at most |q| W above the centroid's.

**float32.** A sum of D products of float32, in any order and with or without fused additions, is off by at most
(D + 1) 2^-24 |q| |x| or so; `float32_error` takes more than twice that, and the longest row of all. What is smaller
than float32 has numbers for, of the query or of a product, is off by 2^-126 more a term, |x| being what a query's is
multiplied by. No product is too large: a query's numbers are brought to at most 1, and those of rows are `LONGEST`.

**int8.** A query is q = s g + a, with g its code, s its step and a what rounding leaves over; a row is x = c + t h + b,
with the code h and step t of its block's rows. Then

    q . x = q . c + s t g . h + a . (t h) + q . b <= q . c + s t g . h + |a| |t h| + |q| |b|

so that x can come up to a threshold only if

    g . h >= (threshold - q . c - |a| |t h| - |q| |b|) / (s t)

Stored are the unsigned h + `ZERO`, which adds `ZERO` times the sum of g to the product. The right side is cut off to an
integer, and is itself a sum in float64: `CODE_ROUNDING` covers both. q . c is in float32, see above.

Lengths are square roots of sums in float64; `ROUNDING` is far above what these are off (D 2^-53).

A test shrinks each of these bounds and sees answers go missing: tests/mining/test_bounds.py.
"""

import numpy as np
from numpy.typing import NDArray

from usucl_fast.compiled import njit

ROUNDING = 1e-9
"""By what share lengths are made longer."""
CODE_ROUNDING = 1.0
"""By what the least product of codes is made smaller."""
ZERO = 128
"""What is stored for the code 0 of a row."""
QUERY = np.dtype(
    [
        ("excluded", np.int64),  # the group that is left out; -1 for none
        ("oldest", np.int64),  # rows written before this step are no answers
        ("below", np.float64),  # rows more similar than this are no answers
        ("norm", np.float64),  # |q|
        ("float32_error", np.float64),
        ("per_step", np.float64),  # 1 / s
        ("residual", np.float64),  # |a|
        ("shift", np.float64),  # what is added to the least g . h
    ]
)
"""What is asked by one query, and its part in the bounds."""
BALL = np.dtype([(name, np.float64) for name in ("radius", "length", "step", "residual", "reach")])
"""A block's part in the bounds: r, the greatest |x|, t, the greatest |b| and the greatest |t h|."""


def float32_error(dim: int, longest: float, norm: NDArray[np.float64]) -> NDArray[np.float64]:
    """How far float32 products of queries with rows are off, at most."""
    return (dim + 8) * (2.0**-23 * longest * norm + 2.0**-126 * (1 + longest))


@njit(nogil=True, inline="always")
def length(square):  # type: ignore[no-untyped-def]
    """A length, never too short."""
    return np.sqrt(square) * (1 + ROUNDING)


@njit(nogil=True, inline="always")
def ball_reaches(needed, query, ball):  # type: ignore[no-untyped-def]
    """Whether a row of the ball can be more similar to the query than the centroid by what is needed."""
    return needed <= query.norm * ball.radius


@njit(nogil=True, inline="always")
def least_code_product(needed, query, ball, per_step):  # type: ignore[no-untyped-def]
    """What the product of codes is at least, of a row more similar than the centroid by what is needed."""
    needed -= query.residual * ball.reach + query.norm * ball.residual
    return needed * query.per_step * per_step + query.shift
