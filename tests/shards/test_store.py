import hashlib
import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.helpers import copy_shards
from tests.helpers.forged import change_videos, reseal
from usucl_fast.errors import DataError, UsageError
from usucl_fast.pack import pack
from usucl_fast.shards import PackSettings, manifest, open_shards, read_manifest, table, verify


@pytest.fixture
def copy(shards: Path, tmp_path: Path) -> Path:
    return copy_shards(shards, tmp_path / "shards")


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
    with pytest.raises(DataError, match=r"frames.npy has \d+ bytes, not \d+ as in the manifest"):
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


@pytest.mark.parametrize("name", ["../x.tar", "/etc/passwd", "usucl-1.tar", "usucl-000000.tar\n", "usucl-000001.tar"])
def test_a_shard_of_another_name_is_refused(copy: Path, name: str) -> None:
    (record,) = read_manifest(copy).shards
    reseal(copy, shards=(replace(record, name=name),))
    with pytest.raises(DataError, match=r"manifest.json is damaged .*name is"):
        open_shards(copy)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *[("offset", 1 << 63), ("offset", (1 << 64) - 1), ("length", 1 << 31), ("length", 0), ("shard", 7)],
        *[("video", 1), ("video", (1 << 32) - 1), ("frame", 4), ("time", np.nan), ("time", np.inf)],
    ],
)
def test_a_row_that_is_not_what_its_place_says_is_refused(copy: Path, field: str, value: float) -> None:
    rows = np.load(copy / "frames.npy")
    rows[field][3] = value
    np.save(copy / "frames.npy", rows)
    reseal(copy)
    with pytest.raises(DataError, match=rf"frames.npy is damaged \({field} of frame 3 is "):
        open_shards(copy)


def test_rows_are_looked_at_in_every_part_of_a_table(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table, "CHECKED_ROWS", 7)
    assert len(open_shards(copy).table) > 7 * 3
    rows = np.load(copy / "frames.npy")
    rows["frame"][-1] += 1
    np.save(copy / "frames.npy", rows)
    reseal(copy)
    with pytest.raises(DataError, match=f"frame of frame {len(rows) - 1} is"):
        open_shards(copy)


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("id", "a/b", "an id is not of"),
        ("id", "", "an id is not of"),
        ("id", "a" * 86, "an id is not of"),
        ("id", "same", "an id is not of"),
    ],
)
def test_an_id_that_no_packing_makes_is_refused(copy: Path, field: str, value: str, words: str) -> None:
    change_videos(copy, lambda video: replace(video, **{field: value}))  # type: ignore[arg-type]
    with pytest.raises(DataError, match=words):
        open_shards(copy)


@pytest.mark.parametrize(("utf8", "ends"), [(b"\xff", [1]), ("ü".encode(), [1, 2])])
def test_texts_that_are_not_utf8_are_refused(copy: Path, utf8: bytes, ends: list[int]) -> None:
    with np.load(copy / "videos.npz") as file:
        arrays = dict(file)
    codes = np.arange(len(arrays["group.codes"]), dtype="<u4") % len(ends)
    parts = {"codes": codes, "ends": np.array(ends, "<i8"), "utf8": np.frombuffer(utf8, np.uint8)}
    np.savez(copy / "videos.npz", **{**arrays, **{f"label.{part}": array for part, array in parts.items()}})
    reseal(copy)
    with pytest.raises(DataError, match="the texts of label are not UTF-8"):
        open_shards(copy)


def test_a_group_of_two_codes_is_refused(copy: Path) -> None:
    """Its videos would be of two patients, and on both sides of a split."""
    with np.load(copy / "videos.npz") as file:
        arrays = dict(file)
    codes = np.arange(len(arrays["group.codes"]), dtype="<u4")
    ends = np.arange(1, len(codes) + 1, dtype="<i8")
    changed = {"group.codes": codes, "group.ends": ends, "group.utf8": np.full(len(codes), ord("g"), np.uint8)}
    np.savez(copy / "videos.npz", **{**arrays, **changed})
    reseal(copy)
    with pytest.raises(DataError, match="group has one text twice"):
        open_shards(copy)


@pytest.mark.parametrize("content", [b"", b"\x93NUMPY", np.lib.format.magic(1, 0) + b"\xff\xff" + b"[" * 65535])
def test_a_table_without_a_header_is_refused(copy: Path, content: bytes) -> None:
    (copy / "frames.npy").write_bytes(content or b"?")
    reseal(copy)
    with pytest.raises(DataError, match="has no header of a NumPy array"):
        open_shards(copy)


