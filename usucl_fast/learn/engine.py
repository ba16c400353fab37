"""The loop of a run: plans -> batches -> steps -> checkpoints, metrics, backbone."""

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from usucl_fast.errors import DataError, StoppedError
from usucl_fast.feed import Batch, BatchPlan, Delivery, Loader, Part, make_loader
from usucl_fast.learn.checkpoint import Checkpoint, CheckpointWriter, load_newest
from usucl_fast.learn.config import RANDOM
from usucl_fast.learn.execution import CHECKPOINT_SECONDS, Execution
from usucl_fast.learn.health import BANK_EVERY, StepMetrics, bank_health
from usucl_fast.learn.method import Method
from usucl_fast.learn.mined_plans import MinedPlans
from usucl_fast.learn.network import Network, Outcome
from usucl_fast.learn.optimizer import learning_rate, make_optimizer
from usucl_fast.learn.page import write_page
from usucl_fast.learn.preflight import check_fit, least_share, look_at_cache
from usucl_fast.learn.ranks import Ranks
from usucl_fast.learn.result import RunSummary, write_result
from usucl_fast.learn.run_folder import RunFolder, record_of
from usucl_fast.learn.snapshots import Snapshots
from usucl_fast.learn.watch import Collapse, Watch
from usucl_fast.learn.weights import read_backbone
from usucl_fast.machine import keep_freed_memory
from usucl_fast.progress import note
from usucl_fast.shards import ShardStore


