"""What a plan asks for, written plainly in float64, a frame and an operation at a time."""

import io

import numpy as np
import simplejpeg
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image

from usucl_fast.feed import BatchPlan
from usucl_fast.feed.augmentation import GRAIN, texture
from usucl_fast.shards import ShardStore

_MADE: dict[tuple[str, str, int, int], torch.Tensor] = {}


def expected(store: ShardStore, plan: BatchPlan, size: int, channels: int) -> torch.Tensor:
    """float64 `[B, V, C, size, size]`, neither clipped to whole levels nor rounded; made once for all loaders."""
    key = (store.fingerprint, plan.digest(), size, channels)
    if key not in _MADE:
        _MADE[key] = _expected(store, plan, size, channels).float()  # levels up to 255: 5 digits are left
    return _MADE[key].double()


def _expected(store: ShardStore, plan: BatchPlan, size: int, channels: int) -> torch.Tensor:
    pictures = []
    for index, data in enumerate(store.read(plan.frame_ids)):
        pixels = decode(data, channels)
        flip, record = bool(plan.flips.ravel()[index]), plan.photometry.ravel()[index]
        pictures.append(develop(crop(pixels, plan.boxes.reshape(-1, 4)[index], flip, size), record))
    return torch.stack(pictures).unflatten(0, plan.frame_ids.shape)


def decode(data: NDArray[np.uint8], channels: int) -> NDArray[np.uint8]:
    if bytes(data[1:4]) == b"PNG":
        image = Image.open(io.BytesIO(bytes(data))).convert("L" if channels == 1 else "RGB")
        return np.array(image).reshape(*image.size[::-1], channels)
    pixels: NDArray[np.uint8] = simplejpeg.decode_jpeg(data, colorspace="GRAY" if channels == 1 else "RGB")
    return pixels


def crop(pixels: NDArray[np.uint8], box: NDArray[np.int64], flip: bool, size: int) -> torch.Tensor:
    top, left, height, width = box.tolist()
    margin = max(0, -top, -left, top + height - pixels.shape[0], left + width - pixels.shape[1])
    wide = np.pad(pixels.astype(np.float64), ((margin, margin), (margin, margin), (0, 0)))
    canvas = wide[margin + top :, margin + left :][:height, :width]
    picture = torch.from_numpy(canvas).permute(2, 0, 1)[None]
    picture = F.interpolate(picture, size=(size, size), mode="bilinear", antialias=True)[0]
    return picture.flip(-1) if flip else picture


def develop(x: torch.Tensor, record: np.void) -> torch.Tensor:
    p = {name: float(record[name]) for name in record.dtype.names or ()}
    size = x.shape[-1]
    x = (p["contrast"] * (p["brightness"] * x - 128) + 128).clamp(0, 255)
    x = 255 * (x / 255) ** p["gamma"]
    if p["blur"] > 0:
        sigma = p["blur"] * size
        radius = min(int(np.ceil(3 * sigma)), size - 1)
        kernel = torch.exp(-0.5 * (torch.arange(-radius, radius + 1, dtype=torch.float64) / sigma) ** 2)
        both = torch.outer(kernel, kernel) / kernel.sum() ** 2
        wide = F.pad(x[:, None], (radius,) * 4, mode="reflect")
        x = F.conv2d(wide, both[None, None])[:, 0]
    depth = (torch.arange(size, dtype=torch.float64) + 0.5) / size
    x = x * p["gain"] * torch.exp(-p["attenuation"] * depth)[:, None]
    grain = np.roll(GRAIN, (-int(p["grain_y"]), -int(p["grain_x"])), axis=(0, 1))
    noise = np.tile(grain, (2, 2))[:size, :size].astype(np.float64) / 32
    x = x * (1 + p["speckle"] * torch.from_numpy(noise)).clamp(min=0)
    moved = np.roll(texture(), (-int(p["grain_y"]), -int(p["grain_x"])), axis=(0, 1))
    n = torch.from_numpy(np.tile(moved, (2, 2))[:size, :size].astype(np.float64) / 32)
    x = x * (1 + p["texture"] * n).clamp(min=0) + 255 * p["haze"] * n * (x / 16).clamp(max=1)
    return x.clamp(0, 255)
