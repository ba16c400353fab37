"""Packs videos in parallel, each in a worker process, which may crash or hang without harm to the others."""

import contextlib
import itertools
import json
import multiprocessing
import os
import shutil
import signal
import sys
import threading
import zipfile
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from multiprocessing.queues import SimpleQueue
from typing import Protocol

import psutil
from pebble import ProcessExpired, ProcessFuture, ProcessPool

from usucl_fast.errors import DataError, DecodeError
from usucl_fast.files import write_json
from usucl_fast.pack.limits import is_late
from usucl_fast.pack.remote_sources import on_disk
from usucl_fast.pack.spool import TooShortError, spool
from usucl_fast.pack.task import Spooled, Task

FETCHED = ".source"
"""Suffix of the folder, beside the spool file, with the files of a video at a URL while it is packed."""
AHEAD = 256
"""Videos that may be packed before an earlier one is taken: so many spool files wait for a shard's upload."""
LOOK_SECONDS = 0.05
"""How often the memory of workers is checked. In between, one may take some 0.1 GB more."""


@dataclass(frozen=True)
class NotPacked:
    """Why a video could not be packed; `fault` is false where nothing is wrong with it."""

    reason: str
    fault: bool


class Pool(Protocol):
    """What packs videos: the processes of this machine, or those of a cluster."""

    def pack(self, tasks: Sequence[Task]) -> Generator[NotPacked | None, None, None]:
        """Packs each video into its spool file; yields why it cannot be packed, or None, in the order of `tasks`.

        Raises:
            OSError: a spool file cannot be written.
        """
        ...


def spool_all(tasks: Sequence[Task], pool: Pool) -> Iterator[Spooled | NotPacked]:
    """Packs every video into its spool file; yields what became of each, in the order of `tasks`.

    What an earlier call has done is not done again: a `.npz` beside the spool file says that a video is packed, a
    `.json` that it is left out.

    Raises:
        OSError: a spool file cannot be written.
        DataError: one was written where this process does not find it.
    """
    to_do = [task for task in tasks if _read(task) is None]
    paths = {task.path for task in to_do}
    with contextlib.closing(pool.pack(to_do)) as reasons:
        for task in tasks:
            if task.path in paths and (reason := next(reasons)):
                write_json(task.path.with_suffix(".json"), asdict(reason))
            outcome = _read(task)
            if outcome is None:
                raise DataError(
                    f"{task.name} was packed, but {task.path} is not there: OUT must be in a folder that all machines"
                    " share"
                )
            yield outcome


class LocalPool:
    """The processes of this machine, see `Pool`.

    A worker that takes more than `memory_limit` bytes of memory is ended, and its video left out.

    workers: how many videos are packed at a time.
    """

    def __init__(self, workers: int, memory_limit: int) -> None:
        # A fresh interpreter a worker: nothing of this process (threads, locks, CUDA) leaks into it.
        context = multiprocessing.get_context("spawn")
        self._watch = _MemoryWatch(memory_limit, context.SimpleQueue())
        self._pool = ProcessPool(workers, context=context, initializer=_prepare, initargs=(self._watch.begun,))

    def begin(self, task: Task) -> Callable[[], NotPacked | None]:
        """Begins to pack a video; the function that is returned waits for it."""
        if self._watch.ident is None:
            self._watch.start()
        job = self._pool.schedule(_spool, [task])
        return lambda: _reason(job, task, self._watch)

    def pack(self, tasks: Sequence[Task]) -> Generator[NotPacked | None, None, None]:
        """See `Pool`; to be called once."""
        try:
            rest = iter(tasks)
            with _uninterrupted():
                jobs = deque(map(self.begin, itertools.islice(rest, AHEAD)))
            while jobs:
                yield jobs.popleft()()
                jobs.extend(map(self.begin, itertools.islice(rest, 1)))
            self._pool.close()
        except BaseException:
            self._pool.stop()
            raise
        finally:
            self._watch.stop()
            self._pool.join()


