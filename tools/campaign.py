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
Table = dict[str, Counter[str]]
"""By kind, how many ended how."""
Ends = tuple[Table, list[tuple[int, str, Outcome]]]
"""A table; and number, kind and outcome of each attempt."""


def attempt_all(
    numbers: Sequence[int],
    kinds: Sequence[str],
    attempt: Callable[[int], Outcome],
    what: str,
    seconds: float | None = None,
) -> Ends:
    """Makes the attempts of these numbers, each in a process of its own; attempt n is of kind n, counted around.

    seconds: after which one hangs, in place of `SECONDS`.

    Returns:
        By kind, how many ended how; and number, kind and outcome of each.
    """
    torch.set_num_threads(1)
    table, outcomes = {kind: Counter[str]() for kind in kinds}, []
    with Progress(what, len(numbers)) as progress:
        for number in numbers:
            kind = kinds[number % len(kinds)]
            outcome = apart(functools.partial(attempt, number), seconds)
            table[kind][outcome[0]] += 1
            outcomes.append((number, kind, outcome))
            if outcome[0] in FAULTS:
                progress.note(f"{number} ({kind}) {outcome[0]}: {outcome[1]}")
            progress.advance()
    return table, outcomes


def apart(work: Callable[[], Outcome], seconds: float | None = None) -> Outcome:
    """What the work ends in, in a process of its own."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    outcome, taken = measured(work, seconds or SECONDS)
    if taken - before > MEMORY and outcome[0] not in FAULTS:
        return "memory", f"{(taken - before) / 1e9:.1f} GB"
    return outcome


def measured(work: Callable[[], Outcome], seconds: float) -> tuple[Outcome, int]:
    """What the work ends in, in a process of its own; and bytes of memory that it, or one of its own, has taken."""
    here, there = multiprocessing.Pipe(duplex=False)
    process = os.fork()
    if not process:
        os.setpgid(0, 0)
        _work(work, there)
    there.close()
    try:
        outcome: Outcome = here.recv() if here.poll(seconds) else ("hang", f"no end after {seconds} s")
    except EOFError:
        outcome = "crash", ""
    if outcome[0] == "hang":
        os.killpg(process, signal.SIGKILL)
    _, status, used = os.wait4(process, 0)
    if outcome[0] == "crash":
        how = f"ended by signal {os.WTERMSIG(status)}" if os.WIFSIGNALED(status) else f"status {status >> 8}"
        outcome = "crash", how
    return outcome, 1024 * used.ru_maxrss


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


def show(table: Table) -> bool:
    """Prints by kind how many attempts ended how. Whether there was no fault."""
    ends, width = ("right", "refused", *FAULTS), max(10, *map(len, table))
    total = Counter[str]()
    click.echo("  ".join([f"{'kind':>{width}}", *(f"{end:>10}" for end in ends)]))
    for counts in table.values():
        total.update(counts)
    for kind, counts in [*table.items(), ("all", total)]:
        click.echo("  ".join([f"{kind:>{width}}", *(f"{counts[end]:>10}" for end in ends)]))
    return not any(total[end] for end in FAULTS)
