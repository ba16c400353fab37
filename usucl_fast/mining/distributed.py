"""A memory bank whose rows are spread over the ranks of a process group.

Every rank makes the same bank and calls its methods when the others do, with the same options: the calls wait for each
other, but for saving and restoring. Frames written, queries asked and rows named differ from rank to rank, in number as
well, and may be none.

What is sent: the frames written and the queries go to all ranks; of the answers each rank gets its own, K from every
other rank, and of the rows those it names.
"""

import torch
import torch.distributed as dist
import torch.nn.functional as F
from numpy.typing import ArrayLike

from usucl_fast.checks import check_range, check_tensor
from usucl_fast.mining.bank import MemoryBank
from usucl_fast.mining.search import Allowed


class PartitionedBank(MemoryBank):
    """The rows spread over the ranks, rank r of R holding the frames from N r / R up to N (r + 1) / R.

    Answers are those of a `MemoryBank` of all rows: exactly on a CPU, elsewhere up to the rounding of float32
    products. `cross` looks at each rank's likely rows where it is approximate, and so misses fewer.

    `state_dict` is of the rows held: every rank saves its own, and `load_state_dict` of any bank takes them all, on any
    number of ranks.

    Args:
        first_row, dim, dtype, device, group: see `MemoryBank`.
        process_group: None is the default one, of all ranks.
    """

    def __init__(
        self,
        first_row: ArrayLike | torch.Tensor,
        dim: int,
        dtype: torch.dtype = torch.float16,
        device: torch.device | str = "cpu",
        group: ArrayLike | torch.Tensor | None = None,
        process_group: dist.ProcessGroup | None = None,
    ) -> None:
        self._process_group = process_group
        self._rank, self._ranks = dist.get_rank(process_group), dist.get_world_size(process_group)
        super().__init__(first_row, dim, dtype, device, group)

    def _choose_held(self) -> range:
        self._cuts = [len(self) * rank // self._ranks for rank in range(self._ranks + 1)]
        return range(self._cuts[self._rank], self._cuts[self._rank + 1])

    @torch.no_grad()
    def write(self, frame_ids: torch.Tensor, z: torch.Tensor, step: int) -> None:
        step = self._check_write(frame_ids, z, step)
        (frame_ids, z), _ = self._gather_all(frame_ids, z)
        held = self._is_held(frame_ids)
        self._write(frame_ids[held] - self.held.start, z[held], step)

    @torch.no_grad()
    def rows(self, frame_ids: torch.Tensor) -> torch.Tensor:
        check_tensor("frame_ids", frame_ids, None, "int64", device=self._device)
        named = frame_ids[frame_ids != -1]
        (all_named,), counts = self._gather_all(named)
        held = self._is_held(all_named)
        stops = torch.tensor(self._cuts[1:], device=named.device)
        owner = torch.searchsorted(stops, named, right=True)
        received = exchange(
            self.embeddings[all_named[held] - self.held.start],
            [int(part.sum()) for part in held.split(counts)],
            torch.bincount(owner, minlength=self._ranks).tolist(),
            self._process_group,
        )
        # They come by rank, and from each rank in the order in which they were named.
        rows = torch.empty_like(received)
        rows[owner.argsort(stable=True)] = received
        answer = torch.zeros(*frame_ids.shape, rows.shape[1], device=rows.device)
        answer[frame_ids != -1] = rows.float()
        return answer

    def _search(
        self,
        query: torch.Tensor,
        allowed: Allowed,
        k: torch.Tensor,
        ranges_BS2: torch.Tensor | None,
        approximate: bool,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        k = k.clamp_max(len(self))
        allowed, ranges_BS2, (query, all_k), counts = self._gather_asked(allowed, ranges_BS2, query, k)
        most = int(all_k.max()) if len(all_k) else 0
        similarity, found = super()._search(query, allowed, all_k, ranges_BS2, approximate)
        found = torch.where(found >= 0, found + self.held.start, -1)
        missing = (0, most - found.shape[1])
        similarity = self._to_askers(F.pad(similarity.double(), missing, value=-torch.inf), counts)
        found = self._to_askers(F.pad(found, missing, value=-1), counts)
        # Ranks hold frames in order, so of equal answers the first are those of the smaller frame ids.
        similarity, order = similarity.sort(dim=1, descending=True, stable=True)
        full = torch.arange(similarity.shape[1], device=k.device) >= k[:, None]
        similarity, found = similarity.masked_fill(full, -torch.inf), found.gather(1, order).masked_fill(full, -1)
        return similarity[:, :most], found[:, :most]

    def _count(self, allowed: Allowed) -> torch.Tensor:
        allowed, _, _, counts = self._gather_asked(allowed, None)
        return self._to_askers(super()._count(allowed)[:, None], counts).sum(dim=1)

    def _gather_all(self, *tensors: torch.Tensor) -> tuple[list[torch.Tensor], list[int]]:
        """The tensors `[M, ...]` of all ranks in rank order, and M of each rank; M is the same for all tensors of a
        rank, may differ from rank to rank, and may be 0."""
        own = torch.tensor([len(tensors[0])], device=tensors[0].device)
        counts = gather_ragged(own, [1] * self._ranks, self._process_group).tolist()
        return [gather_ragged(tensor, counts, self._process_group) for tensor in tensors], counts

    def _gather_asked(
        self, allowed: Allowed, ranges_BS2: torch.Tensor | None, *others: torch.Tensor
    ) -> tuple[Allowed, torch.Tensor | None, list[torch.Tensor], list[int]]:
        """What the queries of all ranks allow, in which ranges of the rows held here, and what else is of each query;
        and the number of queries of each rank."""
        ranges = [] if ranges_BS2 is None else [ranges_BS2]
        (excluded, *gathered), counts = self._gather_all(allowed.excluded, *others, *ranges)
        ranges_BS2 = (gathered.pop() - self.held.start).clamp(0, len(self.held)) if ranges else None
        return allowed._replace(excluded=excluded), ranges_BS2, gathered, counts

    def _is_held(self, frame_ids: torch.Tensor) -> torch.Tensor:
        """Which of the frames, named on all ranks, have their rows here.

        Raises:
            ValueError: one is nowhere. This is so on all ranks, so that none waits for the others.
        """
        check_range("frame_ids", frame_ids, 0, len(self))
        return (frame_ids >= self.held.start) & (frame_ids < self.held.stop)

    def _to_askers(self, answers: torch.Tensor, counts: list[int]) -> torch.Tensor:
        """Sends each rank the answers `[sum of B, K]` to its own B queries; returns `[B, ranks K]`, in rank order."""
        own = counts[self._rank]
        received = exchange(answers, counts, [own] * self._ranks, self._process_group)
        return received.unflatten(0, (self._ranks, own)).transpose(0, 1).flatten(1)


def gather_ragged(
    tensor: torch.Tensor, counts: list[int], process_group: dist.ProcessGroup | None = None
) -> torch.Tensor:
    """Concatenates the tensors `[counts[rank], ...]` of all ranks, in rank order."""
    padded = tensor.new_zeros(max(1, *counts), *tensor.shape[1:])
    padded[: len(tensor)] = tensor
    parts = [torch.empty_like(padded) for _ in counts]
    dist.all_gather(parts, padded, group=process_group)
    return torch.cat([part[:count] for part, count in zip(parts, counts, strict=True)])


def exchange(
    tensor: torch.Tensor, send: list[int], receive: list[int], process_group: dist.ProcessGroup | None = None
) -> torch.Tensor:
    """Sends the first `send[0]` rows of the tensor to rank 0, the next `send[1]` to rank 1 and so on, and returns the
    rows received, `receive[r]` from rank r, in rank order."""
    received = tensor.new_empty(sum(receive), *tensor.shape[1:])
    dist.all_to_all_single(received, tensor.contiguous(), receive, send, group=process_group)
    return received
