"""Reads the folds of POCUS images that USCL publishes as pickles, running no code that they may hold."""

import hashlib
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from usucl_fast.errors import DataError, UsageError
from usucl_fast.evaluate.images import check_folds, square
from usucl_fast.evaluate.samples import Samples, Split
from usucl_fast.progress import Progress

if TYPE_CHECKING:
    import torch

COVID_CLASSES = ("covid", "pneumonia", "regular")
COVID_FOLDS = range(1, 6)
COVID_MEAN, COVID_STD = 0.5, 0.25
"""What USCL's POCUS pictures are normalised by, where they are."""


def has_covid_pickles(folder: Path) -> bool:
    """Whether the folder is one for `read_covid_pickles`."""
    return any(folder.glob("covid_data*.pkl"))


def read_covid_pickles(folder: Path, size: int, channels: int) -> tuple[Samples, "torch.Tensor", list[Split]]:
    """Reads the folds of POCUS images that USCL publishes, `covid_data{1..5}.pkl`, running no code they may hold.

    folder: holds the pickles, each of (X_train, y_train, X_test, y_test), X `[N, C, H, W]` of levels in [0, 255],
        floats in [0, 1], or such normalised by a mean of .5 and a deviation of .25; y `[N]`, 0 covid, 1 pneumonia,
        2 regular.
    size, channels: as of `read_image_list`.

    Returns:
        The samples, each picture once however many folds hold it, named by where it is first; the pictures, uint8
        `[M, C, size, size]`; and the five folds. An image is a group of its own: the patients are not published.

    Raises:
        UsageError: pickles are missing.
        DataError: a pickle is damaged, holds anything but such arrays, or trains on what it tests.
    """
    files = [folder / f"covid_data{fold}.pkl" for fold in COVID_FOLDS]
    for file in files:
        if not file.is_file():
            raise UsageError(f"{folder} has no {file.name}; all of covid_data{{1..5}}.pkl are needed")
    place: dict[bytes, int] = {}
    pictures: list[NDArray[np.uint8]] = []
    labels: list[int] = []
    names: list[str] = []
    splits = []
    with Progress("files", len(files)) as progress:
        for fold, file in enumerate(files):
            parts = []
            for part, x_NCHW, y_N, to_levels in _covid_parts(file):
                places = []
                for number, (x_CHW, label) in enumerate(zip(x_NCHW, y_N, strict=True)):
                    levels = to_levels(x_CHW)
                    key = hashlib.sha256(f"{levels.shape} {label} ".encode() + levels.tobytes()).digest()
                    places.append(place.setdefault(key, len(place)))
                    if len(place) > len(pictures):
                        image = Image.fromarray(levels[0] if len(levels) == 1 else levels.transpose(1, 2, 0))
                        pictures.append(square(image, size, channels))
                        labels.append(int(label))
                        names.append(f"{file.name}/{part}/{number}")
                parts.append(np.unique(np.array(places, np.int64)))
            splits.append(Split(0, fold, *parts))
            progress.advance()
    check_folds(splits, [str(file) for file in files], names)
    own = np.arange(len(names))
    samples = Samples(np.array(labels, np.int64), own, own, list(COVID_CLASSES), names)
    import torch

    return samples, torch.from_numpy(np.stack(pictures)), splits


Levels = Callable[[NDArray[Any]], NDArray[np.uint8]]


def _covid_parts(file: Path) -> list[tuple[str, NDArray[Any], NDArray[np.int64], Levels]]:
    """Of train and test: its name, X `[N, C, H, W]`, y `[N]`, and what makes grey levels of a picture of X."""
    with file.open("rb") as opened:
        try:
            held = _ArrayUnpickler(opened, file).load()
        except DataError:
            raise
        except Exception as error:  # pickle raises whatever a damaged file leads it to
            raise DataError(
                f"{file} is damaged or not a pickle ({error or type(error).__name__}); get it again"
            ) from error
    if not isinstance(held, (tuple, list)) or len(held) != 4:
        raise DataError(f"{file} does not hold (X_train, y_train, X_test, y_test)")
    found = []
    for part, x, y in (("train", *held[:2]), ("test", *held[2:])):
        if not isinstance(x, np.ndarray) or x.ndim != 4 or x.shape[1] not in (1, 3) or x.dtype.kind not in "uif":
            what = f"{x.dtype} {list(x.shape)}" if isinstance(x, np.ndarray) else type(x).__name__
            raise DataError(f"{file}: X_{part} is {what}, and not numbers of shape [N, 1 or 3, H, W]")
        y = np.asarray(y)
        if y.shape != x.shape[:1] or y.dtype.kind not in "ui":
            raise DataError(f"{file}: y_{part} is {y.dtype} {list(y.shape)}, and not {len(x)} integers")
        if len(y) and not (y.min() >= 0 and y.max() < len(COVID_CLASSES)):
            raise DataError(f"{file}: y_{part} has labels from {y.min()} to {y.max()}, and not 0, 1 or 2")
        found.append((part, x, y.astype(np.int64)))
    values = [x for _, x, _ in found if x.size]
    edges = np.array([(x.min(), x.max()) for x in values] or [(0, 0)], np.float64)
    to_levels = _levels_of(file, edges.min(), edges.max(), all(x.dtype.kind in "ui" for x in values))
    return [(*one, to_levels) for one in found]


def _levels_of(file: Path, low: float, high: float, integers: bool) -> Levels:
    """What makes grey levels of values from `low` to `high`."""
    normalised_low, normalised_high = ((edge - COVID_MEAN) / COVID_STD for edge in (0, 1))
    slack = 1e-3  # of rounding in half precision
    if low >= 0 and high <= 255 and (integers or high > 1):
        scale, shift = 1.0, 0.0
    elif low >= 0 and high <= 1:
        scale, shift = 255.0, 0.0
    elif normalised_low - slack <= low < 0 and high <= normalised_high + slack:
        scale, shift = 255 * COVID_STD, 255 * COVID_MEAN
    else:  # NaN too
        raise DataError(
            f"{file}: values from {low:g} to {high:g} are neither levels to 255, nor in [0, 1], nor such normalised by"
            f" {COVID_MEAN} and {COVID_STD}"
        )
    return lambda x: (x * scale + shift).clip(0, 255).round().astype(np.uint8)


class _ArrayUnpickler(pickle.Unpickler):
    """Makes NumPy arrays of plain values, and nothing else."""

    def __init__(self, opened: BinaryIO, file: Path) -> None:
        super().__init__(opened)
        self._file = file

    def find_class(self, module: str, name: str) -> Any:
        try:
            return _ALLOWED[module.replace("numpy.core.", "numpy._core."), name]  # NumPy 1 and 2
        except KeyError:
            raise DataError(
                f"{self._file} holds more than arrays ({module}.{name}), which is not loaded, as it may run any code;"
                " where you trust it, save its arrays alone"
            ) from None


def _encode(text: str, encoding: str) -> bytes:
    """An array's bytes in an old pickle, which writes them as text."""
    if encoding not in ("latin1", "latin-1"):
        raise ValueError(f"bytes are encoded in {encoding}")
    return text.encode("latin1")


_ALLOWED = {
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    ("_codecs", "encode"): _encode,
    ("numpy._core.multiarray", "_reconstruct"): np.empty(0).__reduce__()[0],
    ("numpy._core.multiarray", "scalar"): np.int64(0).__reduce__()[0],
    ("numpy._core.numeric", "_frombuffer"): np.empty(1).__reduce_ex__(5)[0],
}
"""What the pickle of an array asks for, by module and name."""
