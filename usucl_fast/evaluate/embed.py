"""Backbone + frames -> features, through the loaders."""

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from usucl_fast.errors import UsageError
from usucl_fast.evaluate.samples import Samples
from usucl_fast.feed import Delivery, Normaliser, ShardStore, make_loader, whole_frames
from usucl_fast.frames import FrameTable
from usucl_fast.learn.backbones import make_backbone
from usucl_fast.learn.weights import read_backbone
from usucl_fast.report.progress import Progress

BATCH = 64


def load_backbone(source: str | Path | None, arch: str, seed: int = 0) -> nn.Module:
    """The network `arch` without its classifier, with the weights that `read_backbone` finds, or random ones.

    Raises:
        UsageError, DataError: as `make_backbone` and `read_backbone` do.
    """
    torch.manual_seed(seed)
    backbone, _ = make_backbone(arch)
    if source is not None:
        backbone.load_state_dict(read_backbone(source, arch))
    return backbone.eval()


def labelled_frames(table: FrameTable, count: int) -> tuple[NDArray[np.int64], Samples]:
    """At most `count` frames of each labelled video, evenly spread over it: their ids, and what is known of them.

    Raises:
        UsageError: no video has a label.
    """
    classes = sorted({video.label for video in table.videos if video.label})
    videos = np.array([n for n, video in enumerate(table.videos) if video.label], np.int64)
    if not classes:
        raise UsageError("SHARDS hold no labelled video; pack them with usucl-shard --labels")
    frame_ids = spread_frames(table, videos, count)
    of_frame = table.rows["video"][frame_ids].astype(np.int64)
    label = np.array([classes.index(video.label) if video.label else -1 for video in table.videos], np.int64)
    names = [table.name_of(frame_id) for frame_id in frame_ids.tolist()]
    return frame_ids, Samples(label[of_frame], of_frame, table.group[of_frame].astype(np.int64), classes, names)


def spread_frames(table: FrameTable, videos: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """At most `count` frame ids a video, evenly spread over it."""
    picked = []
    for video in videos:
        first, length = table.first_row[video], table.videos[video].frames
        picked.append(first + np.unique(np.linspace(0, length - 1, min(count, length)).round().astype(np.int64)))
    return np.concatenate(picked)


def load_frames(
    store: ShardStore, frame_ids: NDArray[np.int64], loader: str, delivery: Delivery
) -> Iterator[torch.Tensor]:
    """Frames `[M]` as batches of pictures, uint8 `[m, C, S, S]`, each its largest centred square."""
    for batch in make_loader(loader, store, delivery).run(whole_frames(store.table, frame_ids, BATCH)):
        yield batch.frames[:, 0]


def embed(
    backbone: nn.Module, pictures: Iterable[torch.Tensor], count: int, device: torch.device
) -> NDArray[np.float32]:
    """Features `[count, F]` of batches of pictures, uint8 `[m, C, S, S]`."""
    backbone = backbone.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    normalise = Normaliser(device, torch.channels_last)
    features: list[NDArray[np.float32]] = []
    with torch.no_grad(), Progress("batches", -(-count // BATCH)) as progress:
        done = 0
        for batch in pictures:
            features.append(backbone(normalise(batch.to(device))).float().cpu().numpy())
            done += len(batch)
            progress.advance(frames=done)
    return np.concatenate(features)
