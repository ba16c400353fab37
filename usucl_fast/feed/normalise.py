"""Normalises uint8 pictures for the network, in one pass on the device."""

from collections.abc import Sequence

import numpy as np
import torch

from usucl_fast.checks import check_tensor
from usucl_fast.compiled import njit

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class Normaliser:
    """Scales to [0, 1], subtracts each channel's mean and divides by its standard deviation.

    A result is good until the next call: its memory is used again, because taking a fresh 100 MB from the
    system for each batch costs four times as much as filling it.

    Args:
        device: of the pictures.
        memory_format: of the results.
        mean, std: of the three channels; ImageNet's, where the network has no others (`normalisation`).
    """

    def __init__(
        self,
        device: torch.device,
        memory_format: torch.memory_format = torch.contiguous_format,
        mean: Sequence[float] = IMAGENET_MEAN,
        std: Sequence[float] = IMAGENET_STD,
    ) -> None:
        deviation = torch.tensor(std, device=device)[:, None, None]
        self._scale = 1 / (255 * deviation)
        self._shift = -torch.tensor(mean, device=device)[:, None, None] / deviation
        self._format = memory_format
        self._out = torch.empty(0, 3, 0, 0, device=device)

    def __call__(self, frames: torch.Tensor) -> torch.Tensor:
        """uint8 `[M, C, H, W]`, with C 1 (copied to three) or 3 -> float32 `[M, 3, H, W]`.

        Raises:
            ValueError: they are of another shape or type, or on another device.
        """
        check_tensor("frames", frames, ("M", "1 or 3", "H", "W"), "uint8", device=self._scale.device)
        if frames.shape[1] not in (1, 3):
            raise ValueError(f"frames have {frames.shape[1]} channels, and must have 1 or 3")
        shape = (len(frames), 3, *frames.shape[2:])
        if self._out.shape != shape:
            self._out = torch.empty(shape, device=frames.device, memory_format=self._format)
        if frames.device.type == "cpu" and frames.shape[1] == 1:  # torch takes four times as long to widen bytes
            levels = frames.flatten(1).contiguous().numpy()
            scale, shift = self._scale.flatten().numpy(), self._shift.flatten().numpy()
            if self._format is torch.channels_last:
                _interleave(levels, scale, shift, self._out.permute(0, 2, 3, 1).flatten(1).numpy())
            else:
                _stack(levels, scale, shift, self._out.flatten(2).numpy())
            return self._out
        return torch.addcmul(self._shift, frames, self._scale, out=self._out)


@njit("void(uint8[:, ::1], float32[::1], float32[::1], float32[:, :, ::1])", nogil=True, fastmath=True)
def _stack(levels, scale, shift, out):  # type: ignore[no-untyped-def]
    """Three planes of each picture's levels `[M, H W]` -> `[M, 3, H W]`."""
    for picture in range(len(levels)):
        row = levels[picture]
        for channel in range(3):
            plane, by, plus = out[picture, channel], scale[channel], shift[channel]
            for x in range(len(row)):
                plane[x] = row[x] * by + plus


@njit("void(uint8[:, ::1], float32[::1], float32[::1], float32[:, ::1])", nogil=True, fastmath=True)
def _interleave(levels, scale, shift, out):  # type: ignore[no-untyped-def]
    """The same with channels last, -> `[M, H W 3]`."""
    for picture in range(len(levels)):
        row, pixels = levels[picture], out[picture]
        for x in range(len(row)):
            level, place = np.float32(row[x]), np.uint64(3) * np.uint64(x)
            pixels[place] = level * scale[0] + shift[0]
            pixels[place + np.uint64(1)] = level * scale[1] + shift[1]
            pixels[place + np.uint64(2)] = level * scale[2] + shift[2]
