"""Reads labelled images that are not in shards, with the folds that others published for them."""

from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from usucl_fast.errors import DataError, UsageError
from usucl_fast.evaluate.samples import Samples, Split
from usucl_fast.machine import cores
from usucl_fast.pack.tables import read_rows
from usucl_fast.progress import Progress

if TYPE_CHECKING:
    import torch

GBCU_CLASSES = ("normal", "benign", "malignant")
GBCU_FOLDERS = (".", "imgs", "images")


def read_image_list(path: Path, size: int, channels: int) -> tuple[Samples, "torch.Tensor"]:
    """Reads the images of a list, each as its largest centred square.

    path: a CSV file with a header, or a JSONL file with an object a line: `path` (of an image, relative to the list),
        `label`, and any of `group` (the video where there is none) and `video` (the image where there is none).
    size: of the pictures, in pixels.
    channels: 1 for grey, 3 for colour.

    Returns:
        The samples in the list's order, their classes sorted by name, and the pictures, uint8 `[M, C, size, size]`.

    Raises:
        UsageError: the file is not such a list, an entry has no label, an image is listed twice, or a video is in two
            groups.
        DataError: images do not exist or do not decode.
    """
    rows = read_rows(path, str(path), {"path", "label"}, ("path", "label", "video", "group")).texts
    if not rows:
        raise UsageError(f"{path} lists no image")
    for number, row in enumerate(rows, 1):
        for column in ("path", "label"):
            if not row[column]:
                raise UsageError(f"{path}: entry {number} has no {column}; fill it in, or remove the entry")
    names = [row["path"] for row in rows]
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise UsageError(f"{path}: names {twice[0]!r} more than once; remove all entries but one")
    # The names of images, videos and groups are kept apart, even where they are spelt alike.
    videos = [("video", row["video"]) if row.get("video") else ("image", row["path"]) for row in rows]
    groups = [("group", row["group"]) if row.get("group") else video for row, video in zip(rows, videos, strict=True)]
    group_of: dict[tuple[str, str], tuple[str, str]] = {}
    for video, group in zip(videos, groups, strict=True):
        if group_of.setdefault(video, group) != group:
            raise UsageError(
                f"{path}: video {video[1]!r} is in groups {group_of[video][1]!r} and {group[1]!r}; keep one"
            )
    classes = sorted({row["label"] for row in rows})
    labels = np.array([classes.index(row["label"]) for row in rows])
    pictures = _read_pictures(path, [path.parent / name for name in names], names, size, channels)
    return Samples(labels, _numbered(videos), _numbered(groups), classes, names), pictures


def has_gbcu(folder: Path) -> bool:
    """Whether the folder is one for `read_gbcu`."""
    return any(folder.glob("train_*.txt"))


def read_gbcu(folder: Path, size: int, channels: int) -> tuple[Samples, "torch.Tensor", list[Split]]:
    """Reads images with the lists of their folds, as GBCU's authors publish them: `{train,val}_{0..9}.txt`.

    folder: holds the lists, of lines `filename,label` (0 normal, 1 benign, 2 malignant), as many folds as there are;
        the images lie beside them, or in its folder `imgs` or `images`.
    size, channels: as of `read_image_list`.

    Returns:
        The samples sorted by name, the pictures, uint8 `[M, C, size, size]`, and the folds, `val` being what is tested.
        An image is a group of its own: the authors split by patient, but do not publish the patients.

    Raises:
        UsageError: lists are missing.
        DataError: the lists contradict themselves or each other, or images do not exist or do not decode.
    """
    found = {fold for fold in map(_fold_of, folder.glob("*_*.txt")) if fold is not None}
    lists = []
    for fold in range(max({1, *found}) + 1):
        lists.append([folder / f"{part}_{fold}.txt" for part in ("train", "val")])
        for file in lists[-1]:
            if not file.is_file():
                raise UsageError(f"{folder} has no {file.name}; two folds or more need a train and a val list each")
    label_of: dict[str, int] = {}
    named: list[list[list[str]]] = []
    for pair in lists:
        named.append([])
        for file in pair:
            entries = list(_gbcu_entries(file))
            for name, label in entries:
                if label_of.setdefault(name, label) != label:
                    raise DataError(f"{file}: {name} has label {label}, and {label_of[name]} before; correct the lists")
            named[-1].append([name for name, _ in entries])
    names = sorted(label_of)
    place = {name: number for number, name in enumerate(names)}
    splits = []
    for fold, (train, test) in enumerate(named):
        places = [np.unique(np.array([place[name] for name in part], np.int64)) for part in (train, test)]
        splits.append(Split(0, fold, *places))
    check_folds(splits, [str(test) for _, test in lists], names)
    beside = next((folder / sub for sub in GBCU_FOLDERS if (folder / sub / names[0]).is_file()), folder)
    pictures = _read_pictures(folder, [beside / name for name in names], names, size, channels)
    labels, own = np.array([label_of[name] for name in names]), np.arange(len(names))
    return Samples(labels, own, own, list(GBCU_CLASSES), names), pictures, splits


