"""Frames/s of the loaders and of the published way of loading, at equal delivery."""

import contextlib
import functools
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import DataLoader

from usucl_fast.bench.harness import Arm
from usucl_fast.bench.published import FrameFiles, extract_frames
from usucl_fast.feed import Crop, Delivery, Normaliser, Planner, ShardStore, make_loader
from usucl_fast.pack import Source

ARMS = ("dali", "torch", "published")
WARM_UP = 8
"""Batches before the clock starts: more than any arm prepares ahead, so that none starts with a stock."""


def feed_arms(
    names: list[str],
    store: ShardStore,
    sources: dict[str, Source],
    work: Path,
    *,
    size: int,
    batch_size: int,
    batches: int,
    threads: int,
    device: torch.device,
) -> list[Arm]:
    """The named arms, each ready to run; frames for the published way are unpacked into `work`.

    All arms load the same frames in the same order, 5 a tuple, cropped to `size` pixels, and deliver float32
    `[batch_size, 5, 3, size, size]`, normalised, on `device`.
    """
    planner = Planner(
        store.table,
        seed=0,
        epochs=10**9,
        batch_size=batch_size,
        negatives=3,
        curriculum="cosine",
        crop=Crop(),
        encode_unused=True,
    )
    tuples = min(batch_size, len(store.table.videos))
    per_epoch = len(store.table.videos) // tuples
    plans = []
    for number in range(WARM_UP + batches):
        epoch, place = divmod(number, per_epoch)
        plans.append(planner.plan_tuples(epoch, place * tuples, (place + 1) * tuples))
    delivery = Delivery(size, 1, device, threads, most_frames=tuples * 5)

    def ours(name: str) -> Iterator[torch.Tensor]:
        normalise = Normaliser(device)
        with contextlib.closing(make_loader(name, store, delivery).run(plans)) as loaded:
            for batch in loaded:
                yield normalise(batch.frames.flatten(0, 1)).unflatten(0, batch.plan.frame_ids.shape)

    def published() -> Iterator[torch.Tensor]:
        data = FrameFiles(work, plans, size)
        loader = DataLoader(data, tuples, num_workers=threads, pin_memory=device.type == "cuda")
        for batch in loader:
            yield batch.to(device, non_blocking=True)

    arms = []
    delivers = f"float32 [{tuples}, 5, 3, {size}, {size}] normalised on {device.type}"
    for name in names:
        if name == "published":
            extract_frames(store.table, sources, np.concatenate([plan.frame_ids for plan in plans]), work)
        start = published if name == "published" else functools.partial(ours, name)
        arms.append(Arm(name, delivers, functools.partial(_rate, start, device)))
    return arms


def _rate(start: Callable[[], Iterator[torch.Tensor]], device: torch.device) -> float:
    """Frames/s over the batches after the warm-up."""
    frames, started = 0, 0.0
    for number, batch in enumerate(start()):
        if number == WARM_UP - 1:
            _wait(device)
            started = time.perf_counter()
        elif number >= WARM_UP:
            frames += batch.shape[0] * batch.shape[1]
    _wait(device)
    return frames / (time.perf_counter() - started)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
