from collections.abc import Callable, Sequence

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from scipy import ndimage

from usucl_fast.pack.motion import Motion
from usucl_fast.pack.sector import Box, Sector, overlap, similar

HEIGHT, WIDTH, FRAMES = 480, 640, 32
TEXT = 200


def fan(center: float = 310, half: float = 0.55, near: float = 80, far: float = 440) -> NDArray[np.bool_]:
    """The sector of a curved probe: bowed in at the top, bowed out at the bottom."""
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    y, x = y + 0.5 + near * np.cos(half) - 40, x + 0.5 - center
    radius, angle = np.hypot(x, y), np.arctan2(x, y)
    return (abs(angle) < half) & (radius > near) & (radius < far)


def shape(*corners: tuple[int, int]) -> NDArray[np.bool_]:
    image = Image.new("1", (WIDTH, HEIGHT))
    ImageDraw.Draw(image).polygon(corners, fill=1)
    return np.array(image)


SHAPES: dict[str, Callable[[], NDArray[np.bool_]]] = {
    "fan": fan,
    "rectangle": lambda: shape((150, 50), (470, 50), (470, 400), (150, 400)),
    "trapezoid": lambda: shape((220, 50), (400, 50), (530, 400), (90, 400)),
    "phased": lambda: fan(near=2, far=380, half=0.7),
    "two": lambda: fan(center=165, half=0.4, near=60, far=340) | fan(center=450, half=0.4, near=60, far=340),
}


def speckle(inside: NDArray[np.bool_], frames: int = FRAMES, seed: int = 0) -> NDArray[np.uint8]:
    """uint8 `[frames, HEIGHT, WIDTH]`: flickering tissue in the sector, black outside."""
    rng = np.random.default_rng(seed)
    pictures = np.zeros((frames, *inside.shape), np.uint8)
    still = 60 + 40 * ndimage.zoom(rng.random((30, 40)), 16, order=1)
    for picture in pictures:
        moving = ndimage.zoom(rng.standard_normal((240, 320)).astype(np.float32), 2, order=0)
        picture[inside] = (still + 15 * moving).clip(0, 255)[inside]
    return pictures


def burned_in() -> NDArray[np.bool_]:
    """Text, a ruler and a colour bar around a sector."""
    image = Image.new("1", (WIDTH, HEIGHT))
    draw = ImageDraw.Draw(image)
    for number, line in enumerate(["DOE^JANE  1970-01-02", "ID 998-123", "C5-1  32 Hz", "MI 1.2"]):
        draw.text((4, 3 + 14 * number), line, fill=1)
    for tick in range(12):
        draw.line((620, 60 + 30 * tick, 630, 60 + 30 * tick), fill=1)
    draw.rectangle((602, 100, 612, 300), fill=1)
    return np.array(image)


