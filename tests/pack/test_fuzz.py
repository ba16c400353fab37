"""Damaged files of every kind: each is packed, or left out with a reason, and nothing crashes or hangs.

`USUCL_FUZZ=1000 pytest tests/pack/test_fuzz.py` runs it at length.
"""

import os
import random
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner
from pydicom.uid import (
    ExplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)

from tests.helpers.dicoms import write_dicom
from tests.helpers.videos import moving_texture, write_frame_folder, write_video
from usucl_fast.cli.shard import main
from usucl_fast.errors import UsageError
from usucl_fast.pack import find_sources, pack
from usucl_fast.pack.identity import Pseudonyms
from usucl_fast.pack.labels import read_labels
from usucl_fast.pack.lists import read_list
from usucl_fast.shards import PackSettings, open_shards, verify

FILES = int(os.environ.get("USUCL_FUZZ", "42"))
LISTS = FILES * 4  # they take no time


def seeds(root: Path) -> list[Path]:
    """A sound file of every kind."""
    pictures = moving_texture(12, 64, 80, seed=0, color=True)
    write_video(root / "a.mp4", pictures, "libx264")
    write_video(root / "b.avi", pictures, "mjpeg", pix_fmt="yuvj420p")
    write_video(root / "c.mov", pictures, "mpeg4")
    write_video(root / "d.mpg", pictures, "mpeg2video")
    write_video(root / "e.gif", pictures[..., :1].repeat(3, axis=-1), "gif", pix_fmt="gray")
    for number, syntax in enumerate(
        (ExplicitVRLittleEndian, RLELossless, JPEGBaseline8Bit, JPEGLosslessSV1, JPEGLSLossless, JPEG2000Lossless)
    ):
        write_dicom(root / f"f{number}.dcm", pictures[..., 0], syntax=syntax, PatientID="p")
    write_frame_folder(root / "g", pictures[:3])
    return [*sorted(root.glob("*.*")), root / "g" / "00001.jpg"]


def damage(data: bytes, other: bytes, draw: random.Random) -> bytes:
    """A file with a fault: cut, bits flipped, a part lost, doubled or zero, or another file's beginning."""
    mutable, place = bytearray(data), draw.randrange(len(data))
    length = draw.choice([1, 16, 512, 4096])
    match draw.choice(["cut", "flip", "flip", "header", "header bits", "lose", "double", "zero"]):
        case "cut":
            del mutable[place:]
        case "flip":
            for _ in range(draw.choice([1, 10, 100])):
                mutable[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
        case "header":
            mutable[:length] = other[:length]
        case "header bits":
            for _ in range(draw.choice([1, 4])):
                mutable[draw.randrange(min(len(data), 600))] ^= 1 << draw.randrange(8)
        case "lose":
            del mutable[place : place + length]
        case "double":
            mutable[place:place] = mutable[place : place + length]
        case "zero":
            mutable[place : place + length] = bytes(len(mutable[place : place + length]))
    return bytes(mutable)


def test_damaged_videos(tmp_path: Path) -> None:
    draw = random.Random(0)
    kinds = seeds(tmp_path / "sound")
    root = tmp_path / "damaged"
    for number in range(FILES):
        seed = kinds[number % len(kinds)]
        data = damage(seed.read_bytes(), draw.choice(kinds).read_bytes(), draw)
        if seed.suffix == ".jpg":
            folder = Path(shutil.copytree(seed.parent, root / f"{number:04d}"))
            (folder / seed.name).write_bytes(data)
        else:
            root.mkdir(exist_ok=True)
            (root / f"{number:04d}{seed.suffix}").write_bytes(data)
    shutil.copy(tmp_path / "sound" / "a.mp4", root / "whole.mp4")
    sources, others = find_sources([root])
    assert len(sources) == FILES + 1
    assert not others
    out = tmp_path / "out"
    settings = PackSettings(size=48, burned_in="allow")
    summary = pack(sources, out, settings, workers=2, pseudonyms=Pseudonyms(b"0" * 32), time_limit=10)
    named = [entry["source"] for entry in summary["quarantined"]]
    assert len(set(named)) + summary["videos"] == len(sources)
    assert not summary["left_out"]
    assert summary["videos"] > FILES / 4
    assert len(named) > FILES / 10
    for entry in summary["quarantined"]:
        assert len(entry["reason"]) > 10
        assert "\n" not in entry["reason"]
        assert str(tmp_path) not in entry["reason"]
    assert verify(out) == []
    assert {video.source for video in open_shards(out).table.videos}


@pytest.mark.parametrize("kind", ["csv", "jsonl", "labels"])
def test_damaged_lists(tmp_path: Path, kind: str) -> None:
    draw = random.Random(1)
    sources = []
    for name in ("a ü.mp4", "b.mp4", "c.mp4"):
        (tmp_path / name).write_bytes(b"x")
    if kind == "jsonl":
        group = "a hospital's own, long name for one of its patients"  # damage to it is no fault of the list
        whole = f'{{"path": "a ü.mp4", "group": "{group}"}}\n{{"path": "b.mp4", "split": "val"}}\n'.encode()
    else:
        whole = 'path,group,label\n"a ü.mp4",1,x\nb.mp4,"2, 3",\n'.encode()
    if kind == "labels":
        whole = whole.replace(b"path", b"video")
        sources = find_sources([tmp_path])[0]
    path = tmp_path / f"list.{'jsonl' if kind == 'jsonl' else 'csv'}"
    outcomes = {True: 0, False: 0}
    for _ in range(LISTS):
        path.write_bytes(damage(whole, b"\0\xff\x00DICM", draw))
        message = ""
        try:
            read, _ = read_labels([path], sources) if kind == "labels" else read_list(path)
            assert 0 < len(read) <= 3
        except UsageError as error:
            message = str(error)
        assert "\n" not in message
        outcomes[message == ""] += 1
    assert min(outcomes.values()) > LISTS / 20


def test_a_damaged_list_is_one_line_to_the_user(tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_bytes(b"path\n\xff\xfe\n")
    done = CliRunner().invoke(main, [str(tmp_path / "list.csv"), str(tmp_path / "out")])
    assert done.exit_code == 2
    assert len(done.stderr.splitlines()) == 1
    assert "list.csv" in done.stderr
