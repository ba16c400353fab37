"""The grey levels of pictures, changed in a few tensor operations: `render`'s other half, for a GPU."""

import functools

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from usucl_fast.feed.augmentation import GRAIN, GRAIN_PERIOD, UNCHANGED

FACTORS = ("brightness", "contrast", "gamma", "gain", "attenuation", "speckle")


def develop(frames_MCHW: torch.Tensor, photometry: NDArray[np.void]) -> torch.Tensor:
    """Changes the grey levels as `usucl_fast.feed.augmentation` says, on the pictures' device.

    Args:
        frames_MCHW: uint8 `[M, C, H, W]`, H equal to W.
        photometry: `PHOTOMETRY` `[M]`.

    Returns:
        uint8 `[M, C, H, W]`.
    """
    changed = np.flatnonzero(photometry != UNCHANGED)
    if not len(changed):
        return frames_MCHW
    device = frames_MCHW.device
    fields = {name: to_device(photometry[name][changed], device)[:, None, None, None] for name in FACTORS}
    size = frames_MCHW.shape[-1]
    rows = torch.arange(size, device=device)
    index = to_device(changed, device)
    x = frames_MCHW[index].float()
    x = (fields["contrast"] * (fields["brightness"] * x - 128) + 128).clamp_(0, 255)
    x = (x / 255).pow_(fields["gamma"]).mul_(255)
    x = _blur(x, photometry["blur"][changed] * size)
    x *= fields["gain"] * torch.exp(-fields["attenuation"] * ((rows + 0.5) / size)[:, None])
    if (photometry["speckle"][changed] > 0).any():
        grain = _grain(device)
        y, along = (
            (to_device(photometry[f"grain_{axis}"][changed], device)[:, None] + rows) % GRAIN_PERIOD for axis in "yx"
        )
        x *= (1 + fields["speckle"] * grain[y[:, :, None], along[:, None, :]][:, None]).clamp_min_(0)
    result = frames_MCHW.clone()
    result[index] = x.clamp_(0, 255).add_(0.5).to(torch.uint8)
    return result


@functools.cache
def _grain(device: torch.device) -> torch.Tensor:
    """The grain there, of standard deviation 1; brought once, not for every batch."""
    return torch.from_numpy(GRAIN).to(device).float() / 32


def _blur(x_MCHW: torch.Tensor, sigma: NDArray[np.float32]) -> torch.Tensor:
    """Blurs each picture by a Gaussian of its own standard deviation in pixels; none where that is 0."""
    size = x_MCHW.shape[-1]
    radius = min(int(np.ceil(3 * sigma.max())), size - 1)
    if not radius:
        return x_MCHW
    taps = np.arange(-radius, radius + 1)
    own = np.minimum(np.ceil(3 * sigma), size - 1)[:, None]
    kernel = np.exp(-0.5 * (taps / np.maximum(sigma, 1e-6)[:, None]) ** 2) * (abs(taps) <= own)
    weight = to_device((kernel / kernel.sum(axis=1, keepdims=True)).astype(np.float32), x_MCHW.device)
    count, channels = x_MCHW.shape[:2]
    weight = weight.repeat_interleave(channels, 0)[:, None, None]
    x = x_MCHW.reshape(1, count * channels, size, size)
    x = F.conv2d(F.pad(x, (radius, radius, 0, 0), mode="reflect"), weight, groups=count * channels)
    x = F.conv2d(F.pad(x, (0, 0, radius, radius), mode="reflect"), weight.transpose(2, 3), groups=count * channels)
    return x.reshape(x_MCHW.shape)


def to_device(array: NDArray[np.generic], device: torch.device) -> torch.Tensor:
    """The array as a tensor there; from then on it must not be written."""
    tensor = torch.from_numpy(np.ascontiguousarray(array))
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor
