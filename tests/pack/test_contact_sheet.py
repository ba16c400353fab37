from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from usucl_fast.pack.contact_sheet import CAPTION, GAP, HEIGHT, WIDTH, thumbnail_pair, write_sheets
from usucl_fast.pack.sector import Sector

SECTOR = Sector((320, 240), (((100, 40), (220, 40), (220, 200), (100, 200)),))


def stripes() -> np.ndarray:
    """As fine as text, uint8 `[240, 320]`."""
    picture = np.zeros((240, 320), np.uint8)
    picture[:, ::4] = picture[:, 1::4] = 250
    return picture


def test_outside_the_sector_is_a_mosaic() -> None:
    pair = thumbnail_pair(stripes(), stripes()[40:200, 100:220], SECTOR)
    before = pair[:, :WIDTH].astype(int)
    assert before[60, 60:100].std() > 50  # within: as it is
    for x in range(0, 40, 10):  # outside: one colour a cell
        assert np.ptp(before[0:10, x : x + 10], axis=(0, 1)).max() == 0


@pytest.mark.parametrize("shape", [(240, 320), (240, 320, 1), (240, 320, 3), (1000, 20), (1, 1)])
def test_pictures_of_any_shape(shape: tuple[int, ...]) -> None:
    picture = np.full(shape, 90, np.uint8)
    pair = thumbnail_pair(picture, picture, Sector.of_boxes((shape[1], shape[0]), ()))
    assert pair.dtype == np.uint8
    assert pair.shape == (HEIGHT, 2 * WIDTH + 4, 3)
    assert (pair[:, WIDTH + 4 :] == 90).any()


def test_sheets_are_numbered_and_equal_for_equal_pairs(tmp_path: Path) -> None:
    pair = thumbnail_pair(stripes(), stripes(), SECTOR)
    captions = [f"herz-ü-{number:03d} ł: motion" for number in range(60)] + ["x" * 200]
    for folder in (tmp_path / "a", tmp_path / "b"):
        folder.mkdir()
        write_sheets(folder, ((caption, False, pair) for caption in captions), first=2)
        assert sorted(path.name for path in folder.iterdir()) == ["sectors-002.png", "sectors-003.png"]
    for name in ("sectors-002.png", "sectors-003.png"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    with Image.open(tmp_path / "a" / "sectors-002.png") as page:
        assert page.height > Image.open(tmp_path / "a" / "sectors-003.png").height


def test_a_marked_caption_has_the_colour_of_outlines(tmp_path: Path) -> None:
    pair = thumbnail_pair(np.zeros((240, 320), np.uint8), stripes(), SECTOR)
    write_sheets(tmp_path, [("a.mp4: moves", False, pair), ("b.mp4: nothing moves", True, pair)])
    with Image.open(tmp_path / "sectors-000.png") as page:
        captions = np.asarray(page).astype(int)[GAP + HEIGHT : GAP + HEIGHT + CAPTION]
    width = 2 * WIDTH + 3 * GAP
    red = [(part[..., 0] > part[..., 2] + 100).any() for part in (captions[:, :width], captions[:, width : 2 * width])]
    assert red == [False, True]


def test_no_pairs_no_sheet(tmp_path: Path) -> None:
    write_sheets(tmp_path, [])
    assert not list(tmp_path.iterdir())


def test_a_name_of_two_lines_is_drawn_in_one(tmp_path: Path) -> None:
    pair = thumbnail_pair(stripes(), stripes(), SECTOR)
    write_sheets(tmp_path, [("two\nlines\x1b[2J\u202e", False, pair)])
    assert (tmp_path / "sectors-000.png").exists()
