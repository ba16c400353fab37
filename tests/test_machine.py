"""What this machine is, and what it is told to be."""

import subprocess
import sys

import pytest
import torch

from tests.helpers import REPOSITORY
from usucl_fast import machine

FAULTS = """
import platform, resource
import numpy as np
from usucl_fast.machine import keep_freed_memory

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(4):
        np.ones(1 << 23)  # 64 MiB
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

if platform.libc_ver()[0] == "glibc":
    faults()
    given_back = faults()
    keep_freed_memory()
    faults()
    assert faults() < given_back / 4, given_back
else:
    keep_freed_memory()
"""


@pytest.mark.parametrize(
    ("busy", "count", "told", "says"),
    [(1.0, 2, None, True), (0.9, 2, None, False), (9.0, 2, "1", False), (5.0, 1, None, False), (3.9, 8, None, False)],
)
def test_busy_cores_are_told_of_where_threads_would_wait_for_each_other(
    monkeypatch: pytest.MonkeyPatch, busy: float, count: int, told: str | None, says: bool
) -> None:
    monkeypatch.setattr(machine.os, "getloadavg", lambda: (busy, 0.0, 0.0))
    monkeypatch.setattr(machine, "cores", lambda: count)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if told:
        monkeypatch.setenv("OMP_NUM_THREADS", told)
    note = machine.crowded()
    assert (note is not None) == says
    if note:
        assert f"about {busy:.1f} of {count} cores" in note
        assert "OMP_NUM_THREADS=1" in note


def test_cores_are_shared_out_among_the_ranks_of_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine.os, "sched_getaffinity", lambda process: set(range(16)), raising=False)
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    assert machine.cores() == 16
    for ranks, own in ((2, 8), (3, 5), (32, 1)):
        monkeypatch.setenv("LOCAL_WORLD_SIZE", str(ranks))
        assert machine.cores() == own


@pytest.mark.parametrize(
    ("name", "gpu", "begun"),
    [("cuda", 1, "cuda:1"), ("cuda", None, "cuda"), ("cuda:0", 1, "cuda:0"), ("auto", 1, "cuda:1"), ("cpu", 1, "cpu")],
)
def test_a_rank_begins_nothing_on_the_gpu_of_another(
    monkeypatch: pytest.MonkeyPatch, name: str, gpu: int | None, begun: str
) -> None:
    seen = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch, "empty", lambda size, device: seen.append(str(device)))
    assert str(machine.pick_device(name, gpu)) == begun
    assert seen == [begun]


@pytest.mark.skipif(sys.platform == "win32", reason="counts page faults")
def test_freed_memory_is_kept() -> None:
    """In a process of its own: it is for good."""
    subprocess.run([sys.executable, "-c", FAULTS], check=True, cwd=REPOSITORY)
