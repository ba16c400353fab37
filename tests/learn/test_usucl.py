"""One step of the method against a naive loop over samples, and the health of what it leaves."""

import copy
import dataclasses
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from tests.helpers import SAMPLE
from usucl_fast.curriculum import window_bounds
from usucl_fast.feed import BatchPlan, Delivery, Normaliser, Planner, make_loader
from usucl_fast.feed.augmentation import AUGMENTATIONS
from usucl_fast.learn.health import bank_health, effective_rank, mean_cosine, near_duplicates
from usucl_fast.learn.methods.usucl import Usucl
from usucl_fast.learn.network import Network
from usucl_fast.learn.ranks import Ranks
from usucl_fast.mining import MemoryBank
from usucl_fast.shards import open_shards

CPU = torch.device("cpu")


def dot(a: torch.Tensor, b: torch.Tensor) -> float:
    return float(a.double() @ b.double())


def naive_loss(network: Network, plan: BatchPlan, query: torch.Tensor, positive: torch.Tensor) -> float:
    """The loss with negatives from the bank, by loops over samples and rows. Queries are of the plan's first view."""
    bank, config, stage, total = network.bank, network.config, plan.stage, 0.0
    assert bank is not None
    assert isinstance(config, Usucl)
    table = open_shards(SAMPLE).table
    rows = bank.embeddings.float()
    known = [row for row in range(len(rows)) if bank.written_at[row] >= max(0, plan.step - config.bank_max_age)]
    anchors, positives = plan.frame_ids[:, 0].tolist(), plan.frame_ids[:, 1].tolist()
    seen = [*zip(range(len(query)), positives, positive, strict=True)]
    if config.symmetric:
        seen += zip(range(len(query)), anchors, query, strict=True)
    for number, (anchor, q, p) in enumerate(zip(anchors, query, positive, strict=True)):
        video = int(table.rows["video"][anchor])
        first, length = int(table.first_row[video]), len(np.flatnonzero(table.rows["video"] == video))
        left, left_end, right, right_end = window_bounds(np.array([anchor - first]), np.array([length]), stage.window)[
            0
        ]
        window = {first + int(frame) for frame in (*range(left, left_end), *range(right, right_end))}
        intra = sorted((dot(q, rows[row]) for row in known if row in window), reverse=True)[: stage.intra_negatives]
        others = [row for row in known if table.group[table.rows["video"][row]] != table.group[video]]
        others.sort(key=lambda row: dot(q, rows[row]), reverse=True)
        assert stage.cross_band is not None
        start, end = math.floor(stage.cross_band[0] * len(others)), math.ceil(stage.cross_band[1] * len(others))
        members = others[start : min(start + stage.cross_topk, end)]
        weights = [math.exp(dot(q, rows[row]) / config.tau) for row in members]
        synthetic = sum(weight * rows[row] for weight, row in zip(weights, members, strict=True)) / sum(weights)
        assert isinstance(synthetic, torch.Tensor)
        top = math.exp(dot(q, p) / config.tau)
        bottom = top + math.exp(dot(q, synthetic) / config.tau)
        bottom += sum(math.exp(similarity / config.tau) for similarity in intra)
        nearest = max(4, math.floor(stage.window[0] * length))
        of_batch = []
        for other, frame, z in seen:
            others_video = int(table.rows["video"][frame])
            if others_video == video:
                negative = other != number and stage.intra_negatives > 0 and abs(frame - anchor) >= nearest
            else:
                negative = table.group[others_video] != table.group[video]
            of_batch += [z] if negative else []
        bottom += sum(math.exp(dot(q, z) / config.tau) for z in of_batch)
        total -= math.log(top / bottom)
    return total / len(query)


