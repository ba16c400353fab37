"""What a bank refuses before compiled code sees it, and what is answered right however large or small it is."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from usucl_fast.mining import MemoryBank, TorchSearch, hardest_in_window, nearest_in, soft_negative
from usucl_fast.mining.bank import LONGEST

N, D = 12, 4
IDS, Z = torch.arange(3), torch.eye(D)[:3]
MASK = torch.ones(3, 2, dtype=torch.bool)


def small_bank(dtype: torch.dtype = torch.float32) -> MemoryBank:
    bank = MemoryBank([0, 5, 5, N], D, dtype)
    bank.write(torch.arange(N), torch.nn.functional.normalize(torch.arange(1.0, N * D + 1).reshape(N, D), dim=1), 3)
    return bank


def state(**changes: Any) -> dict[str, Any]:
    return small_bank().state_dict() | changes


def with_row(value: float) -> torch.Tensor:
    rows = torch.zeros(N, D)
    rows[7, 1] = value
    return rows


REFUSED: dict[str, tuple[Callable[[Any], Any], str]] = {
    "wider query": (lambda bank: bank.cross(torch.ones(2, D + 1), None, 1), r"query is float32 \[2, 5\].*\[B, 4\]"),
    "flat query": (lambda bank: bank.cross(torch.ones(D), None, 1), r"query is float32 \[4\]"),
    "whole numbers": (lambda bank: bank.cross(torch.ones(2, D, dtype=torch.int64), None, 1), "query is int64"),
    "an array": (lambda bank: bank.cross(np.ones((2, D)), None, 1), "query"),
    "elsewhere": (lambda bank: bank.cross(torch.ones(2, D, device="meta"), None, 1), "on meta.* on cpu"),
    "short exclude": (lambda bank: bank.cross(Z, torch.tensor([0]), 1), r"exclude is int64 \[1\].* \[3\]"),
    "no such video": (lambda bank: bank.cross(Z, torch.tensor([0, 1, 3]), 1), "exclude has 3.* from -1 to 2"),
    "below -1": (lambda bank: bank.cross(Z, torch.tensor([0, -2, 1]), 1), "exclude has -2"),
    "int32": (lambda bank: bank.cross(Z, torch.tensor([0, 1, 2], dtype=torch.int32), 1), "exclude is int32"),
    "negative k": (lambda bank: bank.cross(Z, None, -1), "k is -1"),
    "half a k": (lambda bank: bank.cross(Z, None, 1.5), "k is 1.5"),
    "age": (lambda bank: bank.cross(Z, None, 1, max_age=-1, step=2), "max_age is -1"),
    "nan below": (lambda bank: bank.cross(Z, None, 1, below=float("nan")), "below is nan"),
    "nan band": (lambda bank: bank.cross(Z, None, 1, band=(float("nan"), 1)), "band"),
    "an anchor beyond": (lambda bank: bank.intra(torch.tensor([0, N, 1]), Z, (0, 1), 1), "frame_ids has 12"),
    "an anchor of -1": (lambda bank: bank.intra(torch.tensor([0, -1, 1]), Z, (0, 1), 1), "frame_ids has -1"),
    "fewer anchors": (lambda bank: bank.intra(torch.tensor([0]), Z, (0, 1), 1), r"frame_ids is int64 \[1\]"),
    "endless window": (lambda bank: bank.intra(IDS, Z, (0, float("inf")), 1), "window"),
    "a window of three": (lambda bank: bank.intra(IDS, Z, (0, 0.5, 1), 1), "window"),
    "write -1": (lambda bank: bank.write(torch.tensor([0, -1, 2]), Z, 0), "frame_ids has -1.* from 0 to 11"),
    "write beyond": (lambda bank: bank.write(torch.tensor([0, 1, N]), Z, 0), "frame_ids has 12"),
    "fewer rows": (lambda bank: bank.write(IDS, Z[:2], 0), r"z is float32 \[2, 4\].* \[3, 4\]"),
    "wider rows": (lambda bank: bank.write(IDS, torch.ones(3, 64), 0), r"z is float32 \[3, 64\]"),
    "before the first step": (lambda bank: bank.write(IDS, Z, -1), "step is -1"),
    "rows beyond": (lambda bank: bank.rows(torch.tensor([[0, N]])), "frame_ids has 12"),
    "rows of -2": (lambda bank: bank.rows(torch.tensor([-2])), "frame_ids has -2"),
    "video of -1": (lambda bank: bank.video_of(torch.tensor([-1])), "frame_ids has -1"),
    "group beyond": (lambda bank: bank.group_of(torch.tensor([N])), "frame_ids has 12"),
    "hardest beyond": (lambda bank: hardest_in_window(bank, torch.tensor([N]), (0, 1), 1, None, 0), "frame_ids has 12"),
    "candidates": (lambda bank: soft_negative(Z, torch.ones(3, 2, 9), MASK, 0.1), r"candidates is float32 \[3, 2, 9\]"),
    "valid": (lambda bank: soft_negative(Z, torch.ones(3, 2, D), MASK[:1], 0.1), r"valid is bool \[1, 2\]"),
    "tau": (lambda bank: soft_negative(Z, torch.ones(3, 2, D), MASK, 0.0), "tau is 0.0"),
    "buffer": (lambda bank: nearest_in(Z, torch.ones(5, 9), 2), r"buffer is float32 \[5, 9\].* \[M, 4\]"),
    "state of NaN": (lambda bank: bank.load_state_dict(state(embeddings=with_row(np.nan))), "row of frame 7"),
    "state of inf": (lambda bank: bank.load_state_dict(state(embeddings=with_row(np.inf))), "row of frame 7"),
    "state too long": (lambda bank: bank.load_state_dict(state(embeddings=with_row(2 * LONGEST))), "row of frame 7"),
    "state of -2": (lambda bank: bank.load_state_dict(state(written_at=torch.full((N,), -2))), "row of frame 0"),
    "state of halves": (lambda bank: bank.load_state_dict(state(written_at=torch.zeros(N))), "written_at is float32"),
    "state without": (lambda bank: bank.load_state_dict({"embeddings": Z}), "written_at is NoneType"),
    "no first row": (lambda _: MemoryBank([], D), "first_row"),
    "a late first row": (lambda _: MemoryBank([1, 5], D), "first_row must begin with 0"),
    "falling rows": (lambda _: MemoryBank([0, 5, 3], D), "first_row"),
    "endless rows": (lambda _: MemoryBank([0, 1 << 62], D), "first_row has 4611686018427387904"),
    "halves of rows": (lambda _: MemoryBank([0, 2.5], D), "first_row is float64"),
    "no numbers a row": (lambda _: MemoryBank([0, 5], 0), "dim is 0"),
    "float64": (lambda _: MemoryBank([0, 5], D, torch.float64), "dtype is torch.float64"),
    "fewer groups": (lambda _: MemoryBank([0, 5, 9], D, group=[1]), "group has 1 entries"),
    "halves of groups": (lambda _: MemoryBank([0, 5], D, group=[0.5]), "group is float64"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused_in_one_line_and_nothing_is_changed(name: str) -> None:
    call, words = REFUSED[name]
    bank, before = small_bank(), small_bank().state_dict()
    with pytest.raises(ValueError, match=words) as error:
        call(bank)
    assert "\n" not in str(error.value)
    assert all(torch.equal(now, before[name]) for name, now in bank.state_dict().items())


@pytest.mark.parametrize("search", [None, TorchSearch])
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_a_query_that_is_not_finite_has_no_answers_and_the_others_have_theirs(search: Any, bad: float) -> None:
    bank = MemoryBank([0, 5, N], D, search=search)
    bank.load_state_dict(state())
    query = torch.ones(3, D)
    expected = bank.cross(query, None, 2)
    query[1, 2] = bad
    for answer in (bank.cross(query, None, 2), bank.cross(query, None, 2, band=(0, 1))):
        assert torch.equal(answer.frame_ids[[0, 2]], expected.frame_ids[[0, 2]])
        assert answer.frame_ids[1].tolist() == [-1, -1]
        assert torch.isneginf(answer.similarity[1]).all()
    assert bank.intra(torch.tensor([0, 0, 6]), query, (0, 1), 2).frame_ids[1].tolist() == [-1, -1]


def test_a_row_too_long_is_not_written() -> None:
    bank = MemoryBank([0, 2], D, torch.float32)
    bank.write(torch.tensor([0, 1]), torch.tensor([[LONGEST] * D, [1.01 * LONGEST, 0, 0, 0]]), 0)
    assert bank.written_at.tolist() == [0, -1]


magnitudes = st.sampled_from([1e-44, 1e-38, 1e-30, 1e-20, 1e-8, 1e-6, 1.0, 1e3, 1e6, 1e15, 1e19, 1e30, 3e37])


@settings(max_examples=150, deadline=None)
@given(
    dtype=st.sampled_from([torch.float32, torch.bfloat16, torch.float16]),
    of_rows=magnitudes,
    of_queries=magnitudes,
    uneven=st.booleans(),
    seed=st.integers(0, 99),
)
def test_answers_are_exact_whatever_the_magnitude(
    dtype: torch.dtype, of_rows: float, of_queries: float, uneven: bool, seed: int
) -> None:
    """Rows so large that they are not stored are no answers; all others are compared with products in float64."""
    rng = np.random.default_rng(seed)
    count, k = 300, 5
    z, query = rng.standard_normal((count, 16)) * of_rows, rng.standard_normal((9, 16)) * of_queries
    if uneven:  # single numbers of other magnitudes
        z *= 10.0 ** rng.integers(-20, 2, z.shape)
        query *= 10.0 ** rng.integers(-20, 1, query.shape)
    bank = MemoryBank(np.arange(0, count + 1, 20), 16, dtype)
    bank.write(torch.arange(count), torch.from_numpy(z).float(), 0)
    asked = torch.from_numpy(query).float()
    answer = bank.cross(asked, None, k)
    exact = asked.double().numpy() @ bank.embeddings.double().numpy().T
    exact[:, bank.written_at.numpy() < 0] = -np.inf
    found = np.where(answer.frame_ids >= 0, np.take_along_axis(exact, answer.frame_ids.numpy().clip(0), 1), -np.inf)
    best = np.sort(exact, axis=1)[:, ::-1][:, :k]
    length = np.linalg.norm(asked.double(), axis=1) * bank.embeddings.double().norm(dim=1).max().item()
    off = np.abs(np.subtract(best, found, out=np.zeros_like(best), where=best != found))
    assert (off <= 1e-12 * length[:, None]).all()
    with np.errstate(over="ignore"):
        np.testing.assert_allclose(answer.similarity, found.astype(np.float32), rtol=1e-6, atol=1e-6 * length.max())
