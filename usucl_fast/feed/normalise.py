"""uint8 pictures -> what a network takes, in one pass on the device."""

import torch

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class Normaliser:
    """Scales to [0, 1], subtracts ImageNet's mean and divides by its standard deviation, a channel each.

    A result is good until the next call: its memory is used again, because taking a fresh 100 MB from the
    system for each batch costs four times as much as filling it.

    Args:
        device: of the pictures.
        memory_format: of the results.
    """

    def __init__(self, device: torch.device, memory_format: torch.memory_format = torch.contiguous_format) -> None:
        std = torch.tensor(IMAGENET_STD, device=device)[:, None, None]
        self._scale = 1 / (255 * std)
        self._shift = -torch.tensor(IMAGENET_MEAN, device=device)[:, None, None] / std
        self._format = memory_format
        self._out = torch.empty(0, 3, 0, 0, device=device)

    def __call__(self, frames: torch.Tensor) -> torch.Tensor:
        """uint8 `[M, C, H, W]`, with C 1 (copied to three) or 3 -> float32 `[M, 3, H, W]`."""
        shape = (len(frames), 3, *frames.shape[2:])
        if self._out.shape != shape:
            self._out = torch.empty(shape, device=frames.device, memory_format=self._format)
        return torch.addcmul(self._shift, frames, self._scale, out=self._out)
