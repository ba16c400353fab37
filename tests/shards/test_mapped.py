"""Memory of mapped files, given back."""

import mmap
from pathlib import Path

import numpy as np
import pytest

from usucl_fast.shards.mapped import map_file, release
from usucl_fast.shards.npy import read_npy

PAGES = 64


def resident(array: np.ndarray) -> int:
    """Bytes of a mapping that are counted as this process's."""
    address, found = array.ctypes.data, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        words = line.split()
        if "-" in words[0] and len(words) > 4:
            start, end = (int(word, 16) for word in words[0].split("-"))
            found = start <= address < end
        elif found and words[0] == "Rss:":
            return int(words[1]) * 1024
    raise AssertionError(f"{address} is not mapped")


@pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="Linux tells what is in memory")
def test_what_was_read_of_a_mapped_table_is_given_back(tmp_path: Path) -> None:
    numbers = np.arange(PAGES * mmap.PAGESIZE // 8)
    np.save(tmp_path / "numbers.npy", numbers)
    rows = read_npy(map_file(tmp_path / "numbers.npy"), numbers.dtype)
    assert rows.sum() == numbers.sum()
    assert resident(rows) >= numbers.nbytes
    release(rows[5:])
    assert resident(rows) == 0
    assert (rows == numbers).all()


def test_what_no_file_has_is_kept() -> None:
    array = np.full(1 << 16, 7)
    release(array)
    assert (array == 7).all()
