"""Tuples/s of training: ours end to end, our step without loading, and the step in the published manner."""

import contextlib
import math
import os
import time
from collections import defaultdict
from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F

from usucl_fast.bench.harness import Arm, synchronise
from usucl_fast.bench.published_step import PublishedStep
from usucl_fast.curriculum import INTRA_FROM
from usucl_fast.errors import UsageError
from usucl_fast.feed import LOOKAHEAD, Batch, BatchPlan, Loader, Normaliser
from usucl_fast.learn import Execution, Method, RunFolder
from usucl_fast.learn.arithmetic import arithmetic, with_precision
from usucl_fast.learn.engine import Run
from usucl_fast.learn.health import StepMetrics
from usucl_fast.learn.methods.usucl import Usucl
from usucl_fast.learn.ranks import Ranks
from usucl_fast.shards import ShardStore

SPARE = 8
"""Steps before the clock starts."""
NOWHERE = RunFolder(Path(os.devnull))
"""The run folder: nothing is written."""


def train_arms(names: list[str], store: ShardStore, config: Method, execution: Execution, *, steps: int) -> list[Arm]:
    """Makes the named arms ready to run: they train for `steps` steps from fresh weights, with the intra-video
    negatives in the loss and every row of the bank written.

    usucl: the engine's whole step, its metrics computed but not written, on batches that `execution.loader` delivers.
        The resident loader has seen all frames before the clock starts.
    floor-cached: the same, whatever is planned, on the pictures of one batch.
    compiled: floor-cached with compiled encoders.
    published: `PublishedStep` on those pictures, normalised before, with all that the published code computes.
    published-lean: the same without what that does not use.

    Raises:
        UsageError: the published manner is to be compared with a recipe whose tuples have no intra-video negatives.
    """
    training = _prepare(store, config, execution, steps)
    config, views = training.config, training.frames.shape[1]
    if views < 3 and any(name.startswith("published") for name in names):
        raise UsageError(f"--recipe {config.recipe} has no intra-video negatives to encode, which published arms need")
    if execution.loader == "resident":
        for _ in training.loader.run(training.plans):
            pass
    sizes = sorted({len(plan.frame_ids) for plan in training.plans})
    pictures = f"{config.size} pixels, {config.arch}, {config.precision} on {execution.device.type}"
    delivers = f"{' or '.join(map(str, sizes))} tuples a step, of {views} pictures, {pictures}"
    arms = []
    for name in names:
        seconds: dict[str, float] = defaultdict(float)
        if name.startswith("published"):
            run, what = training.published, "always the same, normalised; no metrics"
        else:
            run, what = training.ours, f"from the loader {execution.loader}" if name == "usucl" else "always the same"
        measured = seconds if name == "usucl" else {}
        arms.append(Arm(name, f"{delivers}; {what}", partial(run, name, seconds), seconds=measured))
    return arms


def _prepare(store: ShardStore, config: Method, execution: Execution, steps: int) -> "_Training":
    """Plans the steps, and loads the largest batch."""
    # A third of a run has the intra-video negatives in their first window, from a sixth of its epochs on.
    if isinstance(config, Usucl):
        config = replace(config, intra_from=INTRA_FROM, cross_from=0.0)
    per_epoch = config.make_planner(store.table).steps_per_epoch
    warm_up = math.ceil((SPARE + steps + LOOKAHEAD) / (2 * per_epoch))
    config = replace(with_precision(config, execution.device), epochs=6 * warm_up, steps=0, init="random")
    first = warm_up * per_epoch
    made = Run(config, store, NOWHERE, execution, Ranks())
    plans = [made.planner.plan(*divmod(step, per_epoch)) for step in range(first, first + SPARE + steps)]
    largest = max(plans, key=lambda plan: len(plan.frame_ids))
    with contextlib.closing(made.loader.run([largest])) as batches:
        frames = next(batches).frames.clone()
    return _Training(config, store, execution, steps, made.loader, first, plans, frames)


@dataclass(frozen=True)
class _Training:
    """What is trained; each run begins with fresh weights.

    steps: how many are timed.
    first: number of the first step.
    plans: of all steps, those before the clock starts too.
    frames: of the largest batch, uint8 `[B, V, C, H, W]`.
    """

    config: Method
    store: ShardStore
    execution: Execution
    steps: int
    loader: Loader
    first: int
    plans: list[BatchPlan]
    frames: torch.Tensor

    def ours(self, name: str, seconds: dict[str, float]) -> float:
        if name == "compiled":
            torch.compiler.reset()  # what was compiled for the last run is of no use to this one
        loader = self.loader if name == "usucl" else _Cached(self.frames)
        settings = replace(self.config, compile=name == "compiled")
        run = Run(settings, self.store, NOWHERE, self.execution, Ranks(), loader=loader)
        run.step = self.first
        run.plans.start(self.first)
        if run.network.bank is not None:
            device = self.execution.device
            rows = torch.randn(len(self.store.table), self.config.dim, device=device)
            run.network.bank.write(torch.arange(len(rows), device=device), F.normalize(rows, dim=1), self.first)
        unread: list[StepMetrics] = []

        def train(batch: Batch) -> None:
            unread.append(run.one_step(batch))
            if len(unread) > 1:  # a step late, as in a run
                unread.pop(0).read()

        with arithmetic(settings.precision, False), contextlib.closing(run.loader.run(run.shares())) as batches:
            return self._rate(batches, train, seconds)

    def published(self, name: str, seconds: dict[str, float]) -> float:
        torch.manual_seed(self.config.seed)
        unused = name == "published"
        step = PublishedStep(
            self.config.arch,
            self.config.epochs,
            joint=False,
            unused=unused,
            device=self.execution.device,
            bf16=self.config.precision == "bf16",
            dim=self.config.dim,
        )
        pictures = Normaliser(self.execution.device)(self.frames.flatten(0, 1)).unflatten(0, self.frames.shape[:2])
        second = pictures.flip(-1)  # the time does not depend on what they show

        def train(batch: Batch) -> None:
            tuples = len(batch.frames)
            step.step(pictures[:tuples], self.plans[0].epoch, True, second[:tuples] if unused else None)

        with arithmetic(self.config.precision, False):
            return self._rate(_Cached(self.frames).run(self.plans), train, seconds)

    def _rate(
        self, batches: Generator[Batch, None, None], step: Callable[[Batch], object], seconds: dict[str, float]
    ) -> float:
        """Tuples/s over the steps after the first `SPARE`; `seconds` by stage are counted over them, too."""
        device = self.execution.device
        for _ in range(SPARE):
            step(next(batches))
        synchronise(device)
        seconds.clear()
        tuples, started = 0, time.perf_counter()
        for _ in range(self.steps):
            asked = time.perf_counter()
            batch = next(batches)
            got = time.perf_counter()
            step(batch)
            seconds["wait"] += got - asked
            seconds["step"] += time.perf_counter() - got
            tuples += len(batch.frames)
        synchronise(device)
        return tuples / (time.perf_counter() - started)


class _Cached(Loader):
    """Delivers, for any plan, the first tuples of one batch."""

    def __init__(self, frames: torch.Tensor) -> None:
        self._frames = frames

    def run(self, plans: Iterable[BatchPlan]) -> Generator[Batch, None, None]:
        for plan in plans:
            yield Batch(plan, self._frames[: len(plan.frame_ids)])
