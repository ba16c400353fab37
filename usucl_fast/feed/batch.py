"""What every loader is told, and what it hands out: `Delivery`, `Batch`, and the protocol `Loader`."""

from collections.abc import Generator, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from usucl_fast.feed.plan import BatchPlan
from usucl_fast.shards import FrameTable

if TYPE_CHECKING:
    import torch

PREFETCH = 2
"""Batches a loader prepares ahead."""
LOOKAHEAD = 2 * PREFETCH
"""How far ahead of the batch it delivers a loader asks for plans, at most, in steps: DALI's pipeline and the threads
behind it may hold `PREFETCH` each."""
RESIDENT_BYTES = 4 * 10**9
"""Memory that the resident loader may keep pixels in, where nobody says otherwise."""


@dataclass(frozen=True, eq=False)
class Batch:
    """A plan and the pictures it asked for.

    frames: uint8 `[B, V, C, H, W]` on the loader's device; C is 1 (luma) or 3 (RGB).
    """

    plan: BatchPlan
    frames: "torch.Tensor"


@dataclass(frozen=True, kw_only=True)
class Delivery:
    """What every loader is told to deliver.

    size: height and width of the pictures in pixels.
    channels: 1 or 3.
    device: where they are delivered.
    threads: CPU threads that decode; 0 decodes in the caller's own.
    most_frames: no batch has more pictures than this.
    resident_bytes: memory that the resident loader may keep pixels in.
    resident_file: keep what does not fit there in a memory-mapped file beside the shards.
    beton: the shards as `usucl-shard export-ffcv` wrote them, for the loader ffcv.
    """

    size: int
    channels: int
    device: "torch.device"
    threads: int
    most_frames: int
    resident_bytes: int = RESIDENT_BYTES
    resident_file: bool = False
    beton: Path | None = None


class Loader(Protocol):
    """Executes plans, in order, preparing `PREFETCH` batches ahead; holds no random state.

    Plans are taken in the caller's thread, while a batch is waited for, and never more than `LOOKAHEAD` ahead.
    """

    def run(self, plans: Iterable[BatchPlan]) -> Generator[Batch, None, None]:
        """Yields one batch a plan.

        Raises:
            DecodeError: a frame does not decode; the message names it.
        """
        ...


def decoded_bytes(table: FrameTable, channels: int) -> NDArray[np.int64]:
    """Bytes of every frame once it is decoded, `[N]`."""
    return table.size.prod(axis=-1)[table.rows["video"]] * channels
