"""Checkpoints: what they hold, written whole beside the training, and the newest good one found again.

A file is what `torch.save` writes, and behind it `MARK` and the SHA-256 of all before: a zip archive may have
something behind it, and nobody who reads one looks at the checksums inside.
"""

import hashlib
import os
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import torch

from usucl_fast.errors import DataError, ResourceError, first_line
from usucl_fast.files import write_whole
from usucl_fast.learn.run_folder import RunFolder
from usucl_fast.machine import memory
from usucl_fast.progress import note

NETWORK = "method"
"""The key of the network's weights in the file, where older checkpoints have it as well."""
QUERY_BACKBONE = "query.backbone."
"""What the names of the backbone's tensors begin with in them."""

MARK = b"usucl_fast sha256 "
PART_BYTES = 1 << 20
MOST_OF_MEMORY = 0.25


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """All that a run needs to continue after a step, with tensors on any device.

    step: steps that are done.
    begun: what config.json says, see `run_folder.record_of`.
    ranks: how many trained.
    network, optimizer: their state dicts.
    bank: of `MemoryBank.state_dict`; None in a method without one.
    plans: int64 `[B, V]` of each plan under way, see `MinedPlans`.
    metrics: metrics.jsonl up to the step.
    snapshots: of `Snapshots.state_dict`; None in a checkpoint from before there were any.
    """

    step: int
    begun: dict[str, Any]
    ranks: int
    network: dict[str, torch.Tensor]
    optimizer: dict[str, Any]
    bank: dict[str, torch.Tensor] | None
    plans: list[torch.Tensor]
    metrics: str
    snapshots: dict[str, Any] | None = None

    def save(self, run: RunFolder, keep: int) -> None:
        """Writes the checkpoint, then removes the others but the newest `keep` up to this step.

        Raises:
            ResourceError: it cannot be written; those before are as they were.
        """
        path = run.checkpoint(self.step)
        content = {name: value for name, value in vars(self).items() if name != "network"}
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with write_whole(path) as file:
                hashed = _Hashed(file)
                torch.save({NETWORK: self.network, **content}, hashed)  # type: ignore[arg-type]
                file.write(MARK + hashed.digest.digest())
        except (OSError, RuntimeError) as error:  # torch's writer raises the latter when the disk is full
            reason = error.__context__ if isinstance(error.__context__, OSError) else error
            raise ResourceError(
                f"{path} cannot be written ({first_line(reason)}); the checkpoints before it are whole: make"
                " room, and resume with --resume"
            ) from error
        saved = run.saved_checkpoints()
        kept = saved[saved.index(path) :][:keep]  # later ones were damaged, or the run would be there
        for other in {*saved, *run.checkpoints.glob(".step-*.partial")} - {*kept}:
            other.unlink()


class CheckpointWriter:
    """Writes the checkpoints of a run one after another, each from a copy and beside the training.

    One that takes more than `MOST_OF_MEMORY` of the machine's is written at once, and the training waits for it.
    """

    def __init__(self, run: RunFolder, keep: int) -> None:
        self._run, self._keep = run, keep
        self._thread = ThreadPoolExecutor(1, "usucl-checkpoint")
        self._writing: Future[None] | None = None

    def save(self, checkpoint: Checkpoint) -> None:
        """Begins to write a checkpoint, once the one before is there.

        Raises:
            ResourceError: the one before cannot be written.
        """
        self.wait()
        sizes: list[int] = []
        _with_tensors(vars(checkpoint), lambda tensor: sizes.append(tensor.nbytes))
        if sum(sizes) > MOST_OF_MEMORY * memory():
            checkpoint.save(self._run, self._keep)
            return
        copied = Checkpoint(**_with_tensors(vars(checkpoint), _copied))
        self._writing = self._thread.submit(copied.save, self._run, self._keep)

    def wait(self) -> None:
        """Waits until what was begun is written.

        Raises:
            ResourceError: it cannot be written.
        """
        writing, self._writing = self._writing, None
        if writing is not None:
            writing.result()

    def close(self) -> None:
        """Waits, whatever became of it, and ends the thread."""
        self._thread.shutdown()


def _with_tensors(value: Any, change: Callable[[torch.Tensor], Any]) -> Any:
    """The value with what `change` makes of each tensor in its dicts, lists and tuples."""
    if isinstance(value, torch.Tensor):
        return change(value)
    if isinstance(value, dict):
        return {key: _with_tensors(part, change) for key, part in value.items()}
    return type(value)(_with_tensors(part, change) for part in value) if isinstance(value, list | tuple) else value


def _copied(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.detach().to("cpu", copy=True)


class _Hashed:
    """A file and the hash of what has been written to it."""

    def __init__(self, file: BinaryIO) -> None:
        self._file, self.digest = file, hashlib.sha256()

    def write(self, part: bytes) -> int:
        self.digest.update(part)
        return self._file.write(part)

    def flush(self) -> None:
        self._file.flush()


def is_whole(path: Path) -> bool | None:
    """Whether a file is what its checksum says; None where it has none, as what others or older versions wrote.

    Raises:
        OSError: it cannot be read.
    """
    digest = hashlib.sha256()
    with path.open("rb") as file:
        left = os.fstat(file.fileno()).st_size - len(MARK) - digest.digest_size
        while left > 0 and (part := file.read(min(left, PART_BYTES))):
            digest.update(part)
            left -= len(part)
        end = file.read()
    return end == MARK + digest.digest() if end.startswith(MARK) else None


def load_newest(run: RunFolder, report: Callable[[str], None] = note) -> Checkpoint | None:
    """The newest checkpoint that is whole, on the CPU; None where there is none at all.

    report: called with a line about damaged checkpoints that are skipped.

    Raises:
        DataError: there are checkpoints, and none is whole.
    """
    files = run.saved_checkpoints()
    reasons: list[str] = []
    for file in files:
        try:
            whole = is_whole(file)
            if not whole:
                unknown = "it is truncated, or was written by another version of usucl-fast"
                raise ValueError(unknown if whole is None else "it is damaged: its checksum is another")
            content = torch.load(file, map_location="cpu", weights_only=True)
            checkpoint = Checkpoint(network=content.pop(NETWORK), **content)
        except Exception as error:  # torch raises whatever its zip and pickle readers raise
            reasons.append(f"{file.name}: {first_line(error)}")
        else:
            if reasons:
                report(f"{run.checkpoints} has damage ({'; '.join(reasons)}); using the earlier {file.name}")
            return checkpoint
    if files:
        raise DataError(
            f"no checkpoint in {run.checkpoints} can be read ({'; '.join(reasons)}); start again with --overwrite"
        )
    return None
