"""The processes that train together: this one alone, or those that torchrun started, on one machine or many.

Every rank encodes its share of a batch; the embeddings of all are then gathered on each, and all else, the loss and the
memory bank with it, is the same on every rank, as if there were one. So a run does not depend on their number.
"""

import contextlib
import itertools
import os
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

from usucl_fast.errors import StoppedError
from usucl_fast.machine import cores
from usucl_fast.mining.distributed import gather_ragged

TIMEOUT = timedelta(minutes=10)
"""How long a rank waits for one that says nothing. One that ends is noticed at once."""
LOST = ("Connection closed", "Connection reset", "gloo", "NCCL", "Broken pipe", "Timed out", "timed out")


class Ranks:
    """This process as one of `count`, its number being `rank`."""

    def __init__(self, rank: int = 0, count: int = 1, device: torch.device | None = None) -> None:
        self.rank, self.count = rank, count
        self._device = device

    @property
    def first(self) -> bool:
        """Whether it is this one that writes files and shows progress."""
        return self.rank == 0

    def gather(self, z: torch.Tensor, tuples: int) -> torch.Tensor:
        """The rows of all ranks, in rank order: `[b, ...]`, one a tuple of this rank's share -> `[tuples, ...]`.

        A gradient flows back to each rank from the same loss on every one of them, so that the mean of their
        parameters' gradients, which is what `DistributedDataParallel` takes, is the gradient of that loss.

        Args:
            z: of a share as `BatchPlan.parts` makes it.
            tuples: of all shares.
        """
        gathered: torch.Tensor = z if self.count == 1 else _Gather.apply(z, tuples, self.rank, self.count)
        return gathered

    def any(self, flag: bool) -> bool:
        """Whether it is so on any rank; all ask together."""
        if self.count == 1:
            return flag
        number = torch.tensor([flag], dtype=torch.int32, device=self._device)
        dist.all_reduce(number, dist.ReduceOp.MAX)
        return bool(number.item())

    def agree(self, number: int) -> bool:
        """Whether all ranks say the same number; all say one together."""
        if self.count == 1:
            return True
        ends = torch.tensor([number, -number], dtype=torch.int64, device=self._device)
        dist.all_reduce(ends, dist.ReduceOp.MAX)
        return bool(ends.sum() == 0)

    @contextlib.contextmanager
    def telling_of_lost_ones(self) -> Iterator[None]:
        """Turns what the backends say when another rank has ended into one line.

        Raises:
            StoppedError: another rank has ended.
        """
        try:
            yield
        except RuntimeError as error:
            if self.count == 1 or not any(word in str(error) for word in LOST):
                raise
            raise StoppedError(
                f"rank {self.rank} of {self.count} ends: another rank has ended or cannot be reached;"
                " go on with --resume, on as many ranks as you like"
            ) from error


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, z: torch.Tensor, tuples: int, rank: int, count: int) -> torch.Tensor:
        cuts = [number * tuples // count for number in range(count + 1)]
        ctx.own, ctx.count = slice(cuts[rank], cuts[rank + 1]), count
        sizes = [end - start for start, end in itertools.pairwise(cuts)]
        return gather_ragged(z, sizes)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None, None, None]:
        return gradients[0][ctx.own] * ctx.count, None, None, None


@contextlib.contextmanager
def ranks_of_torchrun(device: torch.device) -> Iterator[tuple[Ranks, torch.device]]:
    """The ranks that torchrun started, and the device of this one: of its machine's GPUs, the one with its number."""
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        yield Ranks(), device
        return
    local, of_machine = int(os.environ["LOCAL_RANK"]), int(os.environ["LOCAL_WORLD_SIZE"])
    if device.type == "cuda":
        device = torch.device("cuda", local)
        torch.cuda.set_device(device)
    else:
        torch.set_num_threads(max(1, cores() // of_machine))  # torchrun leaves each rank one
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=TIMEOUT)
    try:
        yield Ranks(dist.get_rank(), dist.get_world_size(), device), device
    finally:
        dist.destroy_process_group()
