"""What is kept, and what is decoded."""

import dataclasses
import errno
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.helpers.feeding import delivery, plans_of
from tests.helpers.pictures import expected
from usucl_fast.errors import UsageError
from usucl_fast.feed import AUGMENTATIONS, choose_loader, make_loader
from usucl_fast.feed.batch import decoded_bytes
from usucl_fast.feed.loaders import resident, threaded
from usucl_fast.feed.loaders.resident import DeviceResidentLoader
from usucl_fast.shards import ShardStore, open_shards


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The ids of the frames that are decoded."""
    ids: list[int] = []
    decode = threaded.decode_frame

    def note(store: ShardStore, frame_id: int, *rest: Any) -> np.ndarray:
        ids.append(frame_id)
        return decode(store, frame_id, *rest)

    for module in (threaded, resident):
        monkeypatch.setattr(module, "decode_frame", note)
    return ids


def loaded(store: ShardStore, resident_bytes: int, repeats: int, resident_file: bool = False) -> list[torch.Tensor]:
    """All batches of the plans, `repeats` times by one loader in one thread."""
    how = dataclasses.replace(delivery(threads=1), resident_bytes=resident_bytes, resident_file=resident_file)
    loader = make_loader("resident", store, how)
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
    assert choose_loader(store, 3, needed - 1, resident_file=True)[0] == "resident"
    name, why = choose_loader(store, 3, needed - 1)
    assert name == "torch"
    assert "DALI is not installed" in why


def test_a_file_keeps_what_memory_does_not(shards: Path, tmp_path: Path, store: ShardStore, decoded: list[int]) -> None:
    everything = loaded(store, 10**9, repeats=1)
    copy = open_shards(Path(shutil.copytree(shards, tmp_path / "shards")))
    before = sorted(copy.folder.iterdir())
    decoded.clear()
    room = int(decoded_bytes(store.table, 1).sum() / 3)
    part = loaded(copy, room, repeats=2, resident_file=True)
    assert len(decoded) == len(set(decoded))
    assert all(torch.equal(a, b) for a, b in zip(everything * 2, part, strict=True))
    assert sorted(copy.folder.iterdir()) == before


def test_a_file_without_room_is_refused_in_one_line(store: ShardStore, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.posix_fallocate", full)
    with pytest.raises(UsageError, match=r"--resident-file: .*No space left"):
        loaded(store, 0, repeats=1, resident_file=True)


@pytest.mark.parametrize("channels", [1, 3])
def test_pictures_made_on_the_device(store: ShardStore, decoded: list[int], channels: int) -> None:
    """The loader of a GPU, on the CPU."""
    loader = DeviceResidentLoader(store, delivery(channels=channels))
    plans = plans_of(store, AUGMENTATIONS["ultrasound"], epochs=3)
    for _ in range(2):
        for plan, batch in zip(plans, loader.run(plans), strict=True):
            assert batch.frames.shape == (*plan.frame_ids.shape, channels, 48, 48)
            assert (batch.frames.double() - expected(store, plan, 48, channels)).abs().mean() <= 1
    assert len(decoded) == len(set(decoded))
