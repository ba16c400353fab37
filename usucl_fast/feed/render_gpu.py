"""Crops and augments pictures with a few tensor operations, on a GPU or any other device."""

import functools

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from usucl_fast.feed.augmentation import GRAIN, GRAIN_PERIOD, TEXTURED, UNCHANGED, texture

FACTORS = ("brightness", "contrast", "gamma", "gain", "attenuation", "speckle", *TEXTURED)


def gather(
    pixels: torch.Tensor,
    starts: NDArray[np.int64],
    shapes: NDArray[np.int64],
    boxes: NDArray[np.int64],
    flips: NDArray[np.bool_],
    size: int,
    channels: int,
) -> torch.Tensor:
    """Crops, resizes and mirrors M pictures on the device of `pixels`.

    Args:
        pixels: uint8, one frame `[height, width, channels]` after another.
        starts: `[M]`, where the frames start.
        shapes: `[M, 2]`, their heights and widths.
        boxes: `[M, 4]`, top, left, height and width of the crops.
        flips: `[M]`, mirrored.
        size: height and width of the pictures.
        channels: C.

    Returns:
        uint8 `[M, C, size, size]`.
    """
    device = pixels.device
    y, weight_y = _taps(boxes[:, 0], boxes[:, 2], shapes[:, 0], size, device)
    x, weight_x = _taps(boxes[:, 1], boxes[:, 3], shapes[:, 1], size, device)
    mirrored = to_device(flips, device)[:, None, None]
    x, weight_x = (torch.where(mirrored, tensor.flip(1), tensor) for tensor in (x, weight_x))
    row_starts = (
        to_device(starts, device)[:, None, None] + y * to_device(shapes[:, 1] * channels, device)[:, None, None]
    )
    channel = torch.arange(channels, device=device)[None, :, None, None]
    total = torch.full((len(starts), channels, size, size), 0.5, device=device)
    for rows, of_row in zip(row_starts.unbind(-1), weight_y.unbind(-1), strict=True):
        for columns, of_column in zip((x * channels).unbind(-1), weight_x.unbind(-1), strict=True):
            places = rows[:, None, :, None] + columns[:, None, None, :] + channel
            total += of_row[:, None, :, None] * of_column[:, None, None, :] * pixels[places]
    return total.to(torch.uint8)


def _taps(
    start: NDArray[np.int64], length: NDArray[np.int64], limit: NDArray[np.int64], size: int, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    """The pixels along one side that each new pixel is made of, and their weights, both `[M, size, taps]`.

    As in `render`: a triangle as wide as a pixel of the coarser of both pictures. Beyond the frame weights are 0.
    """
    start_M11, length_M11, limit_M11 = (to_device(side, device)[:, None, None] for side in (start, length, limit))
    scale = length_M11.double() / size
    reach = scale.clamp_min(1)
    center = (torch.arange(size, device=device) + 0.5)[None, :, None] * scale
    taps = int(np.ceil(2 * max(1, length.max() / size)))
    place = (center - reach + 0.5).floor().clamp_min(0).long() + torch.arange(taps, device=device)
    weight = (1 - (place + 0.5 - center).abs() / reach).clamp_min(0) * (place < length_M11)
    weight /= weight.sum(-1, keepdim=True)
    place += start_M11
    weight *= (place >= 0) & (place < limit_M11)
    return torch.minimum(place.clamp_min(0), limit_M11 - 1), weight.float()


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
    y, along = (
        (to_device(photometry[f"grain_{axis}"][changed], device)[:, None] + rows) % GRAIN_PERIOD for axis in "yx"
    )
    if (photometry["speckle"][changed] > 0).any():
        grain = _noise("grain", device)[y[:, :, None], along[:, None, :]][:, None]
        x *= (1 + fields["speckle"] * grain).clamp_min_(0)
    if any((photometry[name][changed] > 0).any() for name in TEXTURED):
        noise = _noise("texture", device)[y[:, :, None], along[:, None, :]][:, None]
        added = 255 / 16 * fields["haze"] * noise * x.clamp_max(16)
        x = x.mul_((1 + fields["texture"] * noise).clamp_min_(0)).add_(added)
    result = frames_MCHW.clone()
    result[index] = x.clamp_(0, 255).add_(0.5).to(torch.uint8)
    return result


@functools.cache
def _noise(name: str, device: torch.device) -> torch.Tensor:
    """The grain or the texture on the device, of standard deviation 1; copied there once, not for every batch."""
    return torch.from_numpy(GRAIN if name == "grain" else texture()).to(device).float() / 32


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
