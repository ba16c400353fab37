import itertools

import numpy as np
import pytest

from usucl_fast.curriculum import CURRICULA, Curriculum, window_bounds

# Epoch of 60: (intra-video negatives count, d0, d1), written out by hand from the description of the method.
STEP = {
    0: (False, 0.2, 0.4), 9: (False, 0.2, 0.4), 10: (True, 0.2, 0.4), 29: (True, 0.2, 0.4),
    30: (True, 0.1, 0.15), 49: (True, 0.1, 0.15), 50: (True, 0.03, 0.07), 59: (True, 0.03, 0.07),
}  # fmt: skip
# (1 + cos(pi k / 30)) / 2 for k = 0, 1, 2, 3 is 1, 0.997261, 0.989074, 0.975528; their products:
PUBLISHED_COSINE = {
    0: (False, 0.2, 0.4), 9: (False, 0.2, 0.4), 10: (True, 0.2, 0.4), 29: (True, 0.2, 0.4), 30: (True, 0.2, 0.4),
    31: (True, 0.199452, 0.398904), 32: (True, 0.197273, 0.394546), 33: (True, 0.192445, 0.384890),
    40: (True, 0.067, 0.135), 45: (True, 0.005, 0.010), 50: (True, 2e-5, 4e-5),
}  # fmt: skip
# (1 + cos(pi k / 30)) / 2 for k = 0, 10, 15, 20 is 1, .75, .5, .25; from k = 23 (.1258) on, the floor .15.
COSINE = {
    0: (False, 0.2, 0.4), 9: (False, 0.2, 0.4), 10: (True, 0.2, 0.4), 29: (True, 0.2, 0.4), 30: (True, 0.2, 0.4),
    40: (True, 0.15, 0.30), 45: (True, 0.1, 0.2), 50: (True, 0.05, 0.1), 53: (True, 0.03, 0.06),
    59: (True, 0.03, 0.06),
}  # fmt: skip


@pytest.mark.parametrize(
    ("name", "table"), [("step", STEP), ("published-cosine", PUBLISHED_COSINE), ("cosine", COSINE)]
)
def test_curricula_against_the_table(name: str, table: dict[int, tuple[bool, float, float]]) -> None:
    for epoch, (intra, d0, d1) in table.items():
        stage = Curriculum(name, intra_floor=0.15 if name == "cosine" else 0.0)(epoch / 60)
        assert stage.intra == intra, epoch
        # The description gives the decayed windows to two digits.
        assert stage.window == pytest.approx((d0, d1), rel=0.2 if epoch >= 45 and name != "cosine" else 0.011), epoch


@pytest.mark.parametrize("name", list(CURRICULA))
@pytest.mark.parametrize("epochs", [1, 3, 60, 77, 600])
def test_windows_only_close(name: str, epochs: int) -> None:
    stages = [Curriculum(name)(epoch / epochs) for epoch in range(epochs)]
    assert stages[0].window == (0.2, 0.4)
    for before, after in itertools.pairwise(stages):
        assert after.window <= before.window
        assert after.intra >= before.intra


def test_a_run_of_another_length_goes_through_the_same_stages() -> None:
    for name in ("step", "published-cosine"):
        curriculum = Curriculum(name, intra_hard_share=(0, 1))
        assert [curriculum(epoch / 30) for epoch in range(30)] == [curriculum(epoch / 60) for epoch in range(0, 60, 2)]


# From its first to its last value by as much as the curriculum has closed: cosine by 0 up to epoch 30, .25 at 40, .5 at
# 45, .75 at 50; step by a half from epoch 30 on and all from 50; published-cosine by 1 - .067 / .2 = .665 at 40.
# Epoch: negatives 3:8, hard share 0:1, hard 64:16, band .1:0 to 1:.5.
MOVED = {
    ("cosine", 0): (3, 0, 64, (0.1, 1)), ("cosine", 30): (3, 0, 64, (0.1, 1)),
    ("cosine", 40): (4, 0.25, 52, (0.075, 0.875)), ("cosine", 45): (6, 0.5, 40, (0.05, 0.75)),
    ("cosine", 50): (7, 0.75, 28, (0.025, 0.625)),
    ("step", 29): (3, 0, 64, (0.1, 1)), ("step", 30): (6, 0.5, 40, (0.05, 0.75)), ("step", 50): (8, 1, 16, (0, 0.5)),
    ("published-cosine", 30): (3, 0, 64, (0.1, 1)), ("published-cosine", 40): (6, 0.665, 32, (0.0335, 0.6675)),
}  # fmt: skip


@pytest.mark.parametrize(("name", "epoch"), MOVED)
def test_what_moves_against_the_table(name: str, epoch: int) -> None:
    moving = Curriculum(
        name,
        intra_negatives=(3, 8),
        intra_hard_share=(0, 1),
        cross_topk=(64, 16),
        cross_band_start=(0.1, 0),
        cross_band_end=(1, 0.5),
    )
    stage = moving(epoch / 60)
    negatives, hard_share, hard, band = MOVED[name, epoch]
    assert (stage.intra_negatives, stage.cross_topk) == (negatives, hard)
    assert stage.intra_hard_share == pytest.approx(hard_share, abs=0.005)
    assert stage.cross_band == pytest.approx(band, abs=0.002)


@pytest.mark.parametrize("name", list(CURRICULA))
@pytest.mark.parametrize("floor", [0.0, 0.15, 0.3, 1.0])
def test_no_window_gets_below_the_floor(name: str, floor: float) -> None:
    for epoch in range(600):
        free, kept = (
            Curriculum(name, intra_floor=0)(epoch / 600).window,
            Curriculum(name, intra_floor=floor)(epoch / 600).window,
        )
        assert kept == (max(free[0], 0.2 * floor), max(free[1], 0.4 * floor))


@pytest.mark.parametrize("name", list(CURRICULA))
def test_another_first_window_closes_in_proportion(name: str) -> None:
    """(.1, .3) is the published (.2, .4), times 1/2 and 3/4, at any time and with its floor."""
    for epoch in range(60):
        d0, d1 = Curriculum(name, intra_floor=0.15)(epoch / 60).window
        found = Curriculum(name, intra_window=(0.1, 0.3), intra_floor=0.15)(epoch / 60).window
        assert found == pytest.approx((d0 / 2, d1 * 0.75))


def test_negatives_are_let_in_when_told() -> None:
    late = Curriculum("cosine", intra_from=0.5, cross_from=0.25, cross_topk=(8, 8))
    assert [(late(p).intra, late(p).cross_topk) for p in (0, 0.2499, 0.25, 0.4999, 0.5, 0.99)] == [
        *((False, 0), (False, 0), (False, 8), (False, 8), (True, 8), (True, 8))
    ]


def test_a_band_of_everything_is_none() -> None:
    assert Curriculum("cosine")(0.9).cross_band is None
    assert Curriculum("step", cross_band_start=(0.1, 0))(0).cross_band == (0.1, 1)
    assert Curriculum("step", cross_band_start=(0.1, 0))(0.9).cross_band is None


def test_window_bounds_by_hand() -> None:
    bounds = window_bounds(np.array([40, 2, 9]), np.array([100, 10, 10]), (0.2, 0.4))
    assert bounds.tolist() == [[0, 20, 60, 80], [0, 0, 6, 8], [3, 5, 10, 10]]
