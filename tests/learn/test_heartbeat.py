"""Signs of life between processes that do nothing else."""

import os
import signal
import time
from collections.abc import Iterator, Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest
import torch.distributed as dist

from tests.helpers.processes import warm_processes
from usucl_fast.learn.heartbeat import Heartbeat

SECONDS = 1.2
COUNT = 3


def live(rank: int, port: int, folder: Path) -> None:
    os.dup2(os.open(folder / f"{rank}.txt", os.O_WRONLY | os.O_CREAT), 2)
    store = dist.TCPStore("127.0.0.1", port, is_master=False)
    with Heartbeat(store, rank, COUNT, SECONDS):
        (folder / f"{rank}.begun").touch()
        while not (folder / "end").exists() and not (folder / f"{rank}.end").exists():
            sum(range(100_000))  # keeps the interpreter


@pytest.fixture
def ranks(tmp_path: Path) -> Iterator[Sequence[BaseProcess]]:
    store = dist.TCPStore("127.0.0.1", 0, is_master=True)
    made = [warm_processes().Process(target=live, args=(rank, store.port, tmp_path)) for rank in range(COUNT)]
    for process in made:
        process.start()
    while len(list(tmp_path.glob("*.begun"))) < COUNT:
        time.sleep(0.02)
    yield made
    for process in made:
        process.kill()
        process.join()


def test_a_rank_that_is_stopped_ends_all_others_with_its_name(ranks: Sequence[BaseProcess], tmp_path: Path) -> None:
    os.kill(ranks[1].pid or 0, signal.SIGSTOP)
    stopped = time.monotonic()
    for rank in (0, 2):
        ranks[rank].join(60)
        assert ranks[rank].exitcode == 1
        line = f"rank {rank} of 3 ends: rank 1 has sent no heartbeat for 1.2 seconds (--rank-timeout); "
        assert (tmp_path / f"{rank}.txt").read_text() == f"{line}resume it with --resume\n"
    assert time.monotonic() - stopped > SECONDS / 2


def test_ranks_that_are_stopped_together_go_on_and_one_may_leave(ranks: Sequence[BaseProcess], tmp_path: Path) -> None:
    """As where a scheduler suspends a job, for longer than a rank may be silent."""
    for sent in (signal.SIGSTOP, signal.SIGCONT):
        for process in ranks:
            os.kill(process.pid or 0, sent)
        time.sleep(2 * SECONDS)
    (tmp_path / "1.end").touch()
    ranks[1].join(60)
    time.sleep(2 * SECONDS)
    (tmp_path / "end").touch()
    for process in ranks:
        process.join(60)
    assert [process.exitcode for process in ranks] == [0, 0, 0]
    assert [(tmp_path / f"{rank}.txt").read_text() for rank in range(COUNT)] == ["", "", ""]
