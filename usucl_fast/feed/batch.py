"""The interface of loaders: what they are to deliver (`Delivery`), `Batch`, and the protocol `Loader`."""

from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from usucl_fast.checks import check_array, check_count, check_range
from usucl_fast.feed.augmentation import GRAIN_PERIOD, PHOTOMETRY
from usucl_fast.feed.plan import BatchPlan
from usucl_fast.shards import FrameTable

if TYPE_CHECKING:
    import torch

PREFETCH = 2
"""Batches a loader prepares ahead."""
LOOKAHEAD = 2 * PREFETCH
"""How far ahead of the batch it delivers a loader asks for plans, at most, in steps: DALI's pipeline and the threads
behind it may hold `PREFETCH` each."""
MOST_SIDE = 1 << 16
"""Pixels of a picture's side, or of a crop's, at most: JPEG has no larger ones."""
RESIDENT_BYTES = 4 * 10**9
"""Memory that the resident loader may keep pixels in by default."""


@dataclass(frozen=True, eq=False)
class Batch:
    """A plan and the pictures it asked for.

    frames: uint8 `[B, V, C, H, W]` on the loader's device; C is 1 (luma) or 3 (RGB).
    """

    plan: BatchPlan
    frames: "torch.Tensor"


@dataclass(frozen=True, kw_only=True)
class Delivery:
    """What a loader is to deliver.

    size: height and width of the pictures in pixels.
    channels: 1 or 3.
    device: where they are delivered.
    threads: CPU threads that decode; 0 decodes in the caller's own.
    most_frames: no batch has more pictures than this.
    resident_bytes: memory that the resident loader may keep pixels in, where it does not keep them in a file.
    beton: the shards as `usucl-shard export-ffcv` wrote them, for the loader ffcv.

    Raises:
        ValueError: a number is out of its range.
    """

    size: int
    channels: int
    device: "torch.device"
    threads: int
    most_frames: int
    resident_bytes: int = RESIDENT_BYTES
    beton: Path | None = None

    def __post_init__(self) -> None:
        check_count("size", self.size, 1, MOST_SIDE)
        if check_count("channels", self.channels, 1, 3) == 2:
            raise ValueError(f"channels is {self.channels}, and must be 1 or 3")
        for name, least in (("threads", 0), ("most_frames", 1), ("resident_bytes", 0)):
            check_count(name, getattr(self, name), least)


class Loader(Protocol):
    """Executes plans in order, and prefetches `PREFETCH` batches; holds no random state.

    Plans are taken in the caller's thread, while a batch is waited for, and never more than `LOOKAHEAD` ahead.
    """

    def run(self, plans: Iterable[BatchPlan]) -> Generator[Batch, None, None]:
        """Yields one batch a plan.

        Raises:
            DecodeError: a frame does not decode; the message names it.
            ValueError: a plan asks for frames that do not exist, or for more pictures than `Delivery.most_frames`.
        """
        ...


def checked(plans: Iterable[BatchPlan], frames: int, most_frames: int) -> Iterator[BatchPlan]:
    """Checks the frame ids, crops and grey levels of each plan before it goes to compiled code, which does not.

    Raises:
        ValueError: see `Loader.run`.
    """
    for plan in plans:
        ids, photometry = plan.frame_ids, plan.photometry
        check_array("frame_ids", ids, ("B", "V"), "int64")
        check_range("frame_ids", ids, 0, frames)
        check_count("the number of pictures of a plan", ids.size, 0, most_frames)
        check_array("boxes", plan.boxes, (*ids.shape, 4), "int64")
        check_range("boxes", plan.boxes, -MOST_SIDE, MOST_SIDE + 1)
        check_range("height and width of boxes", plan.boxes[..., 2:], 1, MOST_SIDE + 1)
        check_array("flips", plan.flips, ids.shape, "bool")
        check_array("photometry", photometry, ids.shape, str(PHOTOMETRY))
        for name in ("grain_y", "grain_x"):
            check_range(name, photometry[name], 0, GRAIN_PERIOD)
        # Of all fields at once: those that are no float32 are small numbers, and as such finite.
        is_finite = np.isfinite(np.ascontiguousarray(photometry).view(np.float32)).all()
        if not is_finite or not 0 <= photometry["blur"].min(initial=0) <= photometry["blur"].max(initial=0) <= 1:
            raise ValueError("photometry has a number that is not finite, or a blur below 0 or above 1")
        yield plan


def decoded_bytes(table: FrameTable, channels: int) -> NDArray[np.int64]:
    """Bytes of every frame once it is decoded, `[N]`."""
    return table.size.prod(axis=-1)[table.rows["video"]] * channels
