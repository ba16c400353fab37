"""Each method's step against a naive loop over samples and negatives, and short runs of each."""

import copy
import dataclasses
import json
import math
import subprocess
import sys
from collections import deque
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torchvision.transforms.functional import resize

from tests.helpers import REPOSITORY, SAMPLE
from tests.helpers.training import EXECUTION, TINY, curve
from usucl_fast.errors import UsageError
from usucl_fast.feed import Batch, Delivery, Planner, make_loader
from usucl_fast.learn import train
from usucl_fast.learn.checkpoint import load_newest
from usucl_fast.learn.method import Method
from usucl_fast.learn.network import Network, Outcome
from usucl_fast.learn.ranks import Ranks
from usucl_fast.learn.recipes import RECIPES, make_config
from usucl_fast.learn.run_folder import RunFolder
from usucl_fast.shards import ShardStore, open_shards

pytest.importorskip("lightly")

CPU = torch.device("cpu")


def made(recipe: str, **changes: Any) -> tuple[Any, Planner]:
    """A network on the sample, and what plans its batches of four tuples."""
    config = make_config(recipe, {**TINY, "epochs": 6, "batch_size": 4, **changes})
    table = open_shards(SAMPLE).table
    torch.manual_seed(0)
    return Network(config, table, CPU, Ranks()), config.make_planner(table)


def _delivery(config: Method, planner: Planner) -> Delivery:
    return Delivery(size=config.size, channels=1, device=CPU, threads=1, most_frames=planner.most_frames)


def load(planner: Planner, epoch: int, config: Method) -> Batch:
    loader = make_loader("torch", open_shards(SAMPLE), _delivery(config, planner))
    (batch,) = loader.run([planner.plan(epoch, 0)])
    return batch


def one_step(network: Network, planner: Planner, epoch: int = 2, copied: bool = True) -> tuple[Any, Batch, Outcome]:
    """The network as it was when it encoded, where it can be copied, the batch, and what came of it, with gradients in
    the network."""
    batch = load(planner, epoch, network.config)
    network.begin(0.5)
    before = copy.deepcopy(network) if copied else None
    network.zero_grad()
    outcome = network(batch.frames, batch.plan)
    outcome.loss.backward()
    network.end([outcome], step=epoch)
    assert outcome.loss.isfinite()
    for parameter in network.parameters():
        assert not parameter.requires_grad or (parameter.grad is not None and parameter.grad.isfinite().all())
    assert (network.key is not None) == network.config.has_keys()
    if network.key is not None:
        assert all(p.grad is None and not p.requires_grad for p in network.key.parameters())
    assert outcome.query.shape == (4, network.config.dim)
    assert not outcome.query.requires_grad
    assert outcome.query.norm(dim=1) == pytest.approx(1, abs=1e-5)
    return before, batch, outcome


def views(batch: Batch, *numbers: int) -> torch.Tensor:
    """Pictures as `ARCH` takes them, one view after the other, laid out as in training: some processors round
    convolutions of another layout differently. Batch norm over four pictures makes 1e-5 of the last bit of a pixel."""
    levels = torch.cat([batch.frames[:, number] for number in numbers])
    return ((levels / 255 - 0.5) / 0.5).expand(-1, 3, -1, -1).contiguous(memory_format=torch.channels_last)


def cosine(a: torch.Tensor, b: torch.Tensor) -> float:
    a, b = a.detach().double(), b.detach().double()
    return float(a @ b) / math.sqrt(float(a @ a) * float(b @ b))


def info_nce(query: torch.Tensor, positive: torch.Tensor, negatives: list[torch.Tensor], tau: float) -> float:
    top = math.exp(cosine(query, positive) / tau)
    bottom = top
    for negative in negatives:
        bottom += math.exp(cosine(query, negative) / tau)
    return -math.log(top / bottom)


def nt_xent(first: torch.Tensor, second: torch.Tensor, tau: float) -> float:
    z, count = [*first, *second], len(first)
    losses = []
    for i in range(2 * count):
        partner = (i + count) % (2 * count)
        losses.append(info_nce(z[i], z[partner], [z[j] for j in range(2 * count) if j not in (i, partner)], tau))
    return mean(losses)


