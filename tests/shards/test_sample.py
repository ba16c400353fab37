"""The sample shards of the repository are what their specification says, to a reader that knows only that."""

import hashlib
import json
import tarfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import simplejpeg

from tests.helpers import SAMPLE


def read_videos(path: Path) -> list[dict[str, Any]]:
    columns: dict[str, list[Any]] = {}
    with np.load(path) as file:
        for name in {key.partition(".")[0] for key in file}:
            if name in file:
                columns[name] = file[name].tolist()
            else:
                ends, utf8 = [0, *file[f"{name}.ends"].tolist()], file[f"{name}.utf8"].tobytes()
                columns[name] = [utf8[ends[code] : ends[code + 1]].decode() for code in file[f"{name}.codes"].tolist()]
    return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]


def test_the_sample_is_as_specified() -> None:
    manifest = json.loads((SAMPLE / "manifest.json").read_bytes())
    assert (manifest["format"], manifest["version"]) == ("usucl-shards", 3)
    for name, record in manifest["files"].items():
        data = (SAMPLE / name).read_bytes()
        assert record == {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    rows = np.load(SAMPLE / "frames.npy", mmap_mode="r")
    videos = read_videos(SAMPLE / "videos.npz")
    frame_id = 0
    checksums = [hashlib.sha256() for _ in videos]
    for number, shard in enumerate(manifest["shards"]):
        path = SAMPLE / shard["name"]
        content = path.read_bytes()
        assert len(content) == shard["bytes"]
        assert hashlib.sha256(content).hexdigest() == shard["sha256"]
        index = path.with_suffix(".idx").read_text().splitlines()
        assert index[0] == f"v1.2 {shard['frames']}"
        with tarfile.open(path) as tar:
            for member, line in zip(tar.getmembers(), index[1:], strict=True):
                row = rows[frame_id]
                video = videos[row["video"]]
                assert row["shard"] == number
                assert (row["offset"], row["length"]) == (member.offset_data, member.size)
                assert member.name == f"{video['id']}/{row['frame']:06d}.jpg"
                assert line == f"jpg {row['offset']} {row['length']} {member.name}"
                data = content[row["offset"] : row["offset"] + row["length"]]
                height, width, space, _ = simplejpeg.decode_jpeg_header(data)
                assert (height, width) == (video["height"], video["width"])
                assert space == ("Gray" if video["color"] == "grey" else "YCbCr")
                checksums[row["video"]].update(data)
                assert row["crc"] == zlib.crc32(data)
                frame_id += 1
    assert frame_id == len(rows) == sum(video["frames"] for video in videos)
    assert [checksum.hexdigest() for checksum in checksums] == [video["checksum"] for video in videos]


def test_the_sample_is_small() -> None:
    assert sum(path.stat().st_size for path in SAMPLE.iterdir() if not path.match("decoded-*")) < 1_000_000
