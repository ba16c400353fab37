"""Backbone + frames -> features, through the loaders."""

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

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


def spread_frames(table: FrameTable, videos: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """At most `count` frame ids a video, evenly spread over it."""
    picked = []
    for video in videos:
        first, length = table.first_row[video], table.videos[video].frames
        picked.append(first + np.unique(np.linspace(0, length - 1, min(count, length)).round().astype(np.int64)))
    return np.concatenate(picked)


def embed(
    backbone: nn.Module, store: ShardStore, frame_ids: NDArray[np.int64], loader: str, delivery: Delivery
) -> NDArray[np.float32]:
    """Features `[M, F]` of the frames `[M]`, each as its largest centred square."""
    backbone = backbone.to(delivery.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    normalise = Normaliser(delivery.device, torch.channels_last)
    features = []
    batches = -(-len(frame_ids) // BATCH)
    with torch.no_grad(), Progress("batches", batches) as progress:
        done = 0
        for batch in make_loader(loader, store, delivery).run(whole_frames(store.table, frame_ids, BATCH)):
            features.append(backbone(normalise(batch.frames[:, 0])).float().cpu().numpy())
            done += len(batch.frames)
            progress.advance(frames=done)
    return np.concatenate(features)
