"""A training step waits for no GPU: nothing in it needs a number from the device before it goes on.

There need be no GPU for this. Tensors of torch's `FakeTensorMode` lie on one that does not exist and hold no numbers:
whatever would read one raises.
"""

from collections.abc import Generator, Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch._subclasses.fake_tensor import DataDependentOutputException, DynamicOutputShapeException, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from tests.helpers.training import TINY
from usucl_fast.feed import Batch, BatchPlan, Loader
from usucl_fast.learn import Execution
from usucl_fast.learn.engine import Run
from usucl_fast.learn.health import StepMetrics
from usucl_fast.learn.network import Network
from usucl_fast.learn.ranks import Ranks
from usucl_fast.learn.recipes import make_config
from usucl_fast.learn.run_folder import RunFolder
from usucl_fast.mining import MemoryBank
from usucl_fast.shards import ShardStore

CUDA = torch.device("cuda", 0)
FUSED = (torch.ops.aten._fused_sgd_, torch.ops.aten._fused_adamw_)
"""torch's optimisers, one kernel each, which fake tensors do not know."""


class Nowhere(Loader):
    """In place of a loader: the test makes the batches."""

    def run(self, plans: Iterable[BatchPlan]) -> Generator[Batch, None, None]:
        raise NotImplementedError


class Event:
    """In place of `torch.cuda.Event`."""

    def record(self) -> None:
        pass


class Copies(TorchDispatchMode):
    """Counts the copies from the GPU that are waited for."""

    def __init__(self) -> None:
        super().__init__()
        self.waited = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        options = kwargs or {}
        if func is torch.ops.aten._to_copy.default and options.get("device") == torch.device("cpu"):
            self.waited += args[0].device.type == "cuda" and not options.get("non_blocking")
        if func.overloadpacket in FUSED:
            return None
        return func(*args, **options)


@pytest.fixture(autouse=True)
def _on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """As far as is needed. Fake modules are made where they are to be: they cannot be moved."""
    make = Network.__init__

    def made(network: Network, *arguments: Any) -> None:
        with CUDA:
            make(network, *arguments)

    def backward(loss: torch.Tensor) -> None:
        """torch's own part, which asks for a real GPU; the gradients are there already."""
        assert loss.requires_grad
        assert loss.device == CUDA

    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.Tensor, "backward", backward)
    monkeypatch.setattr(torch.optim.Optimizer, "zero_grad", lambda optimizer, set_to_none: None)
    monkeypatch.setattr(Network, "__init__", made)
    monkeypatch.setattr(Network, "to", lambda network, *arguments, **options: network)


def step(store: ShardStore, folder: Path, recipe: str, **settings: Any) -> tuple[StepMetrics, int]:
    """The metrics of a step late in a run, when all that a recipe mines counts, and the copies that it waited for."""
    config = make_config(recipe, {**TINY, "channels": 1, "batch_size": 3, "steps": 60, **settings})
    execution = Execution(loader="torch", device=CUDA, threads=0)
    with FakeTensorMode(allow_non_fake_inputs=True), Copies() as copies:
        run = Run(config, store, RunFolder(folder), execution, Ranks(), loader=Nowhere())
        run.step = 40  # no moment of a snapshot, nor of a report on the whole bank: these are read
        run.plans.start(run.step)
        plan = run.plans.next
        frames = torch.zeros(*plan.frame_ids.shape, 1, config.size, config.size, dtype=torch.uint8, device=CUDA)
        for parameter in run.network.parameters():
            parameter.grad = torch.zeros_like(parameter)
        copies.waited = 0
        metrics = run.one_step(Batch(plan, frames))
    assert next(run.network.parameters()).device == CUDA
    return metrics, copies.waited


@pytest.mark.parametrize(
    ("recipe", "settings"),
    [
        ("default", {}),
        ("default", {"cross_topk": (4, 4), "bank_max_age": 20}),
        ("default", {"intra_mining": "encode", "intra_negatives": (3, 3), "cross_topk": (4, 4)}),
        ("fast", {}),
        ("reference", {}),
        ("byol", {}),
        ("simsiam", {}),
        ("dino", {}),
    ],
)
def test_a_step_waits_for_no_gpu(sample: ShardStore, tmp_path: Path, recipe: str, settings: dict[str, Any]) -> None:
    """The other recipes wait in lightly's NT-Xent, which picks by a mask, and its queue, which reads its place."""
    if make_config(recipe, {}).needs_lightly:
        pytest.importorskip("lightly")
    _, waited = step(sample, tmp_path, recipe, **settings)
    assert waited == 0


def test_the_metrics_are_what_is_read(sample: ShardStore, tmp_path: Path) -> None:
    """Or the test above could not fail."""
    metrics, _ = step(sample, tmp_path, "default")
    metrics._arrived = None
    with pytest.raises(DataDependentOutputException):
        metrics.read()


def test_a_band_of_the_bank_is_known_to_wait() -> None:
    with FakeTensorMode(allow_non_fake_inputs=True):
        bank = MemoryBank([0, 8, 20], 4, device=CUDA)
        query = torch.zeros(2, 4, device=CUDA)
        bank.cross(query, None, 3)
        with pytest.raises((DataDependentOutputException, DynamicOutputShapeException)):
            bank.cross(query, None, 3, band=(0.1, 0.5))
