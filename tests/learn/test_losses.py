"""The loss, its gradient and n̂ against a naive loop over samples, in double precision and plain Python."""

import math

import pytest
import torch

from usucl_fast.learn.losses import usucl_loss
from usucl_fast.mining import nearest_in, soft_negative

TAU = 0.07


def unit(*shape: int) -> torch.Tensor:
    return torch.nn.functional.normalize(torch.randn(*shape), dim=-1)


def dot(a: list[float], b: list[float]) -> float:
    return sum(x * y for x, y in zip(a, b, strict=True))


def naive_soft_negative(q: list[float], buffer: list[list[float]], m: int) -> list[float]:
    nearest = sorted(buffer, key=lambda row: dot(q, row), reverse=True)[:m]
    weights = [math.exp(dot(q, row) / TAU) for row in nearest]
    total = sum(weights)
    return [sum(w * row[d] for w, row in zip(weights, nearest, strict=True)) / total for d in range(len(q))]


def naive_loss(
    query: list[list[float]],
    positive: list[list[float]],
    negatives: list[list[list[float]]],
    buffer: list[list[float]],
    m: int,
    intra: bool,
) -> float:
    """The published step's loss, a sample at a time."""
    total = 0.0
    for q, p, ns in zip(query, positive, negatives, strict=True):
        synthetic = naive_soft_negative(q, buffer, m)
        top = math.exp(dot(q, p) / TAU)
        bottom = top + math.exp(dot(q, synthetic) / TAU)
        if intra:
            bottom += sum(math.exp(dot(q, n) / TAU) for n in ns)
        total += -math.log(top / bottom)
    return total / len(query)


def vectorised(
    query: torch.Tensor, positive: torch.Tensor, negatives: torch.Tensor, m: int, intra: bool
) -> torch.Tensor:
    buffer = negatives.detach().flatten(0, 1)
    candidates = buffer[nearest_in(query, buffer, m)]
    synthetic = soft_negative(query, candidates, torch.ones(candidates.shape[:2], dtype=torch.bool), TAU)
    counted = negatives if intra else negatives[:, :0]
    valid = torch.ones(counted.shape[:2], dtype=torch.bool)
    return usucl_loss(query, positive, counted, valid, synthetic, torch.ones(len(query), dtype=torch.bool), TAU)


@pytest.mark.parametrize("intra", [True, False])
@pytest.mark.parametrize("m", [1, 4])
@pytest.mark.parametrize("seed", range(3))
def test_loss_gradient_and_synthetic_negative_against_the_naive_loop(seed: int, m: int, intra: bool) -> None:
    torch.manual_seed(seed)
    query, positive, negatives = unit(5, 8).requires_grad_(), unit(5, 8), unit(5, 3, 8).requires_grad_()
    loss = vectorised(query, positive, negatives, m, intra)
    loss.backward()

    q, p, n = query.tolist(), positive.tolist(), negatives.tolist()
    buffer = [row for sample in n for row in sample]
    assert float(loss.detach()) == pytest.approx(naive_loss(q, p, n, buffer, m, intra), abs=1e-5)

    candidates = negatives.detach().flatten(0, 1)
    candidates = candidates[nearest_in(query, candidates, m)]
    synthetic = soft_negative(query, candidates, torch.ones(5, m, dtype=torch.bool), TAU)
    for row, sample in zip(synthetic.tolist(), q, strict=True):
        assert row == pytest.approx(naive_soft_negative(sample, buffer, m), abs=1e-5)

    # The gradient by central differences of the naive loop; the buffer stays as it is (stop-gradient).
    step = 1e-5

    def slope(tensor: list[float], place: int) -> float:
        kept, values = tensor[place], []
        for sign in (1, -1):
            tensor[place] = kept + sign * step
            values.append(naive_loss(q, p, n, buffer, m, intra))
        tensor[place] = kept
        return (values[0] - values[1]) / (2 * step)

    buffer = [list(row) for row in buffer]
    assert query.grad is not None
    for b in range(5):
        for d in range(8):
            assert float(query.grad[b, d]) == pytest.approx(slope(q[b], d), abs=1e-5)
            for j in range(3):
                found = 0.0 if negatives.grad is None else float(negatives.grad[b, j, d])
                assert found == pytest.approx(slope(n[b][j], d), abs=1e-5)


def test_closed_forms() -> None:
    """All embeddings alike: ln 2 with the cross-video negative alone, ln 5 with three more."""
    same = torch.ones(4, 1)
    yes = torch.ones(4, dtype=torch.bool)
    alone = usucl_loss(same, same, same[:, None][:, :0], yes[:, None][:, :0], same, yes, TAU)
    assert float(alone) == pytest.approx(math.log(2))
    three = usucl_loss(same, same, same[:, None].expand(4, 3, 1), yes[:, None].expand(4, 3), same, yes, TAU)
    assert float(three) == pytest.approx(math.log(5))


def test_what_is_not_valid_takes_no_part() -> None:
    torch.manual_seed(0)
    query, positive, negatives, synthetic = unit(4, 8).requires_grad_(), unit(4, 8), unit(4, 3, 8), unit(4, 8)
    no = torch.zeros(4, dtype=torch.bool)
    valid = torch.tensor([[True, False, True]]).expand(4, 3)
    loss = usucl_loss(query, positive, negatives, valid, synthetic, no, TAU)
    assert torch.equal(
        loss, usucl_loss(query, positive, negatives[:, [0, 2]], valid[:, [0, 2]], 2 * synthetic, no, TAU)
    )
    nothing = usucl_loss(query, positive, negatives, no[:, None].expand(4, 3), synthetic, no, TAU)
    assert float(nothing.detach()) == 0


def test_a_synthetic_negative_of_nothing_is_zero_and_has_a_finite_gradient() -> None:
    query = unit(2, 8).requires_grad_()
    valid = torch.tensor([[True, False], [False, False]])
    candidates = unit(2, 2, 8)
    made = soft_negative(query, candidates, valid, TAU)
    assert torch.equal(made[1], torch.zeros(8))
    assert torch.allclose(made[0], candidates[0, 0])
    made.sum().backward()
    assert query.grad is not None
    assert query.grad.isfinite().all()


def test_the_candidates_get_no_gradient() -> None:
    query, candidates = unit(2, 8).requires_grad_(), unit(2, 3, 8).requires_grad_()
    soft_negative(query, candidates, torch.ones(2, 3, dtype=torch.bool), TAU).sum().backward()
    assert candidates.grad is None
    assert query.grad is not None
    assert query.grad.abs().sum() > 0


def test_the_other_tuples_positives_are_negatives_where_told() -> None:
    """Against a loop: with nothing else, tuple 0 and 2 of one group."""
    torch.manual_seed(3)
    query, positive, group = unit(4, 8).double(), unit(4, 8).double(), [0, 1, 0, 2]
    valid = torch.tensor([[a != b for b in group] for a in group])
    nothing, none = torch.zeros(4, 8).double(), torch.zeros(4, dtype=torch.bool)
    found = usucl_loss(
        query, positive, query[:, None, :][:, :0], none[:, None][:, :0], nothing, none, TAU, positive, valid
    )
    total = 0.0
    for a in range(4):
        top = math.exp(dot(query[a].tolist(), positive[a].tolist()) / TAU)
        bottom = top + sum(
            math.exp(dot(query[a].tolist(), positive[b].tolist()) / TAU) for b in range(4) if group[a] != group[b]
        )
        total -= math.log(top / bottom)
    assert float(found) == pytest.approx(total / 4, abs=1e-9)