def test_simclr_against_a_naive_loop() -> None:
    method, planner = made("simclr")
    before, batch, outcome = one_step(method, planner)
    first, second = before.query(views(batch, 0, 1)).chunk(2)
    assert outcome.loss.item() == pytest.approx(nt_xent(first, second, method.config.tau), abs=1e-5)
    assert torch.allclose(outcome.query, F.normalize(first, dim=1), atol=1e-5)


def test_uscl_against_a_naive_loop_on_pictures_mixed_pixel_by_pixel() -> None:
    method, planner = made("uscl")
    before, batch, outcome = one_step(method, planner)
    middle, first, last = views(batch, 0, 1, 2).double().numpy().reshape(3, 4, 3, 32, 32)
    pairs = np.empty((2, 4, 3, 32, 32))
    for side, other in enumerate((first, last)):
        for number in range(4):
            xi = math.sin(math.pi * batch.plan.mix[number, side] / 2) ** 2
            for pixel in np.ndindex(3, 32, 32):
                pairs[(side, number, *pixel)] = xi * other[(number, *pixel)] + (1 - xi) * middle[(number, *pixel)]
    pictures = torch.from_numpy(pairs.reshape(8, 3, 32, 32)).float().to(memory_format=torch.channels_last)
    one, two = before.query(pictures).chunk(2)
    assert outcome.loss.item() == pytest.approx(nt_xent(one, two, method.config.tau), abs=1e-5)
    assert torch.allclose(outcome.query, F.normalize(one, dim=1), atol=1e-4)


def test_uscl_mixes_by_a_beta_distribution() -> None:
    """The quantiles of what is made of uniform draws are those of Beta(.5, .5)."""
    uniform = np.linspace(0.001, 0.999, 999)
    drawn = np.sort(np.random.default_rng(0).beta(0.5, 0.5, 400_000))
    quantiles = drawn[(uniform * len(drawn)).astype(int)]
    assert np.sin(np.pi * uniform / 2) ** 2 == pytest.approx(quantiles, abs=0.005)


def test_moco_against_a_naive_loop() -> None:
    """Over several steps: the queue is read, then written, and its oldest keys go."""
    method, planner = made("mocov2", queue=8)
    queue = deque(method.parts["loss"].memory_bank.bank.clone(), maxlen=8)
    for epoch in range(4):
        before, batch, outcome = one_step(method, planner, epoch)
        query, key = before.query(views(batch, 0)), before.key(views(batch, 1))
        expected = mean(info_nce(q, k, list(queue), method.config.tau) for q, k in zip(query, key, strict=True))
        assert outcome.loss.item() == pytest.approx(expected, abs=1e-5)
        assert torch.allclose(outcome.query, F.normalize(query, dim=1), atol=5e-5)
        queue.extend(F.normalize(key, dim=1))
        with torch.no_grad():
            for parameter in method.query.parameters():
                parameter.sub_(0.01 * parameter.grad)


