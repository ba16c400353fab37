"""The bank over ranks: three processes, of which two are a group of their own as well."""

import functools
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F

from tests.helpers.processes import in_processes
from usucl_fast.mining import MemoryBank, PartitionedBank
from usucl_fast.mining.distributed import gather_ragged

STEPS, ASK_EVERY = 42, 3
LENGTHS = [40, 1, 1, 25, 70, 1, 3, 90, 12, 1]
FIRST_ROW = np.cumsum([0, *LENGTHS])
GROUP = [0, 0, 1, 1, 2, 3, 3, 2, 4, 5]
DIM = 16
COLLECTIVES = ("all_gather", "all_reduce", "all_to_all_single", "broadcast", "send", "recv", "barrier")
BANK: dict[str, Any] = {"first_row": FIRST_ROW, "dim": DIM, "dtype": torch.float16, "group": GROUP}
OPTIONS: list[dict[str, Any]] = [
    {},
    {"max_age": 5},
    {"below": 0.4},
    {"below": 0.3, "max_age": 12},
    {"band": (0.05, 0.3)},
    {"band": (0.5, 0.5), "max_age": 8},
    {"band": (0, 1)},
]


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What each rank saved, in a group of two and in one of three, and the bank as it must be: `whole.pt`."""
    folder = tmp_path_factory.mktemp("ranks")
    in_processes(work, folder, count=3)
    return folder


def work(rank: int, folder: Path) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=3)
    pair: Any = dist.new_group([0, 1])
    for group in [pair, None] if rank < 2 else [None]:
        gathers_nothing_and_more(group)
        writes_and_asks(group, folder)
        small_banks(group)
        frames_that_are_not_there(group)
    dist.barrier()
    restores(None, folder, saved_on=2)
    if rank < 2:
        restores(pair, folder, saved_on=3)
    dist.destroy_process_group()


def gathers_nothing_and_more(group: dist.ProcessGroup | None) -> None:
    rank, ranks = dist.get_rank(group), dist.get_world_size(group)
    for count in (lambda r: 0, lambda r: r, lambda r: 3 * (r == 0)):
        counts = [count(r) for r in range(ranks)]
        ids = gather_ragged(torch.full((count(rank),), rank), counts, group)
        numbers = gather_ragged(torch.full((count(rank), 2), float(rank)), counts, group)
        expected = torch.tensor([r for r in range(ranks) for _ in range(count(r))], dtype=torch.int64)
        assert torch.equal(ids, expected)
        assert torch.equal(numbers, expected[:, None].expand(-1, 2).float())


def writes_and_asks(group: dist.ProcessGroup | None, folder: Path) -> None:
    """At every step the parts are parts of the whole; at many, answers are equal."""
    rank, ranks = dist.get_rank(group), dist.get_world_size(group)
    part, whole = PartitionedBank(**BANK, process_group=group), MemoryBank(**BANK)
    for step in range(STEPS):
        written = [some_frames(step, r) for r in range(ranks)]
        frame_ids, z = (torch.cat(parts) for parts in zip(*written, strict=True))
        for bank in (part, whole):
            bank.write(frame_ids, z, step)
        held = slice(part.held.start, part.held.stop)
        assert torch.equal(part.embeddings, whole.embeddings[held])
        assert torch.equal(part.written_at, whole.written_at[held])
        if step % ASK_EVERY == 0:
            asks_the_same(part, whole, step)
    state = part.whole_state_dict()
    assert (state is None) == (rank > 0)
    for name, tensor in (state or {}).items():
        assert torch.equal(tensor, whole.state_dict()[name])
    torch.save(part.state_dict(), folder / f"part-{rank}-of-{ranks}.pt")
    if rank == 0:
        torch.save(whole.state_dict(), folder / f"whole-of-{ranks}.pt")


def some_frames(step: int, part: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Some of what is written in a step: some frames are named twice, some rows are equal to others."""
    generator = torch.Generator().manual_seed(1000 * step + part)
    count = int(torch.randint(8, (), generator=generator)) * int(torch.rand((), generator=generator) < 0.8)
    frame_ids = torch.randint(int(FIRST_ROW[-1]) if step % 5 else 6, (count,), generator=generator)
    z = F.normalize(torch.randn(count, DIM, generator=generator), dim=1)
    if step % 7 == 0:
        z[:] = torch.eye(DIM)[step % DIM]
    return frame_ids, z


