"""The loop: plans -> batches -> steps -> checkpoints, metrics, backbone."""

import contextlib
import dataclasses
import json
import math
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

import torch
from safetensors.torch import save as safetensors_bytes

from usucl_fast.errors import DataError, StoppedError, UsageError
from usucl_fast.feed import AUGMENTATIONS, RESIDENT_BYTES, Batch, Delivery, Planner, ShardStore, make_loader
from usucl_fast.files import holds_only, write_json, write_whole
from usucl_fast.learn import checkpoint
from usucl_fast.learn.encoder import Encoder, MomentumPair
from usucl_fast.learn.health import BANK_EVERY, bank_health, effective_rank, mean_cosine, near_duplicates
from usucl_fast.learn.mined_plans import MinedPlans
from usucl_fast.learn.recipes import TrainConfig, make_curriculum
from usucl_fast.learn.usucl import Usucl
from usucl_fast.machine import computes_in_bf16
from usucl_fast.report.progress import Progress

OUTPUT = ("config.json", "metrics.jsonl", "summary.json", "backbone.safetensors", "checkpoints", ".*.partial")


@dataclass(frozen=True)
class Execution:
    """How a run is carried out; none of it changes which tuples it sees.

    loader: name in `usucl_fast.feed.LOADERS`.
    threads: CPU threads that decode.
    resident_bytes, resident_file: where the resident loader may keep pixels, see `Delivery`.
    beton: what the loader ffcv reads, see `Delivery`.
    checkpoint_every: steps between checkpoints.
    stop_after: stop after this many steps in all, as if told to; None for the whole run.
    """

    loader: str
    device: torch.device
    threads: int
    resident_bytes: int = RESIDENT_BYTES
    resident_file: bool = False
    beton: Path | None = None
    checkpoint_every: int = 100
    stop_after: int | None = None


def train(
    config: TrainConfig,
    store: ShardStore,
    out: Path,
    execution: Execution,
    *,
    resume: bool = False,
    overwrite: bool = False,
    told_to_stop: Callable[[], bool] = lambda: False,
) -> dict[str, Any]:
    """Trains into the run folder `out`, and returns the summary (also in `summary.json`).

    Stops early, with a checkpoint, when `told_to_stop()` is true after a step, or when waiting for data was ended and
    it is true. A resumed run goes on as if it had never stopped.

    Raises:
        UsageError: `out` holds a run and neither `resume` nor `overwrite` is given, or there is none to
            resume, or it was begun with other settings or shards.
        StoppedError: waiting for data was ended before the first step.
    """
    if config.precision == "auto":
        config = dataclasses.replace(config, precision="bf16" if computes_in_bf16(execution.device) else "fp32")
    record = {"config": dataclasses.asdict(config), "shards": store.fingerprint}
    _check_out(out, record, resume, overwrite)
    run = _Run(config, store, out, execution)
    if overwrite and out.exists():
        shutil.rmtree(out)
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / "config.json", record)
    if resume:
        run.restore()
    return run.go(told_to_stop)


