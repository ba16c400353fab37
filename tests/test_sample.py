"""The sample shards of the repository are what their specification says, to a reader that knows only that."""

import hashlib
import json
import tarfile
import zlib

import numpy as np
import simplejpeg

from tests.helpers import SAMPLE


def test_the_sample_is_as_specified() -> None:
    manifest = json.loads((SAMPLE / "manifest.json").read_bytes())
    assert (manifest["format"], manifest["version"]) == ("usucl-shards", 2)
    rows = np.load(SAMPLE / "frames.npy", mmap_mode="r")
    videos = manifest["videos"]
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
    assert sum(path.stat().st_size for path in SAMPLE.iterdir()) < 1_000_000
