"""Measures CPU and memory of this process and its children, and empties the page cache before a run."""

import ctypes
import mmap
import os
import threading
import time
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Self

import psutil

from usucl_fast.errors import UsageError
from usucl_fast.machine import cores

SECONDS = 0.2
"""Between two measurements of memory."""


class Usage:
    """Measures what happens within `with Usage() as usage`.

    cpu: CPU seconds of this process and its children, as a share of all cores' time; once it has ended.
    memory: the most bytes measured: the resident set (RSS) of this process, or, with children, the proportional
        set size (PSS) of all, in which shared memory counts once. Mapped files count in both.
    """

    def __init__(self) -> None:
        self.cpu = 0.0
        self.memory = 0
        self._process = psutil.Process()
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Self:
        self._started, self._cpu_started = time.perf_counter(), self._cpu_seconds()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._done.set()
        self._thread.join()
        wall = time.perf_counter() - self._started
        self.cpu = (self._cpu_seconds() - self._cpu_started) / (wall * cores())

    def _watch(self) -> None:
        while True:
            self.memory = max(self.memory, self._memory())
            if self._done.wait(SECONDS):
                return

    def _tree(self) -> list[psutil.Process]:
        return [self._process, *self._process.children(recursive=True)]

    def _cpu_seconds(self) -> float:
        total = 0.0
        for process in self._tree():
            try:
                # Children that have ended count with their parent.
                total += sum(process.cpu_times()[:4])
            except psutil.Error:  # it has just ended
                continue
        return total

    def _memory(self) -> int:
        tree = self._tree()
        if len(tree) == 1:
            return int(self._process.memory_info().rss)
        total = 0
        for process in tree:
            try:
                memory = process.memory_full_info()
                total += getattr(memory, "pss", memory.uss)  # elsewhere than on Linux, without what they share
            except psutil.Error:
                continue
        return total


def drop_from_page_cache(files: Iterable[Path]) -> None:
    """Drops the files from the page cache, so that they are next read from the disk.

    Without special rights this only works for files that no other process has mapped into memory.

    Raises:
        UsageError: the system has no such call; Linux does.
    """
    if not hasattr(os, "posix_fadvise"):
        raise UsageError("--page-cache cold is not available on this system, only on Linux; leave it out")
    paths = {str(file.resolve()) for file in files}
    libc = ctypes.CDLL(None, use_errno=True)
    for line in Path("/proc/self/maps").read_text(encoding="utf-8", errors="replace").splitlines():
        fields = line.split(maxsplit=5)
        # Pages that a process has mapped stay in the cache; mappings that are read-only or shared can let go of them at
        # any time.
        if len(fields) == 6 and fields[5] in paths and (fields[1].startswith("r-") or fields[1].endswith("s")):
            start, end = (int(address, 16) for address in fields[0].split("-"))
            libc.madvise(ctypes.c_void_p(start), ctypes.c_size_t(end - start), mmap.MADV_DONTNEED)
    for path in paths:
        file = os.open(path, os.O_RDONLY)
        try:
            os.fsync(file)
            os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(file)
