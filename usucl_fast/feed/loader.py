"""What a loader is, and choosing one."""

import importlib.util
from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from usucl_fast.errors import UsageError
from usucl_fast.feed.plan import BatchPlan
from usucl_fast.feed.store import ShardStore
from usucl_fast.frames import FrameTable
from usucl_fast.optional import needed

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


def choose_loader(
    store: ShardStore, channels: int, resident_bytes: int, resident_file: bool = False
) -> tuple[str, str]:
    """The fastest loader for these shards here, and why it is that one."""
    if resident_file:
        return "resident", "--resident-file keeps all decoded frames"
    needed = int(decoded_bytes(store.table, channels).sum())
    if needed <= resident_bytes:
        return "resident", f"all frames decoded take {needed / 1e9:.1f} GB"
    why = f"all frames decoded would take {needed / 1e9:.1f} GB, more than --resident-gb {resident_bytes / 1e9:g}"
    if importlib.util.find_spec("nvidia") and importlib.util.find_spec("nvidia.dali"):
        return "dali", why
    return "torch", f"{why}, and NVIDIA DALI is not installed"


def decoded_bytes(table: FrameTable, channels: int) -> NDArray[np.int64]:
    """Bytes of every frame once it is decoded, `[N]`."""
    return table.size.prod(axis=-1)[table.rows["video"]] * channels


def make_loader(name: str, store: ShardStore, delivery: Delivery) -> Loader:
    """Makes the loader of that name, importing only what it needs.

    Raises:
        UsageError: there is no such loader, or what it needs is not installed.
    """
    try:
        make = _LOADERS[name]
    except KeyError:
        raise UsageError(f"there is no loader {name!r}; choose from {', '.join(_LOADERS)}") from None
    return make(store, delivery)


def _torch(store: ShardStore, delivery: Delivery) -> Loader:
    from usucl_fast.feed.torch_loader import TorchLoader

    return TorchLoader(store, delivery)


def _dali(store: ShardStore, delivery: Delivery) -> Loader:
    with needed("NVIDIA DALI", "--loader dali", "dali", ", or use --loader torch"):
        from usucl_fast.feed.dali_loader import DaliLoader
    return DaliLoader(store, delivery)


def _resident(store: ShardStore, delivery: Delivery) -> Loader:
    from usucl_fast.feed.resident_loader import make_resident

    return make_resident(store, delivery)


def _ffcv(store: ShardStore, delivery: Delivery) -> Loader:
    from usucl_fast.feed.ffcv_loader import FfcvLoader

    if delivery.beton is None:
        raise UsageError(
            f"--loader ffcv needs --beton, a file made by: usucl-shard export-ffcv {store.name} FILE.beton"
        )
    return FfcvLoader(store, delivery, delivery.beton)


_LOADERS: dict[str, Callable[[ShardStore, Delivery], Loader]] = {
    "dali": _dali,
    "torch": _torch,
    "resident": _resident,
    "ffcv": _ffcv,
}
LOADERS = tuple(_LOADERS)
