"""Backbone + frames -> features, through the loaders."""

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from usucl_fast.errors import DataError, UsageError
from usucl_fast.feed import Delivery, Normaliser, ShardStore, make_loader, whole_frames
from usucl_fast.frames import FrameTable
from usucl_fast.learn.encoder import make_backbone
from usucl_fast.report.progress import Progress

BATCH = 64


def load_backbone(weights: Path | None, arch: str, seed: int = 0) -> nn.Module:
    """A torchvision ResNet without `fc`, with the weights of a safetensors file, or random ones.

    Raises:
        UsageError: `arch` is no torchvision ResNet, or the weights are of another network.
        DataError: the file cannot be read.
    """
    torch.manual_seed(seed)
    backbone = make_backbone(arch)
    backbone.fc = nn.Identity()
    if weights is not None:
        try:
            state = load_file(weights)
        except (OSError, SafetensorError) as error:
            raise DataError(f"{weights} cannot be read as safetensors ({error})") from error
        expected = backbone.state_dict()
        for name in sorted({*state, *expected}):
            if name not in state or name not in expected or state[name].shape != expected[name].shape:
                raise UsageError(f"{weights} is no {arch} without fc: the first name that differs is {name}")
        backbone.load_state_dict(state)
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
