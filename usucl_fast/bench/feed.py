"""Frames/s of the loaders, of the published way of loading and of other libraries, all delivering the same."""

import contextlib
import gc
import importlib
import itertools
import time
from collections import defaultdict
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import simplejpeg
import torch
from torch.utils.data import DataLoader

from usucl_fast.bench.ffcv_arm import ffcv_batches
from usucl_fast.bench.harness import Arm, synchronise
from usucl_fast.bench.published import FrameFiles, extract_frames
from usucl_fast.bench.stock import Tuples, dali_batches, shard_files, webdataset_batches
from usucl_fast.curriculum import Curriculum
from usucl_fast.feed import AUGMENTATIONS, BatchPlan, Delivery, Loader, Normaliser, Planner, make_loader
from usucl_fast.feed.beton import export_beton, import_ffcv
from usucl_fast.files import is_url
from usucl_fast.optional import needed
from usucl_fast.pack import Source
from usucl_fast.shards import DECODED, ShardStore

Batches = Generator[torch.Tensor, None, None]
Start = Callable[[], Batches]
Seconds = dict[str, float]
SPARE = 8
"""Batches before the clock starts and, planned but not waited for, after it stops: more than any arm prepares ahead, so
that each has as many prepared at the end as at the beginning."""


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
    """Makes the named arms ready to run; the files that the published way and FFCV read are written to `work`.

    All arms load the same frames in the same order, 5 a tuple, cropped to `size` pixels, and deliver on `device`
    either `tensors`, float32 `[batch_size, 5, 3, size, size]`, normalised, or `crops`, uint8 `[batch_size, 5, 1, size,
    size]`. An arm that delivers less or other frames is described so. The resident arms have seen all frames before
    the clock starts.

    Raises:
        UsageError: as `check_arm`.
    """
    for name in names:
        check_arm(name)
    plans = _plan(store, batch_size, SPARE + batches + SPARE)
    feeding = _Feeding(store, sources, work, plans, deliver == "tensors", size, threads, device)
    arms = [_arm(name, feeding, batches) for name in names]
    # What PyAV has decoded lies in cycles, and has threads; a forked worker that collects it waits for them for ever.
    gc.collect()
    return arms


