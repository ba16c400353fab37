"""Tuples/s of training: ours end to end, its step alone, and the published manner's step."""

import contextlib
import dataclasses
import math
import os
import time
from collections import defaultdict
from collections.abc import Callable, Generator, Iterable
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
from usucl_fast.learn.engine import Run, with_precision
from usucl_fast.learn.methods.usucl import Usucl
from usucl_fast.learn.ranks import Ranks
from usucl_fast.shards import ShardStore

SPARE = 8
"""Steps before the clock starts."""
NOWHERE = RunFolder(Path(os.devnull))
"""The run folder: nothing is written."""


def train_arms(names: list[str], store: ShardStore, config: Method, execution: Execution, *, steps: int) -> list[Arm]:
    """The named arms, each ready to run: they train for `steps` steps from fresh weights, with the intra-video
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
    # A third of a run has the intra-video negatives in their first window, from a sixth of its epochs on.
    if isinstance(config, Usucl):
        config = dataclasses.replace(config, intra_from=INTRA_FROM, cross_from=0.0)
    per_epoch = config.make_planner(store.table).steps_per_epoch
    warm_up = math.ceil((SPARE + steps + LOOKAHEAD) / (2 * per_epoch))
    config = dataclasses.replace(with_precision(config, execution.device), epochs=6 * warm_up, steps=0, init="random")
    first = warm_up * per_epoch
    made = Run(config, store, NOWHERE, execution, Ranks())
    plans = [made.planner.plan(*divmod(step, per_epoch)) for step in range(first, first + SPARE + steps)]
    largest = max(plans, key=lambda plan: len(plan.frame_ids))
    views = largest.frame_ids.shape[1]
    if views < 3 and any(name.startswith("published") for name in names):
        raise UsageError(
            f"--recipe {config.recipe} has no intra-video negatives to encode, which the published arms contrast with"
        )
    if execution.loader == "resident":
        for _ in made.loader.run(plans):
            pass
    with contextlib.closing(made.loader.run([largest])) as batches:
        frames = next(batches).frames.clone()

    def ours(name: str, seconds: dict[str, float]) -> float:
        if name == "compiled":
            torch.compiler.reset()  # what was compiled for the last run is of no use to this one
        loader = made.loader if name == "usucl" else _Cached(frames)
        settings = dataclasses.replace(config, compile=name == "compiled")
        run = Run(settings, store, NOWHERE, execution, Ranks(), loader=loader)
        run.step = first
        run.plans.start(first)
        if run.network.bank is not None:
            rows = torch.randn(len(store.table), config.dim, device=execution.device)
            run.network.bank.write(torch.arange(len(rows), device=execution.device), F.normalize(rows, dim=1), first)
        with contextlib.closing(run.loader.run(run.shares())) as batches:
            return _rate(batches, run.one_step, steps, execution.device, seconds)

    def published(unused: bool, seconds: dict[str, float]) -> float:
        torch.manual_seed(config.seed)
        step = PublishedStep(
            config.arch,
            config.epochs,
            joint=False,
            unused=unused,
            device=execution.device,
            bf16=config.precision == "bf16",
            dim=config.dim,
        )
        pictures = Normaliser(execution.device)(frames.flatten(0, 1)).unflatten(0, frames.shape[:2])
        second = pictures.flip(-1)  # what they show is nothing to the time

        def train(batch: Batch) -> None:
            tuples = len(batch.frames)
            step.step(pictures[:tuples], warm_up, True, second[:tuples] if unused else None)

        return _rate(_Cached(frames).run(plans), train, steps, execution.device, seconds)

    sizes = sorted({len(plan.frame_ids) for plan in plans})
    pictures = f"{config.size} pixels, {config.arch}, {config.precision} on {execution.device.type}"
    delivers = f"{' or '.join(map(str, sizes))} tuples a step, of {views} pictures, {pictures}"
    arms = []
    for name in names:
        seconds: dict[str, float] = defaultdict(float)
        if name.startswith("published"):
            run, what = partial(published, name == "published", seconds), "always the same, normalised; no metrics"
        else:
            run = partial(ours, name, seconds)
            what = f"from the loader {execution.loader}" if name == "usucl" else "always the same"
        arms.append(Arm(name, f"{delivers}; {what}", run, seconds=seconds if name == "usucl" else {}))
    return arms


class _Cached(Loader):
    """Delivers, for any plan, the first tuples of one batch."""

    def __init__(self, frames: torch.Tensor) -> None:
        self._frames = frames

    def run(self, plans: Iterable[BatchPlan]) -> Generator[Batch, None, None]:
        for plan in plans:
            yield Batch(plan, self._frames[: len(plan.frame_ids)])


def _rate(
    batches: Generator[Batch, None, None],
    step: Callable[[Batch], object],
    steps: int,
    device: torch.device,
    seconds: dict[str, float],
) -> float:
    """Tuples/s over `steps` steps after the first `SPARE`; `seconds` by stage are counted over them, too."""
    for _ in range(SPARE):
        step(next(batches))
    synchronise(device)
    seconds.clear()
    tuples, started = 0, time.perf_counter()
    for _ in range(steps):
        asked = time.perf_counter()
        batch = next(batches)
        got = time.perf_counter()
        step(batch)
        seconds["wait"] += got - asked
        seconds["step"] += time.perf_counter() - got
        tuples += len(batch.frames)
    synchronise(device)
    return tuples / (time.perf_counter() - started)
