"""Packs videos on a Ray cluster, whose machines share the folders of SOURCE and OUT, or find them at URLs.

A video is a task of Ray's core: on whichever node has a core free, it is decoded in a process of its own, as on one
machine, and its spool file written into the folder that all share, or uploaded beside OUT; what comes back is a line at
most. Should Ray run a task twice, as when it loses sight of a node, the second spool file is the first one's equal, and
replaces it whole.
"""

import functools
import importlib
import os
import shutil
import sys
import tempfile
import uuid
from collections.abc import Generator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil

from usucl_fast.errors import DataError, UsageError, first_line
from usucl_fast.optional import needed
from usucl_fast.pack.limits import MOST
from usucl_fast.pack.task import Spooled, Task
from usucl_fast.pack.workers import LocalPool, NotPacked
from usucl_fast.shards.remote import RemoteFolder

RETRIES = 3
"""Times that a task is begun again when its node or its process dies, or storage fails; where memory runs out, too."""
CALLS = 200
"""Videos after which a process of Ray's is replaced: no library that leaks takes more."""
IN_FLIGHT = 2
"""Tasks that wait or run for each core of the cluster."""
AHEAD = 1 << 14
"""Tasks that may be done before an earlier one is: so many lines this process keeps, however many videos there are."""
SCRATCH = "usucl-spool-"
"""What folders for videos that will be uploaded are called, followed by the process that packs there."""
CPU, MEMORY = "CPU", "memory"
"""What Ray calls a node's cores, and its bytes of memory."""


class RayPool:
    """The nodes of a Ray cluster, see `Pool`.

    Args:
        address: `ray` for the cluster that this process belongs to or RAY_ADDRESS names, else a new one on this
            machine; or `ray://HOST:PORT`.
        memory_limit: bytes that a video's process may take, which are also set aside for it on its node; None for
            `MOST`.
        exchange: URL of a folder of this packing's own, through which spool files travel to this machine; empty where
            all machines share a folder for them.

    Raises:
        UsageError: Ray is not installed, the cluster cannot be reached, or no node of it can take a video.
    """

    def __init__(self, address: str, memory_limit: int | None, exchange: str) -> None:
        with needed("Ray", f"--on {address}", "ray"):
            self._ray: Any = importlib.import_module("ray")
        self._memory_limit = memory_limit or MOST
        self._exchange = exchange
        options: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR", "configure_logging": False}
        try:
            self._ray.init(None if address == "ray" else address, **options)
        except (OSError, RuntimeError, ValueError) as error:
            raise UsageError(f"--on {address}: the cluster cannot be reached ({first_line(error)})") from error
        nodes = [node["Resources"] for node in self._ray.nodes() if node["Alive"]]
        if not any(node.get(CPU, 0) >= 1 and node.get(MEMORY, 0) >= self._memory_limit for node in nodes):
            self._ray.shutdown()
            raise UsageError(
                f"--on {address}: no node has a core and {self._memory_limit / 1e9:.3g} GB of memory for a video; lower"
                " --memory-limit"
            )
        self._window = int(IN_FLIGHT * sum(node.get(CPU, 0) for node in nodes))

    def pack(self, tasks: Sequence[Task]) -> Generator[NotPacked | None, None, None]:
        """See `Pool`; to be called once."""
        decorate = self._ray.remote(
            num_cpus=1,
            memory=self._memory_limit,
            max_retries=RETRIES,
            retry_exceptions=[OSError, DataError],  # of storage: those of videos are told as reasons
            max_calls=CALLS,
        )
        remote = decorate(_pack_here)
        in_flight: dict[Any, int] = {}
        done: dict[int, NotPacked | None] = {}
        begun = 0
        exchange = RemoteFolder(self._exchange, "OUT", "--work") if self._exchange else None
        there = {file.name for file in exchange.files()} if exchange else set()  # from before an interruption
        try:
            for number, task in enumerate(tasks):
                while number not in done:
                    while len(in_flight) < self._window and begun < min(len(tasks), number + AHEAD):
                        if tasks[begun].facts.name in there:
                            done[begun] = None
                        else:
                            reference = remote.remote(tasks[begun], self._memory_limit, self._exchange)
                            in_flight[reference] = begun
                        begun += 1
                    if number not in done:
                        (ready, *_), _ = self._ray.wait(list(in_flight), num_returns=1)
                        done[in_flight.pop(ready)] = self._outcome(ready)
                reason = done.pop(number)
                if exchange and reason is None:
                    _fetch(task, exchange)
                yield reason
        finally:
            self._ray.shutdown()

    def _outcome(self, reference: Any) -> NotPacked | None:
        errors = self._ray.exceptions
        try:
            reason: NotPacked | None = self._ray.get(reference)
        except errors.RayTaskError as error:
            raise error.cause from error
        except (errors.WorkerCrashedError, errors.NodeDiedError, errors.OutOfMemoryError) as error:
            reason = NotPacked(f"ends each of {RETRIES + 1} processes of Ray ({type(error).__name__})", fault=True)
        return reason


def _pack_here(task: Task, memory_limit: int, exchange: str) -> NotPacked | None:
    """Packs a video on the node that runs this; under another name until it is whole, for it may be run twice."""
    missing = [file for file in task.source.files if not task.source.url and not file.exists()]
    if missing:
        raise FileNotFoundError(
            f"{missing[0]} is not on every machine: SOURCE must be at a URL, or in a folder that all share"
        )
    folder = Path(tempfile.mkdtemp(prefix=f"{SCRATCH}{os.getpid()}-")) if exchange else task.path.parent
    own = replace(task, path=folder / f"{task.path.name}-{uuid.uuid4().hex[:8]}")
    try:
        reason = _pool_here(memory_limit).begin(own)()
        if reason is None and exchange:
            remote = RemoteFolder(exchange, "OUT")
            remote.upload(own.path, task.path.name)
            remote.upload(own.facts, task.facts.name)  # last: it says that the video is packed
        elif reason is None:
            own.path.replace(task.path)
            own.facts.replace(task.facts)
    finally:
        for left in own.path.parent.glob(f"{own.path.name}*"):
            shutil.rmtree(left) if left.is_dir() else left.unlink(missing_ok=True)
        if exchange:
            folder.rmdir()
    return reason


def _fetch(task: Task, exchange: RemoteFolder) -> None:
    """Takes a packed video out of the exchange."""
    came = task.path.with_suffix(".came")
    exchange.download(task.facts.name, came, lambda _: "")
    length = Spooled.load(came).length
    exchange.download(
        task.path.name, task.path, lambda file: "" if file.stat().st_size == length else "it has another length"
    )
    came.replace(task.facts)
    exchange.remove([task.path.name, task.facts.name])


@functools.cache
def _pool_here(memory_limit: int) -> LocalPool:
    """A process of this process of Ray's, which ends with it."""
    for folder in Path(tempfile.gettempdir()).glob(f"{SCRATCH}*-*"):  # of processes of Ray's that were killed
        pid = folder.name.removeprefix(SCRATCH).partition("-")[0]
        if pid.isdecimal() and not psutil.pid_exists(int(pid)):
            shutil.rmtree(folder, ignore_errors=True)
    vars(sys.modules["__main__"]).pop("__file__", None)  # or it would begin by running Ray's main file, for 20 seconds
    return LocalPool(1, memory_limit)
