"""`render_gpu.gather` in Triton: one pass over the pictures, and nothing in between."""

import numpy as np
import torch
import triton
import triton.language as tl
from numpy.typing import NDArray

from usucl_fast.feed.render_gpu import to_device

AT_ONCE = 256
"""Pixels that a program makes."""


def gather(
    pixels: torch.Tensor,
    starts: NDArray[np.int64],
    shapes: NDArray[np.int64],
    boxes: NDArray[np.int64],
    flips: NDArray[np.bool_],
    size: int,
    channels: int,
) -> torch.Tensor:
    """See `render_gpu.gather`."""
    made = torch.empty((len(starts), channels, size, size), dtype=torch.uint8, device=pixels.device)
    if len(starts):
        asked = np.concatenate([starts[:, None], shapes, boxes, flips[:, None]], axis=1)
        programs = len(starts), triton.cdiv(size * size, AT_ONCE)
        _gather[programs](pixels, to_device(asked, pixels.device), made, size, channels=channels, at_once=AT_ONCE)
    return made


@triton.jit
def _gather(pixels, asked, made, size, channels: tl.constexpr, at_once: tl.constexpr):  # type: ignore[no-untyped-def]
    picture = tl.program_id(0).to(tl.int64)
    asked += picture * 8
    start, height, width = tl.load(asked), tl.load(asked + 1), tl.load(asked + 2)
    top, left, box_height, box_width = tl.load(asked + 3), tl.load(asked + 4), tl.load(asked + 5), tl.load(asked + 6)
    number = tl.program_id(1) * at_once + tl.arange(0, at_once)
    y, x = number // size, number % size
    x = tl.where(tl.load(asked + 7) != 0, size - 1 - x, x)
    first_y, offset_y, narrow_y, taps_y, share_y = _triangle(y, box_height, size)
    first_x, offset_x, narrow_x, taps_x, share_x = _triangle(x, box_width, size)
    inside = number < size * size
    for channel in tl.static_range(channels):
        level = tl.full((at_once,), 0.5, tl.float32)
        for tap_y in range(taps_y):
            row = top + first_y + tap_y
            weight_y = share_y * _weight(tap_y, offset_y, narrow_y)
            is_row = inside & (first_y + tap_y < box_height) & (row >= 0) & (row < height)
            for tap_x in range(taps_x):
                column = left + first_x + tap_x
                weight = weight_y * share_x * _weight(tap_x, offset_x, narrow_x)
                is_there = is_row & (first_x + tap_x < box_width) & (column >= 0) & (column < width) & (weight > 0)
                place = start + (row * width + column) * channels + channel
                level += weight * tl.load(pixels + place, mask=is_there, other=0).to(tl.float32)
        place = (picture * channels + channel) * size * size + number
        tl.store(made + place, level.to(tl.uint8), mask=inside)


@triton.jit
def _triangle(new, before, size):  # type: ignore[no-untyped-def]
    """Of what pixels along one side new ones are made: the first one; its distance from the center of the triangle; 1
    over the reach of that; how many pixels there are at most; and 1 over the sum of their weights."""
    scale = before.to(tl.float64) / size
    reach = tl.maximum(scale, 1.0)
    center = (new + 0.5) * scale
    first = tl.maximum(tl.floor(center - reach + 0.5), 0.0)
    offset, narrow, taps = (first + 0.5 - center).to(tl.float32), (1 / reach).to(tl.float32), tl.ceil(2 * reach)
    total = tl.zeros_like(offset)
    for tap in range(taps.to(tl.int32)):
        total += tl.where(first + tap < before, _weight(tap, offset, narrow), 0.0)
    return first.to(tl.int64), offset, narrow, taps.to(tl.int32), 1 / tl.maximum(total, 1e-6)


@triton.jit
def _weight(tap, offset, narrow):  # type: ignore[no-untyped-def]
    return tl.maximum(1.0 - tl.abs(offset + tap) * narrow, 0.0)