def asks_the_same(part: PartitionedBank, whole: MemoryBank, step: int) -> None:
    """The ranks ask the same, by a bounded number of collective calls."""
    rng = np.random.default_rng(step)
    options = {**OPTIONS[step // ASK_EVERY % len(OPTIONS)], "step": step}
    k = int(rng.choice([1, 5, 30, len(whole) + 10]))
    queries = int(rng.integers(0, 6))
    query = F.normalize(torch.from_numpy(rng.standard_normal((queries, DIM)).astype(np.float32)), dim=1)
    if step % 3 == 0:
        query[:] = torch.eye(DIM)[step // 7 * 7 % DIM]  # as similar to several rows
    exclude = None if step % 8 == 0 else torch.from_numpy(rng.integers(-1, len(LENGTHS), queries))
    anchors = torch.from_numpy(rng.integers(0, len(whole), queries))
    window = tuple(sorted(rng.random(2).tolist()))
    within = {name: option for name, option in options.items() if name != "band"}
    named = torch.from_numpy(rng.integers(-1, len(whole), (queries, 3)))
    for calls, ask in (
        (1 + ("band" in options), lambda bank: bank.cross(query, exclude, k, **options)),
        (1, lambda bank: bank.intra(anchors, query, window, k, **within)),
        (1, lambda bank: [bank.rows(named)]),
        (1, lambda bank: [bank.written(named)]),
    ):
        with Collectives() as collectives:
            answers = ask(part)
        for spread, expected in zip(answers, ask(whole), strict=True):
            assert torch.equal(spread, expected), (step, options, k, spread, expected)
        assert collectives.calls == calls


class Collectives:
    """Counts the collective calls made while it is entered."""

    def __enter__(self) -> Self:
        self.calls, self._before = 0, {name: getattr(dist, name) for name in COLLECTIVES}
        for name, call in self._before.items():
            setattr(dist, name, functools.partial(self._count, call))
        return self

    def _count(self, call: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        self.calls += 1
        return call(*arguments, **options)

    def __exit__(self, *error: object) -> None:
        for name, call in self._before.items():
            setattr(dist, name, call)


def small_banks(group: dist.ProcessGroup | None) -> None:
    """Fewer videos or rows than ranks, no rows at all, no queries, no answers; cold and written."""
    for first_row, queries, k in itertools.product(([0, 0], [0, 1], [0, 1, 2], [0, 7]), (0, 2), (0, 3)):
        part, whole = PartitionedBank(first_row, 4, process_group=group), MemoryBank(first_row, 4)
        query = torch.eye(4)[:queries]
        for written in range(2):
            if written:
                for bank in (part, whole):
                    bank.write(torch.arange(len(whole)), torch.eye(7)[: len(whole), :4], step=0)
            for band in (None, (0.0, 0.5)):
                answers = zip(
                    part.cross(query, None, k, band=band), whole.cross(query, None, k, band=band), strict=True
                )
                assert all(torch.equal(*answer) for answer in answers)
            if len(whole):
                asked = torch.zeros(queries, dtype=torch.int64), query, (0, 1), k
                answers = zip(part.intra(*asked), whole.intra(*asked), strict=True)
                assert all(torch.equal(*answer) for answer in answers)
        nothing = torch.full((queries, 2), -1)
        assert torch.equal(part.rows(nothing), torch.zeros(queries, 2, 4))


def frames_that_are_not_there(group: dist.ProcessGroup | None) -> None:
    """Refused by each rank, before it waits for others."""
    part = PartitionedBank(**BANK, process_group=group)
    bad = torch.tensor([len(part)])
    with pytest.raises(ValueError, match="frame_ids has 244, and must be from -1 to 243"):
        part.rows(bad)
    with pytest.raises(ValueError, match="frame_ids has 244"):
        part.write(bad, torch.zeros(1, DIM), 0)


def restores(group: dist.ProcessGroup | None, folder: Path, saved_on: int) -> None:
    """From the parts, in any order, and from a bank of all rows, on any rank."""
    parts = [opened(folder / f"part-{r}-of-{saved_on}.pt") for r in range(saved_on)]
    whole = MemoryBank(**BANK)
    whole.load_state_dict(all_rows := opened(folder / f"whole-of-{saved_on}.pt"))
    for state in (parts, parts[::-1], [all_rows]):
        bank = PartitionedBank(**BANK, process_group=group)
        bank.load_state_dict(*state)
        held = slice(bank.held.start, bank.held.stop)
        assert torch.equal(bank.embeddings, whole.embeddings[held])
        assert torch.equal(bank.written_at, whole.written_at[held])
        answers = zip(bank.cross(torch.eye(DIM), None, 9), whole.cross(torch.eye(DIM), None, 9), strict=True)
        assert all(torch.equal(*answer) for answer in answers)


def opened(file: Path) -> dict[str, torch.Tensor]:
    state: dict[str, torch.Tensor] = torch.load(file, mmap=True, weights_only=True)
    return state


@pytest.mark.parametrize("ranks", [2, 3])
def test_saved_on_several_restored_on_one(saved: Path, ranks: int) -> None:
    parts = [opened(saved / f"part-{rank}-of-{ranks}.pt") for rank in range(ranks)]
    bank, whole = MemoryBank(**BANK), opened(saved / f"whole-of-{ranks}.pt")
    bank.load_state_dict(*parts)
    assert (bank.written_at >= 0).any()
    for name, tensor in bank.state_dict().items():
        assert torch.equal(tensor, whole[name])
    for bad in (parts[:1], parts[1:], [*parts, parts[0]]):
        with pytest.raises(ValueError, match="the bank needs"):
            bank.load_state_dict(*bad)


def test_parts_must_follow_one_another() -> None:
    bank = MemoryBank([0, 4], 2)
    half = {"embeddings": torch.zeros(2, 2), "written_at": torch.tensor([0, 0]), "first_frame": torch.tensor(0)}
    with pytest.raises(ValueError, match=r"begin at the frames \[0, 0\] and end at \[2, 4\], and must add up to 4"):
        bank.load_state_dict(half, half)
    with pytest.raises(ValueError, match="must add up to 4"):
        bank.load_state_dict()
    bank.load_state_dict({"embeddings": torch.ones(4, 2), "written_at": torch.tensor([0, 1, 2, 3])})
    assert bank.written_at.tolist() == [0, 1, 2, 3]
