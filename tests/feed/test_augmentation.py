"""The draws, and every operation of every implementation against float64."""

import dataclasses
from importlib.util import find_spec

import numpy as np
import pytest
import torch

from tests.helpers import pictures as reference
from usucl_fast.feed import AUGMENTATIONS, Augmentation
from usucl_fast.feed.augmentation import (
    BOX_DRAWS,
    GRAIN,
    LOOK_DRAWS,
    PHOTOMETRY,
    PHOTOMETRY_DRAWS,
    TEXTURED,
    UNCHANGED,
    draw_boxes,
    draw_photometry,
    texture,
)
from usucl_fast.feed.loaders.threaded import addresses_of
from usucl_fast.feed.render_cpu import render
from usucl_fast.feed.render_gpu import develop, gather

OPERATIONS: dict[str, dict[str, float]] = {
    "nothing": {},
    "brightness": {"brightness": 1.4},
    "darkness": {"brightness": 0.6},
    "contrast": {"contrast": 0.6},
    "more contrast": {"contrast": 1.4},
    "gamma": {"gamma": 0.6},
    "gamma above 1": {"gamma": 1.6},
    "blur": {"blur": 1.5 / 224},
    "little blur": {"blur": 0.1 / 224},
    "much blur": {"blur": 0.2},
    "gain": {"gain": 1.4},
    "attenuation": {"attenuation": 1.0},
    "compensation": {"gain": 0.7, "attenuation": -0.5},
    "speckle": {"speckle": 0.25, "grain_y": 500, "grain_x": 77},
    "much speckle": {"speckle": 0.9, "grain_y": 3, "grain_x": 511},
    "texture": {"texture": 0.1, "grain_y": 40, "grain_x": 500},
    "much texture": {"texture": 0.6, "grain_y": 3, "grain_x": 511},
    "haze": {"haze": 0.02, "grain_x": 9},
    "all": {
        **{"brightness": 1.2, "contrast": 0.8, "gamma": 1.3, "blur": 0.01, "gain": 1.2, "attenuation": 0.7},
        **{"speckle": 0.2, "grain_y": 99, "grain_x": 300, "texture": 0.1, "haze": 0.02},
    },
}


def record(values: dict[str, float]) -> np.ndarray:
    made = UNCHANGED.copy()
    for name, value in values.items():
        made[name] = value
    return made


def pictures(channels: int, seed: int = 0) -> list[np.ndarray]:
    """Noise, a ramp with black around, black."""
    draw = np.random.default_rng(seed)
    ramp = np.zeros((60, 50, channels), np.uint8)
    ramp[5:55, 5:45] = np.linspace(0, 255, 50 * 40 * channels).reshape(50, 40, channels)
    return [draw.integers(0, 256, (40, 64, channels), dtype=np.uint8), ramp, np.zeros((33, 32, channels), np.uint8)]


BOXES = {
    "whole": (0, 0, 32, 32),
    "enlarged": (3, 2, 7, 5),
    "reduced": (0, 0, 33, 32),
    "beyond": (-9, -5, 70, 80),
    "beyond, of equal size": (-4, 20, 24, 24),
    "beyond, enlarged": (28, -3, 10, 12),
    "narrow": (4, 10, 25, 2),
}


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("operation", OPERATIONS)
def test_grey_levels_on_either_device_against_float64(operation: str, channels: int) -> None:
    size = 32
    squares = [picture[:size, :size].copy() for picture in pictures(channels)]
    photometry = np.full(len(squares), record(OPERATIONS[operation]))
    out = np.empty((len(squares), size, size, channels), np.uint8)
    whole = np.tile((0, 0, size, size), (len(squares), 1))
    shapes, places = np.full((len(squares), 2), size), np.arange(len(squares))
    render(addresses_of(squares), shapes, whole, np.zeros(len(squares), bool), photometry, places, out)
    frames = torch.from_numpy(np.stack(squares)).permute(0, 3, 1, 2)
    by_tensors = develop(frames, photometry)
    for square, compiled, tensors in zip(squares, torch.from_numpy(out).permute(0, 3, 1, 2), by_tensors, strict=True):
        right = reference.develop(torch.from_numpy(square).permute(2, 0, 1).double(), photometry[0])
        assert (compiled.double() - right).abs().max() < 0.51
        assert (tensors.double() - right).abs().max() < 0.51


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [1, 7, 24, 32, 48])
def test_boxes_on_either_device_against_float64(monkeypatch: pytest.MonkeyPatch, size: int, channels: int) -> None:
    frames = pictures(channels)
    jobs = [(n, box, flip) for n in range(len(frames)) for box in BOXES.values() for flip in (False, True)]
    number = np.array([job[0] for job in jobs])
    boxes, flips = np.array([job[1] for job in jobs]), np.array([job[2] for job in jobs])
    shapes = np.array([frame.shape[:2] for frame in frames])[number]
    out = np.empty((len(jobs), size, size, channels), np.uint8)
    places = np.random.default_rng(0).permutation(len(jobs))
    render(addresses_of(frames)[number], shapes, boxes, flips, np.full(len(jobs), UNCHANGED), places, out)
    starts = np.cumsum([0] + [frame.size for frame in frames[:-1]])
    pixels = torch.from_numpy(np.concatenate([frame.ravel() for frame in frames]))
    by_tensors = gather(pixels, starts[number], shapes, boxes, flips, size, channels)
    in_triton = by_tensors
    if find_spec("triton") and size >= 24:  # to make smaller pictures its interpreter takes minutes
        from usucl_fast.feed import fused_gather

        monkeypatch.setattr(fused_gather, "AT_ONCE", 4096)
        in_triton = fused_gather.gather(pixels, starts[number], shapes, boxes, flips, size, channels)
    for n, box, flip, place, *others in zip(number, boxes, flips, places, by_tensors, in_triton, strict=True):
        right = reference.crop(frames[n], box, bool(flip), size)
        for made in (torch.from_numpy(out[place]).permute(2, 0, 1), *others):
            assert (made.double() - right).abs().max() < 0.51