def test_an_array_of_another_kind_is_refused(copy: Path) -> None:
    for array in (np.float32(3), np.zeros((2, 3)), np.array([{}], object), np.load(copy / "frames.npy")[None]):
        np.save(copy / "frames.npy", array, allow_pickle=True)
        reseal(copy)
        with pytest.raises(DataError, match=r"frames\.npy is damaged"):
            open_shards(copy)


def test_the_bytes_of_a_damaged_archive_are_not_told(copy: Path) -> None:
    """Of what stands in place of a name, nothing is shown."""
    content = (copy / "videos.npz").read_bytes()
    length = content.index(b"PK\x03\x04", 4) + 26
    (copy / "videos.npz").write_bytes(content[:length] + b"\xff\x0f" + content[length + 2 :])
    reseal(copy)
    with pytest.raises(DataError, match=r"videos\.npz is damaged \(id\.ends") as raised:
        open_shards(copy)
    assert len(str(raised.value)) < 700


def test_a_pipe_is_no_shard(copy: Path) -> None:
    """Whoever opens one waits for ever."""
    tar = copy / "usucl-000000.tar"
    tar.unlink()
    os.mkfifo(tar)
    with pytest.raises(DataError, match="not a file"):
        open_shards(copy).read(np.array([0]))
    assert any("not a file" in fault for fault in verify(copy))
    (copy / "manifest.json").unlink()
    os.mkfifo(copy / "manifest.json")
    with pytest.raises(UsageError, match="no manifest"):
        open_shards(copy)


def change_manifest(folder: Path, **changes: object) -> None:
    """Changes what the manifest says, and its checksum so that it is right."""
    content = json.loads((folder / "manifest.json").read_bytes()) | changes
    del content["sha256"]
    sealed = hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
    (folder / "manifest.json").write_text(json.dumps({**content, "sha256": sealed}))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"totals": {}}, "videos is missing"),
        ({"totals": {"videos": 1, "frames": 1, "bytes": 1}}, "totals is"),
        ({"settings": {"codec": "exe"}}, "codec is 'exe'"),
        ({"settings": []}, "settings is not an object"),
        ({"settings": {"size": True}}, "size is True"),
        ({"settings": {"fps": float("nan")}}, "fps is nan"),
        ({"settings": {"color": "blue"}}, "color is 'blue'"),
        ({"settings": {"split": {"train": "all"}}}, "split gives 'train' 'all'"),
        ({"shards": []}, "there is no shard"),
        ({"shards": {}}, "shards is not a list"),
        ({"salt": "\ud800"}, "surrogates"),
        ({"files": {}}, "does not name videos.npz"),
        ({"files": {"../x": {}}}, "files names '../x'"),
    ],
)
def test_a_manifest_that_no_packing_writes_is_refused(copy: Path, changes: dict[str, object], words: str) -> None:
    change_manifest(copy, **changes)
    with pytest.raises(DataError, match=words) as raised:
        open_shards(copy)
    assert "manifest.json" in str(raised.value) or "frames.npy" in str(raised.value)


def test_a_manifest_that_is_too_large_is_not_read(copy: Path) -> None:
    with (copy / "manifest.json").open("r+b") as file:
        file.truncate(1 << 40)
    with pytest.raises(DataError, match="more than 67108864 bytes"):
        open_shards(copy)


@pytest.mark.parametrize("value", [[], {}, 1])
def test_a_manifest_of_too_many_values_is_not_parsed(
    copy: Path, monkeypatch: pytest.MonkeyPatch, value: object
) -> None:
    """It would take twenty times as much memory."""
    monkeypatch.setattr(manifest, "MANIFEST_VALUES", 5000)
    content = json.loads((copy / "manifest.json").read_bytes())
    open_shards(copy)
    (copy / "manifest.json").write_text(json.dumps({**content, "more": [value] * 5000}))
    with pytest.raises(DataError, match=r"manifest\.json has more than 5000 values"):
        open_shards(copy)
    with pytest.raises(UsageError, match="holds files that are not shards"):
        pack([], copy, PackSettings(), workers=1)


def test_a_manifest_without_its_checksum_is_refused(copy: Path) -> None:
    content = json.loads((copy / "manifest.json").read_bytes())
    del content["sha256"]
    (copy / "manifest.json").write_text(json.dumps(content))
    with pytest.raises(DataError, match="was changed since it was written"):
        open_shards(copy)


def test_the_fingerprint_is_the_contents(shards: Path, copy: Path) -> None:
    assert open_shards(copy).fingerprint == open_shards(shards).fingerprint
    change_videos(copy, lambda video: replace(video, group=video.group.replace("1", "2")))
    assert open_shards(copy).fingerprint != open_shards(shards).fingerprint


def test_reading_copies_nothing(shards: Path) -> None:
    store = open_shards(shards)
    (data,) = store.read(np.array([3]))
    assert data.base is not None
    assert not data.flags.writeable
