"""uint8 pictures -> what a network takes, in one pass on the device."""

import torch

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


def normalise(frames: torch.Tensor) -> torch.Tensor:
    """Scales to [0, 1], subtracts ImageNet's mean and divides by its standard deviation, a channel each.

    Args:
        frames: uint8 `[..., C, H, W]` with C 1 or 3; one channel is copied to three.

    Returns:
        float32 `[..., 3, H, W]`.
    """
    std = torch.tensor(IMAGENET_STD, device=frames.device)[:, None, None]
    mean = torch.tensor(IMAGENET_MEAN, device=frames.device)[:, None, None]
    return torch.addcmul(-mean / std, frames.float(), 1 / (255 * std))
