"""A network and settings so small that a step takes milliseconds, and what a run has written."""

from pathlib import Path
from typing import Any

import torch

from usucl_fast.learn import Execution
from usucl_fast.learn.run_folder import RunFolder

ARCH = "timm/test_resnet"
"""A ResNet of .4 million parameters that timm ships for tests; a ResNet18 has 11 million."""
TINY: dict[str, Any] = {"arch": ARCH, "size": 32, "dim": 16, "precision": "fp32", "init": "random"}
"""Settings, for `make_config`."""
BARE: dict[str, Any] = {"begun": {}, "ranks": 1, "optimizer": {}, "bank": None, "plans": [], "metrics": ""}
"""All of a `Checkpoint` but its step and network, of a run that has none of it."""
EXECUTION = Execution(loader="torch", device=torch.device("cpu"), threads=0)


def tiny_options(epochs: int, batch_size: int = 3) -> list[object]:
    """The same as options of `usucl-train`, on the sample's four videos."""
    tiny = {**TINY, "epochs": epochs, "batch_size": batch_size, "threads": 0}
    return [word for name, value in tiny.items() for word in (f"--{name.replace('_', '-')}", value)]


def plans(run: Path) -> list[str]:
    """The digest of each step's plan."""
    return [line["plan"] for line in RunFolder(run).read_metrics()]


def losses(run: Path) -> list[float]:
    """The loss of each step."""
    return [line["loss"] for line in RunFolder(run).read_metrics()]


def curve(run: Path) -> list[tuple[str, float]]:
    """Plan and loss of each step: two runs with equal ones have seen and learned the same."""
    return list(zip(plans(run), losses(run), strict=True))
