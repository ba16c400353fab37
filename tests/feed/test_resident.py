"""What is kept, and what is decoded."""

import contextlib
import dataclasses
import errno
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.helpers import copy_shards
from tests.helpers.feeding import delivery, plans_of
from tests.helpers.pictures import expected
from usucl_fast.errors import UsageError
from usucl_fast.feed import AUGMENTATIONS, choose_loader, make_loader
from usucl_fast.feed.batch import decoded_bytes
from usucl_fast.feed.loaders import threaded
from usucl_fast.feed.loaders.resident import DeviceResidentLoader
from usucl_fast.files import holds_only
from usucl_fast.pack.existing import OUTPUT
from usucl_fast.shards import ShardStore, open_shards


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The ids of the frames that are decoded."""
    ids: list[int] = []
    decode = threaded.decode_frame

    def note(store: ShardStore, frame_id: int, *rest: Any) -> np.ndarray:
        ids.append(frame_id)
        return decode(store, frame_id, *rest)

    monkeypatch.setattr(threaded, "decode_frame", note)
    return ids


@pytest.fixture
def copy(shards: Path, tmp_path: Path) -> Path:
    """Shards without decoded frames."""
    return copy_shards(shards, tmp_path / "shards")


def loaded(shards: Path, channels: int = 1, resident_bytes: int = 0, repeats: int = 1) -> list[torch.Tensor]:
    """All batches of the plans, `repeats` times by one loader in one thread."""
    store = open_shards(shards)
    how = dataclasses.replace(delivery(threads=1, channels=channels), resident_bytes=resident_bytes)
    loader = make_loader("resident", store, how)
    return [batch.frames.clone() for _ in range(repeats) for batch in loader.run(plans_of(store))]


def same(some: list[torch.Tensor], others: list[torch.Tensor]) -> bool:
    return len(some) == len(others) and all(torch.equal(a, b) for a, b in zip(some, others, strict=True))


@pytest.mark.parametrize("channels", [1, 3])
def test_a_frame_is_decoded_once_for_all_runs(copy: Path, decoded: list[int], channels: int) -> None:
    first = loaded(copy, channels, repeats=2)
    store = open_shards(copy)
    asked = {int(frame) for plan in plans_of(store) for frame in plan.frame_ids.ravel()}
    assert sorted(decoded) == sorted(asked)
    assert same(first, loaded(copy, channels, repeats=2))
    assert sorted(decoded) == sorted(asked)
    assert (copy / f"decoded-{channels}.raw").stat().st_size > decoded_bytes(store.table, channels).sum()
    assert not list(copy.glob(".*"))


def test_processes_share_what_they_decode(copy: Path, decoded: list[int]) -> None:
    """Each finds what the other has decoded meanwhile."""
    store = open_shards(copy)
    loaders = [make_loader("resident", store, delivery(threads=0)) for _ in range(2)]
    plans = plans_of(store)
    for number, plan in enumerate(plans):
        for loader in loaders if number % 2 else loaders[::-1]:
            assert len(list(loader.run([plan]))) == 1
    assert len(decoded) == len(set(decoded))


def harm(copy: Path, how: str) -> None:
    path = copy / "decoded-1.raw"
    data = bytearray(path.read_bytes())
    if how == "short":
        data = data[:-1]
    elif how == "of other shards":
        data[:64] = b"f" * 64
    elif how == "pixels":  # as where a machine crashed before they were written
        start = 64 + 4 * len(open_shards(copy).table)
        data[start:] = bytes(len(data) - start)
    path.write_bytes(data)


@pytest.mark.parametrize("how", ["short", "of other shards", "pixels"])
def test_a_file_that_is_wrong_is_filled_anew(copy: Path, decoded: list[int], how: str) -> None:
    first = loaded(copy)
    count = len(decoded)
    harm(copy, how)
    assert same(first, loaded(copy))
    assert len(decoded) == 2 * count
    assert same(first, loaded(copy))
    assert len(decoded) == 2 * count


def test_shards_that_may_only_be_read(copy: Path, decoded: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    """What others have decoded is used, what is missing is kept in memory; the file stays as it is."""
    store = open_shards(copy)
    half = plans_of(store)[: len(plans_of(store)) // 2]
    list(make_loader("resident", store, delivery(threads=1)).run(half))
    before, count = (copy / "decoded-1.raw").read_bytes(), len(decoded)
    monkeypatch.setattr("os.access", lambda path, mode: mode != os.W_OK)
    loaded(copy)
    assert len(decoded) == len(set(decoded)) > count
    assert (copy / "decoded-1.raw").read_bytes() == before


@pytest.mark.parametrize("enough", [True, False])
def test_without_room_on_the_disk_memory_is_used_if_it_is_enough(
    copy: Path, monkeypatch: pytest.MonkeyPatch, decoded: list[int], enough: bool
) -> None:
    def full(*_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.posix_fallocate", full)
    needed = int(decoded_bytes(open_shards(copy).table, 1).sum())
    if enough:
        loaded(copy, resident_bytes=needed, repeats=2)
        assert len(decoded) == len(set(decoded))
    else:
        with pytest.raises(UsageError, match=r"--resident-gb .*No space left on device.*another --loader"):
            loaded(copy, resident_bytes=needed - 1)
    assert not list(copy.glob("*decoded*"))


def test_the_file_goes_when_videos_are_added(copy: Path, tmp_path: Path) -> None:
    """It belongs to the shards: no packing takes it for somebody else's."""
    loaded(copy)
    assert holds_only(copy, OUTPUT)


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
def test_pictures_made_on_the_device(store: ShardStore, decoded: list[int], channels: int) -> None:
    """The loader of a GPU, on the CPU."""
    loader = DeviceResidentLoader(store, delivery(channels=channels))
    plans = plans_of(store, AUGMENTATIONS["ultrasound"], epochs=3)
    for _ in range(2):
        for plan, batch in zip(plans, loader.run(plans), strict=True):
            assert batch.frames.shape == (*plan.frame_ids.shape, channels, 48, 48)
            assert (batch.frames.double() - expected(store, plan, 48, channels)).abs().mean() <= 1
    assert len(decoded) == len(set(decoded))


def test_what_was_begun_on_the_device_is_taken_up_by_the_next_run(copy: Path) -> None:
    store = open_shards(copy)
    loader = DeviceResidentLoader(store, delivery())
    plans = plans_of(store)
    with contextlib.closing(loader.run(plans)) as batches:  # which has asked for frames of the batches that follow
        next(batches)
    for plan, batch in zip(plans, loader.run(plans), strict=True):
        assert (batch.frames.double() - expected(store, plan, 48, 1)).abs().mean() <= 1


def test_the_device_is_filled_from_what_earlier_runs_have_decoded(copy: Path, decoded: list[int]) -> None:
    first = loaded(copy)
    count, store = len(decoded), open_shards(copy)
    on_device = [batch.frames for batch in DeviceResidentLoader(store, delivery()).run(plans_of(store))]
    assert len(decoded) == count
    for some, others in zip(first, on_device, strict=True):
        assert (some.int() - others.int()).abs().max() <= 1
