"""The loop: plans -> batches -> steps -> checkpoints, metrics, backbone."""

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save as safetensors_bytes
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from usucl_fast.errors import DataError, ResourceError, StoppedError, UsageError
from usucl_fast.feed import RESIDENT_BYTES, Batch, BatchPlan, Delivery, Loader, Part, Planner, make_loader
from usucl_fast.files import NO_SPACE, write_json, write_whole
from usucl_fast.learn.arithmetic import arithmetic, with_precision
from usucl_fast.learn.checkpoint import Checkpoint, load_newest
from usucl_fast.learn.config import RANDOM
from usucl_fast.learn.health import BANK_EVERY, bank_health, read_metrics
from usucl_fast.learn.method import Method
from usucl_fast.learn.mined_plans import MinedPlans
from usucl_fast.learn.network import Network, Outcome
from usucl_fast.learn.optimizer import learning_rate, make_optimizer
from usucl_fast.learn.origin import Origin
from usucl_fast.learn.page import write_page
from usucl_fast.learn.ranks import Ranks
from usucl_fast.learn.run_folder import RunFolder, record_of
from usucl_fast.learn.snapshots import Snapshots
from usucl_fast.learn.splits import with_split
from usucl_fast.learn.watch import Collapse, Watch, import_tensorboard
from usucl_fast.learn.weights import read_backbone
from usucl_fast.progress import note
from usucl_fast.shards import ShardStore


@dataclass(frozen=True, kw_only=True)
class Execution:
    """How a run is carried out; none of it changes which tuples it sees.

    loader: name in `usucl_fast.feed.LOADERS`.
    threads: CPU threads that decode.
    resident_bytes, resident_file: where the resident loader may keep pixels, see `Delivery`.
    beton: what the loader ffcv reads, see `Delivery`.
    checkpoint_every: steps between checkpoints.
    keep: checkpoints that are kept, the newest ones.
    stop_after: stop after this many steps in all; None for the whole run.
    tensorboard: write figures for TensorBoard.
    profile: write a trace of a few steps.
    rank_timeout: seconds without a heartbeat after which a rank counts as lost, and the run ends.
    deterministic: give the same bits each time on a GPU as well, see `arithmetic`.
    page_every: write the run's page at its end and, unless 0, whenever so many epochs are over; None for no page.
    """

    loader: str
    device: torch.device
    threads: int
    resident_bytes: int = RESIDENT_BYTES
    resident_file: bool = False
    beton: Path | None = None
    checkpoint_every: int = 100
    keep: int = 2
    stop_after: int | None = None
    tensorboard: bool = False
    profile: bool = False
    rank_timeout: float = 60
    deterministic: bool = False
    page_every: int | None = None


def train(
    config: Method,
    store: ShardStore,
    out: Path,
    execution: Execution,
    *,
    resume: bool = False,
    overwrite: bool = False,
    should_stop: Callable[[], bool] = lambda: False,
    ranks: Ranks | None = None,
) -> dict[str, Any]:
    """Trains into the run folder `out`, and returns the summary (also in `summary.json`).

    Stops early, with a checkpoint, when `should_stop()` is true before a step, or when a wait for data is interrupted.
    A resumed run continues as if it had never stopped. Of several `ranks`, each calls this; the first writes the
    folder, and keeps other processes from training in it.

    Raises:
        UsageError: `out` holds a run and neither `resume` nor `overwrite` is given, or there is none to
            resume, or it was begun with other settings or shards, or another process is training in it; or the
            settings do not work on this machine.
        StoppedError: the run was stopped before its first step, or another rank has ended.
        ResourceError: memory or disk ran out.
        DataError: the loss or the gradient is not finite; the message names the step and the frames.
    """
    ranks = ranks or Ranks()
    config = with_split(with_precision(config, execution.device), store)
    folder = RunFolder(out)
    locked = folder.locked() if ranks.first else contextlib.nullcontext()
    with (
        ranks.reporting_lost_ranks(),
        _out_of_room(config),
        ranks.heartbeat(execution.rank_timeout),
        locked,
        arithmetic(config.precision, execution.deterministic),
    ):
        if ranks.first:
            folder.check(config, store.fingerprint, resume, overwrite)
            if execution.tensorboard:
                import_tensorboard()  # before anything is written or an old run is replaced
        run = Run(config, store, folder, execution, ranks, resume)
        if ranks.first:
            if overwrite:
                folder.clear()
            folder.begin(config, store.fingerprint, Origin.of_process(store.name))
        if not ranks.agree(run.step):  # no rank starts before all can
            raise UsageError(f"--out {out} is not the same on all ranks; name a folder that all machines share")
        return run.go(should_stop)


