"""Frames/s of the loaders and of the published way of loading, at equal delivery."""

import contextlib
import functools
import importlib
import itertools
import math
import time
from collections import defaultdict
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import simplejpeg
import torch
from torch.utils.data import DataLoader

from usucl_fast.bench.ffcv_arm import ffcv_batches
from usucl_fast.bench.harness import Arm, synchronise
from usucl_fast.bench.published import FrameFiles, extract_frames
from usucl_fast.bench.stock import dali_batches, shard_files, webdataset_batches
from usucl_fast.curriculum import Curriculum
from usucl_fast.feed import AUGMENTATIONS, Delivery, Loader, Normaliser, Planner, make_loader
from usucl_fast.feed.batch import decoded_bytes
from usucl_fast.feed.beton import export_beton, import_ffcv
from usucl_fast.optional import needed
from usucl_fast.pack import Source
from usucl_fast.shards import ShardStore, is_url

Batches = Generator[torch.Tensor, None, None]
SPARE = 8
"""Batches before the clock starts and, planned but not waited for, after it stops: more than any arm prepares ahead, so
that each has as much in stock at the end as at the beginning."""


def feed_arms(
    names: list[str],
    store: ShardStore,
    sources: dict[str, Source],
    work: Path,
    *,
    deliver: str,
    size: int,
    batch_size: int,
    batches: int,
    threads: int,
    device: torch.device,
) -> list[Arm]:
    """The named arms, each ready to run; what the published way and FFCV read is written into the folder `work`.

    All arms load the same frames in the same order, 5 a tuple, cropped to `size` pixels, and deliver on `device`
    either `tensors`, float32 `[batch_size, 5, 3, size, size]`, normalised, or `crops`, uint8 `[batch_size, 5, 1, size,
    size]`. What delivers less or other frames says so. The resident arms have seen all frames before the clock starts.

    Raises:
        UsageError: as `check_arm`.
    """
    for name in names:
        check_arm(name)
    planner = Planner(
        store.table,
        seed=0,
        epochs=10**9,
        batch_size=batch_size,
        curriculum=Curriculum("cosine"),
        augmentation=AUGMENTATIONS["reference"],
        tuples="full",
    )
    tuples = min(batch_size, len(store.table.videos))
    per_epoch = len(store.table.videos) // tuples
    plans = []
    for number in range(SPARE + batches + SPARE):
        epoch, place = divmod(number, per_epoch)
        plans.append(planner.plan_tuples(epoch, place * tuples, (place + 1) * tuples))
    delivery = Delivery(
        size=size, channels=1, device=device, threads=threads, most_frames=tuples * 5, resident_bytes=1 << 62
    )
    needed = int(decoded_bytes(store.table, 1).sum())
    if deliver == "tensors":
        delivers = f"float32 [{tuples}, 5, 3, {size}, {size}] normalised on {device.type}"
    else:
        delivers = f"uint8 [{tuples}, 5, 1, {size}, {size}] on {device.type}"

    def finisher() -> Callable[[torch.Tensor], torch.Tensor]:
        if deliver == "crops":
            return lambda frames: frames
        normalise = Normaliser(device)
        return lambda frames: normalise(frames.flatten(0, 1)).unflatten(0, frames.shape[:2])

    seconds: dict[str, defaultdict[str, float]] = {name: defaultdict(float) for name in names}

    def ours(loader: Loader, name: str) -> Batches:
        finish, spent = finisher(), seconds[name]
        with contextlib.closing(loader.run(plans)) as loaded:
            asked = time.perf_counter()
            for batch in loaded:
                got = time.perf_counter()
                frames = finish(batch.frames)
                spent["wait"] += got - asked
                spent["finish"] += time.perf_counter() - got
                yield frames
                asked = time.perf_counter()

    def resident(name: str, share: float) -> Callable[[], Batches]:
        loader = make_loader("resident", store, replace(delivery, resident_bytes=math.ceil(needed * share)))
        for _ in loader.run(plans):
            pass
        return functools.partial(ours, loader, name)

    def published() -> Batches:
        data = FrameFiles(work / "frames", plans, size, tensors=deliver == "tensors")
        loader = DataLoader(data, tuples, num_workers=threads, pin_memory=device.type == "cuda")
        for batch in loader:
            yield batch.to(device, non_blocking=True)

    def stock(batches: Callable[..., Batches], **parallel: Any) -> Batches:
        how = {"size": size, "tensors": deliver == "tensors", "batch": tuples * 5, "device": device}
        with contextlib.closing(batches(store, **how, **parallel)) as loaded:
            for batch in itertools.islice(loaded, len(plans)):
                yield batch.unflatten(0, (tuples, 5))

    def peer(batches: Callable[..., Batches], *what: object) -> Batches:
        how = {"size": size, "channels": 3 if deliver == "tensors" else 1, "threads": threads, "device": device}
        with contextlib.closing(batches(*what, plans, **how)) as loaded:
            yield from map(finisher(), loaded)

    beton = work / "shards.beton"

    def exported() -> Path:
        if not beton.exists():
            export_beton(store, beton)
        return beton

    def ffcv() -> Callable[[], Batches]:
        loader = make_loader("ffcv", store, replace(delivery, beton=exported()))
        return functools.partial(ours, loader, "ffcv")

    def stock_ffcv() -> Callable[[], Batches]:
        exported()
        return functools.partial(stock, ffcv_batches, beton=beton, threads=threads)

    def spdl() -> Callable[[], Batches]:
        return functools.partial(peer, _import_arm("spdl").spdl_batches, store)

    def torchcodec() -> Callable[[], Batches]:
        arm = _import_arm("torchcodec")
        return functools.partial(peer, arm.torchcodec_batches, arm.open_decoders(store.table, sources), store.table)

    def decode() -> Batches:
        nothing = torch.empty(0).expand(tuples, 5, 0)
        with ThreadPoolExecutor(threads) as pool:
            for plan in plans:
                list(pool.map(lambda data: simplejpeg.decode_jpeg(data, colorspace="GRAY"), store.read(plan.frame_ids)))
                yield nothing

    def replay(copy: bool) -> Batches:
        batch = next(make_loader("torch", store, delivery).run(plans)).frames
        finish = finisher()
        output = finish(batch)
        for _ in plans:
            yield output.clone() if copy else finish(batch)

    starts: dict[str, Callable[[], Callable[[], Batches]]] = {
        "resident": lambda: resident("resident", 1),
        "resident-half": lambda: resident("resident-half", 0.5),
        "published": lambda: published,
        "stock-webdataset": lambda: functools.partial(stock, webdataset_batches, workers=threads),
        "stock-dali": lambda: functools.partial(stock, dali_batches, threads=threads),
        "ffcv": ffcv,
        "stock-ffcv": stock_ffcv,
        "spdl": spdl,
        "torchcodec": torchcodec,
        "floor-decode": lambda: decode,
        "floor-copy": lambda: functools.partial(replay, copy=True),
        "floor-replay": lambda: functools.partial(replay, copy=False),
    }
    others = {
        "stock-webdataset": f"{delivers}, frames as they lie in the shards",
        "stock-dali": f"{delivers}, frames as they lie in the shards",
        "stock-ffcv": f"{delivers}, frames as they lie in the shards, the square in their middle, of colour the red",
        "floor-decode": "nothing: the frames are decoded whole by libjpeg-turbo, one channel, and dropped",
        "floor-copy": f"{delivers}, always the same batch: it is copied",
        "floor-replay": f"{delivers}, always the same batch, decoded and cropped once",
    }
    arms = []
    for name in names:
        files: Sequence[Path] = [] if is_url(store.name) else shard_files(store)
        if name == "published":
            extract_frames(store.table, sources, np.concatenate([plan.frame_ids for plan in plans]), work / "frames")
            files = sorted((work / "frames").iterdir())
        start = starts[name]() if name in starts else functools.partial(ours, make_loader(name, store, delivery), name)
        if name in ("ffcv", "stock-ffcv"):
            files = [beton]
        elif name == "torchcodec":
            files = [file for video in store.table.videos for file in sources[video.name].files]
        run = functools.partial(_rate, start, batches, device, seconds[name])
        arms.append(Arm(name, others.get(name, delivers), run, files, seconds[name]))
    return arms


