"""What a run reports and writes as it trains: metrics, progress, collapse, TensorBoard, traces."""

import contextlib
import errno
import json
import os
import socket
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, Self

import torch

from usucl_fast.files import naming, write_whole
from usucl_fast.learn.config import IMAGENET, RANDOM
from usucl_fast.learn.health import StepMetrics
from usucl_fast.learn.method import Method
from usucl_fast.learn.run_folder import RunFolder, parse_metrics
from usucl_fast.optional import needed
from usucl_fast.progress import Progress, note

ALIKE_COSINE = 0.9
"""Mean cosine of a batch's anchors above which they count as collapsed."""
ALIKE_STEPS = 50
"""Steps that they stay collapsed before a warning; in a short run, half of those after the warm-up."""
TRACED_STEPS = 5


class Collapse:
    """Detects embeddings that stay nearly alike, step after step, once the warm-up is over.

    config: of the run.
    steps: of the run.
    """

    def __init__(self, config: Method, steps: int) -> None:
        self._config, self._first = config, config.warm_up_steps(steps)
        self._cosines: deque[float] = deque(maxlen=min(ALIKE_STEPS, max(1, (steps - self._first) // 2)))
        self._warned = False

    def look(self, line: dict[str, Any]) -> str | None:
        """A warning, once each time it happens.

        line: of metrics.
        """
        if line["mean_cosine"] is not None and line["step"] >= self._first:
            self._cosines.append(line["mean_cosine"])
        alike = len(self._cosines) == self._cosines.maxlen and min(self._cosines) > ALIKE_COSINE
        warned, self._warned = self._warned, alike
        if not alike or warned:
            return None
        return (
            f"step {line['step']}: the embeddings have collapsed: for {len(self._cosines)} steps, those of different"
            f" videos have been nearly the same (mean cosine {line['mean_cosine']:.3f}, effective rank"
            f" {line['effective_rank']:.1f}); training continues. Ways out: {', '.join(self._ways_out())}"
        )

    def _ways_out(self) -> list[str]:
        config = self._config
        switches = [name for name in ("in_batch", "head_norm") if getattr(config, name, None) is False]
        return [
            *([f"--init {IMAGENET}"] if config.init == RANDOM else []),
            *(f"--{name.replace('_', '-')}" for name in switches),
            f"a lower --lr than {config.lr:g}",
            f"a longer --warm-up than {self._first} steps",
            f"a larger --batch-size than {config.batch_size}",
        ]


def import_tensorboard() -> tuple[Any, Any]:
    """TensorBoard's class of events, and the one that writes them.

    Raises:
        UsageError: it is not installed.
    """
    with needed("TensorBoard", "--tensorboard", "tensorboard"):
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.summary.writer.record_writer import RecordWriter
    return Event, RecordWriter


class TensorBoard:
    """The figures of metrics, for TensorBoard.

    Its own writer does so in a thread, and says neither when nor where there was no room.

    Raises:
        UsageError: as `import_tensorboard`.
    """

    def __init__(self, folder: Path, step: int) -> None:
        self._event, make_writer = import_tensorboard()
        folder.mkdir(exist_ok=True)
        self._path = folder / f"events.out.tfevents.{int(time.time()):010d}.{socket.gethostname()}.{os.getpid()}"
        self._stack = contextlib.ExitStack()
        self._writer = make_writer(self._stack.enter_context(_appended(self._path, "ab")))
        self._put(file_version="brain.Event:2")
        self._put(step=step, session_log={"status": "START"})  # what is there of later steps is not shown

    def _put(self, **content: Any) -> None:
        with naming(self._path):
            self._writer.write(self._event(wall_time=time.time(), **content).SerializeToString())
            self._writer.flush()

    def write(self, line: dict[str, Any]) -> None:
        """One line of metrics."""
        figures = {
            name: value
            for name, value in line.items()
            if isinstance(value, int | float) and name not in ("step", "epoch")
        }
        values = [{"tag": name, "simple_value": value} for name, value in figures.items()]
        self._put(step=line["step"], summary={"value": values})

    def close(self) -> None:
        """Closes the file."""
        self._stack.close()


class Trace:
    """A profiler trace of `TRACED_STEPS` steps after as many others, for Perfetto or chrome://tracing."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._profiler: Any = torch.profiler.profile(
            schedule=torch.profiler.schedule(wait=0, warmup=TRACED_STEPS, active=TRACED_STEPS, repeat=1),
            on_trace_ready=lambda profiler: self._write(profiler),
        )
        self._stack = contextlib.ExitStack()
        self._stack.enter_context(self._profiler)

    def _write(self, profiler: Any) -> None:
        partial = self._file.with_name(f".{self._file.name}.partial")
        try:
            profiler.export_chrome_trace(str(partial))
            json.loads(partial.read_bytes())  # the profiler is silent of what it could not write
            partial.replace(self._file)
        except (OSError, ValueError) as error:
            raise OSError(errno.ENOSPC, "it came out incomplete", str(self._file)) from error
        finally:
            for left in self._file.parent.glob(f"{partial.name}*"):
                left.unlink()

    def step(self) -> None:
        """Counts a step."""
        self._profiler.step()

    def close(self) -> None:
        """Writes the trace, if it is not written yet."""
        self._stack.close()


@contextlib.contextmanager
def _appended(path: Path, mode: str) -> Iterator[IO[Any]]:
    file = path.open(mode, encoding=None if "b" in mode else "utf-8")
    try:
        yield file
    finally:
        with naming(path):  # closing may write what is still buffered
            file.close()


class Watch:
    """Metrics, progress and all else that is reported; on the first rank alone.

    Args:
        run: its folder.
        collapse: detects it.
        metrics: lines of the steps before `step`; later ones are dropped.
        step: the first one to be trained.
        steps: of the run.
        tensorboard: write for TensorBoard.
        profile: write a trace.
        first: whether this rank reports.
    """

    def __init__(
        self,
        run: RunFolder,
        collapse: Collapse,
        metrics: str,
        step: int,
        steps: int,
        tensorboard: bool,
        profile: bool,
        first: bool,
    ) -> None:
        self._frames, self._collapse, self._stack, self._first = 0, collapse, contextlib.ExitStack(), first
        self._board = self._trace = None
        self._expected: tuple[StepMetrics, dict[str, float]] | None = None
        if not first:
            return
        if not run.metrics_text().startswith(metrics):
            note(f"{run.metrics} is damaged, cut off or gone; its lines up to step {step} come from the checkpoint")
        with write_whole(run.metrics) as file:
            file.write(metrics.encode())
        for line in parse_metrics(metrics):
            collapse.look(line)  # so that old warnings are not repeated
        self._metrics, self._file = self._stack.enter_context(_appended(run.metrics, "a")), run.metrics
        self._progress = self._stack.enter_context(Progress("steps", steps, step))
        if tensorboard:
            self._board = self._stack.enter_context(contextlib.closing(TensorBoard(run.tensorboard, step)))
        if profile:
            self._trace = self._stack.enter_context(contextlib.closing(Trace(run.trace)))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def expect(self, metrics: StepMetrics, waited: float, seconds: float) -> None:
        """Takes the metrics of a step, which `report` reads, and its times in seconds: for data, and in all."""
        self._expected = metrics, {"wait": round(waited, 6), "seconds": round(seconds, 6)}

    def report(self) -> None:
        """Writes and shows the metrics of the step that is expected, if there is one, and the rates that follow from
        its times.

        Raises:
            DataError: its loss or gradient is not finite.
        """
        if self._expected is None:
            return
        metrics, times = self._expected
        self._expected = None
        line = metrics.read() | times  # on every rank: all end where it is not finite
        if not self._first:
            return
        line["frames_per_second"] = round(line["frames"] / line["seconds"], 1)
        line["data_wait"] = round(line["wait"] / line["seconds"], 4)
        with naming(self._file):
            self._metrics.write(f"{json.dumps(line)}\n")
            self._metrics.flush()
        self._frames += line["frames"]
        self._progress.advance(self._frames, loss=f"{line['loss']:.4f}", data_wait=f"{line['data_wait']:.0%}")
        if warning := self._collapse.look(line):
            self._progress.note(warning)
        if self._board is not None:
            self._board.write(line)
        if self._trace is not None:
            self._trace.step()
