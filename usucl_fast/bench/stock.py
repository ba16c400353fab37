"""Shards read by other libraries as their documentation says: WebDataset with torchvision, DALI's own reader.

They take frames in the order in which they lie in the shards; tuples, windows and negatives are not theirs. `Tuples`
are what torch's own loader is given, which takes any.
"""

from abc import ABC, abstractmethod
from collections.abc import Generator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from usucl_fast.errors import UsageError
from usucl_fast.feed import BatchPlan
from usucl_fast.feed.normalise import IMAGENET_MEAN, IMAGENET_STD
from usucl_fast.shards import ShardStore


class Transform:
    """torchvision's: short side to `size`, random crop, float32 of three channels, normalised; without `tensors`, one
    channel of uint8."""

    def __init__(self, size: int, tensors: bool) -> None:
        last = [transforms.ToTensor(), transforms.Normalize(IMAGENET_MEAN, IMAGENET_STD)]
        self._mode = "RGB" if tensors else "L"
        self._do = transforms.Compose(
            [transforms.Resize(size), transforms.RandomCrop(size), *(last if tensors else [transforms.PILToTensor()])]
        )

    def __call__(self, image: Image.Image) -> torch.Tensor:
        done: torch.Tensor = self._do(image.convert(self._mode))
        return done


class Tuples(Dataset[torch.Tensor], ABC):
    """A dataset of the tuples of some batch plans: `[V, 3, size, size]` float32, normalised, or, without `tensors`, one
    channel of uint8."""

    def __init__(self, plans: list[BatchPlan], size: int, tensors: bool) -> None:
        self.tuples = np.concatenate([plan.frame_ids for plan in plans])
        self.transform = Transform(size, tensors)

    @abstractmethod
    def pictures(self, frame_ids: list[int]) -> list[Image.Image]:
        """The pictures of some frames."""

    def __len__(self) -> int:
        return len(self.tuples)

    def __getitem__(self, index: int) -> torch.Tensor:
        return torch.stack([self.transform(picture) for picture in self.pictures(self.tuples[index].tolist())])


def shard_files(store: ShardStore) -> list[Path]:
    """The tar files of the shards."""
    return [store.shard_path(number) for number in range(int(store.table.rows["shard"][-1]) + 1)]


def webdataset_batches(
    store: ShardStore, *, size: int, tensors: bool, batch: int, workers: int, device: torch.device
) -> Generator[torch.Tensor, None, None]:
    """Batches of `[batch, C, size, size]`, without end.

    Raises:
        UsageError: there are fewer shards than workers.
    """
    import webdataset

    tars = [str(path) for path in shard_files(store)]
    if len(tars) < workers:
        raise UsageError(
            f"the arm stock-webdataset gives whole shards to {workers} workers, and there are {len(tars)}; pack with a"
            " smaller --shard-mb, or set --threads"
        )
    data = (
        webdataset.WebDataset(tars, shardshuffle=False)
        .decode("pil")
        .to_tuple("jpg;png")
        .map_tuple(Transform(size, tensors))
        .batched(batch, partial=False)
        .repeat()
    )
    loader = DataLoader(data, batch_size=None, num_workers=workers, pin_memory=device.type == "cuda")
    for (pictures,) in loader:
        yield pictures.to(device, non_blocking=True)


def dali_batches(
    store: ShardStore, *, size: int, tensors: bool, batch: int, threads: int, device: torch.device
) -> Generator[torch.Tensor, None, None]:
    """Batches of `[batch, C, size, size]`, without end."""
    from nvidia.dali import fn, pipeline_def, types
    from nvidia.dali.plugin.pytorch import DALIGenericIterator

    gpu = device.type == "cuda"

    @pipeline_def(batch_size=batch, num_threads=threads, device_id=(device.index or 0) if gpu else None)
    def pipeline() -> Any:
        tars = shard_files(store)
        data = fn.readers.webdataset(
            paths=[str(path) for path in tars],
            index_paths=[str(path.with_suffix(".idx")) for path in tars],
            ext=["jpg;png"],
            name="reader",
        )
        images = fn.decoders.image(
            data, device="mixed" if gpu else "cpu", output_type=types.RGB if tensors else types.GRAY
        )
        images = fn.resize(images, resize_shorter=size)
        place = {"crop_pos_x": fn.random.uniform(range=[0.0, 1.0]), "crop_pos_y": fn.random.uniform(range=[0.0, 1.0])}
        if not tensors:
            return fn.transpose(fn.crop(images, crop=(size, size), **place), perm=[2, 0, 1])
        return fn.crop_mirror_normalize(
            images,
            crop=(size, size),
            **place,
            dtype=types.FLOAT,
            output_layout="CHW",
            mean=[255 * mean for mean in IMAGENET_MEAN],
            std=[255 * std for std in IMAGENET_STD],
        )

    iterator = DALIGenericIterator([pipeline()], ["pictures"], auto_reset=True)
    while True:
        for (batches,) in iterator:
            yield batches["pictures"]
