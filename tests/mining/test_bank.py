import itertools
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.helpers.triton import mend_interpreter
from usucl_fast.curriculum import window_bounds
from usucl_fast.mining import MemoryBank, Nearest, TorchSearch
from usucl_fast.mining import search as torch_search
from usucl_fast.mining.cpu import search as compiled_search

try:
    from usucl_fast.mining import fused
except ImportError:  # without Triton
    fused = None  # type: ignore[assignment]

STEP = 10


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def unit(generator: torch.Generator, *shape: int) -> torch.Tensor:
    return torch.nn.functional.normalize(torch.randn(*shape, generator=generator), dim=-1)


def filled(
    lengths: list[int],
    dim: int,
    share: float,
    seed: int,
    groups: list[int] | None = None,
    dtype: torch.dtype = torch.float32,
    alike: float = 0.0,
    search: Any = None,
) -> MemoryBank:
    """A bank with about `share` of its rows written, at steps from 0 to `STEP`; `alike` of 1 makes them all equal."""
    generator = torch.Generator().manual_seed(seed)
    bank = MemoryBank(np.cumsum([0, *lengths]), dim, dtype, group=groups, search=search)
    ids = torch.randperm(len(bank), generator=generator)[: round(share * len(bank))]
    z = unit(generator, len(ids), dim) * (1 - alike) + unit(generator, 1, dim) * alike
    for step, (some, rows) in enumerate(zip(ids.chunk(STEP + 1), z.chunk(STEP + 1), strict=True)):
        bank.write(some, torch.nn.functional.normalize(rows, dim=1), step)
        if step == STEP // 2:  # so that the bounds are brought up to date, not made
            bank.cross(torch.ones(1, dim), None, 1)
    return bank


class Case(NamedTuple):
    """A bank and what is asked of it; `way` is how the search goes."""

    lengths: list[int]
    share: float
    k: int
    seed: int
    dtype: torch.dtype
    alike: float
    options: dict[str, Any]
    way: str

    def bank(self, groups: list[int] | None = None) -> MemoryBank:
        search = TorchSearch if self.way == "elsewhere" else fused.FusedSearch if self.way == "gpu" else None
        return filled(self.lengths, 8, self.share, self.seed, groups, self.dtype, self.alike, search)


def cases(bands: bool = True) -> st.SearchStrategy[Case]:
    share, age = st.floats(0, 1), st.integers(0, STEP)
    options = st.one_of(
        st.just({}),
        st.builds(lambda age: {"max_age": age, "step": STEP}, age),
        *[st.builds(lambda a, b: {"band": (min(a, b), max(a, b))}, share, share)] * bands,
        st.builds(lambda below, age: {"below": below, "max_age": age, "step": STEP}, st.floats(-1, 1), age),
    )
    return st.builds(
        Case,
        lengths=st.lists(st.integers(1, 40), min_size=1, max_size=8),
        share=st.sampled_from([0.0, 0.1, 0.5, 1.0]),
        k=st.integers(1, 20),
        seed=st.integers(0, 10**6),
        dtype=st.sampled_from([torch.float32, torch.bfloat16, torch.float16]),
        alike=st.sampled_from([0.0, 0.8, 0.999, 1.0]),
        options=options,
        way=st.sampled_from(["usual", "threads", "elsewhere", *["gpu"] * (fused is not None)]),
    )


