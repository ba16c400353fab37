"""Heartbeats between ranks, apart from the collectives: these may rightly wait long, as for a rank that compiles."""

import contextlib
import os
import threading
from datetime import timedelta
from typing import Self

import torch.distributed as dist

from usucl_fast.errors import first_line
from usucl_fast.progress import note

BEATS = 6
"""Beats within the time that a rank may be silent."""
LEFT = b"left"
"""The beat of a rank that has left in order."""


class Heartbeat:
    """A thread that regularly signals to the other ranks that this one is alive, and listens for their signals.

    When one has been silent too long, this process ends with a line that names it, since nothing else interrupts a
    collective. Silence is counted in beats of one's own, so that ranks that were suspended together resume together.

    store: that all ranks reach; nobody else may use this connection.
    seconds: of silence after which a rank counts as lost.
    """

    def __init__(self, store: dist.Store, rank: int, count: int, seconds: float) -> None:
        self._store, self._rank, self._count, self._seconds = store, rank, count, seconds
        self._keys = [f"usucl_fast/heartbeat/{number}" for number in range(count)]
        self._left = threading.Event()
        self._thread = threading.Thread(target=self._beat_and_listen, daemon=True)

    def __enter__(self) -> Self:
        self._store.set_timeout(timedelta(seconds=self._seconds))
        self._store.set(self._keys[self._rank], "0")
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._left.set()
        self._thread.join(self._seconds)
        with contextlib.suppress(RuntimeError):  # where they meet may be gone before the last has left
            self._store.set(self._keys[self._rank], LEFT.decode())

    def _beat_and_listen(self) -> None:
        heard, silent, beats = [LEFT] * self._count, [0] * self._count, 0
        while not self._left.wait(self._seconds / BEATS):
            beats += 1
            try:
                self._store.set(self._keys[self._rank], str(beats))
                now = [self._store.get(key) if self._store.check([key]) else b"" for key in self._keys]
            except RuntimeError as error:
                self._end(f"the rendezvous store can no longer be reached ({first_line(error)})")
            for rank, beat in enumerate(now):
                silent[rank] = silent[rank] + 1 if beat == heard[rank] != LEFT else 0
                if silent[rank] >= BEATS:
                    self._end(f"rank {rank} has sent no heartbeat for {self._seconds:g} seconds (--rank-timeout)")
            heard = now

    def _end(self, why: str) -> None:
        note(f"rank {self._rank} of {self._count} ends: {why}; resume it with --resume")
        os._exit(1)
