"""Ray clusters on this machine."""

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest


@contextmanager
def cluster_of(cores: tuple[int, ...], memory: int) -> Iterator[Any]:
    """A cluster whose head has no core, and nodes with so many cores and bytes of memory for tasks each.

    Skips the test where Ray is not installed, or starts no cluster, as where a machine has no shared memory.
    """
    pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    try:
        made = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
        for count in cores:
            made.add_node(num_cpus=count, memory=memory)
    except Exception as error:  # Ray raises whatever keeps its processes from starting
        pytest.skip(f"Ray starts no cluster here: {error}")
    try:
        yield made
    finally:
        made.shutdown()


@functools.cache
def check_ray() -> None:
    """Skips the test where Ray starts no cluster."""
    with cluster_of((), 0):
        pass