@pytest.mark.parametrize("exclude", ["video", "group", "none"])
def test_cycle_against_a_naive_loop(exclude: str) -> None:
    method, planner = made("cyclecontrast", queue=8, cross_topk=(5, 5), exclude=exclude)
    config, table = method.config, open_shards(SAMPLE).table
    queue = deque(method.parts["loss"].memory_bank.bank.clone(), maxlen=8)
    cycle_queue = deque(method.parts["cycle_queue"].bank.clone(), maxlen=8)
    for epoch in range(3):
        if epoch == 1:
            frame_ids = torch.randint(len(table), (len(table) // 6,))
            method.bank.write(frame_ids, F.normalize(torch.randn(len(frame_ids), 16), dim=1), 0)
        before, batch, outcome = one_step(method, planner, epoch)
        rows, written = before.bank.embeddings.float(), before.bank.written_at
        query, cycle_query = before.query(views(batch, 0)).chunk(2, dim=1)
        key, cycle_key = before.key(views(batch, 1)).chunk(2, dim=1)
        expected = 0.0
        for i, anchor in enumerate(batch.plan.frame_ids[:, 0].tolist()):
            expected += info_nce(query[i], key[i], list(queue), config.tau) / 4
            of = {"video": lambda row: row["video"], "group": lambda row: table.group[row["video"]]}.get(exclude)
            others = [
                row
                for row in range(len(table))
                if written[row] >= 0 and (of is None or of(table.rows[row]) != of(table.rows[anchor]))
            ]
            q = F.normalize(cycle_query[i].detach(), dim=0)
            others.sort(key=lambda row: float(q @ rows[row]), reverse=True)
            members = others[:5]
            assert outcome.members is not None
            assert set(outcome.members[i].tolist()) - {-1} == set(members)
            if members:
                weights = [math.exp(float(q @ rows[row]) / config.tau) for row in members]
                neighbour = torch.stack([w * rows[row] for w, row in zip(weights, members, strict=True)]).sum(0)
                expected += 0.1 * info_nce(neighbour, cycle_key[i], list(cycle_queue), config.tau) / 4
        assert outcome.loss.item() == pytest.approx(expected, abs=5e-5)  # rows of float16, and .2 into an exponential
        assert torch.allclose(outcome.query, F.normalize(query, dim=1), atol=5e-5)
        queue.extend(F.normalize(key, dim=1))
        cycle_queue.extend(F.normalize(cycle_key, dim=1))
        positives = batch.plan.frame_ids[:, 1]
        assert torch.allclose(method.bank.rows(torch.from_numpy(positives)), F.normalize(cycle_key, dim=1), atol=1e-3)


@pytest.mark.parametrize("recipe", ["byol", "simsiam"])
def test_methods_without_negatives_against_a_naive_loop(recipe: str) -> None:
    """Their gradient is that of a loop whose targets are constants."""
    method, planner = made(recipe)
    before, batch, outcome = one_step(method, planner)
    z = before.query(views(batch, 0, 1))
    p = before.parts["predict"](z)
    if recipe == "byol":
        targets = torch.cat([before.key(views(batch, view)) for view in (0, 1)]).detach()
    else:
        targets = z.detach().clone()
    total = torch.zeros(())
    for i in range(8):
        cos = F.normalize(p[i], dim=0) @ F.normalize(targets[(i + 4) % 8], dim=0)
        total = total + ((2 - 2 * cos) / 4 if recipe == "byol" else -cos / 8)
    assert outcome.loss.item() == pytest.approx(total.item(), abs=1e-5)
    assert torch.allclose(outcome.query, F.normalize(z[:4], dim=1), atol=1e-5)
    before.zero_grad()
    total.backward()
    for (name, mine), theirs in zip(method.named_parameters(), before.parameters(), strict=True):
        if mine.requires_grad:
            assert torch.allclose(mine.grad, theirs.grad, atol=1e-5, rtol=1e-3), name


def test_dino_against_a_naive_loop() -> None:
    """Over several steps, with what the last ones left of the centre; small crops are resized as torchvision does."""
    method, planner = made("dino", small_crops=3)
    config, centre = method.config, torch.zeros(16)
    for epoch in range(3):
        before, _ = made("dino", small_crops=3)
        before.load_state_dict(method.state_dict())
        before.begin(0.5)
        _, batch, outcome = one_step(method, planner, epoch, copied=False)
        small = resize(views(batch, 2, 3, 4), [14, 14], antialias=True)  # 3 / 7 of 32 pixels
        z = [*before.query(views(batch, 0, 1)).chunk(2), *before.query(small).chunk(3)]
        keys = [before.key(views(batch, view)).detach() for view in (0, 1)]
        terms = []
        for own, key in enumerate(keys):
            for other, query in enumerate(z):
                for k, q in zip(key, query, strict=True):
                    assigned = ((k - centre) / config.key_tau).softmax(0)
                    if other != own:
                        terms.append(-sum(assigned[p] * (q / config.tau).log_softmax(0)[p] for p in range(16)))
        assert len(terms) == 4 * 8
        total = sum(terms) / len(terms)
        assert outcome.loss.item() == pytest.approx(total.item(), abs=1e-5)
        assert torch.allclose(outcome.query, F.normalize(z[0], dim=1), atol=1e-5)
        total.backward()
        for (name, mine), theirs in zip(method.named_parameters(), before.parameters(), strict=True):
            if mine.requires_grad:
                assert torch.allclose(mine.grad, theirs.grad, atol=1e-5, rtol=1e-3), name
        centre = 0.9 * centre + 0.1 * torch.cat(keys).mean(0)
        assert torch.allclose(method.parts["loss"].center.flatten(), centre, atol=1e-6)
        with torch.no_grad():
            for parameter in method.query.parameters():
                if parameter.grad is not None:
                    parameter.sub_(0.1 * parameter.grad)


@pytest.mark.parametrize("small_crops", [0, 2])
def test_dino_takes_vision_transformers(small_crops: int) -> None:
    network, planner = made("dino", arch="timm/test_vit", small_crops=small_crops)
    one_step(network, planner, copied=False)


QUEUE: dict[str, Any] = {"queue": 12, "key_momentum": (0.9, 0.9)}
"""For 40 steps: soon full of keys, which follow soon."""
RUNS: dict[str, tuple[dict[str, Any], int]] = {
    "default": ({"intra_negatives": (1, 1), "intra_floor": 1.0}, 0),
    "fast": ({}, 9),
    "simclr": ({}, 0),
    "mocov2": (QUEUE, 0),
    "byol": ({"lr": 0.001}, 0),
    "simsiam": ({"lr": 0.1}, 0),
    "dino": ({"lr": 0.001, "key_momentum": (0.9, 0.9)}, 0),
    "cyclecontrast": ({**QUEUE, "head_norm": False, "reach": 0}, 0),
    "uscl": ({}, 0),
}
"""By recipe: settings, and the step from which on the loss should fall. That of USUCL jumps when, after a sixth of the
run, intra-video negatives come into it."""


@pytest.mark.parametrize("recipe", RUNS)
def test_the_loss_falls(phantoms: Path, tmp_path: Path, recipe: str) -> None:
    settings, start = RUNS[recipe]
    learns = {**TINY, "dim": 32, "epochs": 40, "batch_size": 12, "lr": 0.03, "augment": "reference", **settings}
    train(make_config(recipe, learns), open_shards(phantoms), tmp_path / "run", EXECUTION)
    losses = [loss for _, loss in curve(tmp_path / "run")]
    assert len(losses) == 40
    assert mean(losses[-10:]) < mean(losses[start : start + 10]) - 0.2


@pytest.mark.parametrize("recipe", RECIPES)
def test_every_recipe_can_be_run_and_resumed_bit_equal(sample: ShardStore, tmp_path: Path, recipe: str) -> None:
    short: dict[str, Any] = {**TINY, "epochs": 2, "batch_size": 2}
    if RECIPES[recipe]().method in ("moco", "cycle"):
        short["queue"] = 3
    config, whole, resumed = make_config(recipe, short), tmp_path / "whole", tmp_path / "resumed"
    train(config, sample, whole, EXECUTION)
    assert train(config, sample, resumed, dataclasses.replace(EXECUTION, stop_after=2))["steps"] == 2
    assert train(config, sample, resumed, EXECUTION, resume=True)["steps"] == 4
    assert curve(resumed) == curve(whole)
    one, other = (load_file(out / "backbone.safetensors") for out in (whole, resumed))
    assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize(
    ("recipe", "option", "value"),
    [
        ("simclr", "queue", 8),
        ("simclr", "key_momentum", (0.9, 0.9)),
        ("mocov2", "exclude", "video"),
        ("byol", "tau", 0.1),
        ("simsiam", "head_norm", False),
        ("simsiam", "small_crops", 2),
        ("cyclecontrast", "intra_negatives", (3, 3)),
        ("uscl", "reach", 3),
        ("default", "queue", 8),
    ],
)
def test_an_option_without_effect_on_a_method_is_refused(recipe: str, option: str, value: Any) -> None:
    name = option.replace("_", "-")
    with pytest.raises(UsageError, match=rf"^--{name} has no effect with --method \w+; remove it$"):
        make_config(recipe, {option: value})


def test_a_method_without_lightly_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lightly", None)
    with pytest.raises(UsageError, match=r"^--method simclr needs lightly, .*: pip install 'usucl-fast\[baselines\]'$"):
        made("simclr")


@pytest.mark.parametrize("recipe", ["default", "fast", "cyclecontrast"])
def test_accumulating_fills_the_bank_with_the_same_rows(sample: ShardStore, tmp_path: Path, recipe: str) -> None:
    """With batch norm frozen, so that a picture's embedding does not depend on the others that are encoded with it."""
    settings = {**TINY, "batch_size": 4, "batch_norm": "frozen"}
    banks = []
    for accumulate in (1, 2):
        out = tmp_path / str(accumulate)
        config = make_config(recipe, {**settings, "accumulate": accumulate})
        train(config, sample, out, dataclasses.replace(EXECUTION, stop_after=1))
        saved = load_newest(RunFolder(out))
        assert saved is not None
        assert saved.bank is not None
        banks.append(saved.bank)
    whole, parts = banks
    assert (whole["written_at"] >= 0).sum() in (4, 8)  # the positives of CycleContrast, and USUCL's anchors as well
    assert torch.equal(whole["written_at"], parts["written_at"])
    assert torch.allclose(whole["embeddings"].float(), parts["embeddings"].float(), atol=1e-3)


@pytest.mark.parametrize("recipe", ["default", "cyclecontrast"])
def test_no_part_of_a_batch_finds_the_rows_of_another(recipe: str) -> None:
    network, planner = made(recipe)
    batch = load(planner, 2, network.config)
    outcomes = [
        network(frames, part.whole) for frames, part in zip(batch.frames.chunk(2), batch.plan.parts(2), strict=True)
    ]
    assert all((outcome.members == -1).all() for outcome in outcomes)
    network.end(outcomes, step=2)
    assert set(torch.nonzero(network.bank.written_at == 2)[:, 0].tolist()) >= set(batch.plan.frame_ids[:, 1].tolist())


def test_without_keys_there_is_no_key_encoder() -> None:
    symmetric, asymmetric = made("default")[0], made("fast")[0]
    assert not any(name.startswith("key.") for name in symmetric.state_dict())
    for name, weight in symmetric.query.state_dict().items():  # what is drawn for the other is the same
        assert torch.equal(weight, asymmetric.query.state_dict()[name])


ADDED = '''
"""Pulls two views of a frame together, and their mean apart from a mark."""

from dataclasses import dataclass

from usucl_fast.learn.config import setting
from usucl_fast.learn.method import PairMethod


@dataclass(frozen=True, kw_only=True)
class Pull(PairMethod):
    method: str = "pull"
    mark: float = setting(0.5, "Where the mean may be.", low=0)

    def make_head(self, width):
        from torch import nn

        return nn.Linear(width, self.dim)

    def forward(self, network, frames, plan):
        import torch.nn.functional as F

        from usucl_fast.learn.network import Outcome

        first, second = network.query(network.views_first(frames, [0, 1])).chunk(2)
        loss = (first - second).square().mean() + (first.mean() - self.mark).square()
        return Outcome(loss, F.normalize(first.detach(), dim=1))


def pulled():
    return Pull(mark=0.25)


METHOD, RECIPES = Pull, (pulled,)
'''


def test_a_method_is_added_as_one_file(sample: ShardStore, tmp_path: Path) -> None:
    """In a process of its own, as one that begins when the file is there: recipe, options and a step by name."""
    (tmp_path / "pull.py").write_text(ADDED)
    code = f"""
import sys
from usucl_fast.learn import methods
methods.__path__.append({str(tmp_path)!r})
from usucl_fast.cli.train import main
sys.argv[0] = "usucl-train"
main()
"""

    def call(*words: object) -> str:
        command = [sys.executable, "-c", code, *map(str, words)]
        return subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True).stdout

    said = call("--help")
    assert "--mark" in said
    assert "pulled" in said
    tiny = {**TINY, "epochs": 1, "batch_size": 4}
    options = [word for name, value in tiny.items() for word in (f"--{name.replace('_', '-')}", value)]
    call(SAMPLE, "--out", tmp_path / "run", "--recipe", "pulled", *options, "--threads", 0, "--device", "cpu")
    settings = json.loads((tmp_path / "run" / "config.json").read_text())["config"]
    assert (settings["method"], settings["recipe"], settings["mark"]) == ("pull", "pulled", 0.25)
    assert len(curve(tmp_path / "run")) == 1
