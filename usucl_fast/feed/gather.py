"""Pictures cut out of decoded frames in a few tensor operations: `render`'s first half, for a GPU."""

import numpy as np
import torch
from numpy.typing import NDArray

from usucl_fast.feed.develop import to_device


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
        pixels: uint8, one frame `[height, width, channels]` behind another.
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
    """Which pixels along one side a new pixel is made of, and their weights, both `[M, size, taps]`.

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
