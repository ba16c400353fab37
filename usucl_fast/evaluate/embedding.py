"""Computes features of frames with a backbone, through the loaders. Torch is only imported to compute."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from usucl_fast import feed, learn
from usucl_fast.errors import UsageError
from usucl_fast.evaluate.samples import Samples, spread_frames
from usucl_fast.files import CACHE_BYTES
from usucl_fast.machine import cores, pick_device
from usucl_fast.progress import Progress
from usucl_fast.shards import ShardStore, open_shards

if TYPE_CHECKING:
    import torch
    from torch import nn

BATCH = 64
RANDOM = "random"
"""The word for a model with random weights."""


@dataclass(frozen=True, kw_only=True)
class InputConfig:
    """How a model and its pictures are read."""

    arch: str | None = None
    """Backbone; None for the run's, or the default where the model is not a run."""
    size: int | None = None
    """Height and width of the pictures in pixels; None for the run's, or the default."""
    frames: int | None = None
    """Frames of each video of shards, at most, evenly spread; None for all."""
    seed: int = 0
    """Seed of all chance, random weights among it."""
    loader: str = "torch"
    """What decodes frames, a name in `usucl_fast.feed.LOADERS`."""
    device: str = "auto"
    """`auto` for the GPU where there is one, or torch's name of a device."""
    cache: Path | None = None
    """Folder for shards from a URL; None for the platform's place for such."""
    cache_gb: float = CACHE_BYTES / 1e9
    """Disk space, in GB, that they may take."""

    def open_shards(self, shards: str | Path) -> ShardStore:
        """Opens a folder of shards, or the URL of one."""
        return open_shards(shards, self.cache, int(self.cache_gb * 1e9))


@dataclass(frozen=True)
class Model:
    """A backbone that is not loaded yet, and the kind of pictures that it takes."""

    name: str
    arch: str
    size: int
    channels: int | None
    seed: int

    def backbone(self) -> nn.Module:
        """The network with its weights, without a classifier: `[N, 3, S, S]` -> features `[N, F]`."""
        return load_backbone(None if self.name == RANDOM else self.name, self.arch, self.seed)

    def delivery(self, device: torch.device) -> feed.Delivery:
        """What a loader has to deliver for it."""
        return feed.Delivery(
            size=self.size, channels=self.channels or 1, device=device, threads=cores(), most_frames=BATCH
        )


def find_model(name: str | Path, config: InputConfig) -> Model:
    """Finds the model of that name: a run folder, a file of weights, or the word `imagenet` or `random`.

    Raises:
        UsageError: it is none of them.
    """
    name = str(name)
    if name not in (learn.IMAGENET, RANDOM) and not Path(name).exists():
        raise UsageError(
            f"MODEL {name} is neither a run, nor a file of weights, nor the word {learn.IMAGENET} or {RANDOM}"
        )
    arch, size, channels = config.arch, config.size, None
    run = learn.RunFolder.of(Path(name))
    if run.holds_run():
        own = run.read_config()
        arch, size, channels = arch or own.arch, size or own.size, own.channels
    return Model(name, arch or learn.TrainConfig.arch, size or learn.TrainConfig.size, channels, config.seed)


def groups_trained_on(model: str, store: ShardStore, samples: Samples) -> int | None:
    """How many of the samples' groups a run was trained on; -1 if its shards were others, None if it is not a run."""
    place = Path(model)
    run = learn.RunFolder.of(place)
    run = learn.RunFolder(place.parent) if place == learn.RunFolder(place.parent).backbone else run
    if model in (learn.IMAGENET, RANDOM) or not run.holds_run():
        return None
    if run.read_fingerprint() != store.fingerprint:
        return -1
    trained = learn.videos_of_split(run.read_config().split, store.table)
    return len(set(store.table.group[trained].tolist()) & set(samples.groups.tolist()))


def load_backbone(source: str | Path | None, arch: str, seed: int = 0) -> nn.Module:
    """The network `arch` without its classifier, with the weights that `read_backbone` finds, or random ones.

    Raises:
        UsageError, DataError: as `make_backbone` and `read_backbone` do.
    """
    import torch

    from usucl_fast.learn.backbones import make_backbone
    from usucl_fast.learn.weights import read_backbone

    torch.manual_seed(seed)
    backbone, _ = make_backbone(arch)
    if source is not None:
        backbone.load_state_dict(read_backbone(source, arch))
    return backbone.eval()


