"""The exported shards read by FFCV, as its documentation says.

It takes frames in the order of their frame ids, and crops the largest square in the middle: none of FFCV's decoders
moves such a square along the long side, which is as many pixels.
"""

import contextlib
import functools
import importlib.util
from collections.abc import Generator
from pathlib import Path
from queue import Empty
from typing import Any

import numpy as np
import torch

from usucl_fast.errors import UsageError
from usucl_fast.feed.beton import import_ffcv
from usucl_fast.feed.normalise import IMAGENET_MEAN, IMAGENET_STD
from usucl_fast.shards import ShardStore


def ffcv_batches(
    store: ShardStore, *, beton: Path, size: int, tensors: bool, batch: int, threads: int, device: torch.device
) -> Generator[torch.Tensor, None, None]:
    """Batches of `[batch, C, size, size]` from `beton`, without end; FFCV fills each again four batches later."""
    torch_threads = torch.get_num_threads()
    loader = _open(beton, size, tensors, batch, threads, device)
    try:
        while True:
            epoch = iter(loader)
            try:
                for (pictures,) in epoch:
                    # FFCV gives three channels, of grey frames three equal ones. To make luma of colour would cost it
                    # far more than decoding.
                    yield pictures if tensors else pictures[:, :1]
            finally:
                epoch.close()
                while epoch.is_alive():  # it waits until there is room for what it has ready
                    with contextlib.suppress(Empty):
                        epoch.output_queue.get(timeout=0.1)
    finally:
        torch.set_num_threads(torch_threads)  # FFCV sets it, for all the process


@functools.cache  # Never let go: numba trips over itself when code that FFCV has compiled is freed.
def _open(beton: Path, size: int, tensors: bool, batch: int, threads: int, device: torch.device) -> Any:
    decoders, ops, ffcv = import_ffcv("fields.rgb_image"), import_ffcv("transforms"), import_ffcv("loader")
    gpu = device.type == "cuda"
    if gpu and tensors and not importlib.util.find_spec("cupy"):
        raise UsageError("the arm stock-ffcv needs cupy on a GPU: pip install cupy-cuda13x, or leave the arm out")
    crop = decoders.CenterCropRGBImageDecoder((size, size), ratio=1)
    to_torch = [ops.ToTensor(), *([ops.ToDevice(device)] if gpu else []), ops.ToTorchImage()]
    mean, std = (255 * np.array(values) for values in (IMAGENET_MEAN, IMAGENET_STD))
    normalise = [ops.NormalizeImage(mean, std, np.float32)] if tensors else []
    return ffcv.Loader(
        str(beton),
        batch_size=batch,
        num_workers=threads,
        os_cache=True,
        order=ffcv.OrderOption.SEQUENTIAL,
        pipelines={
            # On a CPU, normalising is compiled together with the decoder; on a GPU it takes what has come there.
            "image": [crop, *to_torch, *normalise] if gpu else [crop, *normalise, *to_torch],
            "frame_id": None,
            "video": None,
        },
    )
