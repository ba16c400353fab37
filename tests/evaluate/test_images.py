import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from usucl_fast.errors import DataError, UsageError
from usucl_fast.evaluate.images import read_gbcu, read_image_list
from usucl_fast.evaluate.pocus import read_covid_pickles

RNG = np.random.default_rng(0)


def write_image(file: Path, height: int = 8, width: int = 8, level: int | None = None) -> np.ndarray:
    """A picture of noise, or of one level; its pixels `[height, width, 3]`."""
    file.parent.mkdir(parents=True, exist_ok=True)
    shape = (height, width, 3)
    pixels = RNG.integers(0, 256, shape, np.uint8) if level is None else np.full(shape, level, np.uint8)
    Image.fromarray(pixels).save(file)
    return pixels


def write_list(root: Path, text: str) -> Path:
    (root / "list.csv").write_text(text)
    return root / "list.csv"


@pytest.mark.parametrize(("height", "width", "top", "left"), [(8, 13, 0, 2), (11, 8, 1, 0)])
def test_a_picture_is_its_centred_square(tmp_path: Path, height: int, width: int, top: int, left: int) -> None:
    pixels = write_image(tmp_path / "a.png", height, width)
    square = pixels[top : top + 8, left : left + 8]
    path = write_list(tmp_path, "path,label\na.png,x\n")
    _, colour = read_image_list(path, 8, 3)
    assert np.array_equal(colour[0].permute(1, 2, 0), square)
    _, grey = read_image_list(path, 8, 1)
    assert grey.shape == (1, 1, 8, 8)
    luma = square @ np.array([0.299, 0.587, 0.114])  # ITU-R 601-2
    assert np.abs(grey[0, 0].numpy() - luma).max() <= 1
    # Bilinear with antialiasing makes a pixel of half the size of 4: (1, 3, 3, 1) / 8 inside the picture.
    _, half = read_image_list(path, 4, 3)
    taps = np.array([1, 3, 3, 1]) / 8
    expected = np.einsum("a,b,abc->c", taps, taps, square[1:5, 3:7])
    assert np.abs(half[0, :, 1, 2].numpy() - expected).max() <= 1


def test_nothing_outside_the_square_is_seen(tmp_path: Path) -> None:
    pixels = np.zeros((8, 16), np.uint8)
    pixels[:, 4:12] = 200
    Image.fromarray(pixels).save(tmp_path / "a.png")
    _, pictures = read_image_list(write_list(tmp_path, "path,label\na.png,x\n"), 4, 1)
    assert pictures.unique().tolist() == [200]


def test_a_list_tells_labels_videos_and_groups(tmp_path: Path) -> None:
    for name in "abcde":
        write_image(tmp_path / "in" / f"{name}.png", level=ord(name))
    path = write_list(
        tmp_path,
        "label,path,group,video\nsick,in/c.png,p,v\nfit,in/a.png,q,w\nsick,in/b.png,p,v\nfit,in/d.png,,\n"
        "fit,in/e.png,p,\n",
    )
    samples, pictures = read_image_list(path, 8, 1)
    assert samples.classes == ["fit", "sick"]
    assert samples.labels.tolist() == [1, 0, 1, 0, 0]
    assert samples.names == ["in/c.png", "in/a.png", "in/b.png", "in/d.png", "in/e.png"]
    assert samples.videos.tolist() == [0, 1, 0, 2, 3]
    assert samples.groups.tolist() == [0, 1, 0, 2, 0]
    assert pictures[:, 0, 0, 0].tolist() == [ord(name) for name in "cabde"]


