"""The memory bank: one row a frame, asked for the frames most like a query."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike

from usucl_fast.mining.curriculum import window_bounds

BLOCK_SCORES = 1 << 22  # similarities held at once by a query over all rows: 16 MiB


class Nearest(NamedTuple):
    """Answers to B queries, most similar first.

    frame_ids: int64 `[B, K]`; -1 where there are fewer than K answers.
    similarity: float32 `[B, K]`, dot products with the query; -inf where there are fewer than K.
    """

    frame_ids: torch.Tensor
    similarity: torch.Tensor


class MemoryBank:
    """Embeddings of all frames `[N, D]`, and the step at which each was written.

    Args:
        first_row: int64 `[videos + 1]`; video v owns the rows `first_row[v] : first_row[v + 1]`.
        dim: D.
        dtype: of the stored rows; the arithmetic is float32.
        device: of the rows and of all arguments and answers.
        group: int64 `[videos]`, the group of each video. Where given, excluding a video from a query excludes
            its whole group.
    """

    def __init__(
        self,
        first_row: ArrayLike | torch.Tensor,
        dim: int,
        dtype: torch.dtype = torch.float16,
        device: torch.device | str = "cpu",
        group: ArrayLike | torch.Tensor | None = None,
    ) -> None:
        self.first_row = np.asarray(first_row, np.int64)
        videos, rows = len(self.first_row) - 1, int(self.first_row[-1])
        codes = np.arange(videos) if group is None else np.asarray(group, np.int64)
        if len(codes) != videos:
            raise ValueError(f"group has {len(codes)} entries for {videos} videos")
        self.embeddings = torch.zeros(rows, dim, dtype=dtype, device=device)
        self.written_at = torch.full((rows,), -1, dtype=torch.int64, device=device)
        self._group_of_video = torch.as_tensor(codes, device=device)
        self._group_of_row = torch.as_tensor(np.repeat(codes, np.diff(self.first_row)), device=device)

    def __len__(self) -> int:
        return len(self.embeddings)

    @torch.no_grad()
    def write(self, frame_ids: torch.Tensor, z: torch.Tensor, step: int) -> None:
        """Replaces rows. Of a frame named twice the last embedding stays, on every device.

        Args:
            frame_ids: int64 `[M]`.
            z: `[M, D]`, unit length.
            step: the present step, not negative.
        """
        unique, place = torch.unique(frame_ids, return_inverse=True)
        order = torch.arange(len(frame_ids), device=place.device)
        last = torch.zeros_like(unique).scatter_reduce_(0, place, order, "amax", include_self=False)
        self.embeddings[unique] = z[last].to(self.embeddings.dtype)
        self.written_at[unique] = step

    def rows(self, frame_ids: torch.Tensor) -> torch.Tensor:
        """float32 `[..., D]` of the frames `[...]`; zeros where the frame id is -1."""
        return self.embeddings[frame_ids.clamp_min(0)].float() * (frame_ids >= 0).unsqueeze(-1)

    @torch.no_grad()
    def cross(self, query: torch.Tensor, exclude: torch.Tensor | None, k: int) -> Nearest:
        """The k written rows most similar to each query, over all videos.

        Args:
            query: `[B, D]`.
            exclude: int64 `[B]`, for each query the video whose rows (or whose group's rows, where the bank
                knows groups) are left out; -1 leaves out none, as does None for all queries.
            k: answers a query.
        """
        query = query.float()
        best = _nothing(len(query), k, query.device)
        excluded = None
        if exclude is not None:
            excluded = torch.where(exclude >= 0, self._group_of_video[exclude.clamp_min(0)], -1)[:, None]
        block = max(1024, BLOCK_SCORES // max(1, len(query)))
        for start in range(0, len(self), block):
            rows = slice(start, min(start + block, len(self)))
            scores = query @ self.embeddings[rows].float().T
            hidden = (self.written_at[rows] < 0)[None, :]
            if excluded is not None:
                hidden = hidden | (self._group_of_row[rows][None, :] == excluded)
            best = _merge(
                best,
                scores.masked_fill_(hidden, -torch.inf),
                torch.arange(start, rows.stop, device=query.device),
                k,
            )
        return best

    @torch.no_grad()
    def intra(self, frame_ids: torch.Tensor, query: torch.Tensor, window: tuple[float, float], k: int) -> Nearest:
        """The k written rows most similar to each query within a window around a frame of its own video.

        Args:
            frame_ids: int64 `[B]`, the anchors.
            query: `[B, D]`.
            window: (d0, d1) as fractions of the video's length, see `window_bounds`.
            k: answers a query.
        """
        query = query.float()
        anchor = frame_ids.cpu().numpy()
        video = np.searchsorted(self.first_row, anchor, side="right") - 1
        first = self.first_row[video]
        bounds = window_bounds(anchor - first, self.first_row[video + 1] - first, window) + first[:, None]
        answers = [self._nearest_of(rows, one[None, :], k) for rows, one in zip(bounds.tolist(), query, strict=True)]
        best = _nothing(0, k, query.device)
        return Nearest(*(torch.cat(parts) for parts in zip(best, *answers, strict=True)))

    def _nearest_of(self, bounds: Sequence[int], query: torch.Tensor, k: int) -> Nearest:
        best = _nothing(1, k, query.device)
        for start, end in (bounds[:2], bounds[2:]):
            if start < end:
                scores = query @ self.embeddings[start:end].float().T
                scores = scores.masked_fill_((self.written_at[start:end] < 0)[None, :], -torch.inf)
                best = _merge(best, scores, torch.arange(start, end, device=query.device), k)
        return best

    def state_dict(self) -> dict[str, torch.Tensor]:
        """The rows and when they were written."""
        return {"embeddings": self.embeddings, "written_at": self.written_at}

    def load_state_dict(self, state: dict[str, torch.Tensor]) -> None:
        """Restores what `state_dict` returned.

        Raises:
            ValueError: it is of another shape.
        """
        for name, tensor in self.state_dict().items():
            if state[name].shape != tensor.shape:
                raise ValueError(f"{name} is {tuple(state[name].shape)}, the bank needs {tuple(tensor.shape)}")
            tensor.copy_(state[name])


def _nothing(queries: int, k: int, device: torch.device) -> Nearest:
    return Nearest(
        torch.full((queries, k), -1, dtype=torch.int64, device=device),
        torch.full((queries, k), -torch.inf, device=device),
    )


def _merge(best: Nearest, scores: torch.Tensor, frame_ids: torch.Tensor, k: int) -> Nearest:
    """The k best of `best` and of `scores` `[B, R]` of the rows `frame_ids` `[R]`."""
    top, place = scores.topk(min(k, scores.shape[1]), dim=1)
    found = torch.where(top > -torch.inf, frame_ids[place], -1)
    similarity, order = torch.cat([best.similarity, top], dim=1).topk(k, dim=1)
    return Nearest(torch.cat([best.frame_ids, found], dim=1).gather(1, order), similarity)
