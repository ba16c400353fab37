"""The shards' frames in a dataset of Hugging Face's, an Arrow file that is mapped, read by torch's worker processes."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset, Features, Image, disable_progress_bars
from torch.utils.data import Dataset as TorchDataset

from usucl_fast.bench.stock import Transform
from usucl_fast.feed import BatchPlan
from usucl_fast.shards import ShardStore

AT_ONCE = 1000
"""Frames that are read from the shards at once."""


def write_arrow(store: ShardStore, folder: Path) -> Dataset:
    """Writes all frames, encoded as they are, and opens them: row i is frame i."""

    def frames() -> Iterator[dict[str, Any]]:
        for frame_ids in np.array_split(np.arange(len(store.table)), -(-len(store.table) // AT_ONCE)):
            for data in store.read(frame_ids):
                yield {"picture": {"bytes": data.tobytes(), "path": None}}

    disable_progress_bars()
    return Dataset.from_generator(frames, Features({"picture": Image()}), str(folder))


class ArrowFrames(TorchDataset[torch.Tensor]):
    """A dataset of the tuples of some batch plans: `[V, 3, size, size]` float32, normalised, or, without `tensors`, one
    channel of uint8."""

    def __init__(self, data: Dataset, plans: list[BatchPlan], size: int, tensors: bool) -> None:
        self.data = data
        self.tuples = np.concatenate([plan.frame_ids for plan in plans])
        self.transform = Transform(size, tensors)

    def __len__(self) -> int:
        return len(self.tuples)

    def __getitem__(self, index: int) -> torch.Tensor:
        return torch.stack([self.transform(picture) for picture in self.data[self.tuples[index].tolist()]["picture"]])
