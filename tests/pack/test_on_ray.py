"""Packing on a Ray cluster of two nodes, both on this machine: the bytes of one worker, whatever dies."""

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.helpers import REPOSITORY
from tests.helpers.commands import refused, usucl_shard
from tests.helpers.ray import cluster_of
from tests.helpers.videos import moving_texture, write_video

pytestmark = [pytest.mark.slow, pytest.mark.skipif(sys.platform == "win32", reason="Ray packs on Linux and macOS")]
VIDEOS = 16
OPTIONS = ["--size", "48", "--shard-mb", "1", "--memory-limit", ".5"]
POISON = """
import os, signal, time
import av

def opened(file, *arguments, before=av.open, **options):
    if "crashes" in str(file):
        os.kill(os.getpid(), signal.SIGSEGV)
    if "hangs" in str(file):
        time.sleep(1000)
    return before(file, *arguments, **options)

av.open = opened
"""
"""Python runs it at the start of each process: a decoder that crashes on one file and hangs on another."""


@pytest.fixture(scope="module")
def some(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("videos")
    for number in range(VIDEOS):
        write_video(root / f"{number:02d}.mp4", moving_texture(40, 96, 96, number), "libx264")
    return root


@pytest.fixture(scope="module")
def whole(some: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """What one worker on one machine packs."""
    out = tmp_path_factory.mktemp("local") / "out"
    assert usucl_shard(some, out, "--workers", 1, *OPTIONS).exit_code == 0
    return content(out)


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Any]:
    """A node without a core, to which the driver belongs, and two with one each."""
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(POISON)
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join([str(tmp_path / "site"), str(REPOSITORY)])
    try:
        with cluster_of((1, 1), memory=1 << 30) as made:
            yield made
    finally:
        os.environ["PYTHONPATH"] = before or ""
        if before is None:
            del os.environ["PYTHONPATH"]


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file() and path.name != "summary.json"}


def begin(cluster: Any, *arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", "from usucl_fast.cli.shard import main; main()", *map(str, arguments)]
    environment = {**os.environ, "RAY_ADDRESS": cluster.address}
    return subprocess.Popen(
        [*command[:3], *OPTIONS, *command[3:], "--on", "ray"],
        env=environment,
        cwd=REPOSITORY,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )


def packed(out: Path) -> int:
    return len(list((out.with_name(f".{out.name}.usucl-partial") / "spool").glob("*.npz")))


def wait_until(condition: Callable[[], bool], seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_a_cluster_packs_what_one_worker_packs(
    cluster: Any, some: Path, whole: dict[str, bytes], tmp_path: Path
) -> None:
    command = begin(cluster, some, tmp_path / "out")
    output, _ = command.communicate(timeout=200)
    assert command.returncode == 0, output
    assert content(tmp_path / "out") == whole


def test_a_node_that_dies_costs_only_the_time_of_its_videos(
    cluster: Any, some: Path, whole: dict[str, bytes], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    command = begin(cluster, some, out)
    wait_until(lambda: packed(out) >= 3)
    cluster.remove_node(cluster.list_all_nodes()[-1], allow_graceful=False)
    output, _ = command.communicate(timeout=200)
    assert command.returncode == 0, output
    assert content(out) == whole


def test_a_driver_that_is_killed_goes_on(cluster: Any, some: Path, whole: dict[str, bytes], tmp_path: Path) -> None:
    out = tmp_path / "out"
    command = begin(cluster, some, out)
    wait_until(lambda: packed(out) >= 3)
    os.killpg(command.pid, signal.SIGKILL)
    command.communicate()
    done = {path: path.stat().st_mtime_ns for path in out.with_name(f".{out.name}.usucl-partial").glob("spool/*.npz")}
    assert done
    command = begin(cluster, some, out)
    wait_until(lambda: packed(out) > len(done))
    assert all(path.stat().st_mtime_ns == moment for path, moment in done.items())  # not done again
    output, _ = command.communicate(timeout=200)
    assert command.returncode == 0, output
    assert content(out) == whole


def test_machines_that_share_no_folder(cluster: Any, some: Path, whole: dict[str, bytes], tmp_path: Path) -> None:
    """Videos and spool files travel by URL; the command is killed in the middle, and packs no video twice."""
    out = tmp_path / "out"
    arguments = [f"file://{some}", f"file://{out}", "--work", tmp_path / "work"]
    command = begin(cluster, *arguments)
    wait_until(lambda: len(list((tmp_path / "work").glob("*/spool/*.npz"))) >= 3)
    os.killpg(command.pid, signal.SIGKILL)
    command.communicate()
    time.sleep(2)  # for videos that nodes have begun
    there = {path: path.stat().st_mtime_ns for path in out.glob(".usucl-spool-*/*.npz")}
    here = {path: path.stat().st_mtime_ns for path in (tmp_path / "work").glob("*/spool/*.npz")}
    assert len(here) >= 3
    assert not (out / "manifest.json").exists()
    command = begin(cluster, *arguments)
    wait_until(lambda: command.poll() is not None or len(list((tmp_path / "work").glob("*/spool/*.npz"))) > len(here))
    now = {path: path.stat().st_mtime_ns for path in [*here, *there] if path.exists()}
    assert now.items() <= (here | there).items()  # not done again
    output, _ = command.communicate(timeout=200)
    assert command.returncode == 0, output
    assert content(out) == whole
    assert not list((tmp_path / "work").glob("*/*"))
    scratch = list(Path(tempfile.gettempdir()).glob("usucl-spool-*"))
    assert all(psutil.pid_exists(int(folder.name.split("-")[2])) for folder in scratch)  # of killed ones nothing stays


def test_a_poisoned_video_costs_itself_alone(cluster: Any, tmp_path: Path) -> None:
    root = tmp_path / "in"
    for name in ("good.mp4", "crashes.mp4", "hangs.mp4"):
        write_video(root / name, moving_texture(12, 64, 64, seed=0), "libx264")
    (root / "broken.mp4").write_bytes(b"no video")
    command = begin(cluster, root, tmp_path / "out", "--time-limit", 2)
    output, _ = command.communicate(timeout=200)
    assert command.returncode == 1, output
    for line in (
        "quarantined crashes.mp4: ends the process that decodes it, by SIGSEGV",
        "quarantined hangs.mp4: gives no picture for 2 s (--time-limit)",
        "quarantined broken.mp4: does not open",
        "1 videos, 12 frames",
    ):
        assert line in output


def test_what_no_node_can_do_is_said(cluster: Any, some: Path, tmp_path: Path) -> None:
    command = begin(cluster, some, tmp_path / "out", "--memory-limit", 40)
    output, _ = command.communicate(timeout=100)
    assert command.returncode == 2
    assert "no node has a core and 40 GB of memory for a video; lower --memory-limit" in output
    assert not list(tmp_path.glob("*out*"))


def test_other_addresses_and_workers_are_refused(some: Path, tmp_path: Path) -> None:
    refused(usucl_shard(some, tmp_path / "out", "--on", "dask"), "--on dask: write ray, or ray://HOST:PORT")
    refused(usucl_shard(some, tmp_path / "out", "--on", "ray", "--workers", 2), "--workers has no effect with --on")