@contextlib.contextmanager
def _uninterrupted() -> Iterator[None]:
    """Holds Ctrl-C back, which a terminal sends to all processes; those that are started meanwhile never see it."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    # What is started inherits it, and so does the thread that starts further workers.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _spool(task: Task) -> None:
    try:
        with on_disk(task.source, task.path.with_suffix(FETCHED)) as source:
            spool(replace(task, source=source)).save(task.facts)
    except BaseException:
        task.path.unlink(missing_ok=True)  # on a full disk it is this one that is in the way
        raise


def _reason(job: ProcessFuture[None], task: Task, watch: "_MemoryWatch") -> NotPacked | None:
    try:
        job.result()
    except TooShortError as error:
        return NotPacked(str(error), fault=False)
    except DecodeError as error:
        return NotPacked(str(error), fault=True)
    except ProcessExpired as error:
        task.path.unlink(missing_ok=True)
        shutil.rmtree(task.path.with_suffix(FETCHED), ignore_errors=True)
        if error.pid in watch.ended:
            return NotPacked(f"takes more than {watch.limit / 1e9:.3g} GB of memory (--memory-limit)", fault=True)
        if is_late(task.path):
            return NotPacked(f"gives no picture for {task.time_limit:g} s (--time-limit)", fault=True)
        return NotPacked(f"ends the process that decodes it, {_how(error.exitcode)}", fault=True)
    return None


def _how(exitcode: int) -> str:
    """How a process ended."""
    with contextlib.suppress(ValueError):
        return f"by {signal.Signals(-exitcode).name}"
    # Windows has no signals: a crash is a status of 32 bits, named by its hexadecimal digits.
    return f"with status {exitcode if abs(exitcode) < 256 else hex(exitcode & 0xFFFFFFFF)}"


def _read(task: Task) -> Spooled | NotPacked | None:
    with contextlib.suppress(FileNotFoundError, ValueError, TypeError):
        return NotPacked(**json.loads(task.path.with_suffix(".json").read_bytes()))
    with contextlib.suppress(FileNotFoundError, zipfile.BadZipFile):
        return Spooled.load(task.facts)
    return None


class _MemoryWatch(threading.Thread):
    """Ends workers that take too much memory.

    From outside, for a library in C may keep the interpreter's lock while it takes memory. By what is resident, for a
    limit on address space, which the system would hold, counts what threads and libraries only set aside.

    begun: every worker puts its process id in.
    ended: process ids of those that were ended.
    """

    def __init__(self, limit: int, begun: "SimpleQueue[int]") -> None:
        super().__init__(daemon=True)
        self.limit, self.begun, self.ended = limit, begun, set[int | None]()
        self._stopped = threading.Event()

    def run(self) -> None:
        workers: list[psutil.Process] = []
        while not self._stopped.wait(LOOK_SECONDS):
            while not self.begun.empty():
                with contextlib.suppress(psutil.Error):  # it has ended by itself
                    workers.append(psutil.Process(self.begun.get()))
            workers = [worker for worker in workers if self._may_go_on(worker)]

    def stop(self) -> None:
        self._stopped.set()
        if self.ident is not None:
            self.join()

    def _may_go_on(self, worker: psutil.Process) -> bool:
        try:
            if worker.memory_info().rss <= self.limit:
                return True
            self.ended.add(worker.pid)
            worker.kill()
        except psutil.Error:
            pass
        return False


def _prepare(begun: "SimpleQueue[int]") -> None:
    begun.put(os.getpid())
    # The parent handles interrupts, and workers end with it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _silence_codecs()
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _silence_codecs() -> None:
    """Keeps what libraries in C write about damaged files off the terminal; Python's own messages still come there.

    Their lines name neither the file nor what is done about it, which the parent reports.
    """
    sys.stderr = os.fdopen(os.dup(2), "w", buffering=1, errors="backslashreplace")
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    os.close(nowhere)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent
    parent.join()
    os._exit(1)
