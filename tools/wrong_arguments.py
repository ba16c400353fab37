"""Changes right arguments of a function in one way: shape, type, layout, device or value."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

NUMBERS: tuple[Any, ...] = (
    *(None, -1, 0, 1, 2, 3, 1.0, 1.5, -0.1, True, 2**31, 2**63, 10**30, "3", b"3", 1j, [1], (), {}, object()),
    *(float("nan"), float("inf"), -float("inf"), 1e-300, 1e300, np.float32(2), np.int64(2), np.uint64(2**64 - 1)),
    *(torch.tensor(2), torch.tensor(2.5), torch.tensor([1, 2]), np.array([]), np.array(2), torch.float16),
)
ELEMENTS = (float("nan"), float("inf"), -float("inf"), -1, -2, -(2**62), 39, 40, 2**31, 2**62, 1e38, 1e-45, 0, 513)
TYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.uint8, torch.bool)
TYPES_OF_ARRAYS = ("f8", "f4", "i8", "i4", "u8", "u1", "?", "c16", "O", "U4", ">i8", "M8[s]")


def change(value: Any, rng: np.random.Generator) -> Any:
    """The value, changed in one way."""
    if isinstance(value, torch.Tensor) and value.ndim:
        return _changed_tensor(value.clone(), rng)
    if isinstance(value, np.ndarray):
        return _changed_array(value.copy(), rng)
    if isinstance(value, tuple) and rng.integers(3):
        place = int(rng.integers(len(value)))
        return (*value[:place], NUMBERS[rng.integers(len(NUMBERS))], *value[place + 1 :])
    return NUMBERS[rng.integers(len(NUMBERS))]


def _changed_tensor(tensor: torch.Tensor, rng: np.random.Generator) -> Any:
    axis = int(rng.integers(tensor.ndim))
    ways: list[Callable[[], Any]] = [
        lambda: tensor.to(TYPES[rng.integers(len(TYPES))]),
        lambda: tensor.to(torch.complex64),
        lambda: tensor.narrow(axis, 0, tensor.shape[axis] - 1),
        lambda: tensor.narrow(axis, 0, 0),
        lambda: torch.cat([tensor, tensor], dim=axis),
        lambda: tensor[None],
        lambda: tensor[0],
        lambda: tensor.flatten(),
        lambda: tensor.repeat_interleave(2, dim=axis)[(slice(None),) * axis + (slice(None, None, 2),)],
        lambda: tensor.narrow(axis, 0, 1).expand_as(tensor),
        lambda: tensor.transpose(0, -1),
        lambda: tensor.transpose(0, -1).contiguous().transpose(0, -1),
        lambda: tensor.flip(axis),
        lambda: tensor.to("meta"),
        tensor.to_sparse,
        tensor.numpy,
        tensor.tolist,
        lambda: tensor.requires_grad_() if tensor.is_floating_point() else tensor,
        lambda: torch.nn.Parameter(tensor, requires_grad=False),
        lambda: tensor * 1e30 if tensor.is_floating_point() else ~tensor,
        lambda: NUMBERS[rng.integers(len(NUMBERS))],
    ]
    if rng.integers(2):
        return ways[rng.integers(len(ways))]()
    flat = tensor.view(-1)
    with np.errstate(all="ignore"):
        put = np.float64(ELEMENTS[rng.integers(len(ELEMENTS))])
        flat[int(rng.integers(len(flat)))] = float(put) if tensor.is_floating_point() else int(np.nan_to_num(put)) % 256
        if tensor.dtype == torch.int64:
            flat[int(rng.integers(len(flat)))] = int(np.clip(np.nan_to_num(put), -(2**62), 2**62))
    return tensor


def _changed_array(array: np.ndarray, rng: np.random.Generator) -> Any:
    ways: list[Callable[[], Any]] = [
        lambda: (array if array.dtype.names is None else array["gamma"]).astype(
            TYPES_OF_ARRAYS[rng.integers(len(TYPES_OF_ARRAYS))]
        ),
        lambda: array[:-1],
        lambda: array[:0],
        lambda: np.concatenate([array, array]),
        lambda: array[None],
        lambda: array[0],
        array.ravel,
        lambda: np.repeat(array, 2, axis=0)[::2],
        lambda: np.asfortranarray(array),
        lambda: array[::-1],
        lambda: np.broadcast_to(array[:1], array.shape),
        array.tolist,
        lambda: NUMBERS[rng.integers(len(NUMBERS))],
    ]
    if rng.integers(2):
        with np.errstate(all="ignore"):
            return ways[rng.integers(len(ways))]()
    flat = array.reshape(-1)
    field = None if array.dtype.names is None else array.dtype.names[rng.integers(len(array.dtype.names))]
    wanted = flat if field is None else flat[field]
    put = np.float64(ELEMENTS[rng.integers(len(ELEMENTS))])
    whole = wanted.dtype.kind in "iub"
    value: Any = put
    if whole:
        least, most = (0, 1) if wanted.dtype.kind == "b" else (np.iinfo(wanted.dtype).min, np.iinfo(wanted.dtype).max)
        value = min(max(int(np.nan_to_num(put)), least), most)
    with np.errstate(all="ignore"):
        wanted[rng.integers(len(flat))] = value
    return array
