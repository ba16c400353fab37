import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from usucl_fast.errors import DataError, UsageError
from usucl_fast.feed import open_shards


@pytest.fixture
def copy(shards: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(shards, tmp_path / "shards"))


def test_what_is_no_shard_folder_is_refused(copy: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no manifest"):
        open_shards(tmp_path)
    (copy / "manifest.json").write_text("{}")
    with pytest.raises(UsageError, match="not a shard folder"):
        open_shards(copy)
    (copy / "manifest.json").write_text('{"format": "other", "version": 1}')
    with pytest.raises(UsageError, match="'other'"):
        open_shards(copy)


def test_a_newer_format_is_refused(copy: Path) -> None:
    manifest = json.loads((copy / "manifest.json").read_bytes())
    (copy / "manifest.json").write_text(json.dumps({**manifest, "version": 3, "videos": "unheard of"}))
    with pytest.raises(UsageError, match="format version 3, this usucl_fast reads 2"):
        open_shards(copy)


def test_a_damaged_frame_table_is_refused(copy: Path) -> None:
    rows = np.load(copy / "frames.npy")
    np.save(copy / "frames.npy", rows[:-1])
    with pytest.raises(DataError, match="does not match the manifest"):
        open_shards(copy)
    (copy / "frames.npy").write_bytes(b"?")
    with pytest.raises(DataError, match="damaged"):
        open_shards(copy)


def test_the_fingerprint_is_the_contents(shards: Path, copy: Path) -> None:
    assert open_shards(copy).fingerprint == open_shards(shards).fingerprint
    text = (copy / "manifest.json").read_text()
    (copy / "manifest.json").write_text(text.replace('"patient-1"', '"patient-2"'))
    assert open_shards(copy).fingerprint != open_shards(shards).fingerprint


def test_reading_copies_nothing(shards: Path) -> None:
    store = open_shards(shards)
    (data,) = store.read(np.array([3]))
    assert data.base is not None
    assert not data.flags.writeable
