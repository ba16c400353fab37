"""Each error bound of the compiled search is needed: shrunk, it makes answers go missing.

The rows are such that a bound is nearly reached, and a search first visits one block only, so that what it finds
depends on the bounds. Level 0 is that of the rows in blocks, level 1 that of their centroids, for which all rows of a
block are equal.
"""

from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from usucl_fast.mining import MemoryBank
from usucl_fast.mining.cpu import bounds
from usucl_fast.mining.cpu import search as compiled_search
from usucl_fast.mining.cpu.levels import BLOCK
from usucl_fast.mining.cpu.search import CompiledSearch
from usucl_fast.mining.search import Rows

K, QUERIES = 10, 64
Planted = tuple[NDArray[np.float64], list[float], float]
"""Blocks of rows `[R, BLOCK, D]`, a query, and `below`."""


@pytest.fixture(autouse=True)
def _one_seed(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(compiled_search, "SEEDS", 1)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def at_the_edge_of_balls(random: np.random.Generator, blocks: int) -> Planted:
    """A row of each block is as far from the centroid, 0, as any, and in the query's direction."""
    rows = np.zeros((blocks, BLOCK, 1))
    rows[:, 5, 0] = 0.5 + 0.01 * random.random(blocks)
    rows[:, 6] = -rows[:, 5]
    return rows, [1], np.inf


def between_codes(random: np.random.Generator, blocks: int) -> Planted:
    """A far row makes the steps of the codes large, and the others are rounded by up to half a step."""
    rows = 0.5 + 0.01 * random.random((blocks, BLOCK, 1))
    rows[:, 0] = -0.5
    return rows, [1], 0.507


def on_codes(random: np.random.Generator, blocks: int) -> Planted:
    """Rows are codes exactly, but what is left over of the query has the direction in which they differ."""
    codes = np.zeros((blocks, BLOCK, 2))
    half = BLOCK // 2
    codes[:, :half, 0] = random.integers(0, 2, (blocks, half))
    codes[:, :half, 1] = random.integers(0, 128, (blocks, half))
    codes[:, 0, 1] = 127
    codes[:, half:] = -codes[:, :half]
    return codes / 256, [1, 0.9 / 254], 0.0035


def cancelling(random: np.random.Generator, blocks: int) -> Planted:
    """Sums of large numbers that are nearly 0: float32 loses what rows differ by."""
    large = 1 + random.random((blocks, BLOCK, 8))
    small = 1.2e-7 + 5e-8 * random.random((blocks, BLOCK, 1))
    return np.concatenate([large, small, -large[..., ::-1]], axis=2), [1] * 17, np.inf


def make_search(planted: Planted, level: int) -> tuple[CompiledSearch, Callable[[], int]]:
    """A search of the rows, and what counts those of the K most similar ones that it does not find."""
    blocks, one_query, below = planted
    z = torch.from_numpy(blocks.reshape(-1, blocks.shape[2]).astype(np.float32))
    if level == 1:
        z = z.repeat_interleave(BLOCK, dim=0)
    query = torch.tensor([one_query] * QUERIES, dtype=torch.float32)
    similarity = query[0].double() @ z.double().T
    least = similarity[similarity <= below].topk(K).values[-1]
    made: list[CompiledSearch] = []

    def make(rows: Rows, first_row: NDArray[np.int64]) -> CompiledSearch:
        made.append(CompiledSearch(rows, first_row))
        return made[0]

    bank = MemoryBank([0, len(z)], z.shape[1], torch.float32, search=make)
    bank.write(torch.arange(len(z)), z, step=0)

    def missing() -> int:
        found = bank.cross(query, None, K, below=below).frame_ids
        return int((similarity[found] < least).logical_or(found < 0).sum())

    return made[0], missing


@pytest.mark.parametrize(
    ("make_rows", "level", "name", "factor"),
    [
        (at_the_edge_of_balls, 0, "radius", 0.99),
        (at_the_edge_of_balls, 1, "radius", 0.99),
        (between_codes, 0, "residual", 0.5),
        (between_codes, 1, "residual", 0.0),
        (on_codes, 0, "reach", 0.9),
        (on_codes, 1, "reach", 0.5),
        (cancelling, 0, "length", 0.0),
    ],
)
def test_a_block_s_bounds_are_needed(make_rows: Callable[..., Planted], level: int, name: str, factor: float) -> None:
    search, missing = make_search(make_rows(np.random.default_rng(0), 48 if level else 128), level)
    assert missing() == 0
    search.levels[level].level.ball[name] *= factor
    assert missing() > 0


def test_what_is_left_over_of_a_query_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    _, missing = make_search(on_codes(np.random.default_rng(0), 128), 0)
    assert missing() == 0
    monkeypatch.setattr(bounds, "ROUNDING", -0.1)  # of queries; of rows it is compiled
    assert missing() > 0


def test_the_rounding_of_products_of_codes_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cutting off the least product hides a loss of up to 1, so that 0 is not yet wrong."""
    _, missing = make_search(on_codes(np.random.default_rng(0), 128), 0)
    assert missing() == 0
    monkeypatch.setattr(bounds, "CODE_ROUNDING", -2.0)
    assert missing() > 0