def _plan(store: ShardStore, batch_size: int, batches: int) -> list[BatchPlan]:
    """Plans of whole batches of `batch_size` tuples, or of as many as there are videos."""
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
    places = (divmod(number, len(store.table.videos) // tuples) for number in range(batches))
    return [planner.plan_tuples(epoch, place * tuples, (place + 1) * tuples) for epoch, place in places]


def _arm(name: str, feeding: "_Feeding", batches: int) -> Arm:
    """Makes an arm ready, with the files that it reads."""
    store, sources, seconds = feeding.store, feeding.sources, defaultdict[str, float](float)
    files: Sequence[Path] = [] if is_url(store.name) else shard_files(store)
    if name == "published":
        frame_ids = np.concatenate([plan.frame_ids for plan in feeding.plans])
        extract_frames(store.table, sources, frame_ids, feeding.work / "frames")
        files = sorted((feeding.work / "frames").iterdir())
    start = _STARTS[name](feeding, seconds) if name in _STARTS else feeding.loader(seconds, name)
    if name in ("ffcv", "stock-ffcv"):
        files = [feeding.beton]
    elif name == "stock-ffcv-raw":
        files = [feeding.raw_beton]
    elif name == "resident" and files:
        files = [store.folder / DECODED.format(1)]
    elif name == "torchcodec":
        files = [file for video in store.table.videos for file in sources[video.name].files]
    delivers = _DELIVERS.get(name, "{0}").format(feeding.delivers)
    return Arm(name, delivers, partial(_rate, start, batches, feeding.device, seconds), files, seconds)


@dataclass(frozen=True)
class _Feeding:
    """What all arms load, and how; its methods deliver the batches of one or more of them.

    plans: of all batches that an arm delivers.
    tensors: whether float32 is delivered, normalised, and not uint8 of one channel.
    """

    store: ShardStore
    sources: dict[str, Source]
    work: Path
    plans: list[BatchPlan]
    tensors: bool
    size: int
    threads: int
    device: torch.device

    @property
    def tuples(self) -> int:
        return len(self.plans[0].frame_ids)

    @property
    def delivers(self) -> str:
        if self.tensors:
            return f"float32 [{self.tuples}, 5, 3, {self.size}, {self.size}] normalised on {self.device.type}"
        return f"uint8 [{self.tuples}, 5, 1, {self.size}, {self.size}] on {self.device.type}"

    def finisher(self) -> Callable[[torch.Tensor], torch.Tensor]:
        """What turns crops into what is delivered."""
        if not self.tensors:
            return lambda frames: frames
        normalise = Normaliser(self.device)
        return lambda frames: normalise(frames.flatten(0, 1)).unflatten(0, frames.shape[:2])

    @cached_property
    def beton(self) -> Path:
        """The shards as a beton, FFCV's dataset file."""
        export_beton(self.store, self.work / "shards.beton")
        return self.work / "shards.beton"

    @cached_property
    def raw_beton(self) -> Path:
        """The same with the frames decoded."""
        export_beton(self.store, self.work / "raw.beton", raw=True)
        return self.work / "raw.beton"

    def make(self, name: str, **more: Any) -> Loader:
        """One of our loaders."""
        delivery = Delivery(
            size=self.size, channels=1, device=self.device, threads=self.threads, most_frames=self.tuples * 5, **more
        )
        return make_loader(name, self.store, delivery)

    def loader(self, seconds: Seconds, name: str, **more: Any) -> Start:
        return partial(self.ours, self.make(name, **more), seconds)

    def resident(self, seconds: Seconds) -> Start:
        """The resident loader, filled."""
        loader = self.make("resident")
        for _ in loader.run(self.plans):
            pass
        return partial(self.ours, loader, seconds)

    def ours(self, loader: Loader, seconds: Seconds) -> Batches:
        finish = self.finisher()
        with contextlib.closing(loader.run(self.plans)) as loaded:
            asked = time.perf_counter()
            for batch in loaded:
                got = time.perf_counter()
                frames = finish(batch.frames)
                seconds["wait"] += got - asked
                seconds["finish"] += time.perf_counter() - got
                yield frames
                asked = time.perf_counter()

    def published(self) -> Start:
        return partial(self.by_workers, FrameFiles(self.work / "frames", self.plans, self.size, self.tensors))

    def datasets(self) -> Start:
        arm = _import_arm("datasets")
        data = arm.write_arrow(self.store, self.work)
        return partial(self.by_workers, arm.ArrowFrames(data, self.plans, self.size, self.tensors))

    def by_workers(self, data: Tuples) -> Batches:
        """torch's own loader of tuples, with a worker process a thread."""
        loader = DataLoader(data, self.tuples, num_workers=self.threads, pin_memory=self.device.type == "cuda")
        for batch in loader:
            yield batch.to(self.device, non_blocking=True)

    def stock(self, batches: Callable[..., Batches], **more: Any) -> Batches:
        """Another library that reads the shards in its own way and order."""
        how = {"size": self.size, "tensors": self.tensors, "batch": self.tuples * 5, "device": self.device}
        with contextlib.closing(batches(self.store, **how, **more)) as loaded:
            for batch in itertools.islice(loaded, len(self.plans)):
                yield batch.unflatten(0, (self.tuples, 5))

    def peer(self, batches: Callable[..., Batches], *what: object) -> Batches:
        """Another library that executes our plans."""
        how = {"size": self.size, "channels": 3 if self.tensors else 1, "threads": self.threads, "device": self.device}
        with contextlib.closing(batches(*what, self.plans, **how)) as loaded:
            yield from map(self.finisher(), loaded)

    def torchcodec(self) -> Start:
        arm, table = _import_arm("torchcodec"), self.store.table
        return partial(self.peer, arm.torchcodec_batches, arm.open_decoders(table, self.sources), table)

    def decode(self) -> Batches:
        nothing = torch.empty(0).expand(self.tuples, 5, 0)
        decode = partial(simplejpeg.decode_jpeg, colorspace="GRAY")
        with ThreadPoolExecutor(self.threads) as pool:
            for plan in self.plans:
                list(pool.map(decode, self.store.read(plan.frame_ids)))
                yield nothing

    def replay(self, copy: bool) -> Batches:
        """The first batch, as often as there are plans."""
        batch = next(self.make("torch").run(self.plans)).frames
        finish = self.finisher()
        output = finish(batch)
        for _ in self.plans:
            yield output.clone() if copy else finish(batch)


_STARTS: dict[str, Callable[[_Feeding, Seconds], Start]] = {
    "resident": _Feeding.resident,
    "published": lambda feeding, _: feeding.published(),
    "datasets": lambda feeding, _: feeding.datasets(),
    "stock-webdataset": lambda feeding, _: partial(feeding.stock, webdataset_batches, workers=feeding.threads),
    "stock-dali": lambda feeding, _: partial(feeding.stock, dali_batches, threads=feeding.threads),
    "ffcv": lambda feeding, seconds: feeding.loader(seconds, "ffcv", beton=feeding.beton),
    "stock-ffcv": lambda feeding, _: partial(feeding.stock, ffcv_batches, beton=feeding.beton, threads=feeding.threads),
    "stock-ffcv-raw": lambda feeding, _: partial(
        feeding.stock, ffcv_batches, beton=feeding.raw_beton, threads=feeding.threads
    ),
    "spdl": lambda feeding, _: partial(feeding.peer, _import_arm("spdl").spdl_batches, feeding.store),
    "torchcodec": lambda feeding, _: feeding.torchcodec(),
    "floor-decode": lambda feeding, _: feeding.decode,
    "floor-copy": lambda feeding, _: partial(feeding.replay, copy=True),
    "floor-replay": lambda feeding, _: partial(feeding.replay, copy=False),
}
"""What makes each arm ready; an arm that is not here is the loader of its name."""
_DELIVERS = {
    "stock-webdataset": "{0}, frames as they lie in the shards",
    "stock-dali": "{0}, frames as they lie in the shards",
    "stock-ffcv": "{0}, frames as they lie in the shards, the square in their middle, of colour the red",
    "stock-ffcv-raw": "{0}, frames as they lie in the shards, the square in their middle, of colour the red",
    "floor-decode": "nothing: the frames are decoded whole by libjpeg-turbo, one channel, and dropped",
    "floor-copy": "{0}, always the same batch: it is copied",
    "floor-replay": "{0}, always the same batch, decoded and cropped once",
}


def check_arm(name: str) -> None:
    """Checks that the arm has what it needs.

    Raises:
        UsageError: a package is not installed, or lacks a library of the system.
    """
    arm = f"the arm {name}"
    if name in ("dali", "stock-dali"):
        with needed("NVIDIA DALI", arm, "dali"):
            importlib.import_module("nvidia.dali.plugin.pytorch")
    elif name in ("ffcv", "stock-ffcv", "stock-ffcv-raw"):
        import_ffcv("loader")
    elif name == "stock-webdataset":
        with needed("webdataset", arm, "bench"):
            importlib.import_module("webdataset")
    elif name == "datasets":
        with needed("datasets", arm, "bench"):
            _import_arm(name)
    elif name in ("spdl", "torchcodec"):
        with needed(name, arm, "bench", ", and FFmpeg for your system"):
            _import_arm(name)


def _import_arm(name: str) -> Any:
    return importlib.import_module(f"usucl_fast.bench.{name}_arm")


def _rate(start: Start, batches: int, device: torch.device, seconds: Seconds) -> float:
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
