"""Backbone + frames -> features, through the loaders."""

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from usucl_fast.feed import Delivery, Normaliser, ShardStore, make_loader, whole_frames
from usucl_fast.learn.backbones import make_backbone
from usucl_fast.learn.weights import read_backbone
from usucl_fast.progress import Progress

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
