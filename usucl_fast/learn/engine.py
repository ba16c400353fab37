"""The loop: plans -> batches -> steps -> checkpoints, metrics, backbone."""

import contextlib
import dataclasses
import math
import shutil
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
from usucl_fast.feed import (
    AUGMENTATIONS,
    RESIDENT_BYTES,
    Batch,
    BatchPlan,
    Delivery,
    Loader,
    Planner,
    ShardStore,
    make_loader,
)
from usucl_fast.files import write_json, write_whole
from usucl_fast.learn import checkpoint
from usucl_fast.learn.health import BANK_EVERY, bank_health, effective_rank, mean_cosine, near_duplicates
from usucl_fast.learn.method import Outcome
from usucl_fast.learn.methods import method_class
from usucl_fast.learn.mined_plans import MinedPlans
from usucl_fast.learn.optimizer import learning_rate, make_optimizer
from usucl_fast.learn.ranks import Ranks
from usucl_fast.learn.recipes import TrainConfig, make_curriculum
from usucl_fast.learn.run_folder import check_out
from usucl_fast.learn.watch import Watch, import_writer, read_metrics
from usucl_fast.learn.weights import read_backbone
from usucl_fast.machine import computes_in_bf16


@dataclass(frozen=True)
class Execution:
    """How a run is carried out; none of it changes which tuples it sees.

    loader: name in `usucl_fast.feed.LOADERS`.
    threads: CPU threads that decode.
    resident_bytes, resident_file: where the resident loader may keep pixels, see `Delivery`.
    beton: what the loader ffcv reads, see `Delivery`.
    checkpoint_every: steps between checkpoints.
    keep: checkpoints that are kept, the newest ones.
    stop_after: stop after this many steps in all, as if told to; None for the whole run.
    tensorboard: write figures for TensorBoard.
    profile: write a trace of a few steps.
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


def train(
    config: TrainConfig,
    store: ShardStore,
    out: Path,
    execution: Execution,
    *,
    resume: bool = False,
    overwrite: bool = False,
    told_to_stop: Callable[[], bool] = lambda: False,
    ranks: Ranks | None = None,
) -> dict[str, Any]:
    """Trains into the run folder `out`, and returns the summary (also in `summary.json`).

    Stops early, with a checkpoint, when `told_to_stop()` is true before a step, or when waiting for data was ended. A
    resumed run goes on as if it had never stopped. Of several `ranks`, each calls this, and the first writes.

    Raises:
        UsageError: `out` holds a run and neither `resume` nor `overwrite` is given, or there is none to
            resume, or it was begun with other settings or shards; or the settings cannot be carried out here.
        StoppedError: there was an end before the first step, or another rank has ended.
        ResourceError: memory or disk ran out.
        DataError: the loss or the gradient is not finite; the message names the step and the frames.
    """
    ranks = ranks or Ranks()
    config = with_precision(config, execution.device)
    record = {"config": dataclasses.asdict(config), "shards": store.fingerprint}
    with ranks.telling_of_lost_ones(), _telling_of_memory(config):
        if ranks.first:
            check_out(out, config, store.fingerprint, resume, overwrite)
            if execution.tensorboard:
                import_writer()  # before anything is written, or an old run replaced
        run = Run(config, store, out, execution, ranks, resume)
        if ranks.first:
            if overwrite and out.exists():
                shutil.rmtree(out)
            out.mkdir(parents=True, exist_ok=True)
            write_json(out / "config.json", record)
        ranks.any(False)  # none begins before all can
        return run.go(told_to_stop)


def with_precision(config: TrainConfig, device: torch.device) -> TrainConfig:
    """The settings with the arithmetic that `auto` stands for on the device."""
    if config.precision != "auto":
        return config
    return dataclasses.replace(config, precision="bf16" if computes_in_bf16(device) else "fp32")


@contextlib.contextmanager
def _telling_of_memory(config: TrainConfig) -> Iterator[None]:
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        words = ("out of memory", "can't allocate memory", "not enough memory")
        if not isinstance(error, MemoryError) and not any(word in str(error) for word in words):
            raise
        raise ResourceError(
            f"out of memory: lower --batch-size ({config.batch_size}) or --size ({config.size}), or raise --accumulate"
            f" ({config.accumulate}); --resume goes on from the newest checkpoint, with the settings it has"
        ) from error


class Run:
    """What `train` makes and lets go. To do it step by step, hand each batch of `loader.run(shares())` to `one_step`.

    resume: go on from the newest checkpoint in `out`, where there is one.
    loader: in place of the one that `execution` names.
    """

    def __init__(
        self,
        config: TrainConfig,
        store: ShardStore,
        out: Path,
        execution: Execution,
        ranks: Ranks,
        resume: bool = False,
        loader: Loader | None = None,
    ) -> None:
        self.config, self.store, self.out, self.execution, self.ranks = config, store, out, execution, ranks
        made = method_class(config.method)
        self.planner = Planner(
            store.table,
            seed=config.seed,
            epochs=config.epochs,
            batch_size=config.batch_size,
            curriculum=make_curriculum(config),
            augmentation=AUGMENTATIONS[config.augment],
            tuples=made.tuples(config),
            reach=config.reach,
        )
        self.steps = self.planner.steps
        _check_shares(config, self.planner, ranks)
        self.loader = loader or make_loader(
            execution.loader,
            store,
            Delivery(
                config.size,
                config.channels,
                execution.device,
                execution.threads,
                self.planner.most_frames,
                execution.resident_bytes,
                execution.resident_file,
                execution.beton,
            ),
        )
        _check_negatives(config, store)
        torch.manual_seed(config.seed)
        self.method = made(config, store.table, execution.device, ranks)
        self.method.to(execution.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        if config.batch_norm == "sync" and ranks.count > 1:
            self.method = nn.SyncBatchNorm.convert_sync_batchnorm(self.method)
        self.plans = MinedPlans(self.planner, self.method.bank, config.max_age or None)
        self.optimizer = make_optimizer(config, self.method)
        self.step = 0
        self._start(resume)

    def _start(self, resume: bool) -> None:
        """Goes back to the newest checkpoint, or to the start where there is none yet."""
        state = checkpoint.load_newest(self.out / "checkpoints") if resume else None
        if state is not None:
            self.method.load_state_dict(state["method"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.step = state["step"]
            self.plans.start(self.step, state["plans"])
        elif self.config.init != "random":
            self.method.start_with(read_backbone(self.config.init, self.config.arch))
        if self.config.compile:
            for encoder in self.method.encoders():
                encoder.compile()
        self.parallel: Any = DistributedDataParallel(self.method) if self.ranks.count > 1 else self.method

    def save(self) -> None:
        if not self.ranks.first:
            return
        checkpoint.save(
            self.out / "checkpoints",
            self.step,
            {
                "step": self.step,
                "method": self.method.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "plans": self.plans.frame_ids_under_way(),
            },
            self.execution.keep,
        )

    def go(self, told_to_stop: Callable[[], bool]) -> dict[str, Any]:
        first, last = self.step, min(self.steps, self.execution.stop_after or self.steps)
        execution = self.execution
        with (
            Watch(self.out, self.step, self.steps, execution.tensorboard, execution.profile, self.ranks.first) as watch,
            contextlib.closing(self.loader.run(self.shares())) as batches,
        ):
            while self.step < last:
                started, batch, stopped = time.perf_counter(), None, StoppedError("stopped before the first step")
                try:
                    batch = next(batches)
                except StoppedError as error:  # while it waited for data
                    stopped = error
                waited = time.perf_counter() - started
                if self.ranks.any(batch is None or told_to_stop()):
                    if self.step == first:
                        raise stopped
                    self.save()
                    break
                assert batch is not None
                line = self.one_step(batch)
                line |= {"wait": round(waited, 6), "seconds": round(time.perf_counter() - started, 6)}
                watch.step(line)
                if self.step == last or self.step % execution.checkpoint_every == 0:
                    self.save()
        return self._finish()

    def _parts(self, plan: BatchPlan) -> list[BatchPlan]:
        return [plan.share(number, self.config.accumulate) for number in range(self.config.accumulate)]

    def shares(self) -> Iterator[BatchPlan]:
        """What this rank loads: its share of each part of every plan."""
        for plan in self.plans:
            yield BatchPlan.joined([part.share(self.ranks.rank, self.ranks.count) for part in self._parts(plan)])

    def one_step(self, batch: Batch) -> dict[str, Any]:
        """Trains on one batch; returns the line of metrics, without times."""
        epoch = self.step // self.planner.steps_per_epoch
        stage, plan = self.planner.stage(epoch), self.plans.next
        lr = learning_rate(self.config, self.step, self.steps)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        self.method.begin(self.step / self.steps)
        self.optimizer.zero_grad(set_to_none=True)
        outcomes: list[Outcome] = []
        parts, done, loss = self._parts(plan), 0, 0.0
        for number, part in enumerate(parts):
            own = len(part.share(self.ranks.rank, self.ranks.count).frame_ids)
            last = number == len(parts) - 1
            parallel = isinstance(self.parallel, DistributedDataParallel)
            with self.parallel.no_sync() if parallel and not last else contextlib.nullcontext():
                outcome = self.parallel(batch.frames[done : done + own], part, stage, self.step)
                weighted = outcome.loss * (len(part.frame_ids) / len(plan.frame_ids))
                weighted.backward()
            loss += float(weighted.detach())
            outcomes.append(outcome)
            done += own
        trained = [parameter.grad for parameter in self.method.parameters() if parameter.grad is not None]
        norm = float(torch.nn.utils.get_total_norm(trained))
        if not (math.isfinite(loss) and math.isfinite(norm)):
            raise DataError(
                f"step {self.step} diverged: the loss is {loss}, the gradient's norm {norm}; frame ids"
                f" {plan.frame_ids.tolist()}; lower --lr, or raise --warm-up, and start again"
            )
        self.optimizer.step()
        self.method.end(self.step)
        self.plans.advance()
        query = torch.cat([outcome.query for outcome in outcomes])
        line: dict[str, Any] = {
            "step": self.step,
            "epoch": epoch,
            "loss": loss,
            "lr": lr,
            "gradient": norm,
            **(dataclasses.asdict(stage) if self.config.method == "usucl" else {}),
            "mean_cosine": mean_cosine(query),
            "effective_rank": effective_rank(query),
            "tuples": len(plan.frame_ids),
            "frames": int(plan.frame_ids.size),
            "plan": plan.digest(),
        }
        if self.method.bank is not None:
            members = torch.cat([outcome.members for outcome in outcomes if outcome.members is not None])
            line["near_duplicates"] = near_duplicates(members.cpu().numpy(), self.method.bank.first_row)
            if self.step % BANK_EVERY == 0:
                line["bank"] = bank_health(self.method.bank, self.step)
        self.step += 1
        return line

    def _finish(self) -> dict[str, Any]:
        if not self.ranks.first:
            return {}
        backbone = {name: tensor.contiguous() for name, tensor in self.method.query.backbone.state_dict().items()}
        with write_whole(self.out / "backbone.safetensors") as file:
            file.write(safetensors_bytes(backbone))
        lines = read_metrics(self.out / "metrics.jsonl")
        seconds = sum(line["seconds"] for line in lines)
        summary = {
            "steps": self.step,
            "of": self.steps,
            "loss": lines[-1]["loss"],
            "mean_cosine": lines[-1]["mean_cosine"],
            "effective_rank": lines[-1]["effective_rank"],
            "frames_per_second": round(sum(line["frames"] for line in lines) / seconds, 1),
            "data_wait": round(sum(line["wait"] for line in lines) / seconds, 4),
            "seconds": round(seconds, 3),
            "loader": self.execution.loader,
            "ranks": self.ranks.count,
            "device": str(self.execution.device),
        }
        write_json(self.out / "summary.json", summary)
        return summary


def _check_negatives(config: TrainConfig, store: ShardStore) -> None:
    """Raises where the exclusion leaves no candidate for any anchor: the run would learn nothing from it."""
    table = store.table
    if config.method not in ("usucl", "cycle"):
        return
    kinds = {"group": len(set(table.group)), "video": len(table.videos), "none": 2}[config.exclude]
    if config.candidates == "bank" and kinds < 2:
        raise UsageError(
            f"--exclude {config.exclude} leaves no cross-video negatives: {store.name} holds one {config.exclude}"
            f" alone; use --exclude {'video' if len(table.videos) > 1 else 'none'}"
        )


def _check_shares(config: TrainConfig, planner: Planner, ranks: Ranks) -> None:
    """Raises where a rank would have nothing to do, or batch norm is not to be had."""
    least = len(planner.table.videos) // planner.steps_per_epoch
    if least < ranks.count * config.accumulate:
        raise UsageError(
            f"batches of {least} tuples are too few for {ranks.count} ranks and --accumulate {config.accumulate}: start"
            " fewer ranks, or raise --batch-size"
        )
    if config.batch_norm == "sync" and ranks.count > 1 and not torch.cuda.is_available():
        raise UsageError("--batch-norm sync works on GPUs only; use rank or shuffle")