def _read_pictures(source: Path, files: list[Path], names: list[str], size: int, channels: int) -> "torch.Tensor":
    """The pictures `[M, C, size, size]` of `files`, called `names` within `source`."""
    pictures = np.empty((len(files), channels, size, size), np.uint8)

    def read(file: Path) -> NDArray[np.uint8] | str:
        try:
            with Image.open(file) as image:
                if image.mode[0] in "IF":  # Pillow would cut off what is above 255
                    return f"its pixels are {image.mode}, and not of 8 bits"
                return square(image, size, channels)
        except Exception as error:  # Pillow raises whatever its readers of formats raise
            return getattr(error, "strerror", None) or ("no image" if "identify" in str(error) else str(error))

    failed = []
    with ThreadPoolExecutor(cores()) as pool, Progress("images", len(files)) as progress:
        for place, found in enumerate(pool.map(read, files)):
            if isinstance(found, str):
                failed.append(f"{names[place]} ({found})")
            else:
                pictures[place] = found
            progress.advance()
    if failed:
        raise DataError(
            f"{source}: {len(failed)} of {len(files)} images do not decode, the first is {failed[0]}; replace or remove"
            " them"
        )
    import torch

    return torch.from_numpy(pictures)


def square(image: Image.Image, size: int, channels: int) -> NDArray[np.uint8]:
    """The largest centred square, as `whole_frames` takes it of a frame, resized: `[C, size, size]`."""
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    # Cut before it is resized, or else the filter would reach beyond the square.
    square = image.convert("L" if channels == 1 else "RGB").crop((left, top, left + side, top + side))
    pixels = np.asarray(square.resize((size, size), Image.Resampling.BILINEAR))
    return pixels[None] if channels == 1 else pixels.transpose(2, 0, 1)


def _numbered(keys: Sequence[Any]) -> NDArray[np.int64]:
    """`[M]` integers that are alike where the keys are, counted in the order in which they first come."""
    number = {key: place for place, key in enumerate(dict.fromkeys(keys))}
    return np.array([number[key] for key in keys], np.int64)


def check_folds(splits: list[Split], files: list[str], names: list[str]) -> None:
    """Raises DataError where a split, of the file beside it, trains on what it tests, or tests what another does."""
    tested: dict[int, str] = {}
    for split, file in zip(splits, files, strict=True):
        if not len(split.train) or not len(split.test):
            raise DataError(f"{file}: its fold trains or tests on no image; get the file again")
        both = np.intersect1d(split.train, split.test)
        if len(both):
            raise DataError(
                f"{file}: {len(both)} images are in both train and test, the first is {names[both[0]]}; remove them"
                " from one"
            )
        for place in split.test.tolist():
            if tested.setdefault(place, file) != file:
                raise DataError(f"{file}: {names[place]} is tested in {tested[place]} too; remove it from one")


def _fold_of(file: Path) -> int | None:
    part, _, fold = file.stem.rpartition("_")
    return int(fold) if part in ("train", "val") and fold.isascii() and fold.isdigit() else None


def _gbcu_entries(file: Path) -> Iterator[tuple[str, int]]:
    """The names and labels in a list."""
    try:
        lines = file.read_text("utf-8-sig").splitlines()
    except (OSError, ValueError) as error:
        raise DataError(f"{file} is not a readable text ({error}); get it again") from error
    for number, line in enumerate(lines, 1):
        if line.strip():
            name, _, label = (part.strip() for part in line.rpartition(","))
            if not name or label not in ("0", "1", "2"):
                raise DataError(f"{file}: line {number}, {line!r}, is not a filename and a label of 0, 1 or 2")
            yield name, int(label)
