"""Progress of long work: a live bar on a terminal, a plain line every few seconds elsewhere."""

import sys
import time
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

PLAIN_SECONDS = 5.0


class Progress:
    """Counts `total` things of one `unit`; on standard error, so that standard output stays clean."""

    def __init__(self, unit: str, total: int, done: int = 0) -> None:
        self.unit, self.total, self.done = unit, total, done
        self._first = done
        self._started = self._printed = time.monotonic()
        self._console = Console(stderr=True, highlight=False, soft_wrap=True)
        self._bar: Bar | None = None
        if self._console.is_terminal:
            self._bar = Bar(
                TextColumn(unit),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[text]}"),
                TimeRemainingColumn(),
                console=self._console,
            )
            self._task = self._bar.add_task(unit, total=total, completed=done, text="")

    def __enter__(self) -> Self:
        if self._bar:
            self._bar.start()
        return self

    def advance(self, frames: int | None = None, **values: str) -> None:
        """One more is done; `frames` so far give the rate, `values` are shown as they are."""
        self.done += 1
        now = time.monotonic()
        seconds = max(now - self._started, 1e-9)
        rate = [] if frames is None else [f"{frames:,} frames  {frames / seconds:,.0f} frames/s"]
        text = "  ".join(rate + [f"{name} {value}" for name, value in values.items()])
        if self._bar:
            self._bar.update(self._task, completed=self.done, text=text)
        elif now - self._printed >= PLAIN_SECONDS or self.done == self.total:
            self._printed = now
            left = seconds / (self.done - self._first) * (self.total - self.done)
            print(
                f"{self.done}/{self.total} {self.unit}  {text}  {left:.0f} s left",
                file=sys.stderr,
                flush=True,
            )

    def note(self, text: str) -> None:
        """A line of its own, above the bar."""
        self._console.print(text, markup=False)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar:
            self._bar.stop()
