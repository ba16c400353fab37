"""Many frames through each loader: memory stays what it was. USUCL_SOAK=200000 takes minutes."""

import itertools
import os
from pathlib import Path

import numpy as np
import pytest

from tests.helpers.feeding import delivery, loader_of, plans_of
from usucl_fast.feed import whole_frames
from usucl_fast.shards import ShardStore

FRAMES = int(os.environ.get("USUCL_SOAK", "5000"))


def resident_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs /proc")
def test_memory_is_flat_after_the_first_epoch(store: ShardStore, name: str) -> None:
    loader = loader_of(name, store, delivery(size=64))
    frame_ids = np.arange(len(store.table))
    for _ in loader.run(whole_frames(store.table, frame_ids, 20)):
        pass
    plans = plans_of(store)
    for _ in loader.run(plans):
        pass
    after_first, frames = resident_bytes(), 0
    for batch in loader.run(itertools.cycle(plans)):
        frames += batch.plan.frame_ids.size
        if frames >= FRAMES:
            break
    assert resident_bytes() < 1.05 * after_first
