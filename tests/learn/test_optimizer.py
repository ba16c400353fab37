"""The learning rate over a run, and what each optimiser does to which parameters."""

import math
from typing import Any

import pytest
import torch
from torch import nn

from usucl_fast.errors import UsageError
from usucl_fast.learn.optimizer import learning_rate, make_optimizer
from usucl_fast.learn.recipes import make_config


def rates(epochs: int, steps_per_epoch: int, **changes: Any) -> list[float]:
    config = make_config("default", {"epochs": epochs, "lr": 1.0, **changes})
    steps = epochs * steps_per_epoch
    return [learning_rate(config, step, steps, steps_per_epoch) for step in range(steps)]


def test_the_learning_rate_in_closed_form() -> None:
    assert rates(4, 5, warm_up=0) == pytest.approx([(1 + math.cos(math.pi * step / 20)) / 2 for step in range(20)])
    by_epoch = rates(4, 5, lr_schedule="epoch", warm_up=0)
    assert by_epoch == pytest.approx([(1 + math.cos(math.pi * (step // 5) / 4)) / 2 for step in range(20)])
    warmed = rates(4, 5, warm_up=5)
    assert warmed[:5] == pytest.approx([n / 6 for n in range(1, 6)])
    assert warmed[5:] == pytest.approx([(1 + math.cos(math.pi * step / 15)) / 2 for step in range(15)])
    assert max(rates(4, 5, warm_up=7, lr_schedule="epoch")) == 1.0


def test_warm_up_is_a_tenth_of_the_run_or_200_steps_or_what_is_said() -> None:
    assert rates(4, 5)[:3] == pytest.approx([1 / 3, 2 / 3, 1])
    assert [make_config("default", {}).warm_up_steps(steps) for steps in (9, 10, 1999, 2000, 10**6)] == [
        *(0, 1, 199, 200, 200)
    ]
    assert make_config("default", {"warm_up": 7}).warm_up_steps(10**6) == 7
    assert make_config("reference", {}).warm_up_steps(10**6) == 0


@pytest.mark.parametrize(
    ("recipe", "given", "expected"),
    [
        ("default", {}, ("sgd", 0.06)),
        ("default", {"init": "imagenet"}, ("sgd", 0.005)),
        ("fast", {"init": "weights.pth"}, ("sgd", 0.005)),
        ("default", {"init": "imagenet", "lr": 0.1}, ("sgd", 0.1)),
        ("default", {"init": "imagenet", "optimizer": "adamw", "lr": 0.1}, ("adamw", 0.1)),
        ("reference", {}, ("sgd", 0.003)),
        ("reference", {"init": "imagenet"}, ("sgd", 0.003)),
        ("reference", {"init": "random"}, ("sgd", 0.003)),
        ("simclr", {"init": "imagenet"}, ("sgd", 0.03)),
    ],
)
def test_a_rate_for_random_weights_and_one_for_others(
    recipe: str, given: dict[str, Any], expected: tuple[str, float]
) -> None:
    config = make_config(recipe, given)
    assert (config.optimizer, config.lr) == expected


def test_another_optimiser_needs_a_rate() -> None:
    with pytest.raises(UsageError, match=r"--optimizer adamw needs --lr as well: 0\.06 is a rate for sgd"):
        make_config("default", {"optimizer": "adamw"})
    with pytest.raises(UsageError, match=r"0\.005 is a rate for sgd"):
        make_config("default", {"init": "imagenet", "optimizer": "lars"})
    assert make_config("default", {"init": "imagenet", "optimizer": "sgd"}).lr == 0.005


@pytest.mark.parametrize("name", ["sgd", "adamw", "lars"])
def test_every_optimiser_learns(name: str) -> None:
    if name == "lars":
        pytest.importorskip("lightly")
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(4, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 1))
    network.requires_grad_(True)
    optimizer = make_optimizer(make_config("default", {"optimizer": name, "lr": 0.05}), network)
    x = torch.randn(64, 4)
    y = x.sum(dim=1, keepdim=True)
    losses = []
    for _ in range(200):
        loss = (network(x) - y).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.5 * losses[0]


def test_biases_and_norms_are_not_decayed_but_by_sgd() -> None:
    network = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4))
    network[0].bias.requires_grad_(False)
    (sgd,) = make_optimizer(make_config("default", {"optimizer": "sgd", "lr": 0.01}), network).param_groups
    assert len(sgd["params"]) == 3
    assert sgd["weight_decay"] == 1e-4
    adamw = make_optimizer(make_config("default", {"optimizer": "adamw", "lr": 1e-3}), network).param_groups
    assert [(len(group["params"]), group["weight_decay"]) for group in adamw] == [(1, 1e-4), (2, 0.0)]
