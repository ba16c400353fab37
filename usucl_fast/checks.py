"""What is looked at before an array goes to compiled code, which looks at nothing: shape, type, device and range."""

from typing import Any

FLOATING = ("float16", "bfloat16", "float32", "float64")


def check_array(name: str, array: Any, shape: tuple[int | str, ...] | None, *types: str, device: Any = None) -> None:
    """Refuses an argument that is not an array or tensor of this shape and type.

    Args:
        name: as the message shows it.
        array: a NumPy array or a tensor.
        shape: a number where a length must be that, a letter where it may be any; None for any shape.
        types: names of the types that it may have.
        device: of a tensor, where it must be on that one.

    Raises:
        ValueError: says what it is, and what it must be.
    """
    found = getattr(array, "shape", None)
    kind = str(getattr(array, "dtype", type(array).__name__)).removeprefix("torch.")
    fits = found is not None and (shape is None or len(found) == len(shape))
    fits = fits and all(
        isinstance(need, str) or need == has for need, has in zip(shape or (), found or (), strict=False)
    )
    if fits and kind in types and (device is None or array.device == device):
        return
    on = f" on {array.device}" if device and hasattr(array, "device") else ""
    got = kind if found is None else f"{kind} {_brackets(found)}{on}"
    where = f" on {device}" if device else ""
    raise ValueError(f"{name} is {got}, and must be {' or '.join(types)} {_brackets(shape or ('...',))}{where}")


def check_range(name: str, array: Any, low: int, stop: int) -> None:
    """Refuses an array or tensor of whole numbers that has one outside of low ... stop - 1.

    Raises:
        ValueError: names one.
    """
    if 0 in array.shape:
        return
    least, greatest = int(array.min()), int(array.max())
    if least < low or greatest >= stop:
        raise ValueError(f"{name} has {least if least < low else greatest}, and must be from {low} to {stop - 1}")


def check_number(name: str, number: Any, low: float, high: float = float("inf")) -> None:
    """Refuses what is not a number of low ... high; a whole one, where `low` is.

    Raises:
        ValueError: names it.
    """
    whole = isinstance(low, int)
    try:
        fits = low <= number <= high and (not whole or number == int(number))
    except (TypeError, ValueError, OverflowError):
        fits = False
    if not fits:
        limit = f"from {low} on" if high == float("inf") else f"from {low} to {high}"
        raise ValueError(f"{name} is {number!r}, and must be {'a whole' if whole else 'a'} number {limit}")


def _brackets(shape: Any) -> str:
    return f"[{', '.join(map(str, shape))}]"
