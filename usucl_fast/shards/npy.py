"""NumPy's file format, read from bytes that may come from anybody."""

import io
import math
from typing import Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

HEADER_BYTES = 1 << 16
"""More than the header of any array of ours takes."""


def read_npy(data: NDArray[np.uint8]) -> NDArray[Any]:
    """The array in the bytes of a `.npy` file, without a copy of it and without running anything that is in them.

    data: uint8 `[bytes]`, of the whole file.

    Raises:
        ValueError: they are no array, of Python objects, or not as many bytes as the array has.
    """
    file = io.BytesIO(data[:HEADER_BYTES].tobytes())
    readers = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}
    version = npy.read_magic(file)
    if version not in readers:
        raise ValueError(f"is of the unknown NumPy format {version}")
    shape, is_fortran, dtype = readers[version](file)
    if dtype.hasobject or (is_fortran and len(shape) > 1):
        raise ValueError(f"holds an array of {dtype}, in an order or of objects that are not read")
    start, length = file.tell(), math.prod(shape) * dtype.itemsize
    if min(shape, default=0) < 0 or start + length != len(data):
        raise ValueError(f"has {len(data)} bytes, where {start} + {length} make an array {dtype} {list(shape)}")
    return np.ndarray(shape, dtype, buffer=data.data, offset=start)
