import contextlib
import dataclasses
import gc
import threading
import weakref
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.helpers import copy_shards
from tests.helpers.feeding import ANYWHERE, delivery, loader_of, planner_of, plans_of
from tests.helpers.forged import change_videos
from tests.helpers.pictures import expected
from usucl_fast.curriculum import Curriculum
from usucl_fast.errors import DataError, UsageError
from usucl_fast.feed import AUGMENTATIONS, LOOKAHEAD, Batch, BatchPlan, Normaliser, Planner, make_loader
from usucl_fast.pack import find_sources, pack
from usucl_fast.shards import PackSettings, ShardStore, open_shards

CPU = torch.device("cpu")


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [48, 64, 96])
@pytest.mark.parametrize("augmentation", AUGMENTATIONS)
def test_pictures_are_those_of_the_plan(
    store: ShardStore, name: str, channels: int, size: int, augmentation: str
) -> None:
    plans = plans_of(store, AUGMENTATIONS[augmentation], epochs=2)
    delivered = 0
    for plan, batch in zip(plans, loader_of(name, store, delivery(size, channels)).run(plans), strict=True):
        assert batch.plan is plan
        assert batch.frames.dtype == torch.uint8
        assert batch.frames.shape == (*plan.frame_ids.shape, channels, size, size)
        error = (batch.frames.double() - expected(store, plan, size, channels)).abs()
        assert error.mean() <= 1
        delivered += batch.frames.shape[0]
    assert delivered == 2 * len(store.table.videos)


def test_small_crops_are_those_of_the_plan(store: ShardStore, name: str) -> None:
    made = planner_of(store.table, augmentation=AUGMENTATIONS["mocov2"], tuples="pair", small_crops=3, epochs=2)
    plans = list(made.plans())
    how = dataclasses.replace(delivery(), most_frames=made.most_frames)
    for plan, batch in zip(plans, loader_of(name, store, how).run(plans), strict=True):
        assert batch.frames.shape == (*plan.frame_ids.shape, 1, 48, 48)
        error = (batch.frames.double() - expected(store, plan, 48, 1)).abs().mean(dim=(0, 2, 3, 4))
        assert len(error) == 5
        assert error.max() <= 1


@pytest.mark.parametrize("channels", [1, 3])
def test_lossless_shards_are_delivered_as_well(videos: Path, tmp_path: Path, name: str, channels: int) -> None:
    pack(find_sources([videos])[0], tmp_path / "png", PackSettings(size=64, codec="png"), workers=2)
    store = open_shards(tmp_path / "png")
    assert {video.color for video in store.table.videos} == {"grey", "rgb"}
    plans = plans_of(store, epochs=1)
    for plan, batch in zip(plans, loader_of(name, store, delivery(channels=channels)).run(plans), strict=True):
        assert (batch.frames.double() - expected(store, plan, 48, channels)).abs().mean() < 1


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("warm", [True, False])
def test_dalis_own_operators_as_on_a_gpu(store: ShardStore, channels: int, warm: bool) -> None:
    dali_loader = pytest.importorskip("usucl_fast.feed.loaders.dali")
    loader = dali_loader.DaliLoader(store, delivery(channels=channels))
    for augmentation in AUGMENTATIONS.values():
        if warm:
            loader.warm_up()
        plans = plans_of(store, augmentation, epochs=1)
        for plan, batch in zip(plans, loader.run_in_pipeline(plans), strict=True):
            assert (batch.frames.double() - expected(store, plan, 48, channels)).abs().mean() <= 1


@pytest.mark.parametrize("warm", [True, False])
def test_dalis_pipeline_goes_with_the_run(store: ShardStore, monkeypatch: pytest.MonkeyPatch, warm: bool) -> None:
    """At once, and not when cycles are looked for: that may be in a process forked meanwhile, where it aborts."""
    dali_loader = pytest.importorskip("usucl_fast.feed.loaders.dali")
    built: list[weakref.ref[object]] = []
    build = dali_loader._build

    def note(*arguments: object) -> object:
        pipeline = build(*arguments)
        built.append(weakref.ref(pipeline))
        return pipeline

    monkeypatch.setattr(dali_loader, "_build", note)
    loader = dali_loader.DaliLoader(store, delivery())
    gc.disable()
    try:
        if warm:
            loader.warm_up()
        with contextlib.closing(loader.run_in_pipeline(plans_of(store))) as batches:
            next(batches)
        assert [pipeline() for pipeline in built] == [None]
    finally:
        gc.enable()


