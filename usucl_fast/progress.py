"""Progress of long work: a live bar on a terminal, a plain line every few seconds elsewhere."""

import sys
import time
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from usucl_fast.errors import printable

PLAIN_SECONDS = 5.0


def note(text: str) -> None:
    """A line on standard error, where nothing is counted; what a terminal would obey in it is escaped."""
    print(printable(text), file=sys.stderr, flush=True)


class Progress:
    """Shows how many of `total` things are done; on standard error, so that standard output stays clean.

    unit: what the things are called.
    megabytes: of all things together, where they differ much in size; the time left is then estimated from these.
    """

    def __init__(self, unit: str, total: int, done: int = 0, megabytes: float = 0.0) -> None:
        self.unit, self.total, self.done = unit, total, done
        self._megabytes, self._megabytes_done = megabytes, 0.0
        self._first = done
        self._started = self._printed = time.monotonic()
        self._console = Console(stderr=True, highlight=False, soft_wrap=True)
        self._bar: Bar | None = None
        if self._console.is_terminal:
            self._bar = Bar(
                TextColumn(unit),
                BarColumn(),
                TextColumn("{task.fields[text]}"),
                TimeRemainingColumn(),
                console=self._console,
            )
            self._task = self._bar.add_task(unit, total=megabytes or total, completed=done, text="")

    def __enter__(self) -> Self:
        if self._bar:
            self._bar.start()
        return self

    def advance(self, frames: int | None = None, megabytes: float = 0.0, **values: str) -> None:
        """Counts one more as done, of `megabytes`; `frames` so far give the rate, `values` are shown unchanged."""
        self.done += 1
        self._megabytes_done += megabytes
        now = time.monotonic()
        seconds = max(now - self._started, 1e-9)
        parts = [f"{self.done}/{self.total}"]
        if frames is not None:
            parts.append(f"{frames:,} frames  {frames / seconds:,.0f} frames/s")
        if self._megabytes:
            parts.append(f"{self._megabytes_done / seconds:,.1f} MB/s")
        parts += [f"{name} {value}" for name, value in values.items()]
        if self._bar:
            self._bar.update(self._task, completed=self._megabytes_done or self.done, text="  ".join(parts))
        elif now - self._printed >= PLAIN_SECONDS or self.done == self.total:
            self._printed = now
            share = (
                self._megabytes_done / self._megabytes
                if self._megabytes
                else (self.done - self._first) / (self.total - self._first)
            )
            left = seconds * (1 / share - 1) if share else 0.0
            parts[0] += f" {self.unit}"
            print(f"{'  '.join(parts)}  {left:.0f} s left", file=sys.stderr, flush=True)

    def note(self, text: str) -> None:
        """Prints a line of its own, above the bar."""
        self._console.print(printable(text), markup=False)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar:
            self._bar.stop()
