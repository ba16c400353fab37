"""What is kept, what is decoded, and the compiled crop against float64."""

import itertools
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from tests.feed.test_loaders import delivery, plans_of
from usucl_fast.feed import ShardStore, choose_loader, make_loader, resident_loader
from usucl_fast.feed.cut import cut
from usucl_fast.feed.loader import decoded_bytes


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The ids of the frames that are decoded."""
    ids: list[int] = []
    decode = resident_loader.decode_frame

    def note(store: ShardStore, frame_id: int, *rest: Any) -> np.ndarray:
        ids.append(frame_id)
        return decode(store, frame_id, *rest)

    monkeypatch.setattr(resident_loader, "decode_frame", note)
    return ids


def loaded(store: ShardStore, resident_bytes: int, repeats: int) -> list[torch.Tensor]:
    """All batches of the plans, `repeats` times by one loader in one thread."""
    how = delivery(threads=1)
    loader = make_loader("resident", store, type(how)(**{**vars(how), "resident_bytes": resident_bytes}))
    return [batch.frames for _ in range(repeats) for batch in loader.run(plans_of(store))]


def test_a_frame_is_decoded_once(store: ShardStore, decoded: list[int]) -> None:
    loaded(store, 10**9, repeats=2)
    asked = {int(frame) for plan in plans_of(store) for frame in plan.frame_ids.ravel()}
    assert sorted(decoded) == sorted(asked)


@pytest.mark.parametrize("share", [0, 0.5])
def test_what_does_not_fit_is_decoded_each_time(store: ShardStore, decoded: list[int], share: float) -> None:
    everything = loaded(store, 10**9, repeats=2)
    decoded.clear()
    ends = np.cumsum(decoded_bytes(store.table, 1))
    room = int(ends[-1] * share)
    kept = np.count_nonzero(ends <= room)
    part = loaded(store, room, repeats=2)
    assert all(torch.equal(a, b) for a, b in zip(everything, part, strict=True))
    asked = [int(frame) for plan in plans_of(store) for frame in plan.frame_ids.ravel()]
    each_time = [frame for frame in asked if frame >= kept]
    assert sorted(frame for frame in decoded if frame >= kept) == sorted(2 * each_time)
    assert sorted(frame for frame in decoded if frame < kept) == sorted({frame for frame in asked if frame < kept})
    assert 0 < len(each_time) <= len(asked)


def test_the_choice_says_why(store: ShardStore, monkeypatch: pytest.MonkeyPatch) -> None:
    needed = int(decoded_bytes(store.table, 3).sum())
    assert needed == sum(3 * video.frames * video.height * video.width for video in store.table.videos)
    assert choose_loader(store, 3, needed)[0] == "resident"
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object())
    name, why = choose_loader(store, 3, needed - 1)
    assert name == "dali"
    assert "more than --resident-gb" in why
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    name, why = choose_loader(store, 3, needed - 1)
    assert name == "torch"
    assert "DALI is not installed" in why


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [1, 7, 32, 60])
def test_crops_against_float64(size: int, channels: int) -> None:
    draw = np.random.default_rng(size)
    shapes = [(40, 60), (33, 32), (64, 35)]
    pictures = [draw.integers(0, 256, (*shape, channels), dtype=np.uint8) for shape in shapes]
    starts = np.cumsum([0] + [picture.size for picture in pictures[:-1]])
    jobs = list(itertools.product(range(3), [False, True], [(0, 0, 0, 0), (3, 2, 7, 5), (1, 0, size, size)]))
    number = np.array([job[0] for job in jobs])
    boxes = np.array([box if box[2] and box[2] <= 32 else (0, 0, *shapes[n]) for n, _, box in jobs])
    flips = np.array([job[1] for job in jobs])
    out = np.zeros((len(jobs), size, size, channels), np.uint8)
    places = draw.permutation(len(jobs))
    pixels = np.concatenate([picture.ravel() for picture in pictures])
    cut(pixels, starts[number], np.array([w for _, w in shapes])[number], boxes, flips, places, out)
    for n, (top, left, height, width), flip, place in zip(number, boxes, flips, places, strict=True):
        crop = torch.from_numpy(pictures[n][top : top + height, left : left + width].astype(np.float64))
        expected = F.interpolate(
            crop.permute(2, 0, 1)[None], size=(size, size), mode="bilinear", antialias=True, align_corners=False
        )[0].permute(1, 2, 0)
        expected = expected.flip(1) if flip else expected
        assert (torch.from_numpy(out[place]).double() - expected).abs().max() <= 0.501