def load_frames(
    store: ShardStore, frame_ids: NDArray[np.int64], loader: str, delivery: feed.Delivery
) -> Iterator[torch.Tensor]:
    """Loads frames `[M]` as batches of pictures, uint8 `[m, C, S, S]`: the largest centred square of each."""
    for batch in feed.make_loader(loader, store, delivery).run(feed.whole_frames(store.table, frame_ids, BATCH)):
        yield batch.frames[:, 0]


def embed(
    backbone: nn.Module, pictures: Iterable[torch.Tensor], count: int, device: torch.device
) -> NDArray[np.float32]:
    """Computes the features `[count, F]` of batches of pictures, uint8 `[m, C, S, S]`."""
    import torch

    from usucl_fast.learn.backbones import normalisation

    backbone = backbone.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    normalise = feed.Normaliser(device, torch.channels_last, *normalisation(backbone))
    features: list[NDArray[np.float32]] = []
    with torch.no_grad(), Progress("batches", -(-count // BATCH)) as progress:
        done = 0
        for batch in pictures:
            features.append(backbone(normalise(batch.to(device))).float().cpu().numpy())
            done += len(batch)
            progress.advance(frames=done)
    return np.concatenate(features)


@dataclass(frozen=True)
class Embeddings:
    """Features `[M, F]` of M frames of shards, and how these frames are loaded as the model saw them."""

    store: ShardStore
    frame_ids: NDArray[np.int64]
    features: NDArray[np.float32]
    loader: str
    delivery: feed.Delivery

    @property
    def videos(self) -> NDArray[np.int64]:
        """`[M]`, the number of each frame's video."""
        numbers: NDArray[np.int64] = self.store.table.rows["video"][self.frame_ids].astype(np.int64)
        return numbers

    def columns(self) -> dict[str, NDArray[Any]]:
        """Arrays `[M]` that describe the frames: id, video, number within it, group and label.

        The label is the frame's own where frames have labels, else its video's.
        """
        table, numbers = self.store.table, self.videos
        videos, own = table.videos, table.labels
        if own and not own.label.is_empty.all():
            labels = np.array(own.label.different)[own.label.codes[self.frame_ids]]
        else:
            labels = np.array(list(videos.label))[numbers]
        return {
            "frame_id": self.frame_ids,
            "video": np.array(list(videos.name))[numbers],
            "frame": self.frame_ids - np.asarray(table.first_row)[numbers],
            "group": np.array(list(videos.group))[numbers],
            "label": labels,
        }

    def pictures(self, places: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Loads the frames at some places `[n]` as grey pictures `[n, S, S]`."""
        import torch

        batches = load_frames(self.store, self.frame_ids[places], self.loader, self.delivery)
        grey: NDArray[np.uint8] = torch.cat(list(batches)).float().mean(dim=1).byte().cpu().numpy()
        return grey


def embed_shards(model: str | Path, shards: str | Path, config: InputConfig | None = None) -> Embeddings:
    """Computes the features of the frames in shards.

    Args:
        model: a run folder, a file of weights, or the word `imagenet` or `random`.
        shards: a folder that `usucl-shard` wrote, or the URL of one.
        config: how they are read.

    Raises:
        UsageError: there is no such model, or there are no such shards.
        DataError: the weights or the shards are damaged.
    """
    config = config or InputConfig()
    found, store = find_model(model, config), config.open_shards(shards)
    backbone, delivery = found.backbone(), found.delivery(pick_device(config.device))
    frame_ids = np.arange(len(store.table), dtype=np.int64)
    if config.frames:
        frame_ids = spread_frames(store.table, np.arange(len(store.table.videos)), config.frames)
    pictures = load_frames(store, frame_ids, config.loader, delivery)
    features = embed(backbone, pictures, len(frame_ids), delivery.device)
    return Embeddings(store, frame_ids, features, config.loader, delivery)
