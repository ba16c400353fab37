"""Checkpoints: what they hold, written whole, and the newest good one found again."""

from dataclasses import dataclass
from typing import Any

import torch

from usucl_fast.errors import DataError, ResourceError, first_line
from usucl_fast.files import write_whole
from usucl_fast.learn.run_folder import RunFolder

NETWORK = "method"
"""The key of the network's weights in the file, where older checkpoints have it as well."""
QUERY_BACKBONE = "query.backbone."
"""What the names of the backbone's tensors begin with in them."""


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """All that a run needs to go on after a step, on the CPU or not.

    step: steps that are done.
    network, optimizer: their state dicts.
    bank: of `MemoryBank.state_dict`; None in a method without one.
    plans: int64 `[B, V]` of each plan under way, see `MinedPlans`.
    """

    step: int
    network: dict[str, torch.Tensor]
    optimizer: dict[str, Any]
    bank: dict[str, torch.Tensor] | None
    plans: list[torch.Tensor]

    def save(self, run: RunFolder, keep: int) -> None:
        """Writes the checkpoint, then removes all but the newest `keep`.

        Raises:
            ResourceError: it cannot be written; those before are as they were.
        """
        path = run.checkpoint(self.step)
        content = {name: value for name, value in vars(self).items() if name != "network"}
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with write_whole(path) as file:
                torch.save({NETWORK: self.network, **content}, file)
        except (OSError, RuntimeError) as error:  # torch's writer raises the latter when the disk is full
            reason = error.__context__ if isinstance(error.__context__, OSError) else error
            raise ResourceError(
                f"{path} cannot be written ({first_line(reason)}); the checkpoints before it are whole: make"
                " room, and go on with --resume"
            ) from error
        for old in run.saved_checkpoints()[keep:]:
            old.unlink()


def load_newest(run: RunFolder) -> Checkpoint | None:
    """The newest checkpoint that can be read, on the CPU; None where there is none at all.

    Raises:
        DataError: there are checkpoints, and none can be read.
    """
    files = run.saved_checkpoints()
    reasons = []
    for file in files:
        try:
            content = torch.load(file, map_location="cpu", weights_only=True)
            if content.keys() != {NETWORK, "step", "optimizer", "bank", "plans"}:
                raise ValueError("it is of another version of usucl-fast")
            return Checkpoint(network=content.pop(NETWORK), **content)
        except Exception as error:  # torch raises whatever its zip and pickle readers raise
            reasons.append(f"{file.name}: {first_line(error)}")
    if files:
        raise DataError(
            f"no checkpoint in {run.checkpoints} can be read ({'; '.join(reasons)}); start again with --overwrite"
        )
    return None