@contextlib.contextmanager
def _out_of_room(config: Method) -> Iterator[None]:
    """Raises ResourceError where memory or disk space runs out."""
    try:
        yield
    except OSError as error:
        if error.errno not in NO_SPACE:
            raise
        raise ResourceError(
            f"{error.filename} cannot be written ({error.strerror}): make room; --resume continues from the newest"
            " checkpoint"
        ) from error
    except (MemoryError, RuntimeError) as error:
        words = ("out of memory", "can't allocate memory", "not enough memory")
        if not isinstance(error, MemoryError) and not any(word in str(error) for word in words):
            raise
        raise ResourceError(
            f"out of memory: lower --batch-size ({config.batch_size}) or --size ({config.size}), or raise --accumulate"
            f" ({config.accumulate}); --resume continues from the newest checkpoint, with the settings it has"
        ) from error


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
        _check_shares(config, self.planner, ranks)
        if ranks.first:
            _look_at_cache(config, store, ranks)
        config.check_data(store.table, self.planner.planned, store.name)
        self.loader = loader or self._make_loader()
        torch.manual_seed(config.seed)
        self.network = Network(config, store.table, execution.device, ranks)
        self.network.to(execution.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        if config.batch_norm == "sync" and ranks.count > 1:
            self.network = nn.SyncBatchNorm.convert_sync_batchnorm(self.network)
        self.plans = MinedPlans(self.planner, self.network.bank, config.max_row_age())
        self.snapshots = Snapshots(self.planner, self.network)
        self.optimizer = make_optimizer(config, self.network)
        self.step, self.metrics = 0, ""
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
            resident_file=execution.resident_file,
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
            single = _least_share(self.config, self.planner, self.ranks) == 1
            self.parallel = DistributedDataParallel(self.network, broadcast_buffers=single)

    def save(self) -> None:
        """Writes a checkpoint, on the first rank."""
        if not self.ranks.first:
            return
        bank = self.network.bank
        Checkpoint(
            step=self.step,
            begun=record_of(self.config, self.store.fingerprint),
            ranks=self.ranks.count,
            network=self.network.state_dict(),
            optimizer=self.optimizer.state_dict(),
            bank=None if bank is None else bank.state_dict(),
            plans=self.plans.frame_ids_under_way(),
            metrics=self.folder.metrics_text(),
            snapshots=self.snapshots.state_dict(),
        ).save(self.folder, self.execution.keep)
        self.snapshots.save(self.folder.mined)

    def go(self, should_stop: Callable[[], bool]) -> dict[str, Any]:
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
            contextlib.closing(self.loader.run(self.shares())) as batches,
        ):
            while self.step < last:
                started, batch, stopped = time.perf_counter(), None, StoppedError("stopped before the first step")
                try:
                    batch = next(batches)
                except StoppedError as error:  # while it waited for data
                    stopped = error
                waited = time.perf_counter() - started
                if self.ranks.any(batch is None or should_stop()):
                    if self.step == first:
                        raise stopped
                    self.save()
                    finished = False
                    break
                assert batch is not None
                line = self.one_step(batch)
                line |= {"wait": round(waited, 6), "seconds": round(time.perf_counter() - started, 6)}
                watch.step(line)
                if self.step == last or self.step % execution.checkpoint_every == 0:
                    self.save()
                page_steps = (execution.page_every or 0) * self.planner.steps_per_epoch
                if page_steps and self.step < last and self.step % page_steps == 0:
                    self._write_page()
        summary = self._finish()
        if execution.page_every is not None and finished:  # who stops a run does not want to wait
            self._write_page()
        return summary

    def _write_page(self) -> None:
        if self.ranks.first:
            self.snapshots.save(self.folder.mined)
            bank = self.network.bank
            write_page(self.folder, self.store, None if bank is None else bank.state_dict(), self.step)

    def _parts(self, plan: BatchPlan) -> list[Part]:
        return plan.parts(self.config.accumulate, self.ranks.rank, self.ranks.count)

    def shares(self) -> Iterator[BatchPlan]:
        """What this rank loads: its share of each part of every plan."""
        shape = self.config.accumulate, self.ranks.rank, self.ranks.count
        self.store.follow(self.planner.shards(self.step, *shape))
        for plan in self.plans:
            yield BatchPlan.joined([part.own for part in self._parts(plan)])

    def one_step(self, batch: Batch) -> dict[str, Any]:
        """Trains on one batch; returns the line of metrics, without times."""
        plan = self.plans.next
        parts = self._parts(plan)
        _check_delivered(batch, parts)
        lr = self._begin()
        loss, outcomes = self._accumulate(batch.frames, parts)
        trained = [parameter.grad for parameter in self.network.parameters() if parameter.grad is not None]
        norm = torch.nn.utils.get_total_norm(trained)
        self.optimizer.step()
        self.network.end(outcomes, self.step)
        line = {"step": plan.step, "epoch": plan.epoch, "lr": lr, **self.config.stage_metrics(plan.stage)}
        line |= read_metrics(plan, loss, norm, outcomes, self.planner.table.first_row)
        if self.network.bank is not None and plan.step % BANK_EVERY == 0:
            line["bank"] = bank_health(self.network.bank, plan.step)
        self.plans.advance()
        self.store.passed()
        self.step += 1
        if self.ranks.first:
            self.snapshots.look(self.step)
        return line

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

    def _finish(self) -> dict[str, Any]:
        if not self.ranks.first:
            return {}
        backbone = {name: tensor.contiguous() for name, tensor in self.network.query.backbone.state_dict().items()}
        with write_whole(self.folder.backbone) as file:
            file.write(safetensors_bytes(backbone))
        lines = self.folder.read_metrics()
        seconds = sum(line["seconds"] for line in lines)
        collapse = Collapse(self.config, self.steps)
        summary = {
            "steps": self.step,
            "of": self.steps,
            "split": self.config.split,
            "videos": len(self.planner.planned),
            "loss": lines[-1]["loss"],
            "mean_cosine": lines[-1]["mean_cosine"],
            "effective_rank": lines[-1]["effective_rank"],
            "warnings": [*self.config.doubts(), *(warning for line in lines if (warning := collapse.look(line)))],
            "frames_per_second": round(sum(line["frames"] for line in lines) / seconds, 1),
            "data_wait": round(sum(line["wait"] for line in lines) / seconds, 4),
            "seconds": round(seconds, 3),
            "loader": self.execution.loader,
            "ranks": self.ranks.count,
            "device": str(self.execution.device),
            **self._gpu_memory(),
        }
        write_json(self.folder.summary, summary)
        return summary

    def _gpu_memory(self) -> dict[str, float]:
        """The most memory that tensors took on the GPU, in GB; nothing on a CPU."""
        device = self.execution.device
        return {"gpu_memory_gb": torch.cuda.max_memory_allocated(device) / 1e9} if device.type == "cuda" else {}


