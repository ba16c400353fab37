"""How a run is carried out on this machine, as opposed to what it learns."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from usucl_fast.feed import RESIDENT_BYTES

if TYPE_CHECKING:
    import torch

PARTITIONED = "partitioned"
BANKS = ("replicated", PARTITIONED)
"""Where the rows of the memory bank are: all on every rank, or spread over the ranks."""

CHECKPOINT_SECONDS = 300.0
"""Between checkpoints by default: as much work is lost at most, however fast a run is."""


@dataclass(frozen=True, kw_only=True)
class Execution:
    """How a run is carried out; none of it changes which tuples it sees.

    loader: name in `usucl_fast.feed.LOADERS`.
    threads: CPU threads that decode.
    resident_bytes: memory that the resident loader may keep pixels in, see `Delivery`.
    beton: what the loader ffcv reads, see `Delivery`.
    bank: of `BANKS`.
    checkpoint_every: steps between checkpoints; None for `CHECKPOINT_SECONDS`.
    keep: checkpoints that are kept, the newest ones.
    stop_after: stop after this many steps in all; None for the whole run.
    tensorboard: write figures for TensorBoard.
    profile: write a trace of a few steps.
    rank_timeout: seconds without a heartbeat after which a rank counts as lost, and the run ends.
    deterministic: give the same bits each time on a GPU as well, see `arithmetic`.
    page_every: write the run's page at its end and, unless 0, whenever so many epochs are over; None for no page.
    """

    loader: str
    device: "torch.device"
    threads: int
    resident_bytes: int = RESIDENT_BYTES
    beton: Path | None = None
    bank: str = BANKS[0]
    checkpoint_every: int | None = None
    keep: int = 2
    stop_after: int | None = None
    tensorboard: bool = False
    profile: bool = False
    rank_timeout: float = 60
    deterministic: bool = False
    page_every: int | None = None
