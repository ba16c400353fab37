"""The metrics of a step: loss and gradient, signs of collapse, and the state of the bank."""

import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from usucl_fast.curriculum import NEAREST
from usucl_fast.errors import DataError
from usucl_fast.feed import BatchPlan
from usucl_fast.learn.network import Outcome
from usucl_fast.mining import MemoryBank

BANK_EVERY = 50
"""Steps between two reports on the whole bank: each reads when every row was written, which takes milliseconds for
millions of rows."""
SAMPLE = 1024
"""Written rows that are sampled for a report."""


def bank_health(bank: MemoryBank, step: int) -> dict[str, Any]:
    """The state of the bank after a step.

    written: share of its rows held here that have been written.

    Of up to `SAMPLE` of them, evenly spaced:
    age: steps since they were written, the quantiles .1, .5 and .9.
    mean_cosine, effective_rank: as of a batch, see below.
    """
    written = torch.nonzero(bank.written_at >= 0)[:, 0]
    health: dict[str, Any] = {"written": len(written) / max(1, len(bank.held))}
    if len(written):
        count = min(SAMPLE, len(written))
        sample = written[torch.arange(count, device=written.device) * len(written) // count]
        age = (step - bank.written_at[sample]).double()
        rows = bank.embeddings[sample].float()
        health["age"] = age.quantile(age.new_tensor([0.1, 0.5, 0.9])).tolist()
        health |= {"mean_cosine": mean_cosine(rows), "effective_rank": effective_rank(rows)}
    return health


def near_duplicates(frame_ids: NDArray[np.int64], first_row: NDArray[np.int64]) -> float | None:
    """The share of the members of n̂ that are near-duplicates of another: those that lie nearer than `NEAREST` frames to
    another member of the same video, as an anchor and its positive do. None where there are no members.

    Args:
        frame_ids: `[B, K]`, the members of each n̂; -1 for none.
        first_row: `[videos + 1]`, see `MemoryBank`.
    """
    ordered = np.sort(frame_ids, axis=1)
    video = np.searchsorted(first_row, ordered, side="right")
    near = (np.diff(ordered, axis=1) < NEAREST) & (np.diff(video, axis=1) == 0) & (ordered[:, :-1] >= 0)
    alike = np.zeros(ordered.shape, np.bool_)
    alike[:, 1:] |= near
    alike[:, :-1] |= near
    members = int((ordered >= 0).sum())
    return int(alike.sum()) / members if members else None


def mean_cosine(z: torch.Tensor) -> float | None:
    """Mean cosine of all pairs of different rows of `z` `[M, D]`, unit length; None for fewer than two.

    Near 1, all embeddings are alike: the network has collapsed.
    """
    count = len(z)
    if count < 2:
        return None
    total = z.sum(0).square().sum() - z.square().sum()
    return float(total / (count * (count - 1)))


def effective_rank(z: torch.Tensor) -> float:
    """exp of the entropy of the normalised singular values of `z` `[M, D]`: between 1 and min(M, D).

    Source: Roy and Vetterli, "The effective rank", EUSIPCO 2007.
    """
    values = torch.linalg.svdvals(z.float())
    p = values / values.sum().clamp_min(1e-12)
    return float(torch.special.entr(p).sum().exp())


class StepMetrics:
    """The metrics of a step, on their way from the device: `read` them a step later, and no GPU is waited for.

    Args:
        known: what is known of the step already.
        plan: of the step.
        loss, norm: scalars; `norm` of the gradient.
        outcomes: of the parts of the batch.
        first_row: int64 `[videos + 1]`, see `MemoryBank`.
    """

    def __init__(
        self,
        known: dict[str, Any],
        plan: BatchPlan,
        loss: torch.Tensor,
        norm: torch.Tensor,
        outcomes: list[Outcome],
        first_row: NDArray[np.int64],
    ) -> None:
        self._known, self._plan, self._first_row = known, plan, first_row
        query = torch.cat([outcome.query for outcome in outcomes])
        members = [outcome.members for outcome in outcomes if outcome.members is not None]
        self._tensors = [loss, norm, query, *members]
        # All in one transfer, and exact: frame ids are below 2^53.
        flat = torch.cat([tensor.double().flatten() for tensor in self._tensors])
        self._flat = flat.to("cpu", non_blocking=True)
        self._arrived = torch.cuda.Event() if flat.is_cuda else None
        if self._arrived is not None:
            self._arrived.record()

    def read(self) -> dict[str, Any]:
        """The metrics, once the device has done the step.

        Raises:
            DataError: the loss or the gradient is not finite.
        """
        if self._arrived is not None:
            self._arrived.synchronize()
        plan, sizes = self._plan, [tensor.numel() for tensor in self._tensors]
        read = [
            values.view(tensor.shape).to(tensor.dtype)
            for values, tensor in zip(self._flat.split(sizes), self._tensors, strict=True)
        ]
        loss, norm, query = float(read[0]), float(read[1]), read[2]
        if not (math.isfinite(loss) and math.isfinite(norm)):
            raise DataError(
                f"step {plan.step} diverged: the loss is {loss}, the gradient's norm {norm}; frame ids"
                f" {plan.frame_ids.tolist()}; lower --lr, or raise --warm-up, and start again"
            )
        line = self._known | {
            "loss": loss,
            "gradient": norm,
            "mean_cosine": mean_cosine(query),
            "effective_rank": effective_rank(query),
            "tuples": len(plan.frame_ids),
            "frames": int(plan.frame_ids.size),
            "plan": plan.digest(),
        }
        if read[3:]:
            line["near_duplicates"] = near_duplicates(torch.cat(read[3:]).numpy(), self._first_row)
        return line
