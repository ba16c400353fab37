"""Optimisers, and the learning rate over a run."""

import math
from typing import Any

import torch
from torch import nn

from usucl_fast.learn.config import TrainConfig
from usucl_fast.optional import needed


def make_optimizer(config: TrainConfig, module: nn.Module) -> torch.optim.Optimizer:
    """The optimiser of all parameters that take a gradient.

    SGD decays all of them, as published; LARS and AdamW leave out biases and norms, and LARS does not scale the steps
    of those either. Source of LARS: You et al., arXiv 1708.03888.

    SGD and AdamW are torch's fused ones: where their `found_inf` is 1, they take no step, and no GPU is waited for.

    Raises:
        UsageError: the optimiser needs lightly, which is not installed.
    """
    trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
    if config.optimizer == "sgd":
        decay = config.weight_decay
        return torch.optim.SGD(trained, config.lr, momentum=config.momentum, weight_decay=decay, fused=True)
    groups: list[dict[str, Any]] = [
        {"params": [parameter for parameter in trained if parameter.ndim > 1]},
        {"params": [parameter for parameter in trained if parameter.ndim <= 1], "weight_decay": 0.0},
    ]
    if config.optimizer == "adamw":
        return torch.optim.AdamW(groups, config.lr, weight_decay=config.weight_decay, fused=True)
    with needed("lightly", "--optimizer lars", "baselines"):
        from lightly.utils.lars import LARS
    lars: torch.optim.Optimizer = LARS(groups, config.lr, momentum=config.momentum, weight_decay=config.weight_decay)
    return lars


def learning_rate(config: TrainConfig, step: int, steps: int, steps_per_epoch: int) -> float:
    """At a step of a run of `steps`: rising linearly over the first `warm_up`, then falling along a cosine."""
    warm = config.warm_up_steps(steps)
    if step < warm:
        return config.lr * (step + 1) / (warm + 1)
    if config.lr_schedule == "epoch":
        step -= step % steps_per_epoch
    return config.lr * 0.5 * (1 + math.cos(math.pi * max(0.0, step - warm) / (steps - warm)))