def test_mixed_batches_are_developed_one_by_one() -> None:
    frames = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (len(OPERATIONS), 1, 24, 24), dtype=np.uint8))
    photometry = np.array([record(values) for values in OPERATIONS.values()])
    together = develop(frames, photometry)
    for n in range(len(OPERATIONS)):
        alone = develop(frames[n : n + 1], photometry[n : n + 1])
        assert (together[n : n + 1].int() - alone.int()).abs().max() <= 1
    assert torch.equal(together[0], frames[0])


def draws(count: int, columns: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random((count, 2, columns))


SIZE = np.array([[[60, 80]]]).repeat(5000, axis=0)


def test_crops_stay_inside_and_cover_what_they_should() -> None:
    boxes, flips = draw_boxes(SIZE, Augmentation(area=(0.25, 1.0), flip=0.5), draws(5000, BOX_DRAWS))
    assert (boxes[..., :2] >= 0).all()
    assert (boxes[..., 0] + boxes[..., 2] <= 60).all()
    assert (boxes[..., 1] + boxes[..., 3] <= 80).all()
    assert boxes[..., 2].min() == 30
    assert boxes[..., 2].max() == 60
    assert 0.45 < flips.mean() < 0.55
    boxes, flips = draw_boxes(SIZE, AUGMENTATIONS["reference"], draws(5000, BOX_DRAWS))
    assert set(boxes[..., 1].ravel()) == set(range(21))
    assert (boxes[..., [0, 2, 3]] == [0, 60, 60]).all()
    assert not flips.any()


def test_ratios_are_even_in_the_logarithm() -> None:
    boxes, _ = draw_boxes(SIZE, Augmentation(area=(0.3, 0.3), ratio=(0.5, 2.0)), draws(5000, BOX_DRAWS))
    ratio = np.log2(boxes[..., 3] / boxes[..., 2])
    assert -1.1 < ratio.min() < -0.9
    assert 0.9 < ratio.max() < 1.1
    assert abs(ratio.mean()) < 0.03
    assert abs(np.sqrt(boxes[..., 2] * boxes[..., 3]).mean() - 60 * 0.3**0.5) < 0.5


def test_boxes_around_the_whole_keep_the_sector_in_sight() -> None:
    augmentation = Augmentation(area=(0.8, 1.25), whole=True, shift=0.1)
    boxes, _ = draw_boxes(SIZE, augmentation, draws(5000, BOX_DRAWS))
    assert boxes[..., 2].min() == round(80 * 0.8**0.5)
    assert boxes[..., 2].max() == round(80 * 1.25**0.5)
    assert (boxes[..., 2] == boxes[..., 3]).all()
    off_center = boxes[..., :2] + boxes[..., 2:] / 2 - np.array([30, 40])
    assert (abs(off_center) <= np.array([6, 8]) + 0.51).all()
    assert (abs(off_center).max(axis=(0, 1)) > np.array([5, 7])).all()


def test_levels_are_drawn_from_their_ranges_as_often_as_their_chance_says() -> None:
    augmentation = AUGMENTATIONS["ultrasound"]
    drawn = draw_photometry(augmentation, draws(5000, PHOTOMETRY_DRAWS))
    for operation, field in (("tone", "gamma"), ("blur", "blur"), ("depth", "gain"), ("speckle", "speckle")):
        used = drawn[field] != UNCHANGED[field]
        low, high = getattr(augmentation, field)
        assert abs(used.mean() - getattr(augmentation, f"{operation}_chance")) < 0.03
        assert low <= drawn[field][used].min() < low + 0.05 * (high - low)
        assert high - 0.05 * (high - low) < drawn[field][used].max() <= np.float32(high)
    assert (drawn["brightness"] == 1).all()
    assert {drawn["grain_x"].min(), drawn["grain_x"].max()} == {0, 511}


@pytest.mark.parametrize("name", ["reference", "crops"])
def test_recipes_of_crops_change_no_level(name: str) -> None:
    assert (draw_photometry(AUGMENTATIONS[name], draws(100, PHOTOMETRY_DRAWS)) == UNCHANGED).all()


def test_another_machines_look_by_hand() -> None:
    """The first two draws of four are the ends of the ranges, the others their middles."""
    look = draws(5000, PHOTOMETRY_DRAWS + LOOK_DRAWS)
    look[0, 0, -4:], look[0, 1, -4:] = 0, (1, 1, 0.5, 0.5)
    drawn = draw_photometry(AUGMENTATIONS["look"], look)
    first, second = drawn[0]
    assert (first["gamma"], second["gamma"]) == pytest.approx((np.exp(-0.4), np.exp(0.4)))
    # e^ramp at the top, 1 in the middle, e^-ramp at the bottom, with gain e^-attenuation depth
    for record, ramp in ((first, -0.3), (second, 0.3)):
        depth = np.array([0, 0.5, 1])
        found = record["gain"] * np.exp(-record["attenuation"] * depth)
        assert found == pytest.approx(np.exp([ramp, 0, -ramp]))
    assert [float(first[name]) for name in TEXTURED] == [0, 0]
    assert [float(second[name]) for name in TEXTURED] == pytest.approx([0.05, 0.01])
    assert abs(np.log(drawn["gamma"]).mean()) < 0.02  # evenly in the logarithm
    assert abs(drawn["texture"].mean() - 0.05) < 0.002
    assert 0 <= drawn["blur"].min() < 0.0001
    assert 0.0082 < drawn["blur"].max() <= np.float32(0.8 / 96)
    assert {drawn["grain_x"].min(), drawn["grain_x"].max()} == {0, 511}
    assert (drawn["speckle"] == 0).all()


def test_what_is_drawn_without_a_look_is_what_it_was() -> None:
    """More draws change nothing, and neither does the digest know of fields that are not used."""
    levels = draws(50, PHOTOMETRY_DRAWS + LOOK_DRAWS)
    for name in ("reference", "crops", "mocov2", "ultrasound"):
        drawn = draw_photometry(AUGMENTATIONS[name], levels)
        assert np.array_equal(drawn, draw_photometry(AUGMENTATIONS[name], levels[..., :PHOTOMETRY_DRAWS]))
        assert not any(drawn[field].any() for field in TEXTURED)


@pytest.mark.parametrize("name", ["ultrasound", "look"])
def test_black_stays_black(name: str) -> None:
    plain = dataclasses.replace(AUGMENTATIONS[name], tone_chance=1.0, blur_chance=1.0, speckle_chance=1.0)
    photometry = draw_photometry(plain, draws(20, PHOTOMETRY_DRAWS + LOOK_DRAWS)).ravel()
    assert not develop(torch.zeros(40, 1, 24, 24, dtype=torch.uint8), photometry).any()


def test_the_grain_is_the_same_everywhere() -> None:
    assert GRAIN.shape == (512, 512)
    assert abs(GRAIN.mean() / 32) < 0.02
    assert abs(GRAIN.std() / 32 - 1) < 0.01
    neighbours = np.corrcoef(GRAIN.ravel(), np.roll(GRAIN, 1, axis=1).ravel())[0, 1]
    assert 0.7 < neighbours < 0.85  # e^(-1/4)
    assert abs(np.corrcoef(GRAIN.ravel(), np.roll(GRAIN, 8, axis=0).ravel())[0, 1]) < 0.05


def test_the_texture_is_of_one_four_and_twelve_pixels() -> None:
    """Of three noises of equal weight, one is alike within a pixel alone, the others over Gaussians of 2 and 6 pixels:
    at a distance d, their correlation is e^(-d^2 / (4 s^2))."""
    n = texture().astype(float)
    assert abs(n.mean() / 32) < 0.05
    assert abs(n.std() / 32 - 1) < 0.01
    for d in (1, 2, 4, 8):
        for axis in (0, 1):
            expected = (np.exp(-(d**2) / 16) + np.exp(-(d**2) / 144)) / 3
            assert np.corrcoef(n.ravel(), np.roll(n, d, axis).ravel())[0, 1] == pytest.approx(expected, abs=0.06)


def test_a_record_is_packed() -> None:
    assert PHOTOMETRY.itemsize == 44
