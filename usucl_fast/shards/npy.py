"""Reads NumPy's file format from bytes that are not trusted."""

import io
import math
from typing import Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

HEADER_BYTES = 1 << 16
"""More than the header of any array of ours takes."""
READERS = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}


def read_npy(data: NDArray[np.uint8], dtype: np.dtype[Any]) -> NDArray[Any]:
    """Reads the one-dimensional array in the bytes of a `.npy` file, without copying it.

    data: uint8 `[bytes]`, of the whole file.
    dtype: of the array.

    Raises:
        ValueError: they are not such an array, or not as many bytes as the array has.
    """
    file = io.BytesIO(data[:HEADER_BYTES].tobytes())
    try:
        shape, _, found = READERS[npy.read_magic(file)](file)
    except Exception as error:  # NumPy's parser raises whatever the header leads it to
        raise ValueError("has no header of a NumPy array") from error
    if found != dtype or len(shape) != 1:
        raise ValueError(f"is an array {found} {list(shape)}, not {dtype} [N]")
    start, length = file.tell(), math.prod(shape) * dtype.itemsize
    if shape[0] < 0 or start + length != len(data):
        raise ValueError(f"has {len(data)} bytes, where {start} + {length} make an array {dtype} {list(shape)}")
    return np.ndarray(shape, dtype, buffer=data.data, offset=start)
