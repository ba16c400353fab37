"""Snapshots of what is mined: for a few anchors, at a few moments of a run, for its page to show.

They are frame ids and similarities, never pictures, and part of the checkpoint: a resumed run has the same.
"""

import dataclasses
import io
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from usucl_fast.errors import DataError, first_line
from usucl_fast.feed import Planner
from usucl_fast.files import read_small, write_whole
from usucl_fast.learn.network import Network

ANCHORS, MOMENTS = 8, 10
MINED_BYTES = 1 << 26
"""A larger file of snapshots is refused."""


class Snapshot(NamedTuple):
    """What would be mined for A anchors after a step, their rows of the bank being the queries.

    step: steps that are done, scalar.
    counted: bool scalar, whether intra-video negatives count in the loss by then.
    window: float64 `[2]`, where they lie, as shares of the video's length.
    written_at: int64 `[A]`, the step in which each anchor's row was written; -1 for none: then nothing is mined.
    positive: int64 `[A]`, a positive as it would be drawn.
    positive_similarity: float32 `[A]`; 1 where it is the anchor itself, NaN where its row is not written.
    intra, cross: int64 `[A, J]` and `[A, K]`, the intra-video negatives, and the members of n̂; -1 where there are
        fewer.
    intra_similarity, cross_similarity: float32 of the same shapes, products with the anchor's row; NaN for none.
    """

    step: torch.Tensor
    counted: torch.Tensor
    window: torch.Tensor
    written_at: torch.Tensor
    positive: torch.Tensor
    positive_similarity: torch.Tensor
    intra: torch.Tensor
    intra_similarity: torch.Tensor
    cross: torch.Tensor
    cross_similarity: torch.Tensor


