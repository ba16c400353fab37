"""The folder that a run is written to: the name of every file in it, and what they say."""

import contextlib
import dataclasses
import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from usucl_fast.errors import DataError, UsageError, first_line
from usucl_fast.files import SMALL_JSON_BYTES, holds_only, locked, read_json, write_json
from usucl_fast.learn.method import Method
from usucl_fast.learn.origin import Origin
from usucl_fast.learn.recipes import METHODS

FORMAT = 4
"""Version of the settings and checkpoints in a run folder: a run resumes only from its own."""

CONFIG_GONE = "put it back as it was, or train again with --overwrite"
"""The ways out where the settings cannot be read."""


def record_of(config: Method, shards: str) -> dict[str, Any]:
    """What `config.json` says of a run with these settings on shards with this fingerprint."""
    record = {"format": FORMAT, "config": dataclasses.asdict(config), "shards": shards}
    return dict(json.loads(json.dumps(record)))  # JSON has no tuples


def parse_metrics(text: str) -> list[dict[str, Any]]:
    """The lines of metrics, without a last one that was cut off.

    Raises:
        ValueError: a line is damaged.
    """
    return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]


@dataclass(frozen=True)
class RunFolder:
    """A run folder, by its path; there need be none yet."""

    path: Path

    @classmethod
    def of(cls, source: Path) -> "RunFolder":
        """The run folder that `source` is, or that it is a checkpoint of."""
        folder = cls(source)
        above = cls(source.parent.parent)
        return above if source.parent == above.checkpoints else folder

    @property
    def config(self) -> Path:
        """The settings, and the fingerprint of the shards."""
        return self.path / "config.json"

    @property
    def metrics(self) -> Path:
        """A line of JSON a step."""
        return self.path / "metrics.jsonl"

    @property
    def mined(self) -> Path:
        """What was mined for some anchors, through the run; see `Snapshots`."""
        return self.path / "mined.npz"

    @property
    def page(self) -> Path:
        """What a person looks at."""
        return self.path / "page.html"

    @property
    def summary(self) -> Path:
        """How the run ended; there is none before."""
        return self.path / "summary.json"

    @property
    def backbone(self) -> Path:
        """The weights that were learned, under torchvision's names."""
        return self.path / "backbone.safetensors"

    @property
    def checkpoints(self) -> Path:
        """The folder of the checkpoints."""
        return self.path / "checkpoints"

    @property
    def tensorboard(self) -> Path:
        """What TensorBoard shows."""
        return self.path / "tensorboard"

    @property
    def trace(self) -> Path:
        """The profile of a few steps."""
        return self.path / "trace.json"

    @property
    def lock(self) -> Path:
        """There while a process trains."""
        return self.path / ".lock"

    def checkpoint(self, step: int) -> Path:
        """The checkpoint after so many steps."""
        return self.checkpoints / f"step-{step:08d}.pt"

    def saved_checkpoints(self) -> list[Path]:
        """The checkpoints that are there, the newest first."""
        return sorted(self.checkpoints.glob("step-*.pt"), reverse=True)

    def holds_run(self) -> bool:
        """Whether a run was begun here."""
        return self.config.is_file()

    def holds_only_run(self) -> bool:
        """Whether a run was begun here, and all files are a run's."""
        files = (
            *(self.config, self.metrics, self.mined, self.page, self.summary, self.backbone),
            *(self.checkpoints, self.tensorboard, self.trace),
        )
        return self.holds_run() and holds_only(
            self.path, [*(file.name for file in files), self.lock.name, ".*.partial*"]
        )

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Keeps other trainings out, see `files.locked`. Makes the folder; it goes again where nothing was written.

        Raises:
            UsageError: another training is at work.
        """
        is_new = not self.path.exists()
        self.path.mkdir(parents=True, exist_ok=True)
        try:
            with locked(
                self.lock, f"another usucl-train is at work on --out {self.path}; wait for it, or name another folder"
            ):
                yield
        finally:
            if is_new:
                with contextlib.suppress(OSError):
                    self.path.rmdir()

    def clear(self) -> None:
        """Removes all but the lock."""
        for entry in self.path.iterdir():
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry)
            elif entry != self.lock:
                entry.unlink()

    def begin(self, config: Method, shards: str, origin: Origin) -> None:
        """Writes the settings of the run, or of one that is resumed.

        shards: the `fingerprint` of the store.
        origin: of this process; kept beside those of the processes before it.
        """
        started = self.read_origins() if self.holds_run() else []
        if origin not in started[-1:]:
            started = [*started, origin]
        write_json(self.config, record_of(config, shards) | {"started": list(map(dataclasses.asdict, started))})

    def read_config(self) -> Method:
        """The settings that the run was begun with. Of an older run, those that there still are.

        Raises:
            UsageError: there is no run.
            DataError: config.json is damaged.
        """
        if not self.holds_run():
            raise UsageError(f"--out {self.path} holds no run to resume; remove --resume to start one")
        try:
            record, values = self._record(), dict[str, Any]()
            made = METHODS[record["config"]["method"]]
            for field in dataclasses.fields(made):
                if field.name in record["config"]:
                    value = record["config"][field.name]
                    values[field.name] = tuple(value) if isinstance(value, list) else value  # JSON has no tuples
                    if record.get("format") == FORMAT and not _is_like(values[field.name], field.default):
                        raise ValueError(f"{field.name} is {value!r}")
            return made(**values)
        except (ValueError, LookupError, TypeError) as error:
            raise DataError(f"{self.config} is damaged ({first_line(error)}); {CONFIG_GONE}") from error

    def read_fingerprint(self) -> str:
        """The `fingerprint` of the shards that the run was begun on."""
        return str(self._record().get("shards"))

    def read_origins(self) -> list[Origin]:
        """How the processes of the run were started, the first one first; older runs do not say."""
        started = self._record().get("started")
        found = [Origin.read(value) for value in started] if isinstance(started, list) else []
        return [origin for origin in found if origin is not None]

    def read_shards(self) -> str:
        """The folder or URL of the shards that the run was trained on last.

        Raises:
            UsageError: there is no run, or it does not say.
        """
        if not self.holds_run():
            raise UsageError(f"{self.path} is not the folder of a run (it has no {self.config.name})")
        origins = self.read_origins()
        if not origins:
            raise UsageError(f"{self.config} does not say where the shards are; name them: usucl-train page RUN SHARDS")
        return origins[-1].shards

    def read_summary(self) -> dict[str, Any]:
        """What `summary.json` says; nothing where there is none.

        Raises:
            DataError: it is damaged.
        """
        summary = read_json(self.summary, SMALL_JSON_BYTES) if self.summary.exists() else {}
        if not isinstance(summary, dict):
            raise DataError(f"{self.summary} is damaged; remove it")
        return summary

    def read_metrics(self) -> list[dict[str, Any]]:
        """The lines of metrics, without a last one that was cut off."""
        return parse_metrics(self.metrics.read_text(encoding="utf-8"))

    def metrics_text(self) -> str:
        """What is in the file of metrics, damaged or not; nothing where there is none."""
        return self.metrics.read_text(encoding="utf-8", errors="replace") if self.metrics.exists() else ""

    def check(self, config: Method, shards: str, resume: bool, overwrite: bool) -> None:
        """Checks whether a run with these settings may be written here.

        shards: the `fingerprint` of the store.

        Raises:
            UsageError: there is a run and neither `resume` nor `overwrite` is given, or there is none to resume, or it
                was begun with other settings or shards, or before this version; or there are files that are not a
                run's.
        """
        if resume:
            self._check_resumed(config, shards)
        elif self.path.exists() and (not self.path.is_dir() or not holds_only(self.path, [self.lock.name])):
            if not self.path.is_dir() or not self.holds_only_run():
                raise UsageError(f"--out {self.path} holds files that are not a run's; name a new or empty folder")
            if not overwrite:
                raise UsageError(
                    f"--out {self.path} holds a run; add --resume to continue it or --overwrite to replace it"
                )

    def _check_resumed(self, config: Method, shards: str) -> None:
        begun, record = self.read_config(), self._record()
        if record.get("format") != FORMAT:
            learned = next((file for file in [self.backbone, *self.saved_checkpoints()] if file.exists()), self.path)
            raise UsageError(
                f"--resume: the run in {self.path} was begun by another version of usucl-fast; finish it with that one,"
                f" or start another run from what it has learned: --init {learned}"
            )
        for name, value in dataclasses.asdict(config).items():
            # What `auto` stands for depends on the device, which is not known from the start; a run never has it.
            if value not in (getattr(begun, name, None), "auto"):
                raise UsageError(
                    f"--resume: the run in {self.path} was begun with {name} {getattr(begun, name)}, not {value};"
                    " remove the option, or start another run"
                )
        if record.get("shards") != shards:
            raise UsageError(
                f"--resume: the run in {self.path} was begun on other shards than these, or they have changed since"
            )

    def check_unchanged(self, found: dict[str, Any], begun: dict[str, Any]) -> None:
        """Checks that `config.json`, which says what is `found`, says what a checkpoint has of it.

        Raises:
            UsageError: it was changed since; the message names the first setting.
        """
        was, now = ({**record["config"], "shards": record["shards"]} for record in (begun, found))
        for name, value in was.items():
            if now.get(name) != value:
                raise UsageError(
                    f"--resume: {self.config} was changed: {name} is {now.get(name)}, and was {value} when the"
                    " checkpoint was written; put it back, or start another run"
                )

    def _record(self) -> dict[str, Any]:
        try:
            record: Any = read_json(self.config, SMALL_JSON_BYTES)
        except DataError as error:
            raise DataError(f"{error}; {CONFIG_GONE}") from error
        if not isinstance(record, dict):
            raise DataError(f"{self.config} is damaged (it holds no settings); {CONFIG_GONE}")
        return record


def _is_like(value: Any, default: Any) -> bool:
    """Whether a setting is of its default's type."""
    if isinstance(default, tuple):
        return isinstance(value, tuple) and len(value) == len(default) and all(map(_is_like, value, default))
    return type(value) is type(default) or (type(value) is int and type(default) is float)
