"""Processes that have imported the package already, so that each starts in milliseconds."""

import multiprocessing
from collections.abc import Callable
from multiprocessing.context import ForkServerContext
from pathlib import Path

import torch.multiprocessing


def warm_processes() -> ForkServerContext:
    """Starts processes by forking one that has imported what training needs, and nothing else has been done in."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["usucl_fast.cli.train", "usucl_fast.learn.job", "timm"])
    return context


def in_processes(work: Callable[[int, Path], None], folder: Path, count: int) -> None:
    """Runs `work(rank, folder)` in `count` processes side by side, and raises what the first that fails raises."""
    warm_processes()
    torch.multiprocessing.start_processes(work, (folder,), nprocs=count, start_method="forkserver")
