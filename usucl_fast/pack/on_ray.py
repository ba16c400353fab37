"""Packs videos on a Ray cluster, whose machines share the folders of SOURCE and OUT.

A video is a task of Ray's core: on whichever node has a core free, it is decoded in a process of its own, as on one
machine, and its spool file written into the folder that all share; what comes back is a line at most. Should Ray run
a task twice, as when it loses sight of a node, the second spool file is the first one's equal, and replaces it whole.
"""

import functools
import importlib
import sys
import uuid
from collections.abc import Generator, Sequence
from dataclasses import replace
from typing import Any

from usucl_fast.errors import UsageError, first_line
from usucl_fast.optional import needed
from usucl_fast.pack.limits import MOST
from usucl_fast.pack.task import Task
from usucl_fast.pack.workers import LocalPool, NotPacked

RETRIES = 3
"""Times that a task is begun again when its node or its process dies, or storage fails; where memory runs out, too."""
CALLS = 200
"""Videos after which a process of Ray's is replaced: no library that leaks takes more."""
IN_FLIGHT = 2
"""Tasks that wait or run for each core of the cluster."""
AHEAD = 1 << 14
"""Tasks that may be done before an earlier one is: so many lines this process keeps, however many videos there are."""
CPU, MEMORY = "CPU", "memory"
"""What Ray calls a node's cores, and its bytes of memory."""


class RayPool:
    """The nodes of a Ray cluster, see `Pool`.

    Args:
        address: `ray` for the cluster that this process belongs to or RAY_ADDRESS names, else a new one on this
            machine; or `ray://HOST:PORT`.
        memory_limit: bytes that a video's process may take, which are also set aside for it on its node; None for
            `MOST`.

    Raises:
        UsageError: Ray is not installed, the cluster cannot be reached, or no node of it can take a video.
    """

    def __init__(self, address: str, memory_limit: int | None) -> None:
        with needed("Ray", f"--on {address}", "ray"):
            self._ray: Any = importlib.import_module("ray")
        self._memory_limit = memory_limit or MOST
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
            num_cpus=1, memory=self._memory_limit, max_retries=RETRIES, retry_exceptions=[OSError], max_calls=CALLS
        )
        remote = decorate(_pack_here)
        in_flight: dict[Any, int] = {}
        done: dict[int, NotPacked | None] = {}
        begun = 0
        try:
            for number in range(len(tasks)):
                while number not in done:
                    while len(in_flight) < self._window and begun < min(len(tasks), number + AHEAD):
                        in_flight[remote.remote(tasks[begun], self._memory_limit)] = begun
                        begun += 1
                    (ready, *_), _ = self._ray.wait(list(in_flight), num_returns=1)
                    done[in_flight.pop(ready)] = self._outcome(ready)
                yield done.pop(number)
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


def _pack_here(task: Task, memory_limit: int) -> NotPacked | None:
    """Packs a video on the node that runs this; under another name until it is whole, for it may be run twice."""
    missing = [file for file in task.source.files if not file.exists()]
    if missing:
        raise FileNotFoundError(f"{missing[0]} is not on every machine: SOURCE must be in a folder that all share")
    own = replace(task, path=task.path.with_name(f"{task.path.name}-{uuid.uuid4().hex[:8]}"))
    try:
        reason = _pool_here(memory_limit).begin(own)()
        if reason is None:
            own.path.replace(task.path)
            own.path.with_suffix(".npz").replace(task.path.with_suffix(".npz"))
    finally:
        for left in own.path.parent.glob(f"{own.path.name}*"):
            left.unlink(missing_ok=True)
    return reason


@functools.cache
def _pool_here(memory_limit: int) -> LocalPool:
    """A process of this process of Ray's, which ends with it."""
    vars(sys.modules["__main__"]).pop("__file__", None)  # or it would begin by running Ray's main file, for 20 seconds
    return LocalPool(1, memory_limit)
