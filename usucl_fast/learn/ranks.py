"""The processes that train together: this one alone, or those that torchrun started, on one machine or many.

Every rank encodes its share of a batch; the embeddings of all are then gathered on each, and all else, the loss and the
memory bank with it, is the same on every rank, as if there were one. So a run does not depend on their number.
"""

import contextlib
import itertools
import os
import time
import uuid
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.rendezvous import rendezvous

from usucl_fast.errors import ResourceError, StoppedError, UsageError
from usucl_fast.learn.heartbeat import Heartbeat
from usucl_fast.machine import cores, pick_device
from usucl_fast.mining.distributed import gather_ragged

TIMEOUT = timedelta(minutes=10)
"""How long a collective waits. A rank that ends is noticed at once, and one that is stopped by its `Heartbeat`."""
LOST = (
    *("Connection closed", "Connection reset", "gloo", "Broken pipe", "Timed out", "timed out", "timeout"),
    *("ncclRemoteError", "NCCL communicator was aborted"),
)
"""What the backends say of a rank that has ended."""


class Ranks:
    """This process as rank number `rank` of `count`."""

    def __init__(
        self,
        rank: int = 0,
        count: int = 1,
        store: dist.Store | None = None,
    ) -> None:
        """store: a connection of its own to where the ranks have met; None for no `heartbeat`."""
        self.rank, self.count, self._store = rank, count, store

    @property
    def first(self) -> bool:
        """Whether this rank is the one that writes files and shows progress."""
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

    def any(self, *flags: bool) -> list[bool]:
        """For each flag, whether it is set on any rank; collective."""
        if self.count == 1:
            return list(flags)
        numbers = torch.tensor(flags, dtype=torch.int32)  # on the CPU, so that no GPU is waited for
        dist.all_reduce(numbers, dist.ReduceOp.MAX)
        return [number > 0 for number in numbers.tolist()]

    def agree(self, number: int) -> bool:
        """Whether all ranks have the same number; collective."""
        if self.count == 1:
            return True
        ends = torch.tensor([number, -number], dtype=torch.int64)
        dist.all_reduce(ends, dist.ReduceOp.MAX)
        return bool(ends.sum() == 0)

    def heartbeat(self, seconds: float) -> contextlib.AbstractContextManager[object]:
        """Ends this process when another has been silent for so long, see `Heartbeat`."""
        if self.count == 1 or self._store is None:
            return contextlib.nullcontext()
        return Heartbeat(self._store, self.rank, self.count, seconds)

    @contextlib.contextmanager
    def reporting_lost_ranks(self) -> Iterator[None]:
        """Turns the backends' errors when another rank has ended, or cannot be reached, into one line.

        Raises:
            StoppedError: another rank has ended.
            ResourceError: NCCL does not work here.
        """
        try:
            yield
        except RuntimeError as error:
            lost = any(word in str(error) for word in LOST)
            if self.count == 1 or not (lost or "NCCL" in str(error)):
                raise
            if not lost:
                cause = str(error).strip().splitlines()[-1]  # where NCCL says what it is
                raise ResourceError(
                    f"rank {self.rank} of {self.count}: NCCL, which connects the GPUs, failed: {cause}; NCCL_DEBUG=INFO"
                    " says more"
                ) from error
            raise StoppedError(
                f"rank {self.rank} of {self.count} ends: another rank has ended or cannot be reached;"
                " resume it with --resume, on any number of ranks"
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
def ranks_of_torchrun(name: str) -> Iterator[tuple[Ranks, torch.device]]:
    """The ranks that torchrun started, and the device of this one.

    That is the CPU, or the GPU with the rank's number on its machine. Where `--device` names a GPU by its number, all
    ranks share it; NCCL refuses that, so gloo connects them.

    Args:
        name: of `--device`.

    Raises:
        UsageError: there is no such device, or not enough GPUs.
        StoppedError: another rank has ended, or cannot be reached.
    """
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        yield Ranks(), pick_device(name)
        return
    local, of_machine = int(os.environ["LOCAL_RANK"]), int(os.environ["LOCAL_WORLD_SIZE"])
    gpus = torch.cuda.device_count()
    if gpus and name in ("auto", "cuda") and of_machine > gpus:
        raise UsageError(
            f"--device {name}: {of_machine} ranks on a machine of {gpus} GPU{'s' * (gpus > 1)}; start one a GPU"
            f" (--nproc-per-node {gpus}), or let them share one by --device cuda:0"
        )
    device = pick_device(name, local)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    else:
        torch.set_num_threads(cores())  # torchrun gives each rank one thread
    place, rank, count = next(rendezvous("env://", timeout=TIMEOUT))
    with Ranks(rank, count).reporting_lost_ranks():
        name_of_all = meet(place, rank, count)
        dist.init_process_group(
            "cpu:gloo,cuda:nccl" if device.type == "cuda" and name in ("auto", "cuda") else "gloo",
            store=dist.PrefixStore(name_of_all, place),
            rank=rank,
            world_size=count,
            timeout=TIMEOUT,
        )
    another = dist.TCPStore(os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), is_master=False, timeout=TIMEOUT)
    try:
        yield Ranks(rank, count, dist.PrefixStore(name_of_all, another)), device
    finally:
        dist.destroy_process_group()


def meet(place: dist.Store, rank: int, count: int) -> str:
    """A name that only these ranks share, and none that were started before.

    torchrun keeps one store over its restarts, which still has the addresses of processes that have ended, and gives
    the agents of several machines different numbers of restarts. So each rank publishes a name of its own, and the
    first answers under it, until all have its answer.
    """
    own = uuid.uuid4().hex
    if rank > 0:
        place.set(f"usucl_fast/rank/{rank}", own)
        first = place.get(f"usucl_fast/answer/{own}").decode()
        place.set(f"usucl_fast/met/{first}/{rank}", "")
        return first
    others = range(1, count)
    while not all(place.check([f"usucl_fast/met/{own}/{other}"]) for other in others):
        for other in others:
            place.set(f"usucl_fast/answer/{place.get(f'usucl_fast/rank/{other}').decode()}", own)
        time.sleep(0.02)
    return own
