import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.helpers.forged import change_videos, reseal
from usucl_fast.errors import DataError, UsageError
from usucl_fast.shards import open_shards, read_manifest


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
    (copy / "manifest.json").write_text(json.dumps({**manifest, "version": 4, "videos": "unheard of"}))
    with pytest.raises(UsageError, match=r"format version 4, this usucl_fast reads 3.* usucl-shard SOURCE"):
        open_shards(copy)


def test_a_damaged_frame_table_is_refused(copy: Path) -> None:
    length = (copy / "frames.npy").stat().st_size
    np.save(copy / "frames.npy", np.load(copy / "frames.npy")[:-1])
    with pytest.raises(DataError, match=r"frames.npy has \d+ bytes where the manifest says \d+"):
        open_shards(copy)
    (copy / "frames.npy").write_bytes(b"?" * length)
    with pytest.raises(DataError, match=r"frames.npy is damaged"):
        open_shards(copy)


def test_a_changed_video_table_is_refused(copy: Path) -> None:
    content = bytearray((copy / "videos.npz").read_bytes())
    content[2000] ^= 1
    (copy / "videos.npz").write_bytes(content)
    with pytest.raises(DataError, match=r"videos.npz was changed"):
        open_shards(copy)


@pytest.mark.parametrize(
    ("field", "value"),
    [("height", 0), ("width", 1 << 16), ("frames", 0), ("color", "blue"), ("frame_rate", float("nan"))],
)
def test_what_no_packing_writes_is_refused_though_the_checksums_are_right(
    copy: Path, field: str, value: object
) -> None:
    change_videos(copy, lambda video: replace(video, **{field: value}))  # type: ignore[arg-type]
    with pytest.raises(DataError, match=f"videos.npz is damaged .*{field}|a video has no frames"):
        open_shards(copy)


def test_texts_that_reach_out_of_their_bytes_are_refused(copy: Path) -> None:
    with np.load(copy / "videos.npz") as file:
        arrays = dict(file)
    for changed in ({"name.ends": arrays["name.ends"] + 1}, {"name.codes": arrays["name.codes"] + 9}):
        np.savez(copy / "videos.npz", **{**arrays, **changed})
        reseal(copy)
        with pytest.raises(DataError, match="texts of name"):
            open_shards(copy)
    np.savez_compressed(copy / "videos.npz", **arrays)
    reseal(copy)
    with pytest.raises(DataError, match="compressed"):
        open_shards(copy)


@pytest.mark.parametrize("name", ["../victim.tar", "/etc/passwd", "usucl-1.tar", "usucl-000000.tar\n"])
def test_a_shard_of_another_name_is_refused(copy: Path, name: str) -> None:
    (record,) = read_manifest(copy).shards
    reseal(copy, shards=(replace(record, name=name),))
    with pytest.raises(DataError, match=r"manifest.json is damaged .*name is"):
        open_shards(copy)


@pytest.mark.parametrize(
    ("field", "value"), [("offset", 1 << 63), ("offset", (1 << 64) - 1), ("length", 1 << 31), ("shard", 7)]
)
def test_a_row_that_points_out_of_its_shard_is_refused(copy: Path, field: str, value: int) -> None:
    rows = np.load(copy / "frames.npy")
    rows[field][3] = value
    np.save(copy / "frames.npy", rows)
    reseal(copy)
    store = open_shards(copy)
    assert len(store.read(np.array([2]))) == 1
    with pytest.raises(DataError, match="frame 3 would lie outside"):
        store.read(np.array([2, 3]))


def test_the_fingerprint_is_the_contents(shards: Path, copy: Path) -> None:
    assert open_shards(copy).fingerprint == open_shards(shards).fingerprint
    change_videos(copy, lambda video: replace(video, group=video.group.replace("1", "2")))
    assert open_shards(copy).fingerprint != open_shards(shards).fingerprint


def test_reading_copies_nothing(shards: Path) -> None:
    store = open_shards(shards)
    (data,) = store.read(np.array([3]))
    assert data.base is not None
    assert not data.flags.writeable
