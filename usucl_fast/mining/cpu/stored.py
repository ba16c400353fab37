"""The numbers of rows as they are stored, in compiled code.

Rows come as they are: float32, or the 16 bits of a bfloat16 as int16, or those of a float16 as uint16. Shifted to where
float32 has them, the bits of a float16 mean the number times `2 ** -112`; what they are multiplied with is multiplied
by `2 ** 112` beforehand (a power of two changes no digit), see `SCALE`.
"""

from typing import Any

import numpy as np
import torch
from numba import types
from numba.extending import intrinsic, overload
from numpy.typing import NDArray

BITS = {torch.float32: torch.float32, torch.bfloat16: torch.int16, torch.float16: torch.uint16}
SCALE = {torch.float32: 1.0, torch.bfloat16: 1.0, torch.float16: 2.0**112}


def stored(rows: torch.Tensor) -> NDArray[Any]:
    """Rows on a CPU as these functions take them."""
    return rows.view(BITS[rows.dtype]).numpy()


@intrinsic
def _from_bits(typing_context, bits):  # type: ignore[no-untyped-def]
    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        return builder.bitcast(arguments[0], context.get_value_type(signature.return_type))

    return types.float32(types.uint32), generate


def as_float(stored):  # type: ignore[no-untyped-def]
    """A stored number as float32; a float16 as that times `2 ** -112`."""


@overload(as_float)
def _(stored):  # type: ignore[no-untyped-def]
    if isinstance(stored, types.Float):
        return lambda stored: stored
    if stored.signed:
        return lambda stored: _from_bits(np.uint32(np.int32(stored) << 16))
    # Spread its sign to the left, shift it, and keep one of the bits that hold it.
    return lambda stored: _from_bits(np.uint32((np.int32(np.int16(stored)) << 13) & 0x8FFFFFFF))
