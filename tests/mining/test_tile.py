import numpy as np
import pytest
from numba import njit

from usucl_fast.mining.cpu.tile import LANES, ROWS, has_vnni, make_tile


@pytest.mark.parametrize("dim", [4, 8, 60, 128])
@pytest.mark.parametrize("vnni", [False, *([True] if has_vnni() else [])])
def test_masks_against_a_product(dim: int, vnni: bool) -> None:
    tile = make_tile(vnni)

    @njit
    def call(codes, row, packed, group, least, masks, place):  # type: ignore[no-untyped-def]
        return tile(codes, row, packed, group, least, masks, place)

    random = np.random.default_rng(dim)
    codes = random.integers(0, 256, (40, dim), dtype=np.uint8)
    queries = random.integers(-127, 128, (2 * LANES, dim), dtype=np.int8)
    packed = np.ascontiguousarray(queries.reshape(2, LANES, dim // 4, 4).transpose(0, 2, 1, 3))
    products = codes.astype(np.int32) @ queries.T.astype(np.int32)
    for group in (0, 1):
        # At the row's own products, so that the limit itself counts.
        least = products[13, group * LANES : (group + 1) * LANES].copy()
        masks = np.full(ROWS + 3, 7, np.uint16)
        some = call(codes, 9, packed, group, least, masks, 2)
        above = products[9 : 9 + ROWS, group * LANES : (group + 1) * LANES] >= least
        assert masks[2:-1].tolist() == [sum(1 << lane for lane in np.flatnonzero(row)) for row in above]
        assert masks[[0, 1, -1]].tolist() == [7, 7, 7]
        assert some
        least[:] = np.iinfo(np.int32).max
        assert not call(codes, 9, packed, group, least, masks, 2)
        assert not masks[2:-1].any()
