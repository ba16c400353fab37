"""Checks of arrays before they go to compiled code, which checks nothing: shape, type, device and range."""

import functools
import operator
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import torch

FLOATING = ("float16", "bfloat16", "float32", "float64")
Shape = tuple[int | str, ...] | None
"""A number where a length must be that, a letter where it may be any; None for any shape."""


def check_tensor(name: str, tensor: Any, shape: Shape, *types: str, device: "torch.device | str" = "cpu") -> None:
    """Refuses an argument that is not a dense tensor of this shape and type on this device.

    Args:
        name: as the message shows it.
        types: names of the types that it may have.

    Raises:
        ValueError: says what it is, and what it must be.
    """
    import torch

    is_dense = isinstance(tensor, torch.Tensor) and tensor.layout is torch.strided
    on_device = is_dense and (tensor.device == device or str(tensor.device) == str(device))
    _check(name, tensor, on_device, shape, types, device)


def check_array(name: str, array: Any, shape: Shape, *types: str) -> None:
    """Refuses an argument that is not a NumPy array of this shape and type.

    Raises:
        ValueError: says what it is, and what it must be.
    """
    _check(name, array, isinstance(array, np.ndarray), shape, types, None)


def _check(name: str, array: Any, is_kind: bool, shape: Shape, types: tuple[str, ...], device: object) -> None:
    if is_kind and _type_name(array.dtype) in types and _fits(array.shape, shape):
        return
    found, kind = getattr(array, "shape", None), str(getattr(array, "dtype", type(array).__name__))
    kind = kind.removeprefix("torch.")
    where = "" if device is None else f" on {device}"
    got = kind if found is None else f"{kind} {_brackets(found)}"
    if where and hasattr(array, "device"):
        got += f" on {array.device}"
    if "sparse" in str(getattr(array, "layout", "")):
        got = f"sparse {got}"
    raise ValueError(f"{name} is {got}, and must be {' or '.join(types)} {_brackets(shape or ('...',))}{where}")


@functools.lru_cache
def _type_name(dtype: object) -> str:
    return str(dtype).removeprefix("torch.")


def _fits(found: tuple[int, ...], shape: Shape) -> bool:
    if shape is None:
        return True
    if len(found) != len(shape):
        return False
    for has, need in zip(found, shape, strict=True):  # noqa: SIM110  a generator takes longer than all else here
        if need != has and not isinstance(need, str):
            return False
    return True


def check_range(name: str, array: Any, low: int, stop: int) -> None:
    """Refuses an array or tensor of whole numbers with one outside of low ... stop - 1, but for a tensor on a GPU:
    looking would wait for it, and torch refuses there what is read or written out of range.

    Raises:
        ValueError: names one.
    """
    if 0 in array.shape or getattr(array, "is_cuda", False):
        return
    least, greatest = map(int, (array.min(), array.max()) if isinstance(array, np.ndarray) else array.aminmax())
    if least < low or greatest >= stop:
        raise ValueError(f"{name} has {least if least < low else greatest}, and must be from {low} to {stop - 1}")


def check_count(name: str, number: Any, low: int, high: int = 1 << 62) -> int:
    """Checks that the argument is a whole number in low ... high, and returns it.

    Raises:
        ValueError: it is not.
    """
    try:
        count = operator.index(number)
    except TypeError:
        count = low - 1
    if not low <= count <= high:
        raise ValueError(f"{name} is {number!r}, and must be a whole number {_limits(low, high, 1 << 62)}")
    return count


def check_number(name: str, number: Any, low: float, high: float = float("inf")) -> float:
    """Checks that the argument is a number in low ... high, and returns it.

    Raises:
        ValueError: it is not.
    """
    try:
        value = float("nan") if isinstance(number, (str, bytes)) else float(number)
    except (TypeError, ValueError, OverflowError, RuntimeError):
        value = float("nan")
    if not low <= value <= high:
        raise ValueError(f"{name} is {number!r}, and must be a number {_limits(low, high, float('inf'))}")
    return value


def check_shares(name: str, shares: Any) -> tuple[float, float]:
    """Checks that the argument is two shares, from 0 to 1, and returns them.

    Raises:
        ValueError: it is not.
    """
    try:
        first, second = shares
    except (TypeError, ValueError):
        raise ValueError(f"{name} is {shares!r}, and must be two shares, from 0 to 1") from None
    return check_number(name, first, 0, 1), check_number(name, second, 0, 1)


def _limits(low: float, high: float, none: float) -> str:
    return f"from {low} on" if high == none else f"from {low} to {high}"


def _brackets(shape: Any) -> str:
    return f"[{', '.join(map(str, shape))}]"