class Snapshots:
    """The snapshots of a run: `MOMENTS` of them, evenly spaced, the last one at its end.

    Anchors are of as many groups as there are, up to `ANCHORS`, one a group: of its longest video, the frame nearest
    to the middle that has a row in the bank at the first moment. They stay the same.

    Attributes:
        anchors: int64 `[A]`, their frame ids; None before the first moment.
        taken: of the moments that are over.
    """

    def __init__(self, planner: Planner, network: Network) -> None:
        self._planner, self._network = planner, network
        count = min(MOMENTS, planner.steps)
        self._moments = {planner.steps * (number + 1) // count for number in range(count)}
        self.anchors: torch.Tensor | None = None
        self.taken: list[Snapshot] = []

    def look(self, step: int) -> None:
        """Takes a snapshot where one is due, `step` steps being done and the bank written."""
        if step in self._moments and self._network.bank is not None:
            if self.anchors is None:
                self.anchors = torch.from_numpy(self._choose_anchors())
            self.taken.append(self._take(step))

    def _choose_anchors(self) -> NDArray[np.int64]:
        planner, network, bank = self._planner, self._network, self._network.bank
        assert bank is not None
        table, videos = planner.table, planner.planned
        generator = np.random.Generator(np.random.Philox(key=[planner.seed, 0]))
        longest = videos[np.argsort(-table.videos.frames[videos].astype(np.int64), kind="stable")]
        groups, first = np.unique(table.group[longest], return_index=True)
        chosen = np.sort(longest[first[generator.permutation(len(groups))[:ANCHORS]]])
        anchors = []
        for start, end in zip(table.first_row[chosen], table.first_row[chosen + 1], strict=True):
            of_video = torch.arange(start, end, device=network.device)
            written = torch.nonzero(bank.written(of_video) >= 0)[:, 0].cpu().numpy() + start
            middle = (start + end) // 2
            anchors.append(written[np.argmin(abs(written - middle))] if len(written) else middle)
        return np.array(anchors, np.int64)

    @torch.no_grad()
    def _take(self, step: int) -> Snapshot:
        network, bank = self._network, self._network.bank
        assert bank is not None
        assert self.anchors is not None
        plan = self._planner.plan_around(self.anchors.numpy(), step - 1)  # as the step that has just been done
        written = (bank.written(torch.from_numpy(plan.frame_ids).to(network.device)) >= 0).cpu().numpy()
        plan = dataclasses.replace(plan, valid=plan.valid & written)
        tuples = network.tuples(plan)
        anchors, positive = tuples.frame_ids[:, 0], tuples.frame_ids[:, 1]
        intra, cross = network.config.mine(network, plan, tuples)
        query = bank.rows(anchors)

        def similarity(frame_ids: torch.Tensor) -> torch.Tensor:
            found = torch.einsum("ad,akd->ak", query, bank.rows(frame_ids))
            return found.masked_fill(frame_ids < 0, torch.nan)

        is_known = tuples.valid[:, 0, None]
        intra, cross = intra.masked_fill(~is_known, -1), cross.masked_fill(~is_known, -1)
        alike = similarity(positive.masked_fill(~tuples.valid[:, 1] | ~tuples.valid[:, 0], -1)[:, None])[:, 0]
        snapshot = Snapshot(
            step=torch.tensor(step),
            counted=torch.tensor(plan.stage.intra),
            window=torch.tensor(plan.stage.window, dtype=torch.float64),
            written_at=bank.written(anchors),
            positive=positive,
            positive_similarity=alike.masked_fill(positive == anchors, 1),
            intra=intra,
            intra_similarity=similarity(intra),
            cross=cross,
            cross_similarity=similarity(cross),
        )
        return Snapshot(*(tensor.cpu() for tensor in snapshot))

    def state_dict(self) -> dict[str, Any]:
        """For the checkpoint."""
        return {"anchors": self.anchors, "taken": [snapshot._asdict() for snapshot in self.taken]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores what `state_dict` returned."""
        self.anchors, self.taken = state["anchors"], [Snapshot(**fields) for fields in state["taken"]]

    def save(self, path: Path) -> None:
        """Writes them for NumPy to read: `anchors`, and each field of `Snapshot` with all moments first; see
        `read_snapshots`. Nothing is written while there are none."""
        if self.anchors is None:
            return
        arrays = {"anchors": self.anchors.numpy()}
        for name in Snapshot._fields:
            arrays[name] = _stacked([getattr(snapshot, name).numpy() for snapshot in self.taken])
        with write_whole(path) as file:
            np.savez(file, **arrays)  # type: ignore[arg-type]


def _stacked(arrays: list[NDArray[Any]]) -> NDArray[Any]:
    """Stacks arrays, the last axis filled up with -1 or NaN: the curriculum changes how many negatives there are."""
    if arrays[0].ndim < 2:
        return np.stack(arrays)
    width = max(array.shape[1] for array in arrays)
    fill = -1 if np.issubdtype(arrays[0].dtype, np.integer) else np.nan
    return np.stack([np.pad(array, ((0, 0), (0, width - array.shape[1])), constant_values=fill) for array in arrays])


def read_snapshots(path: Path, frames: int) -> dict[str, NDArray[Any]]:
    """Reads what `Snapshots.save` wrote: `anchors [A]`, and the fields of `Snapshot`, `[M, ...]` for M moments.

    frames: of the shards; all frame ids are below.

    Raises:
        DataError: it is damaged, or of other shards.
    """
    try:
        with np.load(io.BytesIO(read_small(path, MINED_BYTES)), allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in ("anchors", *Snapshot._fields)}
        moments, anchors = arrays["written_at"].shape
        for name, array in arrays.items():
            expected = {"anchors": (anchors,), "step": (moments,), "counted": (moments,), "window": (moments, 2)}
            if array.shape[:2] != expected.get(name, (moments, anchors)):
                raise ValueError(f"{name} has the shape {array.shape}")
        for name in ("intra", "cross"):
            if arrays[name].shape != arrays[f"{name}_similarity"].shape or arrays[name].ndim != 3:
                raise ValueError(f"{name} has the shape {arrays[name].shape}")
        for name in ("anchors", "positive", "intra", "cross"):
            ids = arrays[name]
            if not np.issubdtype(ids.dtype, np.integer) or not ((ids >= -1) & (ids < frames)).all():
                raise ValueError(f"{name} has frame ids that the shards have not")
    except DataError:
        raise
    except Exception as error:  # NumPy's zip reader raises whatever it meets
        raise DataError(
            f"{path} is damaged, or of other shards ({first_line(error)}); train again to make it"
        ) from error
    return arrays
