"""The folder that a run is written to: what lies in it, and whether a run may begin or go on there."""

import dataclasses
import json
from pathlib import Path
from typing import Any

from usucl_fast.errors import UsageError
from usucl_fast.files import holds_only
from usucl_fast.learn.recipes import TrainConfig

OUTPUT = (
    "config.json",
    "metrics.jsonl",
    "summary.json",
    "backbone.safetensors",
    "checkpoints",
    "tensorboard",
    "trace.json",
    ".*.partial",
)


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


def check_out(out: Path, config: TrainConfig, shards: str, resume: bool, overwrite: bool) -> None:
    """Whether a run with these settings may be written to the folder `out`.

    shards: the `fingerprint` of the store.

    Raises:
        UsageError: `out` holds a run and neither `resume` nor `overwrite` is given, or there is none to resume, or it
            was begun with other settings or shards; or it holds files that are not a run's.
    """
    if resume:
        begun = read_config(out)
        for name, value in dataclasses.asdict(config).items():
            # What `auto` stands for depends on the device, which is not known from the start; a run never has it.
            if value not in (getattr(begun, name), "auto"):
                raise UsageError(
                    f"--resume: the run in {out} was begun with {name} {getattr(begun, name)}, not {value};"
                    " leave the option out, or start another run"
                )
        if json.loads((out / "config.json").read_bytes())["shards"] != shards:
            raise UsageError(
                f"--resume: the run in {out} was begun on other shards than these, or they have changed since"
            )
    elif out.exists() and (not out.is_dir() or any(out.iterdir())):
        if not out.is_dir() or not (out / "config.json").is_file() or not holds_only(out, OUTPUT):
            raise UsageError(f"--out {out} holds files that are not a run's; name a new or empty folder")
        if not overwrite:
            raise UsageError(f"--out {out} holds a run; add --resume to go on with it or --overwrite to replace it")
