"""The time and the memory that one video may take."""

import contextlib
import faulthandler
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Self

from usucl_fast.machine import memory

TIME_LIMIT = 60.0
"""Seconds without a picture after which a video is left out."""
KEPT, MOST, LEAST = 2 << 30, 4 << 30, 1 << 29
"""Bytes of memory: what workers leave to other programs; the most and the least that one worker may take."""
REARM_SECONDS = 0.1
"""Setting the time limit anew starts a thread, which takes as long as a small picture: it is not done more often."""


def share_of_memory(workers: int) -> int:
    """Bytes of memory beyond which a worker is ended and its video left out: the machine's memory less `KEPT`, divided
    among the workers, but no more than `MOST` and no less than `LEAST`."""
    return max(LEAST, min(MOST, (memory() - KEPT) // workers))


class TimeLimit:
    """Ends this process when a picture takes longer than `seconds`; opening the video counts as part of the first one.

    A decoder that hangs inside a library cannot be interrupted from Python, and may even hold the interpreter's lock.
    So a thread of faulthandler ends the process, on every system, after it has written to a file beside `spool` where
    the process hangs.
    """

    def __init__(self, spool: Path, seconds: float) -> None:
        self._seconds = seconds + REARM_SECONDS
        self._path = _late_file(spool)

    def __enter__(self) -> Self:
        self._file = self._path.open("wb")
        self._arm()
        return self

    def __exit__(self, *_: object) -> None:
        faulthandler.cancel_dump_traceback_later()
        self._file.close()
        with contextlib.suppress(OSError):
            self._path.unlink()

    def each(self, pictures: Iterable[Any]) -> Iterator[Any]:
        """The pictures; the clock starts anew at each."""
        for picture in pictures:
            yield picture
            if time.monotonic() - self._armed > REARM_SECONDS:
                self._arm()

    def _arm(self) -> None:
        faulthandler.dump_traceback_later(self._seconds, exit=True, file=self._file)
        self._armed = time.monotonic()


def is_late(spool: Path) -> bool:
    """Whether the process that wrote the spool file ended because a picture took too long."""
    late = _late_file(spool)
    return late.exists() and late.stat().st_size > 0


def _late_file(spool: Path) -> Path:
    return spool.with_suffix(".late")
