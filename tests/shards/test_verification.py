from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from tests.helpers import SAMPLE, copy_shards
from usucl_fast.cli.shard import main
from usucl_fast.shards import open_shards, verify


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    return copy_shards(SAMPLE, tmp_path / "shards")


def flip(path: Path, place: int) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 0x40
    path.write_bytes(content)


def test_untouched_shards_have_no_fault(shards: Path, copy: Path) -> None:
    assert verify(shards) == verify(copy) == []


def test_a_flipped_byte_anywhere_in_a_tar_is_found(copy: Path) -> None:
    tar = copy / "usucl-000000.tar"
    rows = open_shards(copy).table.rows
    for place in np.random.default_rng(0).integers(0, tar.stat().st_size, 60).tolist():
        flip(tar, place)
        (fault,) = verify(copy)
        # A member is a header of 512 bytes, the frame, and zeros up to the next multiple of 512.
        inside = np.flatnonzero(
            (rows["offset"] - 512 <= place) & (place < rows["offset"] + -(-rows["length"] // 512) * 512)
        )
        assert str(tar) in fault
        if not len(inside):
            assert "at its end" in fault
        else:
            row = rows[inside[0]]
            name = open_shards(copy).table.videos[row["video"]].name
            assert f"frame {row['frame']} of video {name} (frame id {inside[0]})" in fault
            in_frame = row["offset"] <= place < row["offset"] + row["length"]
            assert ("tar header or padding" in fault) != in_frame
        flip(tar, place)
    assert verify(copy) == []


@pytest.mark.parametrize(
    "name", ["usucl-000000.idx", "frames.npy", "videos.npz", "sectors.json", "sectors-000.png", "manifest.json"]
)
def test_a_flipped_byte_in_the_other_files_is_found(copy: Path, name: str) -> None:
    if name == "manifest.json":
        path = copy / name
        path.write_text(path.read_text().replace('"jpeg"', '"png"', 1))
    else:
        flip(copy / name, 300)
    (fault,) = verify(copy)
    assert name in fault


def test_missing_and_cut_files_are_found(copy: Path) -> None:
    tar = copy / "usucl-000000.tar"
    tar.write_bytes(tar.read_bytes()[:100_000])
    faults = verify(copy)
    assert len(faults) > 10
    assert all("is damaged" in fault for fault in faults)
    tar.unlink()
    (copy / "usucl-000000.idx").unlink()
    assert ["No such file" in fault for fault in verify(copy)] == [True, True]


def test_the_commands(copy: Path) -> None:
    assert CliRunner().invoke(main, ["verify", str(copy)]).exit_code == 0
    shown = CliRunner().invoke(main, ["list", str(copy)])
    assert shown.exit_code == 0
    for video in open_shards(copy).table.videos:
        assert video.name in shown.output
    flip(copy / "usucl-000000.tar", 5000)
    found = CliRunner().invoke(main, ["verify", str(copy)])
    assert found.exit_code == 1
    assert "phantom-000.mp4" in found.output
    for command in ("verify", "list"):
        refused = CliRunner().invoke(main, [command, str(copy.parent)])
        assert refused.exit_code == 2
        assert "not a shard folder" in refused.stderr
