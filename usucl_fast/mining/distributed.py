"""A memory bank whose rows are spread over the ranks of a process group.

Every rank makes the same bank and calls its methods with the same arguments when the others do, as in training, where
every rank has the embeddings of the whole batch. So nothing is sent but answers: of a search the top k of each rank, of
rows their numbers.
"""

import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F
from numpy.typing import ArrayLike, NDArray

from usucl_fast.mining.bank import MemoryBank
from usucl_fast.mining.search import Allowed

SENT_ROWS = 1 << 18
"""Rows sent at once where all are gathered."""


class PartitionedBank(MemoryBank):
    """The rows spread over the ranks, rank r of R holding the frames from N r / R up to N (r + 1) / R.

    Answers are those of a `MemoryBank` of all rows, on every rank: exactly on a CPU, elsewhere up to the rounding of
    float32 products; of equally similar rows it may name others. `cross` looks at each rank's likely rows where it is
    approximate, and so misses fewer.

    Searches, `rows` and `written` take one collective call, `cross` with a band two, `write` and saving the rows held
    none.

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
        held = self._is_held(frame_ids)
        self._write(frame_ids[held] - self.held.start, z[held], step)

    @torch.no_grad()
    def rows(self, frame_ids: torch.Tensor) -> torch.Tensor:
        self._check_ids(frame_ids, -1)
        return self._sum(self._read(self.embeddings, frame_ids).float())

    @torch.no_grad()
    def written(self, frame_ids: torch.Tensor) -> torch.Tensor:
        self._check_ids(frame_ids, -1)
        return self._sum(self._read(self.written_at, frame_ids) + self._is_held(frame_ids)) - 1

    def _read(self, column: torch.Tensor, frame_ids: torch.Tensor) -> torch.Tensor:
        """Entries of the rows held, zeros for others."""
        held = self._is_held(frame_ids)
        entries = column.new_zeros(*frame_ids.shape, *column.shape[1:])
        entries[held] = column[frame_ids[held] - self.held.start]
        return entries

    def _search(
        self,
        query: torch.Tensor,
        allowed: Allowed,
        k: torch.Tensor,
        most: int,
        ranges_BS2: NDArray[np.int64] | None,
        approximate: bool,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        most = min(most, len(self))
        if ranges_BS2 is not None:
            ranges_BS2 = (ranges_BS2 - self.held.start).clip(0, len(self.held))
        similarity, found = super()._search(query, allowed, k, most, ranges_BS2, approximate)
        missing = (0, most - found.shape[1])
        own = torch.stack(
            (
                F.pad(similarity.double(), missing, value=-torch.inf),
                F.pad(torch.where(found >= 0, found + self.held.start, -1).double(), missing, value=-1),  # exact
            )
        )
        parts = [torch.empty_like(own) for _ in range(self._ranks)]
        dist.all_gather(parts, own, group=self._process_group)
        similarity, ids = torch.cat(parts, dim=2)
        # Ranks hold frames in order, so of equal answers the first are those of the smaller frame ids.
        similarity, order = similarity.sort(dim=1, descending=True, stable=True)
        full = torch.arange(similarity.shape[1], device=k.device) >= k[:, None]
        found = ids.long().gather(1, order).masked_fill(full, -1)
        return similarity.masked_fill(full, -torch.inf)[:, :most], found[:, :most]

    def _count(self, allowed: Allowed) -> torch.Tensor:
        return self._sum(super()._count(allowed))

    def _sum(self, own: torch.Tensor) -> torch.Tensor:
        dist.all_reduce(own, group=self._process_group)
        return own

    def _is_held(self, frame_ids: torch.Tensor) -> torch.Tensor:
        return (frame_ids >= self.held.start) & (frame_ids < self.held.stop)

    def whole_state_dict(self) -> dict[str, torch.Tensor] | None:
        """`state_dict` of all rows, on the CPU of the first rank, which needs the memory for them; None on the others.
        Rows are sent between CPUs."""
        if self._rank:
            for start in range(0, len(self.held), SENT_ROWS):
                for column in (self.embeddings, self.written_at):
                    dist.send(column[start : start + SENT_ROWS].cpu(), group=self._process_group, group_dst=0)
            return None
        whole = {
            "embeddings": torch.empty(len(self), self.embeddings.shape[1], dtype=self.embeddings.dtype),
            "written_at": torch.empty(len(self), dtype=torch.int64),
            "first_frame": torch.tensor(0),
        }
        whole["embeddings"][: self.held.stop], whole["written_at"][: self.held.stop] = self.embeddings, self.written_at
        for rank in range(1, self._ranks):
            first, end = self._cuts[rank : rank + 2]
            for start in range(first, end, SENT_ROWS):
                for name in ("embeddings", "written_at"):
                    part = whole[name][start : min(start + SENT_ROWS, end)]
                    dist.recv(part, group=self._process_group, group_src=rank)
        return whole


def gather_ragged(
    tensor: torch.Tensor, counts: list[int], process_group: dist.ProcessGroup | None = None
) -> torch.Tensor:
    """Concatenates the tensors `[counts[rank], ...]` of all ranks, in rank order."""
    padded = tensor.new_zeros(max(1, *counts), *tensor.shape[1:])
    padded[: len(tensor)] = tensor
    parts = [torch.empty_like(padded) for _ in counts]
    dist.all_gather(parts, padded, group=process_group)
    return torch.cat([part[:count] for part, count in zip(parts, counts, strict=True)])