def test_loaders_agree(store: ShardStore) -> None:
    pytest.importorskip("nvidia.dali")
    plans = plans_of(store)
    pairs = zip(*(make_loader(name, store, delivery()).run(plans) for name in ("torch", "dali")), strict=True)
    for ours, theirs in pairs:
        assert (ours.frames.float() - theirs.frames.float()).abs().mean() < 2


@pytest.mark.parametrize("threads", [1, 3])
def test_batches_stay_what_they_were_while_others_are_loaded(store: ShardStore, name: str, threads: int) -> None:
    plans = plans_of(store)
    loader = loader_of(name, store, delivery(threads=threads))
    kept = list(loader.run(plans))
    for batch, again in zip(kept, loader.run(plans), strict=True):
        assert torch.equal(batch.frames, again.frames)


def test_plans_are_taken_in_the_callers_thread_and_no_further_ahead_than_said(store: ShardStore, name: str) -> None:
    """So that a plan may depend on a step, `LOOKAHEAD` before its own, that is done."""
    takes_plans_in_time(loader_of(name, store, delivery()).run, plans_of(store))


@pytest.mark.parametrize("warm", [True, False])
def test_dalis_own_operators_take_plans_in_time(store: ShardStore, warm: bool) -> None:
    dali_loader = pytest.importorskip("usucl_fast.feed.loaders.dali")
    loader = dali_loader.DaliLoader(store, delivery())
    if warm:
        loader.warm_up()
    takes_plans_in_time(loader.run_in_pipeline, plans_of(store))


def takes_plans_in_time(run: Callable[[Iterator[BatchPlan]], Iterator[Batch]], plans: list[BatchPlan]) -> None:
    taken: list[int] = []

    def ask() -> Iterator[BatchPlan]:
        for plan in plans:
            taken.append(threading.get_ident())
            yield plan

    furthest = 0
    for step, _ in enumerate(run(ask())):
        furthest = max(furthest, len(taken) - 1 - step)
    assert 0 <= furthest <= LOOKAHEAD < len(plans)
    assert set(taken) == {threading.get_ident()}


@pytest.mark.parametrize("threads", [0, 1, 4])
@pytest.mark.parametrize("batch_size", [1, 7, 32])
def test_an_epoch_on_any_number_of_ranks_and_threads_is_the_plans(
    store: ShardStore, name: str, batch_size: int, threads: int
) -> None:
    planner = Planner(
        store.table,
        seed=5,
        epochs=2,
        batch_size=batch_size,
        curriculum=Curriculum("cosine"),
        augmentation=ANYWHERE,
        tuples="full",
    )
    plans = [planner.plan(1, step) for step in range(planner.steps_per_epoch)]
    how = dataclasses.replace(delivery(threads=threads), most_frames=planner.most_frames)
    for ranks in (1, 2, 3):
        ids: Counter[int] = Counter()
        pictures: dict[int, torch.Tensor] = {}
        for rank in range(ranks):
            shares = [plan.parts(1, rank, ranks)[0].own for plan in plans]
            for share, batch in zip(shares, loader_of(name, store, how).run(shares), strict=True):
                assert batch.frames.shape == (*share.frame_ids.shape, 1, 48, 48)
                ids.update(share.frame_ids.ravel().tolist())
                pictures.update(zip(share.frame_ids[:, 0].tolist(), batch.frames[:, 0].clone(), strict=True))
        assert ids == Counter(np.concatenate([plan.frame_ids.ravel() for plan in plans]).tolist())
        anchors = [frame for plan in plans for frame in plan.frame_ids[:, 0].tolist()]
        together = torch.stack([pictures[frame] for frame in anchors])
        if ranks == 1:
            whole = together
        assert torch.equal(together, whole)


def test_no_plans_no_batches(store: ShardStore, name: str) -> None:
    assert list(loader_of(name, store, delivery()).run([])) == []


