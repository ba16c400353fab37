"""Checkpoints: written whole, the last few kept, the newest good one found by itself."""

from pathlib import Path
from typing import Any

import torch

from usucl_fast.errors import DataError
from usucl_fast.files import write_whole

KEEP = 2


def save(folder: Path, step: int, state: dict[str, Any]) -> None:
    """Writes `step-<step>.pt`, then removes all but the newest `KEEP`."""
    folder.mkdir(parents=True, exist_ok=True)
    with write_whole(folder / f"step-{step:08d}.pt") as file:
        torch.save(state, file)
    for old in sorted(folder.glob("step-*.pt"))[:-KEEP]:
        old.unlink()


def load_newest(folder: Path) -> dict[str, Any] | None:
    """The newest checkpoint that can be read, on the CPU; None where there is none at all.

    Raises:
        DataError: there are checkpoints, and none can be read.
    """
    files = sorted(folder.glob("step-*.pt"), reverse=True)
    reasons = []
    for file in files:
        try:
            state: dict[str, Any] = torch.load(file, map_location="cpu", weights_only=True)
            return state
        except Exception as error:  # torch raises whatever its zip and pickle readers raise
            reasons.append(f"{file.name}: {str(error).splitlines()[0] if str(error) else type(error).__name__}")
    if files:
        raise DataError(f"no checkpoint in {folder} can be read ({'; '.join(reasons)}); start again with --overwrite")
    return None