class Run:
    """A training run. To do it step by step, hand each batch of `loader.run(shares())` to `one_step`.

    folder: nothing is written but by `save` and `go`.
    resume: continue from the newest checkpoint in `folder`, where there is one.
    loader: in place of the one that `execution` names.
    """

    def __init__(
        self,
        config: Method,
        store: ShardStore,
        folder: RunFolder,
        execution: Execution,
        ranks: Ranks,
        resume: bool = False,
        loader: Loader | None = None,
    ) -> None:
        self.config, self.store, self.folder, self.execution, self.ranks = config, store, folder, execution, ranks
        saved = self._load_checkpoint() if resume else None
        self.planner = config.make_planner(store.table)
        self.steps = self.planner.steps
        check_fit(config, self.planner, execution, ranks)
        if ranks.first:
            look_at_cache(config, store, ranks)
        config.check_data(store.table, self.planner.planned, store.name)
        if execution.device.type == "cpu":
            keep_freed_memory()
        self.loader = loader or self._make_loader()
        torch.manual_seed(config.seed)
        self.network = Network(config, store.table, execution.device, ranks, execution.bank)
        self.network.to(execution.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        if config.batch_norm == "sync" and ranks.count > 1:
            self.network = nn.SyncBatchNorm.convert_sync_batchnorm(self.network)
        self.plans = MinedPlans(self.planner, self.network.bank, config.max_row_age())
        self.snapshots = Snapshots(self.planner, self.network)
        self.optimizer = make_optimizer(config, self.network)
        self.step, self.metrics = 0, ""
        self.checkpoints, self._saved_at = CheckpointWriter(self.folder, execution.keep), time.monotonic()
        self._start(saved)

    def _make_loader(self) -> Loader:
        config, execution = self.config, self.execution
        delivery = Delivery(
            size=config.size,
            channels=config.channels,
            device=execution.device,
            threads=execution.threads,
            most_frames=self.planner.most_frames,
            resident_bytes=execution.resident_bytes,
            beton=execution.beton,
        )
        return make_loader(execution.loader, self.store, delivery)

    def _load_checkpoint(self) -> Checkpoint | None:
        """The newest checkpoint, if it belongs to this run with its present settings."""
        report = note if self.ranks.first else lambda text: None
        saved = load_newest(self.folder, report)
        if saved is not None:
            self.folder.check_unchanged(record_of(self.config, self.store.fingerprint), saved.begun)
            if saved.ranks != self.ranks.count:
                report(
                    f"ranks: {self.ranks.count} now, {saved.ranks} before; the tuples are the same, but sums are"
                    " rounded differently, and with --batch-norm rank its statistics come from other pictures"
                )
        return saved

    def _start(self, saved: Checkpoint | None) -> None:
        """Restores the checkpoint, or the initial weights where there is none."""
        if saved is not None:
            self.network.load_state_dict(saved.network)
            if self.network.bank is not None and saved.bank is not None:
                self.network.bank.load_state_dict(saved.bank)
            self.optimizer.load_state_dict(saved.optimizer)
            self.step, self.metrics = saved.step, saved.metrics
            self.plans.start(self.step, saved.plans)
            if saved.snapshots is not None:
                self.snapshots.load_state_dict(saved.snapshots)
        elif self.config.init != RANDOM:
            self.network.start_with(read_backbone(self.config.init, self.config.arch))
        if self.config.compile:
            for encoder in self.network.encoders():
                encoder.compile()
        self.parallel: Any = self.network
        if self.ranks.count > 1:
            # Batch norm's running statistics are only computed with where a share is a single picture.
            single = least_share(self.config, self.planner, self.ranks) == 1
            self.parallel = DistributedDataParallel(self.network, broadcast_buffers=single)

    def save(self) -> None:
        """Begins to write a checkpoint, on the first rank; collective."""
        bank = self._whole_bank()
        if not self.ranks.first:
            return
        self._saved_at = time.monotonic()
        checkpoint = Checkpoint(
            step=self.step,
            begun=record_of(self.config, self.store.fingerprint),
            ranks=self.ranks.count,
            network=self.network.state_dict(),
            optimizer=self.optimizer.state_dict(),
            bank=bank,
            plans=self.plans.frame_ids_under_way(),
            metrics=self.folder.metrics_text(),
            snapshots=self.snapshots.state_dict(),
        )
        self.checkpoints.save(checkpoint)
        self.snapshots.save(self.folder.mined)

    def _is_due(self) -> bool:
        """Whether a checkpoint is to be saved after the next step."""
        every = self.execution.checkpoint_every
        return time.monotonic() - self._saved_at > CHECKPOINT_SECONDS if every is None else (self.step + 1) % every == 0

    def go(self, should_stop: Callable[[], bool]) -> RunSummary:
        """Trains to the end, or until `should_stop()`, and returns the summary."""
        first, last = self.step, min(self.steps, self.execution.stop_after or self.steps)
        execution, finished = self.execution, True
        with (
            Watch(
                self.folder,
                Collapse(self.config, self.steps),
                self.metrics,
                self.step,
                self.steps,
                execution.tensorboard,
                execution.profile,
                self.ranks.first,
            ) as watch,
            contextlib.closing(self.checkpoints),
            contextlib.closing(self.loader.run(self.shares())) as batches,
        ):
            while self.step < last:
                started, batch, stopped = time.perf_counter(), None, StoppedError("stopped before the first step")
                try:
                    batch = next(batches)
                except StoppedError as error:  # while it waited for data
                    stopped = error
                waited = time.perf_counter() - started
                stop, due = self.ranks.any(batch is None or should_stop(), self.ranks.first and self._is_due())
                if stop:
                    if self.step == first:
                        raise stopped
                    finished = False
                    break
                assert batch is not None
                metrics = self.one_step(batch)
                watch.report()  # on the step before, while a GPU is busy with this one
                watch.expect(metrics, waited, time.perf_counter() - started)
                if self.step < last and due:
                    watch.report()
                    self.save()
                page_steps = (execution.page_every or 0) * self.planner.steps_per_epoch
                if page_steps and self.step < last and self.step % page_steps == 0:
                    watch.report()
                    self._write_page()
            watch.report()
            if self.step > first:
                self.save()
                self.checkpoints.wait()
        summary = write_result(self) if self.ranks.first else RunSummary()
        if execution.page_every is not None and finished:  # who stops a run does not want to wait
            self._write_page()
        return summary

    def _whole_bank(self) -> dict[str, torch.Tensor] | None:
        return None if self.network.bank is None else self.network.bank.whole_state_dict()

    def _write_page(self) -> None:
        bank = self._whole_bank()
        if self.ranks.first:
            self.snapshots.save(self.folder.mined)
            write_page(self.folder, self.store, bank, self.step)

    def _parts(self, plan: BatchPlan) -> list[Part]:
        return plan.parts(self.config.accumulate, self.ranks.rank, self.ranks.count)

    def shares(self) -> Iterator[BatchPlan]:
        """What this rank loads: its share of each part of every plan."""
        shape = self.config.accumulate, self.ranks.rank, self.ranks.count
        self.store.follow(self.planner.shards(self.step, *shape))
        for plan in self.plans:
            yield BatchPlan.joined([part.own for part in self._parts(plan)])

    def one_step(self, batch: Batch) -> StepMetrics:
        """Trains on one batch; returns its metrics, to be read when they are wanted: on a GPU, a step later."""
        plan = self.plans.next
        parts = self._parts(plan)
        _check_delivered(batch, parts)
        lr = self._begin()
        loss, outcomes = self._accumulate(batch.frames, parts)
        trained = [parameter.grad for parameter in self.network.parameters() if parameter.grad is not None]
        norm = torch.nn.utils.get_total_norm(trained)
        # The weights stay as they are until the metrics are read, which then raise.
        self.optimizer.found_inf = (~(loss + norm).isfinite()).float()  # type: ignore[attr-defined]
        self.optimizer.step()
        self.network.end(outcomes, self.step)
        known = {"step": plan.step, "epoch": plan.epoch, "lr": lr, **self.config.stage_metrics(plan.stage)}
        if self.network.bank is not None and plan.step % BANK_EVERY == 0:
            known["bank"] = bank_health(self.network.bank, plan.step)
        metrics = StepMetrics(known, plan, loss, norm, outcomes, self.planner.table.first_row)
        self.plans.advance()
        self.store.passed()
        self.step += 1
        self.snapshots.look(self.step)
        return metrics

    def _begin(self) -> float:
        """Begins a step; returns its learning rate."""
        lr = learning_rate(self.config, self.step, self.steps, self.planner.steps_per_epoch)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        self.network.begin(self.step / self.steps)
        self.optimizer.zero_grad(set_to_none=True)
        return lr

    def _accumulate(self, frames: torch.Tensor, parts: list[Part]) -> tuple[torch.Tensor, list[Outcome]]:
        """Encodes the parts of a batch, and leaves the gradient; returns the loss, a scalar, and what came of each."""
        outcomes: list[Outcome] = []
        total, loss = sum(len(part.whole.frame_ids) for part in parts), frames.new_zeros((), dtype=torch.float64)
        for part, own in zip(parts, frames.split([len(part.own.frame_ids) for part in parts]), strict=True):
            alone = isinstance(self.parallel, DistributedDataParallel) and part is not parts[-1]
            with self.parallel.no_sync() if alone else contextlib.nullcontext():
                outcome = self.parallel(own, part.whole)
                weighted = outcome.loss * (len(part.whole.frame_ids) / total)
                weighted.backward()
            loss = loss + weighted.detach()
            outcomes.append(outcome)
        return loss, outcomes


def _check_delivered(batch: Batch, parts: list[Part]) -> None:
    """Raises where a loader has not executed the plan of this step."""
    asked, got = BatchPlan.joined([part.own for part in parts]).digest(), batch.plan.digest()
    if asked != got:
        raise DataError(
            f"step {parts[0].whole.step}: the loader delivered a batch of the plan {got}, not of {asked}; a loader"
            " executes plans in the order in which they come"
        )
