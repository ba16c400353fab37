"""Hands hostile shards to whoever reads shards, and looks how each attempt ends.

    python -m tools.fuzz_shards --count 1500 --seed 0
    python -m tools.fuzz_shards --only 317                 the same input again, alone

Input n of a seed is always the same. Each is a copy of a small shard folder in which one thing was changed, with the
checksums made right again where a forger would: in the manifest, in a table, in a tar; or the same folder behind a
server that sends something else. A process of its own opens it, verifies it, and feeds batches from it by each loader.
That ends

    right       in the pictures that are asked for, the same by every loader
    refused     in one line that says what is wrong, on opening, on feeding, or by `verify`
    different   in pictures that are not those that were packed, or not the same by every loader, and nobody is told
    traceback, crash, hang, memory     as no command should

The last five are faults: the exit status is then 1.
"""

import functools
import json
import shutil
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import click
import numpy as np
import torch

from tests.helpers.servers import FaultyServer
from tools import make_phantoms
from tools.campaign import Ends, Outcome, attempt_all, check_line, show
from tools.hostile_shards import FOLDERS, SERVERS, mutate
from usucl_fast.curriculum import Curriculum
from usucl_fast.errors import UsuclError
from usucl_fast.feed import Augmentation, BatchPlan, Delivery, Planner, make_loader
from usucl_fast.pack import find_sources, pack, read_labels
from usucl_fast.shards import PackSettings, ShardStore, attempts, open_shards, remote, verify

KINDS = (*FOLDERS, *SERVERS)


def make_shards(folder: Path) -> Path:
    """Four phantoms in a shard each, with labels and values of their frames."""
    videos = folder / "videos"
    make_phantoms.main([str(videos), "--videos", "4", "--frames", "6", "--width", "64"], standalone_mode=False)
    lists = [videos / "labels.csv", videos / "frames.csv"]
    sources, _ = read_labels(lists, find_sources([videos])[0])
    pack(sources, folder / "shards", PackSettings(size=32, shard_mb=0, sector="none", burned_in="allow"), workers=1)
    return folder / "shards"


def campaign(shards: Path, numbers: Sequence[int], seed: int, dali_every: int) -> Ends:
    """Tries the inputs of these numbers.

    dali_every: of so many inputs, one is fed by DALI too, whose pipelines take long to build; 0: none is.

    Returns:
        By kind, how many inputs ended how; and number, kind and outcome of each.
    """
    torch.set_num_threads(1)  # before the first computation
    expected = _feed(open_shards(shards), "torch")  # compiles what all processes need, once

    def attempted(number: int) -> Outcome:
        with_dali = dali_every and number // len(KINDS) % dali_every == 0
        return attempt(shards, number, seed, ["torch", "resident", *(["dali"] if with_dali else [])], expected)

    return attempt_all(numbers, KINDS, attempted, "inputs")


def attempt(shards: Path, number: int, seed: int, loaders: Sequence[str], expected: np.ndarray) -> Outcome:
    """Makes input `number` and reads it. `expected` is what the first plans of the unchanged shards give."""
    rng = np.random.default_rng((seed, number))
    kind = KINDS[number % len(KINDS)]
    with tempfile.TemporaryDirectory(prefix="usucl-fuzz-", ignore_cleanup_errors=True) as root:
        folder = Path(shutil.copytree(shards, Path(root, "shards")))
        if kind in FOLDERS:
            is_forged = mutate(folder, kind, rng)
            return _read(lambda: open_shards(folder), lambda: verify(folder), loaders, None if is_forged else expected)
        server = FaultyServer(folder)
        mutate(folder, kind, rng, server.faults)
        _hurry()
        with server.running():
            opened = functools.partial(open_shards, server.url, Path(root, "cache"))
            return _read(opened, list, loaders, expected)


def _read(
    opened: Callable[[], ShardStore],
    verified: Callable[[], list[str]],
    loaders: Sequence[str],
    expected: np.ndarray | None,
) -> Outcome:
    told, fed = [], []
    try:
        told = verified()
        for fault in told:
            check_line(fault)
    except UsuclError as error:
        told = [check_line(str(error))]
    try:
        store = opened()
    except UsuclError as error:
        return "refused", check_line(str(error))
    for name in loaders:
        try:
            fed.append(_feed(store, name))
        except UsuclError as error:
            told.append(f"{name}: {check_line(str(error))}")
    if len(fed) == len(loaders) and all(_alike(one, fed[0] if expected is None else expected) for one in fed):
        return "right", ""
    now_and_then = expected is not None and all(_alike(one, expected) for one in fed)
    if told and (not fed or now_and_then or not told[0].startswith(tuple(f"{name}: " for name in loaders))):
        return "refused", told[0]
    return "different", "; ".join(told) or "pictures differ"


def _feed(store: ShardStore, loader: str) -> np.ndarray:
    """The pictures of two batches, uint8 `[pictures, size, size]`."""
    delivery = Delivery(
        size=32, channels=1, device=torch.device("cpu"), threads=0, most_frames=64, resident_bytes=1 << 28
    )
    batches = list(make_loader(loader, store, delivery).run(_plans(store)))
    return torch.cat([batch.frames.flatten(0, 2)[:, None] for batch in batches]).numpy()


def _plans(store: ShardStore) -> list[BatchPlan]:
    planner = Planner(
        store.table,
        seed=1,
        epochs=2,
        batch_size=4,
        curriculum=Curriculum("cosine"),
        augmentation=Augmentation(area=(0.5, 1.0), flip=0.5),
    )
    return [plan for plan, _ in zip(planner.plans(), range(2), strict=False)]


def _alike(one: np.ndarray, other: np.ndarray) -> bool:
    return one.shape == other.shape and bool((np.abs(one.astype(int) - other.astype(int)) <= 2).all())


def _hurry() -> None:
    attempts.BACKOFF_SECONDS, remote.STALL_SECONDS, attempts.POLL_SECONDS = 0.01, 0.3, 0.02


@click.command()
@click.option("--count", default=200, show_default=True, type=click.IntRange(1), help="How many inputs.")
@click.option("--seed", default=0, show_default=True, type=click.IntRange(0))
@click.option("--only", type=click.IntRange(0), help="Number of one input, to try it alone.")
@click.option("--dali-every", default=8, show_default=True, type=click.IntRange(0), help="Of a kind; 0: never.")
@click.option("--shards", type=click.Path(path_type=Path), help="What is changed.  [default: four small phantoms]")
@click.option("--json", "report", type=click.Path(path_type=Path), help="Number, kind and outcome of each input.")
def main(count: int, seed: int, only: int | None, dali_every: int, shards: Path | None, report: Path | None) -> None:
    """Hands hostile shards to whoever reads shards, and tells by kind how many attempts ended how."""
    with tempfile.TemporaryDirectory(prefix="usucl-fuzz-") as root:
        numbers = range(count) if only is None else [only]
        table, outcomes = campaign(shards or make_shards(Path(root)), numbers, seed, dali_every)
    if report:
        report.write_text(json.dumps(outcomes, indent=1))
    sys.exit(not show(table))


if __name__ == "__main__":
    main()