def test_a_corrupt_frame_is_named(shards: Path, tmp_path: Path, shard_reader: str) -> None:
    copy_shards(shards, tmp_path / "s")
    store = open_shards(tmp_path / "s")
    plans = plans_of(store)
    bad = int(plans[2].frame_ids[1, 0])
    row = store.table.rows[bad]
    tar = store.shard_path(int(row["shard"]))
    with tar.open("r+b") as file:
        file.seek(int(row["offset"]))
        file.write(bytes(int(row["length"])))
    with pytest.raises(DataError) as caught:
        list(make_loader(shard_reader, store, delivery()).run(plans))
    assert store.table.name_of(bad) in str(caught.value)
    assert str(tar) in str(caught.value)


def test_a_cut_or_missing_shard_is_named(shards: Path, tmp_path: Path, shard_reader: str) -> None:
    copy_shards(shards, tmp_path / "s")
    tar = tmp_path / "s" / "usucl-000000.tar"
    tar.write_bytes(tar.read_bytes()[:-2000])
    for _ in range(2):
        store = open_shards(tmp_path / "s")
        with pytest.raises(DataError, match=r"usucl-000000\.tar"):
            list(make_loader(shard_reader, store, delivery()).run(plans_of(store)))
        tar.unlink(missing_ok=True)


@pytest.mark.parametrize("side", ["height", "width"])
@pytest.mark.parametrize("more", [1, -1, 60_000])
def test_a_forged_size_is_refused_by_every_loader(
    shards: Path, tmp_path: Path, shard_reader: str, side: str, more: int
) -> None:
    """A decoder that cuts its part out of whatever is there would deliver other pictures."""
    copy_shards(shards, tmp_path / "copy")
    change_videos(tmp_path / "copy", lambda video: replace(video, **{side: getattr(video, side) + more}))
    forged = open_shards(tmp_path / "copy")
    with pytest.raises(DataError, match=r"frame .* is \d+ x \d+ pixels where the video table says \d+ x \d+"):
        list(make_loader(shard_reader, forged, delivery()).run(plans_of(forged)))


def test_a_flipped_bit_is_told_by_every_loader(shards: Path, tmp_path: Path, shard_reader: str) -> None:
    """Most decode, to a picture that differs a little."""
    store = open_shards(copy_shards(shards, tmp_path / "copy"))
    row = store.table.rows[0]
    path = store.shard_path(int(row["shard"]))
    content = bytearray(path.read_bytes())
    content[int(row["offset"]) + int(row["length"]) // 2] ^= 1
    path.write_bytes(content)
    (plan,) = [plan for plan in plans_of(store) if 0 in plan.frame_ids][:1]
    with pytest.raises(DataError, match=r"frame .*/000000 \(id 0\) .* has other bytes than were packed"):
        list(make_loader(shard_reader, store, delivery()).run([plan]))


def test_stopping_early_leaves_no_thread(store: ShardStore) -> None:
    before = threading.active_count()
    with contextlib.closing(make_loader("torch", store, delivery()).run(plans_of(store))) as batches:
        next(batches)
    assert threading.active_count() == before


def test_an_unknown_loader_is_refused(store: ShardStore) -> None:
    with pytest.raises(UsageError, match="there is no loader 'ffmpeg'; choose from dali, torch"):
        make_loader("ffmpeg", store, delivery())


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_normalising_is_torchvisions(memory_format: torch.memory_format) -> None:
    from torchvision.transforms import v2

    normalise = Normaliser(CPU, memory_format)
    stock = v2.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    for count in (5, 5, 3):
        frames = torch.randint(0, 256, (count, 3, 8, 8), dtype=torch.uint8)
        found = normalise(frames)
        assert found.is_contiguous(memory_format=memory_format)
        assert torch.allclose(found, stock(frames.float() / 255), atol=1e-6)
    grey = frames[:, :1]
    assert torch.allclose(normalise(grey).clone(), normalise(grey.expand(3, 3, 8, 8)), atol=1e-6)
    strided = torch.stack([grey, grey.flip(0)], dim=1)[:, 0]  # as one view of each tuple
    assert torch.equal(normalise(strided).clone(), normalise(grey))