def add_moving_overlay(pictures: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Draws a clock, a pointer and an ECG trace into the pictures; where they ever were."""
    ever = np.zeros(pictures.shape[1:], bool)
    x = np.arange(40, 600)
    for number, picture in enumerate(pictures):
        image = Image.new("1", (WIDTH, HEIGHT))
        draw = ImageDraw.Draw(image)
        draw.text((540, 4), f"11:22:{number:02d}.{37 * number % 100:02d}", fill=1)
        left, top = 10 + 2 * number, 380 + number
        draw.polygon([(left, top), (left + 8, top + 8), (left, top + 12)], fill=1)
        trace = 470 - 3 * np.sin(x / 9) - 10 * (x % 70 < 4)
        drawn = (x - 17 * number) % 560 > 50
        draw.line(np.stack([x, trace], axis=1)[drawn].ravel().tolist(), fill=1)
        ever |= np.array(image)
        picture[np.array(image)] = TEXT
    return ever


def watch(pictures: NDArray[np.uint8], within: Sequence[Box] = ()) -> Sector | None:
    motion = Motion(HEIGHT, WIDTH, within)
    for picture in pictures:
        motion.add(picture)
    return motion.sector()


def iou(sector: Sector, inside: NDArray[np.bool_]) -> float:
    found = sector.draw(*inside.shape)
    return float((found & inside).sum() / (found | inside).sum())


@pytest.mark.parametrize("name", SHAPES)
def test_finds_the_sector_and_leaves_out_what_is_burned_in(name: str) -> None:
    inside = SHAPES[name]()
    pictures = speckle(inside)
    text = burned_in()
    pictures[:, text] = TEXT
    text |= add_moving_overlay(pictures)
    sector = watch(pictures)
    assert sector is not None
    assert len(sector.polygons) == (2 if name == "two" else 1)
    assert max(map(len, sector.polygons)) <= 48
    assert iou(sector, inside) > 0.93
    found = sector.draw(HEIGHT, WIDTH)
    assert (inside & ~found).sum() < 0.002 * inside.sum()
    assert not (found & text & ~inside).any()


def test_the_bow_of_a_curved_probe_is_outside() -> None:
    sector = watch(speckle(fan()))
    assert sector is not None
    found = sector.draw(HEIGHT, WIDTH)
    assert not found[:42, 310].any()  # the bow's deepest point is at 50
    assert found[52, 310]


def light_lost(pictures: NDArray[np.uint8], inside: NDArray[np.bool_], sector: Sector) -> float:
    """As `tools/measure_sectors.py` has it, of what is ultrasound."""
    moves = ndimage.uniform_filter(pictures.std(axis=0), 5) > 3
    light = np.where(moves & inside, pictures.mean(axis=0), 0)
    kept = ndimage.maximum_filter(sector.draw(HEIGHT, WIDTH), 7)
    return float(light[~kept].sum() / light.sum())


def overlay(pictures: NDArray[np.uint8], inside: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Text, a clock, a pointer, an ECG trace and a logo that changes, outside of the sector; where they ever are."""
    logo = np.hypot(*(np.mgrid[:HEIGHT, :WIDTH] - np.array([355, 45])[:, None, None])) < 22
    text = burned_in()
    pictures[:, text] = TEXT
    pictures[: len(pictures) // 2, logo] = TEXT
    pictures[len(pictures) // 2 :, logo] = TEXT // 2
    ever = add_moving_overlay(pictures) | text | logo
    return ever & ~ndimage.maximum_filter(inside, 5)


def dark_below(pictures: NDArray[np.uint8], angle: NDArray[np.float64], depth: NDArray[np.float64]) -> None:
    """But for a B-line that comes late."""
    beam = (abs(angle - 0.1) < 0.04) & (depth > 160)
    pictures[:, (depth > 160) & ~beam] = 0
    pictures[:30, beam] = 0


def one_side(pictures: NDArray[np.uint8], angle: NDArray[np.float64], depth: NDArray[np.float64]) -> None:
    """Has contact: the probe's face alone shows on the other one."""
    pictures[:, (angle > 0.08) & (depth > 36)] = 0


@pytest.mark.parametrize("name", ["fan", "rectangle", "trapezoid", "phased"])
def test_what_is_dark_in_the_sector_belongs_to_it(name: str) -> None:
    inside = SHAPES[name]()
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    for darken in (dark_below, one_side):
        pictures = speckle(inside, 48)
        darken(pictures, np.arctan2(x - 310, y + 30), y - 40)
        pictures[:, ~inside] = 0
        text = overlay(pictures, inside)
        sector = watch(pictures)
        assert sector is not None
        found = sector.draw(HEIGHT, WIDTH)
        assert light_lost(pictures, inside, sector) < 0.001
        assert not (found & text).any()
        if darken is one_side:
            assert iou(sector, inside) > 0.93


@pytest.mark.parametrize("name", ["fan", "rectangle", "trapezoid", "phased"])
def test_what_moves_for_a_while_alone(name: str) -> None:
    """Frozen before or after, or of another depth."""
    inside = SHAPES[name]()
    smaller = (
        ndimage.affine_transform(inside.astype(float), [1 / 0.7] * 2, [50 - 50 / 0.7, 310 - 310 / 0.7], order=0) > 0
    )
    for change in ("freezes", "is frozen at first", "gets larger"):
        pictures = speckle(inside, 80)
        if change == "freezes":
            pictures[18:] = pictures[18]
        elif change == "is frozen at first":
            pictures[:62] = pictures[62]
        else:
            pictures[:64] = speckle(smaller, 64)
        text = overlay(pictures, inside)
        sector = watch(pictures)
        assert sector is not None, change
        assert light_lost(pictures, inside, sector) < 0.001, change
        assert iou(sector, inside) > 0.94, change
        assert not (sector.draw(HEIGHT, WIDTH) & text).any(), change


def test_text_in_the_dark_of_a_sector_is_left_out() -> None:
    """A lung's dark is where some machines write."""
    inside = fan()
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    pictures = speckle(inside)
    pictures[:, (y > 220) & ((abs(x - 310) > 20) | (y > 380))] = 0
    image = Image.new("1", (WIDTH, HEIGHT))
    draw = ImageDraw.Draw(image)
    draw.text((180, 330), "DOE^JANE", fill=1)
    draw.text((390, 330), "11:22:33", fill=1)
    text = np.array(image)
    assert (inside & text).sum() > 100
    pictures[:, text] = TEXT
    pictures[::2, text & (x > 310)] = 0  # a clock
    sector = watch(pictures)
    assert sector is not None
    assert not (sector.draw(HEIGHT, WIDTH) & text).any()
    assert light_lost(pictures, inside & ~text, sector) < 0.005


def test_dark_lung_gives_the_sector_of_bright_lung() -> None:
    inside = fan()
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    bright, dark = watch(speckle(inside)), None
    for seed, side in ((1, x > 320), (2, x < 300)):
        pictures = speckle(inside, seed=seed)
        pictures[:, side & (y > 130)] = 0
        dark = watch(pictures)
        assert bright is not None
        assert dark is not None
        assert overlap(bright, dark) > 0.9


def test_light_that_comes_later_is_lost_by_the_first_sector() -> None:
    inside = fan()
    y, _ = np.mgrid[:HEIGHT, :WIDTH]
    pictures = speckle(inside, 64)
    pictures[:32, y > 395] = 0
    motion = Motion(HEIGHT, WIDTH)
    for picture in pictures[:32]:
        motion.add(picture)
    first = motion.sector()
    for picture in pictures[32:]:
        motion.add(picture)
    second = motion.sector()
    assert first is not None
    assert second is not None
    assert similar(first, second)
    assert motion.loses(first, second)
    assert not motion.loses(second, second)
    assert not motion.loses(Sector.of_boxes((WIDTH, HEIGHT), ()), second)


def test_shadow_and_still_tissue_belong_to_it() -> None:
    inside = fan()
    pictures = speckle(inside)
    pictures[:, 120:400, 280:330] = 0
    pictures[:, 180:260, 200:260] = 3
    near_field = inside & (np.arange(HEIGHT)[:, None] < 90)
    pictures[:, near_field] = pictures[0, near_field]
    sector = watch(pictures)
    assert sector is not None
    assert iou(sector, inside) > 0.95


def test_noise_and_faint_image() -> None:
    inside = fan()
    rng = np.random.default_rng(1)
    pictures = speckle(inside)
    deep = inside & (np.arange(HEIGHT)[:, None] > 300)
    pictures[:, deep] = pictures[:, deep] // 12  # attenuated
    clean = watch(pictures)
    text = burned_in()
    pictures[:, text] = TEXT
    pictures += rng.integers(16, 19, pictures.shape, dtype=np.uint8)
    noisy = watch(pictures)
    assert clean is not None
    assert noisy is not None
    assert overlap(clean, noisy) > 0.95
    assert iou(noisy, inside) > 0.93
    assert not (noisy.draw(HEIGHT, WIDTH) & text).any()


def test_a_cut_is_not_motion() -> None:
    inside = fan()
    text = burned_in()
    pictures = speckle(inside, 64)
    pictures[:, text] = TEXT
    pictures[20:, ~inside] = 255 - pictures[20:, ~inside]
    sector = watch(pictures)
    assert sector is not None
    assert iou(sector, inside) > 0.95


def test_nothing_moves_as_a_sector_would() -> None:
    still = np.repeat(speckle(fan(), 1), 20, axis=0)
    assert watch(still) is None
    assert watch(still[:1]) is None
    add_moving_overlay(still)
    assert watch(still) is None
    assert watch(speckle(shape((300, 100), (340, 100), (340, 140), (300, 140)))) is None  # too small
    assert Motion(HEIGHT, WIDTH).sector() is None


@pytest.mark.parametrize(
    "corners",
    [
        ((300, 100), (358, 100), (358, 158), (300, 158)),  # 1.1 % of the picture
        ((120, 60), (290, 60), (290, 140), (120, 140)),
        ((500, 200), (560, 200), (560, 330), (500, 330)),
    ],
)
def test_a_small_live_part_is_found(corners: tuple[tuple[int, int], ...]) -> None:
    """A phone's probe on a large screen."""
    inside = shape(*corners)
    pictures = speckle(inside)
    pictures[:, burned_in()] = TEXT
    text = burned_in() | add_moving_overlay(pictures)
    sector = watch(pictures)
    assert sector is not None
    found = sector.draw(HEIGHT, WIDTH)
    assert (inside & ~found).sum() < 0.002 * inside.sum()
    assert found.sum() < 1.35 * inside.sum()
    assert not (found & text & ~inside).any()


def test_regions_that_are_all_of_the_picture_say_nothing() -> None:
    still = np.repeat(speckle(fan(), 1), 9, axis=0)
    still[:, :14, 4:100] = TEXT
    nearly = (1, 1, WIDTH - 1, HEIGHT - 1)
    below_text = (0, 16, WIDTH, HEIGHT)
    part = (100, 40, 500, 440)
    assert [named(still, box) for box in ((0, 0, WIDTH, HEIGHT), nearly, below_text, part)] == [
        False,
        False,
        True,
        True,
    ]
    assert [named(still[:1], box) for box in (nearly, below_text)] == [False, True]
    assert not named(np.zeros_like(still), below_text)  # it leaves nothing out


def named(pictures: NDArray[np.uint8], box: Box) -> bool:
    motion = Motion(HEIGHT, WIDTH, [box])
    for picture in pictures:
        motion.add(picture)
    assert motion.sector() is None
    regions = motion.regions()
    assert regions in (None, Sector.of_boxes((WIDTH, HEIGHT), [box]))
    return regions is not None


def test_a_live_picture_is_kept_whole() -> None:
    sector = watch(speckle(np.ones((HEIGHT, WIDTH), bool)))
    assert sector == Sector.of_boxes((WIDTH, HEIGHT), ())
    assert sector.box == (0, 0, WIDTH, HEIGHT)
    assert sector.mask(224, 299).all()


def test_within_boxes() -> None:
    two = SHAPES["two"]()
    left, right = (20, 20, 310, 400), (310, 20, 620, 400)
    sector = watch(speckle(two), within=[left])
    assert sector is not None
    assert len(sector.polygons) == 1
    assert sector.box[2] <= 310
    both = watch(speckle(two), within=[left, right])
    assert both is not None
    assert iou(both, two) > 0.93
    assert watch(speckle(two), within=[(0, 420, 640, 480)]) is None
    assert Sector.of_boxes((WIDTH, HEIGHT), [left]).polygons == (((20, 20), (310, 20), (310, 400), (20, 400)),)


def test_a_frame_of_another_size_is_passed_over() -> None:
    motion = Motion(HEIGHT, WIDTH)
    for picture in speckle(fan(), 10):
        motion.add(picture)
        motion.add(picture[:100])
    sector = motion.sector()
    assert sector is not None
    assert iou(sector, fan()) > 0.95


@pytest.mark.parametrize("scale", [0.37, 0.8, 1.0, 1.7])
def test_nothing_outside_shows_in_the_stored_picture(scale: float) -> None:
    sector = watch(speckle(fan()))
    assert sector is not None
    left, top, right, bottom = sector.box
    outside = np.where(sector.draw(HEIGHT, WIDTH), 0, 255).astype(np.uint8)  # text up to the very edge
    height, width = round((bottom - top) * scale), round((right - left) * scale)
    whole = Image.fromarray(outside).resize(
        (round(WIDTH * scale), round(HEIGHT * scale)), Image.Resampling.BILINEAR, reducing_gap=None
    )
    y, x = round(top * scale), round(left * scale)
    stored = np.asarray(whole)[y : y + height, x : x + width]
    mask = sector.mask(height, width)
    assert (stored * mask).max() <= 255 * 0.15  # a shift by a part of a pixel
    assert mask.mean() > 0.9 * sector.draw(height, width, sector.box).mean()


def test_similar() -> None:
    a, b, c = (Sector.of_boxes((400, 300), [(10, 10, right, 280)]) for right in (300, 310, 390))
    assert similar(a, b)
    assert not similar(a, c)
    assert overlap(a, a) == 1