def check_arm(name: str) -> None:
    """Whether what the arm needs is here.

    Raises:
        UsageError: a package is not installed, or lacks a library of the system.
    """
    arm = f"the arm {name}"
    if name in ("dali", "stock-dali"):
        with needed("NVIDIA DALI", arm, "dali"):
            importlib.import_module("nvidia.dali.plugin.pytorch")
    elif name in ("ffcv", "stock-ffcv"):
        import_ffcv("loader")
    elif name == "stock-webdataset":
        with needed("webdataset", arm, "bench"):
            importlib.import_module("webdataset")
    elif name in ("spdl", "torchcodec"):
        with needed(name, arm, "bench", ", and FFmpeg for your system"):
            _import_arm(name)


def _import_arm(name: str) -> Any:
    return importlib.import_module(f"usucl_fast.bench.{name}_arm")


def _rate(start: Callable[[], Batches], batches: int, device: torch.device, seconds: dict[str, float]) -> float:
    """Frames/s over `batches` batches after the first `SPARE`; `seconds` by stage are counted over them, too."""
    frames = 0
    with contextlib.closing(start()) as arriving:  # closed outside the clock
        for _ in range(SPARE):
            next(arriving)
        synchronise(device)
        seconds.clear()
        started = time.perf_counter()
        for batch in itertools.islice(arriving, batches):
            frames += batch.shape[0] * batch.shape[1]
        synchronise(device)
        return frames / (time.perf_counter() - started)