class _Run:
    def __init__(self, config: TrainConfig, store: ShardStore, out: Path, execution: Execution) -> None:
        self.config, self.store, self.out, self.execution = config, store, out, execution
        self.planner = Planner(
            store.table,
            seed=config.seed,
            epochs=config.epochs,
            batch_size=config.batch_size,
            curriculum=make_curriculum(config),
            augmentation=AUGMENTATIONS[config.augment],
            negatives="never" if config.mining == "bank" else "always" if config.candidates == "batch" else "counts",
        )
        self.steps = self.planner.steps
        self.loader = make_loader(
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
        pair = MomentumPair(Encoder(config.arch, config.dim, config.head_norm))
        pair.to(execution.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.usucl = Usucl(config, store.table, pair, execution.device)
        self.plans = MinedPlans(self.planner, self.usucl.bank, config.max_age or None)
        self.optimizer = torch.optim.SGD(
            pair.query.parameters(), config.lr, momentum=config.momentum, weight_decay=config.weight_decay
        )
        self.step = 0

    def restore(self) -> None:
        """Goes back to the newest checkpoint, or to the start where there is none yet."""
        state = checkpoint.load_newest(self.out / "checkpoints")
        if state is not None:
            self.usucl.pair.load_state_dict(state["pair"])
            self.usucl.bank.load_state_dict(state["bank"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.step = state["step"]
            self.plans.start(self.step, state["plans"])
        metrics = self.out / "metrics.jsonl"
        if metrics.exists():  # steps after the checkpoint are done again
            kept = [line for line in read_metrics(metrics) if line["step"] < self.step]
            with write_whole(metrics) as file:
                file.writelines(f"{json.dumps(line)}\n".encode() for line in kept)

    def save(self) -> None:
        checkpoint.save(
            self.out / "checkpoints",
            self.step,
            {
                "step": self.step,
                "pair": self.usucl.pair.state_dict(),
                "bank": self.usucl.bank.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "plans": self.plans.frame_ids_under_way(),
            },
        )

    def go(self, told_to_stop: Callable[[], bool]) -> dict[str, Any]:
        last = min(self.steps, self.execution.stop_after or self.steps)
        frames = 0
        with (
            (self.out / "metrics.jsonl").open("a", encoding="utf-8") as metrics,
            Progress("steps", self.steps, self.step) as progress,
            contextlib.closing(self.loader.run(self.plans)) as batches,
        ):
            while self.step < last:
                try:
                    line = self._one_step(batches, metrics)
                except StoppedError:  # while it waited for data: no step has begun
                    if not (told_to_stop() and self.step):
                        raise
                    self.save()
                    break
                frames += line["frames"]
                progress.advance(frames, loss=f"{line['loss']:.4f}", data_wait=f"{line['data_wait']:.0%}")
                stop = told_to_stop()
                if stop or self.step == last or self.step % self.execution.checkpoint_every == 0:
                    self.save()
                if stop:
                    break
        return self._finish()

    def _one_step(self, batches: Iterator[Batch], metrics: TextIO) -> dict[str, Any]:
        started = time.perf_counter()
        batch = next(batches)
        waited = time.perf_counter() - started
        plan = batch.plan
        epoch = self.step // self.planner.steps_per_epoch
        stage = self.planner.stage(epoch)
        lr = self._lr(epoch)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        loss, query, members = self.usucl.loss(batch, stage, self.step)
        value = float(loss.detach())
        if not math.isfinite(value):
            raise DataError(f"the loss is {value} at step {self.step}; frame ids {plan.frame_ids.tolist()}; lower --lr")
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()
        self.plans.advance()
        line: dict[str, Any] = {
            "step": self.step,
            "epoch": epoch,
            "loss": value,
            "lr": lr,
            **dataclasses.asdict(stage),
            "mean_cosine": mean_cosine(query),
            "effective_rank": effective_rank(query),
            "near_duplicates": near_duplicates(members.cpu().numpy(), self.usucl.bank.first_row),
            "frames": int(plan.frame_ids.size),
            "plan": plan.digest(),
            "wait": round(waited, 6),
            "seconds": round(time.perf_counter() - started, 6),
        }
        if self.step % BANK_EVERY == 0:
            line["bank"] = bank_health(self.usucl.bank, self.step)
        line["frames_per_second"] = round(line["frames"] / line["seconds"], 1)
        line["data_wait"] = round(line["wait"] / line["seconds"], 4)
        metrics.write(f"{json.dumps(line)}\n")
        metrics.flush()
        self.step += 1
        return line

    def _lr(self, epoch: int) -> float:
        done = epoch / self.config.epochs if self.config.lr_schedule == "epoch" else self.step / self.steps
        return self.config.lr * 0.5 * (1 + math.cos(math.pi * done))

    def _finish(self) -> dict[str, Any]:
        backbone = {name: tensor.contiguous() for name, tensor in self.usucl.pair.query.backbone.state_dict().items()}
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
            "device": str(self.execution.device),
        }
        write_json(self.out / "summary.json", summary)
        return summary


def _check_negatives(config: TrainConfig, store: ShardStore) -> None:
    """Raises where the exclusion leaves no candidate for any anchor: the run would learn nothing from it."""
    table = store.table
    kinds = {"group": len(set(table.group)), "video": len(table.videos), "none": 2}[config.exclude]
    if config.candidates == "bank" and kinds < 2:
        raise UsageError(
            f"--exclude {config.exclude} leaves no cross-video negatives: {store.name} holds one {config.exclude}"
            f" alone; use --exclude {'video' if len(table.videos) > 1 else 'none'}"
        )


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The lines of `metrics.jsonl`, without a last one that was cut off."""
    lines = []
    for text in path.read_text(encoding="utf-8").splitlines(keepends=True):
        if text.endswith("\n"):
            lines.append(json.loads(text))
    return lines


def read_config(out: Path) -> TrainConfig:
    """The settings that the run in `out` was begun with.

    Raises:
        UsageError: there is no run.
    """
    try:
        settings = json.loads((out / "config.json").read_bytes())["config"].items()
        pairs: dict[str, Any] = {name: tuple(value) for name, value in settings if isinstance(value, list)}
        return TrainConfig(**{**dict(settings), **pairs})  # JSON has no tuples
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise UsageError(f"--out {out} holds no run to resume; leave out --resume to start one") from error


def _check_out(out: Path, record: dict[str, Any], resume: bool, overwrite: bool) -> None:
    if resume:
        begun = read_config(out)
        for field, value in record["config"].items():
            if getattr(begun, field) != value:
                raise UsageError(
                    f"--resume: the run in {out} was begun with {field} {getattr(begun, field)}, not {value};"
                    " leave the option out, or start another run"
                )
        if json.loads((out / "config.json").read_bytes())["shards"] != record["shards"]:
            raise UsageError(
                f"--resume: the run in {out} was begun on other shards than these, or they have changed since"
            )
    elif out.exists() and (not out.is_dir() or any(out.iterdir())):
        if not out.is_dir() or not (out / "config.json").is_file() or not holds_only(out, OUTPUT):
            raise UsageError(f"--out {out} holds files that are not a run's; name a new or empty folder")
        if not overwrite:
            raise UsageError(f"--out {out} holds a run; add --resume to go on with it or --overwrite to replace it")
