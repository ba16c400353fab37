"""The memory bank: the latest embedding of every frame, searched for the frames most similar to a query."""

from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import ArrayLike, NDArray

from usucl_fast.checks import FLOATING, check_array, check_count, check_number, check_range, check_shares, check_tensor
from usucl_fast.compiled import runs_triton
from usucl_fast.curriculum import window_bounds
from usucl_fast.mining.cpu.search import CompiledSearch
from usucl_fast.mining.search import Allowed, MakeSearch, Rows, TorchSearch

MOST_ANSWERS = 1 << 20
"""To a query."""
MOST_NUMBERS = 1 << 16
"""In a row."""
MOST_ROWS = 1 << 40
"""Torch still counts the bytes of so many; whether there is memory for them it says itself."""
LONGEST = 2.0**64
"""No number of a row is greater: products of rows and queries then fit float32."""


class Nearest(NamedTuple):
    """Answers to B queries, most similar first.

    frame_ids: int64 `[B, K]`; -1 where there are fewer than K answers.
    similarity: float32 `[B, K]`, dot products with the query; -inf where there are fewer than K.
    """

    frame_ids: torch.Tensor
    similarity: torch.Tensor


class MemoryBank:
    """Embeddings of all frames `[N, D]`, and the step at which each was written.

    Answers are exact: the k greatest dot products of the float32 query with the rows as they are stored, computed in
    float64 on a CPU and in float32 elsewhere; of equal ones, any. A query that is not finite has no answers. Rows are
    changed by `write` and `load_state_dict` alone, which keep the bounds that a search on a CPU relies on.

    Every method raises ValueError for an argument of another shape, type, device or range than it says; whether frame
    ids on a GPU are in range it leaves to torch's own checks there, since looking would wait for the GPU. Neither do
    `write`, `rows` and searches wait for it, but for `cross` with a band.

    Both `cross` and `intra` take, by name:
        max_age, step: rows written more than `max_age` steps before `step` are no answers.
        below: rows more similar than this are no answers. As near as that, the row of another video is probably of
            the same patient or a copy. Unlike a share, this asks for a figure that fits the encoder, and costs nothing.

    Args:
        first_row: int64 `[videos + 1]`; video v owns the rows `first_row[v] : first_row[v + 1]`.
        dim: D.
        dtype: of the stored rows: float32, bfloat16 (the fastest on a CPU) or float16.
        device: of the rows and of all arguments and answers.
        group: int64 `[videos]`, the group of each video. Where given, excluding a video from a query excludes
            its whole group.
        search: how rows are searched. None takes `CompiledSearch` on a CPU, `FusedSearch` on a GPU that it is for,
            and `TorchSearch` elsewhere.

    Attributes:
        held: the frames whose rows are in this process, in `embeddings [held, D]` and `written_at [held]`: all of
            them, unless the bank is spread over several.
    """

    def __init__(
        self,
        first_row: ArrayLike | torch.Tensor,
        dim: int,
        dtype: torch.dtype = torch.float16,
        device: torch.device | str = "cpu",
        group: ArrayLike | torch.Tensor | None = None,
        search: MakeSearch | None = None,
    ) -> None:
        self.first_row = _whole_numbers("first_row", first_row)
        if len(self.first_row) < 2 or self.first_row[0] != 0 or (np.diff(self.first_row) < 0).any():
            raise ValueError("first_row must begin with 0, never fall, and have one number more than there are videos")
        check_range("first_row", self.first_row, 0, MOST_ROWS + 1)
        dim = check_count("dim", dim, 1, MOST_NUMBERS)
        if dtype not in (torch.float32, torch.bfloat16, torch.float16):
            raise ValueError(f"dtype is {dtype}, and must be float32, bfloat16 or float16")
        self.held = self._choose_held()
        first_row_held = np.clip(self.first_row, self.held.start, self.held.stop) - self.held.start
        videos, rows = len(self.first_row) - 1, len(self.held)
        codes = (
            np.arange(videos) if group is None else np.unique(_whole_numbers("group", group), return_inverse=True)[1]
        )
        if len(codes) != videos:
            raise ValueError(f"group has {len(codes)} entries for {videos} videos")
        self.embeddings = torch.zeros(rows, dim, dtype=dtype, device=device)
        self.written_at = torch.full((rows,), -1, dtype=torch.int64, device=device)
        self._group_of_video = torch.as_tensor(codes, device=device)
        of_row = torch.as_tensor(np.repeat(codes.astype(np.int32), np.diff(first_row_held)), device=device)
        self._rows = Rows(self.embeddings, self.written_at, of_row)
        if search is None:
            search = _search_on(self._device)
        self._index = search(self._rows, first_row_held)

    def __len__(self) -> int:
        return int(self.first_row[-1])

    def _choose_held(self) -> range:
        return range(len(self))

    @property
    def _device(self) -> torch.device:
        return self.embeddings.device

    @torch.no_grad()
    def write(self, frame_ids: torch.Tensor, z: torch.Tensor, step: int) -> None:
        """Stores embeddings. Of a frame named twice the last embedding counts, on every device; one that is not finite
        is not written, and neither is one with a number beyond `LONGEST`.

        Args:
            frame_ids: int64 `[M]`.
            z: `[M, D]`, unit length.
            step: the present step, not negative.
        """
        step = self._check_write(frame_ids, z, step)
        self._write(frame_ids, z, step)

    def _check_write(self, frame_ids: torch.Tensor, z: torch.Tensor, step: int) -> int:
        check_tensor("frame_ids", frame_ids, ("M",), "int64", device=self._device)
        check_tensor("z", z, (len(frame_ids), self.embeddings.shape[1]), *FLOATING, device=self._device)
        check_range("frame_ids", frame_ids, 0, len(self))
        return check_count("step", step, 0)

    def _write(self, rows: torch.Tensor, z: torch.Tensor, step: int) -> None:
        """`write` for rows of those held, int64 `[M]`."""
        ordered, order = rows.sort(stable=True)
        last = order[torch.searchsorted(ordered, rows.contiguous(), right=True) - 1]  # where each row is named last
        new = z[last].to(self.embeddings.dtype)
        kept = _storable(new)
        self.embeddings[rows] = torch.where(kept[:, None], new, self.embeddings[rows])
        self.written_at[rows] = torch.where(kept, step, self.written_at[rows])
        self._index.touch(rows)

    def rows(self, frame_ids: torch.Tensor) -> torch.Tensor:
        """float32 `[..., D]` of the frames `[...]`; zeros where the frame id is -1."""
        self._check_ids(frame_ids, -1)
        return self.embeddings[frame_ids.clamp_min(0)].float() * (frame_ids >= 0).unsqueeze(-1)

    def written(self, frame_ids: torch.Tensor) -> torch.Tensor:
        """The step at which the row of each frame was written, both int64 `[...]`; -1 for never, and where the frame
        id is -1."""
        self._check_ids(frame_ids, -1)
        return torch.where(frame_ids >= 0, self.written_at[frame_ids.clamp_min(0)], -1)

    def video_of(self, frame_ids: torch.Tensor) -> torch.Tensor:
        """The videos of frames, both int64 `[...]`, as `cross` excludes them."""
        self._check_ids(frame_ids, 0)
        videos = np.searchsorted(self.first_row, frame_ids.cpu().numpy(), side="right") - 1
        return torch.from_numpy(videos).to(frame_ids.device)

    def group_of(self, frame_ids: torch.Tensor) -> torch.Tensor:
        """The groups of frames, both int64 `[...]`, numbered anew; a bank that knows none has one a video."""
        return self._group_of_video[self.video_of(frame_ids)]

    @torch.no_grad()
    def cross(
        self,
        query: torch.Tensor,
        exclude: torch.Tensor | None,
        k: int,
        *,
        max_age: int | None = None,
        step: int | None = None,
        band: tuple[float, float] | None = None,
        below: float | None = None,
        approximate: bool = False,
    ) -> Nearest:
        """The k written rows most similar to each query, over all videos.

        Args:
            query: `[B, D]`.
            exclude: int64 `[B]`, for each query the video whose rows (or whose group's rows, where the bank
                knows groups) are left out; -1 leaves out none, as does None for all queries.
            k: answers a query.
            band: (start, end), shares of the rows that a query allows, the most similar one first: the answers are the
                k most similar ones from there on. (0.01, 0.1) passes over the most similar hundredth, and stops at a
                tenth. This takes memory and time in proportion to the rows passed over.
            approximate: on a CPU, only looks where the most similar rows are likely to be, and may miss some.
        """
        check_tensor("query", query, ("B", self.embeddings.shape[1]), *FLOATING, device=self._device)
        k = check_count("k", k, 0, MOST_ANSWERS)
        if exclude is not None:
            check_tensor("exclude", exclude, (len(query),), "int64", device=self._device)
            check_range("exclude", exclude, -1, len(self._group_of_video))
        else:
            exclude = torch.full((len(query),), -1, device=query.device)
        excluded = torch.where(exclude >= 0, self._group_of_video[exclude.clamp_min(0)], -1)
        allowed = self._allowed(excluded, max_age, step, below)
        skip, wanted, most = None, torch.full_like(excluded, k), k
        if band is not None:
            band = check_shares("band", band)
            if allowed.below < float("inf") or band[0] > band[1]:
                raise ValueError(f"band {band} must be two shares in order, and does not go with below")
            count = self._count(allowed).double()
            skip = (count * band[0]).floor().long()
            wanted = torch.minimum(skip + k, (count * band[1]).ceil().long())
            most = int(wanted.max()) if len(wanted) else 0
        return _columns(*self._search(query.float().contiguous(), allowed, wanted, most, None, approximate), k, skip)

    @torch.no_grad()
    def intra(
        self,
        frame_ids: torch.Tensor | NDArray[np.int64],
        query: torch.Tensor,
        window: tuple[float, float],
        k: int,
        *,
        max_age: int | None = None,
        step: int | None = None,
        below: float | None = None,
    ) -> Nearest:
        """The k written rows most similar to each query within a window around a frame of its own video.

        Args:
            frame_ids: int64 `[B]`, the anchors: an array, or a tensor on the CPU or the bank's device, which is then
                waited for.
            query: `[B, D]`.
            window: (d0, d1) as fractions of the video's length, see `window_bounds`.
            k: answers a query.
        """
        check_tensor("query", query, ("B", self.embeddings.shape[1]), *FLOATING, device=self._device)
        anchor = frame_ids
        if not isinstance(anchor, np.ndarray):
            check_tensor("frame_ids", anchor, (len(query),), "int64", device=_host_or(self._device, anchor))
            anchor = anchor.cpu().numpy()
        check_array("frame_ids", anchor, (len(query),), "int64")
        check_range("frame_ids", anchor, 0, len(self))
        k = check_count("k", k, 0, MOST_ANSWERS)
        window = check_shares("window", window)
        video = np.searchsorted(self.first_row, anchor, side="right") - 1
        first = self.first_row[video]
        bounds = window_bounds(anchor - first, self.first_row[video + 1] - first, window) + first[:, None]
        ranges_BS2 = bounds.reshape(-1, 2, 2)
        none = torch.full((len(query),), -1, device=self._device)
        allowed = self._allowed(none, max_age, step, below)
        wanted = torch.full_like(none, k)
        return _columns(*self._search(query.float().contiguous(), allowed, wanted, k, ranges_BS2, False), k)

    def _search(
        self,
        query: torch.Tensor,
        allowed: Allowed,
        k: torch.Tensor,
        most: int,
        ranges_BS2: NDArray[np.int64] | None,
        approximate: bool,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The `k` int64 `[B]` most similar of the allowed rows, or of those of them in the ranges: similarities and
        frame ids `[B, K]`, the most similar first, -inf and -1 where there are fewer. No k is above `most`."""
        most = min(most, len(self.embeddings))
        if not query.numel() or not most:
            return query.new_empty(len(query), 0), k.new_empty(len(query), 0)
        finite = query.abs().amax(dim=1).isfinite()
        query, k = torch.where(finite[:, None], query, 0), torch.where(finite, k, 0).clamp_max(most)
        if ranges_BS2 is not None:
            return self._index.among(query, allowed, k, most, ranges_BS2)
        return self._index.nearest(query, allowed, k, most, approximate)

    def _count(self, allowed: Allowed) -> torch.Tensor:
        """int64 `[B]`, the rows that each query allows."""
        written = self.written_at >= allowed.oldest
        of_group = torch.bincount(self._rows.group[written], minlength=len(self._group_of_video))
        excluded = allowed.excluded
        return of_group.sum() - torch.where(excluded >= 0, of_group[excluded.clamp_min(0)], 0)

    def _allowed(self, excluded: torch.Tensor, max_age: int | None, step: int | None, below: float | None) -> Allowed:
        if max_age is not None and step is None:
            raise ValueError("max_age needs step, the present one")
        step = step if step is None else check_count("step", step, 0)
        age = max_age if max_age is None else check_count("max_age", max_age, 0)
        oldest = 0 if age is None or step is None else max(0, step - age)
        return Allowed(excluded, oldest, float("inf") if below is None else check_number("below", below, -float("inf")))

    def _check_ids(self, frame_ids: torch.Tensor, low: int) -> None:
        check_tensor("frame_ids", frame_ids, None, "int64", device=self._device)
        check_range("frame_ids", frame_ids, low, len(self))

    def state_dict(self) -> dict[str, torch.Tensor]:
        """The rows held here and when they were written, and the frame id of the first of them."""
        return {
            "embeddings": self.embeddings,
            "written_at": self.written_at,
            "first_frame": torch.tensor(self.held.start),
        }

    def whole_state_dict(self) -> dict[str, torch.Tensor] | None:
        """`state_dict` of all rows, wherever they are held."""
        return self.state_dict()

    def load_state_dict(self, *parts: dict[str, torch.Tensor]) -> None:
        """Restores what `state_dict` returned: of a bank spread over ranks, on each of those ranks, in any order.

        Of all parts only the rows held here are read, so that parts opened by `torch.load(file, mmap=True)` need no
        memory for the others.

        Args:
            parts: as of `state_dict`. One without a first frame begins at 0.

        Raises:
            ValueError: they are of another shape, one is missing, one is there twice, or a row that is held here could
                not have been written. Nothing is restored then.
        """
        for part in parts:
            for name, types in (("embeddings", FLOATING), ("written_at", ("int64",))):
                check_tensor(name, part.get(name), tuple("ND"[: 1 + (name == "embeddings")]), *types)
            check_tensor("written_at", part["written_at"], (len(part["embeddings"]),), "int64")
        spans = [
            (check_count("first_frame", part.get("first_frame", 0), 0), len(part["written_at"]), part) for part in parts
        ]
        spans.sort(key=lambda span: span[:2])
        starts, ends = [start for start, _, _ in spans], np.cumsum([rows for _, rows, _ in spans]).tolist()
        own = {"embeddings": self.embeddings, "written_at": self.written_at}
        for name, tensor in own.items():
            needed = (len(self), *tensor.shape[1:])
            for part in parts:
                if (saved := (ends[-1], *part[name].shape[1:])) != needed:
                    raise ValueError(f"{name} is {saved}, the bank needs {needed}")
        if [*starts, len(self)] != [0, *ends]:
            raise ValueError(f"parts begin at the frames {starts} and end at {ends}, and must add up to {len(self)}")
        # All is looked at before anything is changed.
        for check in (True, False):
            for start, rows, part in spans:
                first, last = np.clip([start, start + rows], self.held.start, self.held.stop).tolist()
                here = slice(first - self.held.start, last - self.held.start)
                new = {name: part[name][first - start : last - start].to(tensor) for name, tensor in own.items()}
                if check:
                    wrong = (~_storable(new["embeddings"]) | (new["written_at"] < -1)).nonzero()
                    if len(wrong):
                        raise ValueError(f"the row of frame {first + int(wrong[0])} is damaged: no bank wrote it")
                else:
                    for name, tensor in own.items():
                        tensor[here] = new[name]
        self._index.touch()


def _search_on(device: torch.device) -> MakeSearch:
    if device.type == "cpu":
        return CompiledSearch
    if not runs_triton(device) or torch.cuda.get_device_capability(device) < (8, 0):  # which cannot multiply bfloat16
        return TorchSearch
    from usucl_fast.mining.fused import FusedSearch

    return FusedSearch


def _storable(rows: torch.Tensor) -> torch.Tensor:
    """Which rows `[M, D]` a bank takes, bool `[M]`."""
    parts = rows.split(1 << 16) if len(rows) > 1 << 16 else (rows,)  # without a copy of a whole bank
    greatest = [part.abs().amax(dim=1) for part in parts]
    return (torch.cat(greatest) if greatest[1:] else greatest[0]).float() <= LONGEST  # not so for NaN


def _host_or(device: torch.device, tensor: object) -> torch.device:
    """The CPU, if the tensor is there, else the device."""
    host = torch.device("cpu")
    return host if getattr(tensor, "device", None) == host else device


def _whole_numbers(name: str, given: ArrayLike | torch.Tensor) -> NDArray[np.int64]:
    numbers = np.asarray(given)
    if numbers.ndim != 1 or numbers.dtype.kind not in "iu":
        raise ValueError(f"{name} is {numbers.dtype} {list(numbers.shape)}, and must be whole numbers in one dimension")
    return numbers.astype(np.int64)


def _columns(similarity: torch.Tensor, found: torch.Tensor, k: int, skip: torch.Tensor | None = None) -> Nearest:
    """The k answers after the first `skip` int64 `[B]` of each query."""
    # A column of nothing, for queries with fewer answers than others.
    similarity = F.pad(similarity, (0, 1), value=-torch.inf)
    found = F.pad(found, (0, 1), value=-1)
    place = torch.arange(k, device=found.device).expand(len(found), -1)
    if skip is not None:
        place = place + skip[:, None]
    place = place.clamp_max(similarity.shape[1] - 1)
    return Nearest(found.gather(1, place), similarity.gather(1, place).float())
