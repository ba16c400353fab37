"""Frames/s of the loaders with each augmentation.

python bench/augmentation.py SHARDS
"""

import itertools
import time
from functools import partial

import click
import torch

from usucl_fast.bench.harness import Arm, compare
from usucl_fast.curriculum import Curriculum
from usucl_fast.feed import AUGMENTATIONS, BatchPlan, Delivery, Loader, Planner, make_loader
from usucl_fast.machine import cores
from usucl_fast.shards import ShardStore, open_shards

COMPARED = ("geometric", "gain", "look")


@click.command()
@click.argument("shards")
@click.option("--loaders", default="torch,dali,resident", show_default=True, help="By commas.")
@click.option("--size", default=96, show_default=True, help="Pixels of a side.")
@click.option("--batches", default=60, show_default=True, help="Of 32 pairs, that a run is timed over.")
@click.option("--runs", default=5, show_default=True, help="Of each augmentation, in turn with the others.")
def main(shards: str, loaders: str, size: int, batches: int, runs: int) -> None:
    """Prints a table for each loader, in the form of `usucl-bench`."""
    store, device = open_shards(shards), torch.device("cpu")
    plans = {name: make_plans(store, name, batches) for name in COMPARED}
    delivery = Delivery(size=size, channels=1, device=device, threads=cores(), most_frames=64)
    for name in loaders.split(","):
        loader = make_loader(name, store, delivery)
        for augmentation in COMPARED:
            rate(loader, plans[augmentation])  # compiles, and fills what is resident
        arms = [Arm(one, f"{size} pixels, grey", partial(rate, loader, plans[one])) for one in COMPARED]
        compare(f"augmentation, loader {name},", "frames/s", arms, runs, None)


def make_plans(store: ShardStore, augmentation: str, batches: int) -> list[BatchPlan]:
    planner = Planner(
        store.table,
        seed=0,
        epochs=batches,
        batch_size=32,
        curriculum=Curriculum("cosine"),
        augmentation=AUGMENTATIONS[augmentation],
        tuples="pair",
    )
    return list(itertools.islice(planner.plans(0), batches))


def rate(loader: Loader, plans: list[BatchPlan]) -> float:
    """Frames/s."""
    started, frames = time.perf_counter(), 0
    for batch in loader.run(plans):
        frames += batch.frames.shape[0] * batch.frames.shape[1]
    return frames / (time.perf_counter() - started)


if __name__ == "__main__":
    main()
