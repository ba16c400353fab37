"""What loaders and what follows them refuse before compiled code sees it."""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from tests.helpers.feeding import delivery, loader_of, plans_of
from tools.hostile_shards import huge_png
from usucl_fast.errors import DecodeError
from usucl_fast.feed import BatchPlan, Delivery, Normaliser
from usucl_fast.feed.batch import checked
from usucl_fast.feed.decode import decode_frame
from usucl_fast.shards import ShardStore

CPU = torch.device("cpu")


def changed(plan: BatchPlan, **arrays: Any) -> BatchPlan:
    return dataclasses.replace(plan, **arrays)


def put(name: str, value: Any, place: Any = (0, 0)) -> Callable[[BatchPlan], BatchPlan]:
    """Changes one number of a plan; a field of its photometry, where it has no such array."""

    def change(plan: BatchPlan) -> BatchPlan:
        array = np.array(getattr(plan, name, plan.photometry))
        (array if hasattr(plan, name) else array[name])[place] = value
        return changed(plan, **{name if hasattr(plan, name) else "photometry": array})

    return change


def made(name: str, make: Callable[[Any], Any]) -> Callable[[BatchPlan], BatchPlan]:
    return lambda plan: changed(plan, **{name: make(getattr(plan, name))})


PLANS: dict[str, tuple[Callable[[BatchPlan], BatchPlan], str]] = {
    "a frame of -1": (put("frame_ids", -1), "frame_ids has -1"),
    "a frame beyond": (put("frame_ids", 1 << 40), "frame_ids has 1099511627776"),
    "frames as floats": (made("frame_ids", lambda a: a.astype(float)), "frame_ids is float64"),
    "flat frames": (made("frame_ids", np.ravel), "frame_ids is int64"),
    "too many": (made("frame_ids", lambda a: np.tile(a, (9, 9))), "number of pictures of a plan is"),
    "fewer boxes": (made("boxes", lambda a: a[:, :1]), "boxes is int64"),
    "a box of nothing": (put("boxes", 0, (0, 0, 2)), "height and width of boxes has 0"),
    "a box turned over": (put("boxes", -5, (0, 0, 3)), "height and width of boxes has -5"),
    "a vast box": (put("boxes", 1 << 30, (0, 0, 2)), "boxes has 1073741824"),
    "a box far off": (put("boxes", -(1 << 62), (0, 0, 0)), "boxes has -4611686018427387904"),
    "flips as numbers": (made("flips", lambda a: a.astype(int)), "flips is int64"),
    "fewer levels": (made("photometry", lambda a: a[:1]), "photometry is"),
    "levels as numbers": (made("photometry", lambda a: a["gamma"]), "photometry is float32"),
    "grain beyond": (put("grain_x", 512), "grain_x has 512"),
    "grain before": (put("grain_y", -1), "grain_y has -1"),
    "blur below 0": (put("blur", -0.1), "blur below 0"),
    "no gamma": (put("gamma", np.nan), "not finite"),
}


@pytest.mark.parametrize("name", ["torch", "resident", "dali"])
def test_a_plan_of_what_is_not_there_is_refused_before_it_is_executed(sample: ShardStore, name: str) -> None:
    if name == "dali":
        pytest.importorskip("nvidia.dali")
    plan = plans_of(sample)[0]
    loader = loader_of(name, sample, dataclasses.replace(delivery(), most_frames=plan.frame_ids.size))
    with pytest.raises(ValueError, match="frame_ids has -1"):
        next(loader.run([put("frame_ids", -1)(plan)]))
    assert len(list(loader.run([plan]))) == 1


@pytest.mark.parametrize("name", PLANS)
def test_plans_that_are_refused(sample: ShardStore, name: str) -> None:
    plan = plans_of(sample)[0]
    change, words = PLANS[name]
    assert list(checked([plan], len(sample.table), plan.frame_ids.size)) == [plan]
    with pytest.raises(ValueError, match=words):
        next(checked([change(plan)], len(sample.table), plan.frame_ids.size))


@pytest.mark.parametrize(
    ("option", "value"),
    [("channels", 64), ("channels", 2), ("size", 0), ("size", 1 << 40), ("threads", -1), ("most_frames", 0)],
)
def test_deliveries_that_are_refused(option: str, value: int) -> None:
    right: dict[str, Any] = {"size": 8, "channels": 1, "device": CPU, "threads": 0, "most_frames": 4}
    with pytest.raises(ValueError, match=f"{option} is {value}"):
        Delivery(**right | {option: value})


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_pictures_that_are_not_normalised(layout: torch.memory_format) -> None:
    normalise = Normaliser(CPU, layout)
    for frames, words in (
        (torch.zeros(2, 64, 8, 8, dtype=torch.uint8), "64 channels"),
        (torch.zeros(2, 2, 8, 8, dtype=torch.uint8), "2 channels"),
        (torch.zeros(2, 8, 8, dtype=torch.uint8), r"frames is uint8 \[2, 8, 8\]"),
        (torch.zeros(2, 1, 8, 8), "frames is float32"),
        (torch.zeros(2, 1, 8, 8, dtype=torch.uint8, device="meta"), "on meta"),
    ):
        with pytest.raises(ValueError, match=words):
            normalise(frames)
    for channels in (1, 3):
        assert normalise(torch.zeros(0, channels, 8, 8, dtype=torch.uint8)).shape == (0, 3, 8, 8)


@pytest.mark.parametrize("side", [48, 9000, 30_000, 1 << 30])
def test_a_frame_of_too_many_pixels_is_refused_before_it_is_decoded(sample: ShardStore, side: int) -> None:
    data = np.frombuffer(huge_png(side), np.uint8)
    with pytest.raises(DecodeError, match=r"frame .* (is \d+ x \d+ pixels|does not decode \(Image size)"):
        decode_frame(sample, 0, data, 1)
