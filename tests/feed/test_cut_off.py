"""A file that loses its end while it is mapped: the process ends, for the system says so, but in a line."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers import SAMPLE, copy_shards

READ = """
import os, sys
from pathlib import Path

import torch
from tests.helpers.feeding import delivery, loader_of, plans_of
from usucl_fast.shards import open_shards

torch.set_num_threads(1)
store = open_shards(sys.argv[2])
loader = loader_of(sys.argv[1], store, delivery(threads=int(sys.argv[3])))
plans = plans_of(store)
if sys.argv[4] == "known":  # each frame was read once, and is not looked at again before it is decoded
    list(loader.run(plans))
batches = loader.run(plans)
next(batches)
os.truncate(next(Path(sys.argv[2]).glob("*.tar")), 0)
list(batches)
print("read what is not there")
"""


@pytest.mark.skipif(sys.platform == "win32", reason="does not let a mapped file be cut off")
@pytest.mark.parametrize("name", ["torch", pytest.param("dali", marks=pytest.mark.slow)])
@pytest.mark.parametrize(("threads", "seen"), [(0, "fresh"), (2, "known")])
def test_a_shard_that_is_cut_off_is_named(tmp_path: Path, name: str, threads: int, seen: str) -> None:
    if name == "dali":
        pytest.importorskip("nvidia.dali")
    shards = copy_shards(SAMPLE, tmp_path / "shards")
    tar = next(shards.glob("*.tar"))
    length = tar.stat().st_size
    command = [sys.executable, "-c", READ, name, str(shards), str(threads), seen]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    expected = f"{tar} had {length} bytes and was cut off to 0 while it was read; restore it, or pack again\n"
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.endswith(expected)
