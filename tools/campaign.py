"""What the campaigns of faults have in common: each attempt in a process of its own, and a table of how they ended."""

import contextlib
import functools
import multiprocessing
import os
import resource
import signal
import traceback
from collections import Counter
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from pathlib import Path

import click
import torch

from usucl_fast.progress import Progress

FAULTS = ("different", "traceback", "crash", "hang", "memory")
SECONDS = 60
"""An attempt that takes longer hangs."""
MEMORY = 1 << 30
"""Bytes that the process of an attempt may grow by."""
Outcome = tuple[str, str]
"""`right`, `refused` or one of the faults, and what was said."""


def attempt_all(
    numbers: Sequence[int], kinds: Sequence[str], attempt: Callable[[int], Outcome], what: str
) -> tuple[dict[str, Counter[str]], list[tuple[int, str, Outcome]]]:
    """Makes the attempts of these numbers, each in a process of its own; attempt n is of kind n, counted around.

    Returns:
        By kind, how many ended how; and number, kind and outcome of each.
    """
    torch.set_num_threads(1)
    table, outcomes = {kind: Counter[str]() for kind in kinds}, []
    with Progress(what, len(numbers)) as progress:
        for number in numbers:
            kind = kinds[number % len(kinds)]
            outcome = apart(functools.partial(attempt, number))
            table[kind][outcome[0]] += 1
            outcomes.append((number, kind, outcome))
            if outcome[0] in FAULTS:
                progress.note(f"{number} ({kind}) {outcome[0]}: {outcome[1]}")
            progress.advance()
    return table, outcomes


def apart(work: Callable[[], Outcome]) -> Outcome:
    """What the work ends in, in a process of its own."""
    here, there = multiprocessing.Pipe(duplex=False)
    process = os.fork()
    if not process:
        _work(work, there)
    there.close()
    try:
        outcome: Outcome = here.recv() if here.poll(SECONDS) else ("hang", f"no end after {SECONDS} s")
    except EOFError:
        outcome = "crash", ""
    if outcome[0] == "hang":
        os.kill(process, signal.SIGKILL)
    _, status, used = os.wait4(process, 0)
    if outcome[0] == "crash":
        return "crash", f"ended by signal {os.WTERMSIG(status)}" if os.WIFSIGNALED(status) else f"status {status >> 8}"
    grown = used.ru_maxrss * 1024 - resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return ("memory", f"{grown / 1e9:.1f} GB") if grown > MEMORY else outcome


def _work(work: Callable[[], Outcome], there: Connection) -> None:
    """Never returns."""
    silent = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silent, 1)
    os.dup2(silent, 2)  # libraries in C write of what they find
    try:
        outcome = work()
    except BaseException as error:
        frame = traceback.extract_tb(error.__traceback__)[-1]
        outcome = "traceback", f"{type(error).__name__}: {error} ({Path(frame.filename).name}:{frame.lineno})"
    with contextlib.suppress(BaseException):
        there.send(outcome)
    os._exit(0)


def check_line(text: str) -> str:
    """Raises AssertionError where a message is not one line that a terminal may print."""
    assert 0 < len(text) < 2000, f"a message of {len(text)} letters"
    assert "\n" not in text, f"a message of several lines: {text!r}"
    return text


def show(table: dict[str, Counter[str]]) -> bool:
    """Prints by kind how many attempts ended how. Whether there was no fault."""
    ends, width = ("right", "refused", *FAULTS), max(10, *map(len, table))
    total = Counter[str]()
    click.echo("  ".join([f"{'kind':>{width}}", *(f"{end:>10}" for end in ends)]))
    for counts in table.values():
        total.update(counts)
    for kind, counts in [*table.items(), ("all", total)]:
        click.echo("  ".join([f"{kind:>{width}}", *(f"{counts[end]:>10}" for end in ends)]))
    return not any(total[end] for end in FAULTS)