def test_an_image_is_a_group_of_its_own_where_the_list_says_nothing(tmp_path: Path) -> None:
    for name in "ab":
        write_image(tmp_path / f"{name}.png")
    samples, _ = read_image_list(write_list(tmp_path, "path,label\na.png,x\nb.png,x\n"), 4, 1)
    assert samples.videos.tolist() == samples.groups.tolist() == [0, 1]


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("path\na.png\n", UsageError, "list.csv: needs a column label"),
        ("label\nx\n", UsageError, "list.csv: needs a column path"),
        ("path,label\n", UsageError, "list.csv lists no image"),
        ("path,label\na.png,x\nb.png, \n", UsageError, "entry 2 has no label"),
        ("path,label\n,x\n", UsageError, "entry 1 has no path"),
        ("path,label\na.png,x\na.png,x\n", UsageError, "names 'a.png' more than once"),
        (
            "path,label,video,group\na.png,x,v,p\nb.png,x,v,q\n",
            UsageError,
            "video 'v' is in groups 'p' and 'q'",
        ),
        (
            "path,label\na.png,x\nno.png,x\nbad.png,x\n",
            DataError,
            "2 of 3 images do not decode, the first is no.png (No such file or directory); replace or remove them",
        ),
        ("path,label\na.png,x\nbad.png,x\n", DataError, "1 of 2 images do not decode, the first is bad.png (no image)"),
        ("path,label\nempty.png,x\n", DataError, "the first is empty.png (no image)"),
        ("path,label\ncut.png,x\n", DataError, "the first is cut.png (image file is truncated"),
        ("path,label\ndeep.png,x\n", DataError, "the first is deep.png (its pixels are I;16, and not of 8 bits)"),
    ],
)
def test_a_bad_list_is_refused_in_one_line(tmp_path: Path, text: str, error: type[Exception], message: str) -> None:
    for name in "ab":
        write_image(tmp_path / f"{name}.png")
    (tmp_path / "bad.png").write_text("no picture")
    (tmp_path / "empty.png").touch()
    write_image(tmp_path / "cut.png", 64, 64)
    (tmp_path / "cut.png").write_bytes((tmp_path / "cut.png").read_bytes()[:4000])
    Image.fromarray(np.full((8, 8), 9000, np.uint16)).save(tmp_path / "deep.png")
    with pytest.raises(error) as raised:
        read_image_list(write_list(tmp_path, text), 8, 1)
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_list_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"none\.csv: not a readable table"):
        read_image_list(tmp_path / "none.csv", 8, 1)


GBCU = {
    "train_0.txt": "b.png,1\nc.png,2\nd.png,0\n",
    "val_0.txt": "a.png,0\n",
    "train_1.txt": "a.png,0\nd.png,0\n\nc.png,2\n",
    "val_1.txt": "b.png,1\n",
}


def write_gbcu(root: Path, changes: dict[str, str | None], images: str = "imgs") -> Path:
    """Lists of two folds, `changes` made to them (None for no such list), and their images."""
    for name, text in {**GBCU, **{f"{name}.txt": text for name, text in changes.items()}}.items():
        if text is not None:
            (root / name).write_text(text)
    for name in "abcd":
        write_image(root / images / f"{name}.png", level=ord(name))
    return root


@pytest.mark.parametrize("images", [".", "imgs", "images"])
def test_gbcu_is_read_with_its_folds(tmp_path: Path, images: str) -> None:
    samples, pictures, splits = read_gbcu(write_gbcu(tmp_path, {}, images), 4, 3)
    assert samples.classes == ["normal", "benign", "malignant"]
    assert samples.names == ["a.png", "b.png", "c.png", "d.png"]
    assert samples.labels.tolist() == [0, 1, 2, 0]
    assert len(set(samples.groups)) == len(set(samples.videos)) == 4
    assert pictures[:, 0, 0, 0].tolist() == [ord(name) for name in "abcd"]
    assert [(s.repeat, s.fold, s.train.tolist(), s.test.tolist()) for s in splits] == [
        (0, 0, [1, 2, 3], [0]),
        (0, 1, [0, 2, 3], [1]),
    ]