def _check_delivered(batch: Batch, parts: list[Part]) -> None:
    """Raises where a loader has not executed the plan of this step."""
    asked, got = BatchPlan.joined([part.own for part in parts]).digest(), batch.plan.digest()
    if asked != got:
        raise DataError(
            f"step {parts[0].whole.step}: the loader delivered a batch of the plan {got}, not of {asked}; a loader"
            " executes plans in the order in which they come"
        )


def _look_at_cache(config: Method, store: ShardStore, ranks: Ranks) -> None:
    """Says so where shards at a URL will be fetched more than once an epoch, for want of room."""
    lanes, room = -(-config.shuffle_shards // ranks.count), store.room
    if room is None or 0 < lanes < room:
        return
    held = f"the cache holds {room} of the {store.table.rows['shard'][-1] + 1} shards of {store.name} for each rank"
    if lanes:
        note(f"{held}, and --shuffle-shards {config.shuffle_shards} needs {lanes + 1}; lower it, or raise --cache-gb")
    else:
        fits = max(1, room * 3 // 4) * ranks.count
        note(
            f"{held}: shards are fetched again and again in each epoch; --shuffle-shards {fits} fetches each once, or"
            " raise --cache-gb"
        )


def _least_share(config: Method, planner: Planner, ranks: Ranks) -> int:
    """The least number of tuples that a rank encodes at once."""
    return planner.tuples_per_epoch // planner.steps_per_epoch // (ranks.count * config.accumulate)


def _check_shares(config: Method, planner: Planner, ranks: Ranks) -> None:
    """Raises where a rank would have no tuples, or the batch norm is not available."""
    if not _least_share(config, planner, ranks):
        least = planner.tuples_per_epoch // planner.steps_per_epoch
        raise UsageError(
            f"batches of {least} tuples are too few for {ranks.count} ranks and --accumulate {config.accumulate}: start"
            " fewer ranks, or raise --batch-size"
        )
    if config.warm_up >= planner.steps:
        raise UsageError(f"--warm-up {config.warm_up} is all of the run, which has {planner.steps} steps; lower it")
    if config.batch_norm == "sync" and ranks.count > 1 and not torch.cuda.is_available():
        raise UsageError("--batch-norm sync works on GPUs only; use rank or shuffle")
