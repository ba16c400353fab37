"""What the harness tells of a run beside its rate."""

import ctypes
import mmap
import multiprocessing
import time
from pathlib import Path
from typing import Literal

import numpy as np
import pytest

from usucl_fast.bench.harness import Arm, measure, publish
from usucl_fast.bench.usage import Usage, drop_from_page_cache
from usucl_fast.machine import cores


def burn(seconds: float) -> None:
    started = time.process_time()
    while time.process_time() - started < seconds:
        pass


def sleep_then_burn(results: "multiprocessing.SimpleQueue[float]") -> None:
    with Usage() as idle:
        time.sleep(0.3)
    with Usage() as busy:
        started = time.perf_counter()
        burn(0.3)
        child = multiprocessing.get_context("spawn").Process(target=burn, args=(0.3,))
        child.start()
        child.join()
        took = time.perf_counter() - started
    results.put(idle.cpu * cores())
    results.put(busy.cpu * cores() * took)


def test_cpu_of_this_process_and_of_children_that_have_ended() -> None:
    # In a process of its own: in this one, threads that other tests have left may be at work.
    results = multiprocessing.get_context("spawn").SimpleQueue()
    process = multiprocessing.get_context("spawn").Process(target=sleep_then_burn, args=(results,))
    process.start()
    process.join()
    assert results.get() < 0.3
    assert results.get() > 0.5


def hold(megabytes: int, seconds: float) -> None:
    held = np.ones(megabytes * 1_000_000, np.uint8)
    time.sleep(seconds)
    assert held[-1]


def grow(results: "multiprocessing.SimpleQueue[float]") -> None:
    with Usage() as before:
        time.sleep(0.1)
    with Usage() as alone:
        hold(200, 0.5)
    results.put(alone.memory - before.memory)


def test_memory_of_this_process_and_its_children() -> None:
    # In a process of its own: in this one, room may be used again that other tests have left.
    results = multiprocessing.get_context("spawn").SimpleQueue()
    process = multiprocessing.get_context("spawn").Process(target=grow, args=(results,))
    process.start()
    process.join()
    child = multiprocessing.get_context("spawn").Process(target=hold, args=(300, 2.0))
    child.start()
    with Usage() as both:
        child.join()
    assert 150e6 < results.get() < 250e6
    assert both.memory > 300e6


def is_cached(path: Path) -> bool:
    """Whether any page of a file is in memory; asked of `mincore`, as reading would bring it there."""
    mapped = np.memmap(path, np.uint8, mode="r")
    pages = (ctypes.c_ubyte * -(-mapped.size // mmap.PAGESIZE))()
    if ctypes.CDLL(None).mincore(ctypes.c_void_p(mapped.ctypes.data), ctypes.c_size_t(mapped.size), pages):
        pytest.skip("this file system does not tell")
    return any(page & 1 for page in pages)


@pytest.mark.parametrize("mode", ["r", "r+"])
def test_files_are_dropped_even_while_they_are_mapped(tmp_path: Path, mode: Literal["r", "r+"]) -> None:
    path = tmp_path / "some file"
    path.write_bytes(bytes(range(256)) * 40_000)
    mapped = np.memmap(path, np.uint8, mode=mode)
    assert int(mapped.sum()) > 0
    assert is_cached(path)
    drop_from_page_cache([path])
    assert not is_cached(path)
    assert mapped[:256].tolist() == list(range(256))


def test_arms_tell_their_stages_and_start_cold(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "read"
    path.write_bytes(b"x" * 10_000_000)
    cached: list[bool] = []
    seconds: dict[str, float] = {}

    def run() -> float:
        cached.append(is_cached(path))
        path.read_bytes()
        seconds.update(wait=3.0, finish=1.0)
        return 5.0

    arms = [Arm("a", "nothing", run, [path], seconds), Arm("b", "nothing", lambda: 1.0)]
    report = measure("test", "things/s", arms, 2, "cold")
    assert cached == [False, False]
    a, b = report["arms"]
    assert a["stages"] == {"wait": 0.75, "finish": 0.25}
    assert b["stages"] == {}
    assert report["page_cache"] == "cold"
    assert {"cpu", "memory_mb"} <= a.keys()
    measure("test", "things/s", arms, 1)
    assert cached[-1]
    publish(report, None)
    printed = capfd.readouterr().out
    assert "wait 75%" in printed
    assert "page cache cold" in printed