def test_gbcu_has_as_many_folds_as_there_are_lists(tmp_path: Path) -> None:
    write_gbcu(tmp_path, {"train_2": "a.png,0\n", "val_2": "c.png,2\n"})
    (tmp_path / "train_notes.txt").write_text("no list")
    assert len(read_gbcu(tmp_path, 4, 1)[2]) == 3


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        (dict.fromkeys(("train_0", "train_1")), UsageError, "has no train_0.txt"),
        ({"val_1": None}, UsageError, "has no val_1.txt"),
        ({"train_3": "a.png,0\n", "val_3": "b.png,1\n"}, UsageError, "has no train_2.txt"),
        (
            {"val_1": "b.png,1\nc.png,2\n"},
            DataError,
            "val_1.txt: 1 images are in both train and test, the first is c.png",
        ),
        ({"val_1": "b.png,2\n"}, DataError, "val_1.txt: b.png has label 2, and 1 before"),
        ({"val_1": "b.png,3\n"}, DataError, "val_1.txt: line 1, 'b.png,3', is not a filename and a label of 0, 1 or 2"),
        ({"val_1": "b.png\n"}, DataError, "val_1.txt: line 1, 'b.png', is not"),
        ({"val_1": "\n"}, DataError, "val_1.txt: its fold trains or tests on no image"),
        (
            {"train_1": "d.png,0\n", "val_1": "b.png,1\na.png,0\n"},
            DataError,
            "val_1.txt: a.png is tested in",
        ),
        ({"val_1": "e.png,1\n"}, DataError, "1 of 5 images do not decode, the first is e.png"),
    ],
)
def test_bad_gbcu_lists_are_refused(
    tmp_path: Path, changes: dict[str, str | None], error: type[Exception], message: str
) -> None:
    write_gbcu(tmp_path, changes)
    with pytest.raises(error) as raised:
        read_gbcu(tmp_path, 4, 1)
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)


LEVELS = RNG.integers(0, 256, (10, 3, 6, 9), np.uint8)
LABELS = np.arange(10) % 3


def write_pickles(
    root: Path,
    as_stored: Callable[[np.ndarray], Any] = lambda x: x,
    protocol: int = pickle.DEFAULT_PROTOCOL,
    container: Callable[[Any], Any] = tuple,
    **first: Any,
) -> Path:
    """Five folds of ten pictures, two tested in each; `first` replaces what the first one holds."""
    for fold in range(5):
        test = np.arange(2 * fold, 2 * fold + 2)
        train = np.setdiff1d(np.arange(10), test)
        held = {
            "X_train": as_stored(LEVELS[train]),
            "y_train": LABELS[train],
            "X_test": as_stored(LEVELS[test]),
            "y_test": LABELS[test],
        }
        if fold == 0:
            held |= first
        (root / f"covid_data{fold + 1}.pkl").write_bytes(pickle.dumps(container(held.values()), protocol))
    return root


@pytest.mark.parametrize(
    ("as_stored", "protocol", "container"),
    [
        (lambda x: x, 2, tuple),
        (lambda x: x, 4, list),
        (lambda x: x, 5, tuple),
        (np.asfortranarray, 5, tuple),
        (lambda x: x.astype(np.int64), 4, tuple),
        (lambda x: x.astype(np.float64), 4, tuple),
        (lambda x: (x / 255).astype(np.float32), 4, tuple),
        (lambda x: ((x / 255 - 0.5) / 0.25).astype(np.float32), 4, tuple),
    ],
)
def test_pickled_folds_are_read(
    tmp_path: Path, as_stored: Callable[[np.ndarray], Any], protocol: int, container: Callable[[Any], Any]
) -> None:
    samples, pictures, splits = read_covid_pickles(write_pickles(tmp_path, as_stored, protocol, container), 6, 3)
    assert samples.classes == ["covid", "pneumonia", "regular"]
    assert len(samples) == len(set(samples.groups)) == 10
    assert samples.names[0] == "covid_data1.pkl/train/0"
    # The first fold's training pictures come first, then those that it tests.
    order = [2, 3, 4, 5, 6, 7, 8, 9, 0, 1]
    assert np.array_equal(pictures, LEVELS[order, :, :, 1:7])
    assert samples.labels.tolist() == LABELS[order].tolist()
    for fold, split in enumerate(splits):
        assert (split.repeat, split.fold) == (0, fold)
        assert [order[place] for place in split.test] == [2 * fold, 2 * fold + 1]
        assert sorted([*split.train, *split.test]) == list(range(10))


