"""Checkpoints: written whole, the last few kept, the newest good one found again."""

from pathlib import Path
from typing import Any

import torch

from usucl_fast.errors import DataError, ResourceError, first_line
from usucl_fast.files import write_whole


def save(folder: Path, step: int, state: dict[str, Any], keep: int) -> None:
    """Writes `step-<step>.pt`, then removes all but the newest `keep`.

    Raises:
        ResourceError: it cannot be written; those before are as they were.
    """
    file_name = folder / f"step-{step:08d}.pt"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with write_whole(file_name) as file:
            torch.save(state, file)
    except (OSError, RuntimeError) as error:  # torch's writer raises the latter when the disk is full
        reason = error.__context__ if isinstance(error.__context__, OSError) else error
        raise ResourceError(
            f"{file_name} cannot be written ({first_line(reason)}); the checkpoints before it are whole: make"
            " room, and go on with --resume"
        ) from error
    for old in sorted(folder.glob("step-*.pt"))[:-keep]:
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
            reasons.append(f"{file.name}: {first_line(error)}")
    if files:
        raise DataError(f"no checkpoint in {folder} can be read ({'; '.join(reasons)}); start again with --overwrite")
    return None