@pytest.mark.parametrize(("tuples", "reach"), [(1, 0), (3, 2)])
@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("negatives", [0, 2, 500])
def test_negatives_from_the_bank_against_a_naive_loop(negatives: int, symmetric: bool, tuples: int, reach: int) -> None:
    store = open_shards(SAMPLE)
    config = Usucl(
        intra_mining="bank", size=32, dim=16, precision="fp32",
        intra_negatives=(negatives, negatives), cross_topk=(5, 5),
        cross_band_start=(0.1, 0.1), cross_band_end=(0.9, 0.9), bank_max_age=6, epochs=6, symmetric=symmetric,
    )  # fmt: skip
    curriculum = config.make_curriculum()
    planner = Planner(
        store.table, 0, 6, 4 * tuples, curriculum, AUGMENTATIONS["crops"], "pair", reach, tuples_per_video=tuples
    )
    torch.manual_seed(0)
    usucl = Network(config, store.table, CPU, Ranks())
    assert usucl.bank is not None
    for step in range(9):  # of the rows some are written again, some too old by now, some never written
        frame_ids = torch.randint(len(store.table), (len(store.table) // 6,))
        usucl.bank.write(frame_ids, torch.nn.functional.normalize(torch.randn(len(frame_ids), 16), dim=1), step)
    plan = dataclasses.replace(planner.plan(2, 0), step=10)
    assert plan.stage == curriculum(2 / 6)
    assert plan.stage.intra
    assert plan.frame_ids.shape == (4 * tuples, 2)
    assert len(set(plan.video)) == 4
    (batch,) = make_loader(
        "torch", store, Delivery(size=32, channels=1, device=CPU, threads=1, most_frames=planner.most_frames)
    ).run([plan])

    before = copy.deepcopy(usucl)
    usucl.begin(0.5)
    outcome = usucl(batch.frames, plan)
    usucl.end([outcome], step=10)
    before.begin(0.5)
    normalise = Normaliser(CPU, torch.channels_last)
    if symmetric:
        both = F.normalize(before.query(normalise(batch.frames.transpose(0, 1).flatten(0, 1))), dim=1)
        query, positive = both.chunk(2)
    else:
        query = F.normalize(before.query(normalise(batch.frames[:, 0])), dim=1)
        assert before.key is not None
        positive = F.normalize(before.key(normalise(batch.frames[:, 1])), dim=1)
    expected = naive_loss(before, plan, query.detach(), positive.detach())
    if symmetric:
        swapped = dataclasses.replace(plan, frame_ids=plan.frame_ids[:, ::-1])
        expected = (expected + naive_loss(before, swapped, positive.detach(), query.detach())) / 2
    assert float(outcome.loss.detach()) == pytest.approx(expected, abs=1e-5)
    assert torch.allclose(outcome.query, query.detach(), atol=1e-5)
    # Nothing but the anchors and positives is encoded and written.
    written = torch.from_numpy(plan.frame_ids.ravel())
    assert set(torch.nonzero(usucl.bank.written_at == 10)[:, 0].tolist()) == set(written.tolist())
    outcome.loss.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in usucl.query.parameters())


def test_health_of_a_bank() -> None:
    bank = MemoryBank(np.array([0, 100]), 4, dtype=torch.float32)
    assert bank_health(bank, step=0) == {"written": 0.0}
    for row in range(40):  # written at the steps 0 ... 39, in four directions
        bank.write(torch.tensor([row]), torch.eye(4)[row % 4][None], row)
    health = bank_health(bank, step=40)
    assert health["written"] == 0.4
    assert health["age"] == pytest.approx(np.quantile(np.arange(1, 41), [0.1, 0.5, 0.9]))
    assert health["mean_cosine"] == pytest.approx(9 / 39)
    assert health["effective_rank"] == pytest.approx(4, rel=1e-5)


def test_health_of_a_large_bank_is_that_of_a_sample() -> None:
    torch.manual_seed(0)
    bank = MemoryBank(np.array([0, 20_000]), 8)
    rows = torch.arange(0, 20_000, 2)
    bank.write(rows, torch.nn.functional.normalize(torch.randn(len(rows), 8) + 1, dim=1), 3)
    health = bank_health(bank, step=5)
    assert health["written"] == 0.5
    assert health["age"] == [2, 2, 2]
    whole = bank.rows(rows)
    assert health["mean_cosine"] == pytest.approx(mean_cosine(whole), abs=0.02)
    assert health["effective_rank"] == pytest.approx(effective_rank(whole), rel=0.02)


def test_near_duplicates_by_hand() -> None:
    first_row = np.array([0, 10, 20])
    assert near_duplicates(np.array([[-1, -1], [-1, -1]]), first_row) is None
    assert near_duplicates(np.array([[3, -1], [-1, -1]]), first_row) == 0
    # 9 and 10 are of two videos; 12 and 15 near, 15 and 19 not; 4 and 4 the same frame twice.
    assert near_duplicates(np.array([[9, 15, 10, 19, 4, 4, -1]]), first_row) == 2 / 6
    assert near_duplicates(np.array([[12, 15, 19, 0, -1], [5, 3, 1, -1, -1]]), first_row) == 5 / 7
