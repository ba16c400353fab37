import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from usucl_fast.mining import MemoryBank, window_bounds
from usucl_fast.mining import bank as bank_module


def unit(generator: torch.Generator, *shape: int) -> torch.Tensor:
    return torch.nn.functional.normalize(torch.randn(*shape, generator=generator), dim=-1)


def filled(lengths: list[int], dim: int, share: float, seed: int, groups: list[int] | None = None) -> MemoryBank:
    """A float32 bank with about `share` of its rows written."""
    generator = torch.Generator().manual_seed(seed)
    bank = MemoryBank(np.cumsum([0, *lengths]), dim, torch.float32, group=groups)
    ids = torch.randperm(len(bank), generator=generator)[: round(share * len(bank))]
    bank.write(ids, unit(generator, len(ids), dim), step=1)
    return bank


def naive(bank: MemoryBank, query: torch.Tensor, allowed: list[int], k: int) -> list[float]:
    """The k greatest similarities, by a loop over rows in float64."""
    written = [row for row in allowed if bank.written_at[row] >= 0]
    return sorted((float(query.double() @ bank.embeddings[row].double()) for row in written), reverse=True)[:k]


def check(bank: MemoryBank, query: torch.Tensor, ids: torch.Tensor, sims: torch.Tensor, allowed: list[int]) -> None:
    expected = naive(bank, query, allowed, len(ids))
    found = ids >= 0
    assert found.sum() == len(expected)
    assert sims[found].tolist() == pytest.approx(expected, abs=1e-5)
    assert torch.isneginf(sims[~found]).all()
    assert len(set(ids[found].tolist())) == len(expected)
    for id, sim in zip(ids[found].tolist(), sims[found].tolist(), strict=True):
        assert id in allowed
        assert bank.written_at[id] >= 0
        assert sim == pytest.approx(float(query @ bank.embeddings[id]), abs=1e-5)


cases = st.tuples(
    st.lists(st.integers(1, 40), min_size=1, max_size=6),  # lengths
    st.sampled_from([0.0, 0.1, 0.5, 1.0]),  # written
    st.integers(1, 20),  # k
    st.integers(0, 10**6),  # seed
)


@settings(max_examples=60, deadline=None)
@given(cases, st.booleans(), st.booleans())
def test_cross_against_a_double_loop(case: tuple[list[int], float, int, int], grouped: bool, small: bool) -> None:
    lengths, share, k, seed = case
    groups = [n // 2 for n in range(len(lengths))] if grouped else list(range(len(lengths)))
    bank = filled(lengths, 8, share, seed, groups if grouped else None)
    exclude = torch.tensor([-1, *range(len(lengths))])
    query = unit(torch.Generator().manual_seed(seed + 1), len(exclude), 8)
    before, bank_module.BLOCK_SCORES = bank_module.BLOCK_SCORES, 64 if small else 1 << 22
    try:
        answer = bank.cross(query, exclude, k)
    finally:
        bank_module.BLOCK_SCORES = before
    for row, video in enumerate(exclude.tolist()):
        banned = {v for v in range(len(lengths)) if video >= 0 and groups[v] == groups[video]}
        allowed = [r for v in range(len(lengths)) if v not in banned for r in range(*bank.first_row[v : v + 2])]
        check(bank, query[row], answer.frame_ids[row], answer.similarity[row], allowed)


def test_cross_over_several_blocks() -> None:
    bank = filled([700] * 6, 8, 0.9, seed=0)
    query = unit(torch.Generator().manual_seed(5), 3, 8)
    before, bank_module.BLOCK_SCORES = bank_module.BLOCK_SCORES, 1
    try:
        answer = bank.cross(query, torch.tensor([0, 3, 5]), 9)
    finally:
        bank_module.BLOCK_SCORES = before
    for row, video in enumerate([0, 3, 5]):
        allowed = [r for r in range(4200) if not video * 700 <= r < video * 700 + 700]
        check(bank, query[row], answer.frame_ids[row], answer.similarity[row], allowed)


@settings(max_examples=60, deadline=None)
@given(cases, st.sampled_from([(0.2, 0.4), (0.03, 0.06), (0.0, 1.0)]))
def test_intra_against_a_double_loop(case: tuple[list[int], float, int, int], window: tuple[float, float]) -> None:
    lengths, share, k, seed = case
    bank = filled(lengths, 8, share, seed)
    anchors = np.random.default_rng(seed).integers(0, len(bank), 4)
    query = unit(torch.Generator().manual_seed(seed + 1), 4, 8)
    answer = bank.intra(torch.from_numpy(anchors), query, window, k)
    for row, anchor in enumerate(anchors.tolist()):
        video = int(np.searchsorted(bank.first_row, anchor, side="right") - 1)
        first, n = int(bank.first_row[video]), lengths[video]
        bounds = window_bounds(np.array([anchor - first]), np.array([n]), window)[0].tolist()
        allowed = [first + f for f in [*range(*bounds[:2]), *range(*bounds[2:])]]
        check(bank, query[row], answer.frame_ids[row], answer.similarity[row], allowed)


def test_a_cold_bank_has_no_answer() -> None:
    bank = MemoryBank([0, 5, 9], 4)
    for answer in (
        bank.cross(torch.ones(2, 4), None, 3),
        bank.intra(torch.tensor([0, 8]), torch.ones(2, 4), (0, 1), 3),
    ):
        assert (answer.frame_ids == -1).all()
        assert torch.isneginf(answer.similarity).all()
        assert answer.frame_ids.shape == (2, 3)
    assert torch.equal(bank.rows(torch.tensor([-1, -1])), torch.zeros(2, 4))


def test_without_exclusion_the_own_row_is_found() -> None:
    bank = filled([10, 10], 16, 1.0, seed=1)
    answer = bank.cross(bank.embeddings[[3, 12]], None, 1)
    assert answer.frame_ids.flatten().tolist() == [3, 12]


def test_the_last_of_equal_frame_ids_is_kept() -> None:
    bank = MemoryBank([0, 4], 2, torch.float32)
    bank.write(torch.tensor([1, 2, 1, 2, 1]), torch.arange(10.0).reshape(5, 2), step=7)
    assert bank.embeddings[1].tolist() == [8, 9]
    assert bank.embeddings[2].tolist() == [6, 7]
    assert bank.written_at.tolist() == [-1, 7, 7, -1]


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
    other.load_state_dict(bank.state_dict())
    assert torch.equal(other.embeddings, bank.embeddings)
    assert torch.equal(other.written_at, bank.written_at)
    with pytest.raises(ValueError, match=r"embeddings is \(10, 4\), the bank needs \(11, 4\)"):
        MemoryBank([0, 11], 4).load_state_dict(bank.state_dict())