def test_a_module_name_of_older_numpy_is_known(tmp_path: Path) -> None:
    write_pickles(tmp_path, protocol=2)
    for file in tmp_path.iterdir():
        file.write_bytes(file.read_bytes().replace(b"numpy._core", b"numpy.core"))
    assert len(read_covid_pickles(tmp_path, 4, 1)[0]) == 10


class Command:
    """Pickles as the running of a command."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (self.command,)


@pytest.mark.parametrize("inside", [False, True])
def test_code_in_a_pickle_is_not_run(tmp_path: Path, inside: bool) -> None:
    command = Command(f"touch {tmp_path}/run")
    y_train: Any = np.array([command], object) if inside else command
    write_pickles(tmp_path, y_train=y_train)
    with pytest.raises(DataError, match=r"covid_data1\.pkl holds more than arrays \((posix|nt)\.system\)"):
        read_covid_pickles(tmp_path, 4, 1)
    assert not (tmp_path / "run").exists()
    pickle.loads((tmp_path / "covid_data1.pkl").read_bytes())  # it would have
    assert (tmp_path / "run").exists()


def test_no_other_function_is_reached_by_a_dotted_name(tmp_path: Path) -> None:
    write_pickles(tmp_path)
    (tmp_path / "covid_data1.pkl").write_bytes(b"\x80\x04\x8c\x05numpy\x8c\x10ndarray.tofile.x\x93.")
    with pytest.raises(DataError, match=r"holds more than arrays \(numpy\.ndarray\.tofile\.x\)"):
        read_covid_pickles(tmp_path, 4, 1)


@pytest.mark.parametrize(
    ("first", "message"),
    [
        ({"X_test": LEVELS[[0, 1, 2]], "y_test": LABELS[[0, 1, 2]]}, "1 images are in both train and test"),
        ({"extra": 0}, "does not hold (X_train, y_train, X_test, y_test)"),
        ({"X_test": LEVELS[:2].transpose(0, 2, 3, 1)}, "X_test is uint8 [2, 6, 9, 3], and not numbers"),
        ({"X_test": [1, 2]}, "X_test is list, and not numbers"),
        ({"X_test": LEVELS[:2].astype(object)}, "X_test is object [2, 3, 6, 9], and not numbers"),
        ({"y_test": LABELS[:1]}, "y_test is int64 [1], and not 2 integers"),
        ({"y_test": np.zeros(2)}, "y_test is float64 [2], and not 2 integers"),
        ({"y_test": np.array([0, 3])}, "y_test has labels from 0 to 3, and not 0, 1 or 2"),
        ({"X_test": LEVELS[:0], "y_test": LABELS[:0]}, "trains or tests on no image"),
        ({"X_test": np.full((2, 3, 6, 9), np.nan)}, "values from nan to nan are neither"),
        ({"X_test": np.full((2, 3, 6, 9), -3.0)}, "values from -3 to 255 are neither"),
    ],
)
def test_bad_pickles_are_refused(tmp_path: Path, first: dict[str, Any], message: str) -> None:
    write_pickles(tmp_path, **first)
    with pytest.raises(DataError) as raised:
        read_covid_pickles(tmp_path, 4, 1)
    assert message in str(raised.value)
    assert "covid_data1.pkl" in str(raised.value)


def test_a_missing_or_damaged_pickle_is_refused(tmp_path: Path) -> None:
    write_pickles(tmp_path)
    third = tmp_path / "covid_data3.pkl"
    third.write_bytes(third.read_bytes()[:500])
    with pytest.raises(DataError, match=r"covid_data3\.pkl is damaged or not a pickle \(pickle data was truncated\)"):
        read_covid_pickles(tmp_path, 4, 1)
    third.unlink()
    with pytest.raises(UsageError, match=r"has no covid_data3\.pkl"):
        read_covid_pickles(tmp_path, 4, 1)


def test_a_fold_with_a_number_of_a_billion_takes_no_time(tmp_path: Path) -> None:
    root = write_gbcu(tmp_path, {})
    (root / f"val_{10**18}.txt").write_text("")
    with pytest.raises(UsageError, match=r"has no train_\d\.txt"):
        read_gbcu(root, 8, 1)