@pytest.fixture
def ways(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Sets the constants such that a small bank goes through every step of a search."""

    def choose(way: str) -> None:
        monkeypatch.undo()
        torch.set_num_threads(3 if way == "threads" else 1)
        monkeypatch.setattr(torch_search, "LEAST_BLOCK", 5)
        if way == "gpu":
            mend_interpreter(monkeypatch)
            monkeypatch.setattr(fused, "SPAN", 16)
            monkeypatch.setattr(fused, "LEAST_SHARE", 0)
        if way == "threads":
            monkeypatch.setattr(compiled_search, "THREAD_PRODUCTS", 1)
            monkeypatch.setattr(compiled_search, "BLOCK_QUERIES", 3)
            monkeypatch.setattr(compiled_search, "SEEDS", 1)

    return choose


def check(bank: MemoryBank, query: torch.Tensor, answer: Nearest, allowed_BN: np.ndarray, case: Case) -> None:
    """Compares the answers with all rows that are allowed, sorted in float64."""
    options, tolerance = case.options, 1e-5 if case.way in ("elsewhere", "gpu") else 1e-6
    below = options.get("below", np.inf)
    oldest = max(0, STEP - options["max_age"]) if "max_age" in options else 0
    allowed_BN = allowed_BN & (bank.written_at.numpy() >= oldest)
    similarity = query.double().numpy() @ bank.embeddings.double().numpy().T
    for ids, sims, allowed, by_row in zip(
        answer.frame_ids.numpy(), answer.similarity.numpy(), allowed_BN, similarity, strict=True
    ):
        expected = np.sort(by_row[allowed])[::-1]
        if "band" in options:
            start, end = options["band"]
            expected = expected[int(np.floor(start * len(expected))) : int(np.ceil(end * len(expected)))]
        certain = expected[expected <= below - tolerance]
        found = ids[ids >= 0]
        count = len(found)
        # Rows at the very limit may fall to either side, where similarities are computed in float32.
        assert min(case.k, len(certain)) <= count <= case.k
        if len(certain) == (expected <= below + tolerance).sum():
            np.testing.assert_allclose(sims[:count], certain[: case.k], rtol=0, atol=tolerance)
        assert (ids[count:] == -1).all()
        assert np.isneginf(sims[count:]).all()
        assert len(np.unique(found)) == count
        assert allowed[found].all()
        np.testing.assert_allclose(sims[:count], by_row[found], rtol=0, atol=tolerance)
        assert (sims[:count] <= below + tolerance).all()


quiet = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@quiet
@given(case=cases(), grouped=st.booleans())
def test_cross_against_all_rows_sorted(ways: Any, case: Case, grouped: bool) -> None:
    ways(case.way)
    videos = range(len(case.lengths))
    groups = [n // 2 * 7 for n in videos] if grouped else list(videos)
    bank = case.bank(groups if grouped else None)
    exclude = torch.tensor([-1, *videos])
    query = unit(torch.Generator().manual_seed(case.seed + 1), len(exclude), 8)
    answer = bank.cross(query, exclude, case.k, **case.options)
    group_of_row = np.repeat(groups, case.lengths)
    excluded = np.array([-1, *groups])
    check(bank, query, answer, group_of_row != excluded[:, None], case)


@quiet
@given(case=cases(bands=False), window=st.sampled_from([(0.2, 0.4), (0.03, 0.06), (0.0, 1.0)]))
def test_intra_against_all_rows_sorted(ways: Any, case: Case, window: tuple[float, float]) -> None:
    ways(case.way)
    bank = case.bank()
    anchors = np.random.default_rng(case.seed).integers(0, len(bank), 4)
    query = unit(torch.Generator().manual_seed(case.seed + 1), 4, 8)
    answer = bank.intra(torch.from_numpy(anchors), query, window, case.k, **case.options)
    allowed = np.zeros((4, len(bank)), np.bool_)
    for row, anchor in enumerate(anchors.tolist()):
        video = int(np.searchsorted(bank.first_row, anchor, side="right") - 1)
        first, n = int(bank.first_row[video]), case.lengths[video]
        left, left_end, right, right_end = first + window_bounds(np.array([anchor - first]), np.array([n]), window)[0]
        allowed[row, left:left_end] = allowed[row, right:right_end] = True
    check(bank, query, answer, allowed, case)


@quiet
@given(case=cases())
def test_an_approximate_answer_is_an_allowed_one(ways: Any, case: Case) -> None:
    ways(case.way)
    bank = case.bank()
    query = unit(torch.Generator().manual_seed(case.seed + 1), 4, 8)
    exclude = torch.arange(4) % len(case.lengths)
    answer = bank.cross(query, exclude, case.k, approximate=True)
    for ids, sims, q, video in zip(*answer, query, exclude.tolist(), strict=True):
        found = ids[ids >= 0]
        assert len(set(found.tolist())) == len(found)
        assert (bank.written_at[found] >= 0).all()
        first, last = bank.first_row[video : video + 2].tolist()
        assert not ((found >= first) & (found < last)).any()
        assert sims[: len(found)].tolist() == pytest.approx((bank.rows(found) @ q).tolist(), abs=1e-5)


@pytest.mark.parametrize("kind", ["random", "clustered", "alike", "one-frame videos", "a single video"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("threads", [1, 2])
def test_cross_over_a_large_bank(kind: str, dtype: torch.dtype, threads: int) -> None:
    torch.set_num_threads(threads)
    generator = torch.Generator().manual_seed(3)
    rows, dim, k = 20_000, 48, 12
    length = {"one-frame videos": 1, "a single video": rows}.get(kind, 125)
    first_row = torch.arange(0, rows + 1, length)
    z = unit(generator, rows, dim)
    if kind == "clustered":
        z = torch.nn.functional.normalize(z * 0.2 + unit(generator, rows // 125, dim).repeat_interleave(125, 0), dim=1)
    if kind == "alike":
        z = torch.nn.functional.normalize(1e-3 * z + z[:1], dim=1)
    bank = MemoryBank(first_row, dim, dtype)
    bank.write(torch.arange(rows), z, step=0)
    anchors = torch.randint(rows, (300,), generator=generator)
    query, exclude = z[anchors], anchors // length
    answer = bank.cross(query, exclude, k)
    if kind == "a single video":
        assert (answer.frame_ids == -1).all()
        exclude = torch.full_like(exclude, -1)
        answer = bank.cross(query, exclude, k)
    scores = query.double() @ bank.embeddings.double().T
    hidden = (torch.arange(rows) // length == exclude[:, None]) & (exclude[:, None] >= 0)
    expected = scores.masked_fill(hidden, -torch.inf).topk(k, dim=1).values
    assert not hidden.gather(1, answer.frame_ids).any()
    assert torch.equal(scores.gather(1, answer.frame_ids).float(), answer.similarity)
    assert torch.allclose(answer.similarity.double(), expected, atol=1e-7, rtol=0)
    if kind == "clustered":
        near = bank.cross(query, exclude, k, approximate=True)
        assert (near.similarity >= expected[:, -1:] - 1e-7).float().mean() > 0.95


def test_a_cold_bank_has_no_answer() -> None:
    bank = MemoryBank([0, 5, 9], 4)
    for answer in (
        bank.cross(torch.ones(2, 4), None, 3),
        bank.cross(torch.ones(2, 4), None, 3, band=(0.5, 1)),
        bank.intra(torch.tensor([0, 8]), torch.ones(2, 4), (0, 1), 3),
    ):
        assert (answer.frame_ids == -1).all()
        assert torch.isneginf(answer.similarity).all()
        assert answer.frame_ids.shape == (2, 3)
    assert torch.equal(bank.rows(torch.tensor([-1, -1])), torch.zeros(2, 4))


def test_no_rows_no_queries_no_answers() -> None:
    for rows, queries, k in itertools.product([0, 3], [0, 2], [0, 4]):
        bank = MemoryBank([0, rows], 4)
        answers = [bank.cross(torch.ones(queries, 4), None, k)]
        if rows:
            answers.append(bank.intra(torch.zeros(queries, dtype=torch.int64), torch.ones(queries, 4), (0, 1), k))
        for answer in answers:
            assert answer.frame_ids.shape == answer.similarity.shape == (queries, k)
            assert (answer.frame_ids == -1).all()


def test_without_exclusion_the_own_row_is_found() -> None:
    bank = filled([10, 10], 16, 1.0, seed=1)
    answer = bank.cross(bank.embeddings[[3, 12]], None, 1)
    assert answer.frame_ids.flatten().tolist() == [3, 12]


def test_a_group_around_another_one_hides_only_itself() -> None:
    """Short videos share a run, whose first and last may be of one group and others between them not."""
    bank = filled([3, 3, 3], 8, 1.0, seed=1, groups=[5, 6, 5])
    answer = bank.cross(torch.ones(1, 8), torch.tensor([0]), 9)
    assert sorted(answer.frame_ids[0].tolist()) == [-1] * 6 + [3, 4, 5]


def test_the_last_of_equal_frame_ids_is_kept() -> None:
    bank = MemoryBank([0, 4], 2, torch.float32)
    bank.write(torch.tensor([1, 2, 1, 2, 1]), torch.arange(10.0).reshape(5, 2), step=7)
    assert bank.embeddings[1].tolist() == [8, 9]
    assert bank.embeddings[2].tolist() == [6, 7]
    assert bank.written_at.tolist() == [-1, 7, 7, -1]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_what_is_not_finite_is_not_written(dtype: torch.dtype) -> None:
    bank = MemoryBank([0, 4], 2, dtype)
    bank.write(torch.arange(4), torch.eye(4)[:, :2], step=0)
    bank.write(torch.arange(3), torch.tensor([[torch.nan, 0], [0, torch.inf], [1, 0]]), step=1)
    assert bank.embeddings.tolist() == [[1, 0], [0, 1], [1, 0], [0, 0]]
    assert bank.written_at.tolist() == [0, 0, 1, 0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_rows_are_stored_in_the_dtype_and_answered_in_float32(dtype: torch.dtype) -> None:
    bank = MemoryBank([0, 3], 4, dtype)
    bank.write(torch.tensor([0, 1]), torch.eye(4)[:2], step=0)
    assert bank.embeddings.dtype == dtype
    answer = bank.cross(torch.eye(4)[:1], None, 2)
    assert answer.similarity.dtype == bank.rows(torch.tensor([0])).dtype == torch.float32
    assert answer.similarity.tolist() == [[1, 0]]


def test_state_goes_through_and_must_fit() -> None:
    bank, other = filled([5, 5], 4, 0.5, seed=2), MemoryBank([0, 5, 10], 4, torch.float32)
    assert (other.cross(torch.ones(1, 4), None, 5).frame_ids == -1).all()
    other.load_state_dict(bank.state_dict())
    assert torch.equal(other.embeddings, bank.embeddings)
    assert torch.equal(other.written_at, bank.written_at)
    for one, two in zip(other.cross(torch.ones(1, 4), None, 5), bank.cross(torch.ones(1, 4), None, 5), strict=True):
        assert torch.equal(one, two)
    with pytest.raises(ValueError, match=r"embeddings is \(10, 4\), the bank needs \(11, 4\)"):
        MemoryBank([0, 11], 4).load_state_dict(bank.state_dict())


@pytest.mark.parametrize(
    ("options", "word"),
    [({"max_age": 3}, "step"), ({"band": (0.5, 0.2)}, "band"), ({"band": (0, 1), "below": 0.9}, "below")],
)
def test_bad_options_are_refused(options: dict[str, Any], word: str) -> None:
    with pytest.raises(ValueError, match=word):
        filled([5, 5], 4, 1.0, seed=0).cross(torch.ones(1, 4), None, 2, **options)
