"""Tars with the labels beside the frames, read by what others have."""

import dataclasses
import json
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import Result

from tests.helpers import copy_shards
from tests.helpers.commands import usucl_shard
from tests.helpers.forged import change_videos
from usucl_fast.errors import DataError
from usucl_fast.shards import SEGMENT, FrameLabels, ShardStore, Texts, export_webdataset, open_shards

SPLITS = ("train", "val", "test", "train")


@pytest.fixture
def split(sample: ShardStore, tmp_path: Path) -> ShardStore:
    """The sample with a split for each of its four videos."""
    folder = copy_shards(sample.folder, tmp_path / "split")
    split_of = dict(zip(sample.table.videos.id, SPLITS, strict=True))
    change_videos(folder, lambda video: dataclasses.replace(video, split=split_of[video.id]))
    return open_shards(folder)


def export(*arguments: object) -> Result:
    return usucl_shard("export-webdataset", *arguments)


def members(folder: Path) -> dict[str, bytes]:
    """What the tars of a folder hold, in their order."""
    found: dict[str, bytes] = {}
    for path in sorted(folder.glob("*.tar")):
        with tarfile.open(path) as tar:
            for member in tar:
                file = tar.extractfile(member)
                assert file is not None
                found[member.name] = file.read()
    return found


def test_each_frame_has_its_labels_beside_it(split: ShardStore, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert export_webdataset(split, out) == {"train": 48, "val": 24, "test": 24}
    assert sorted(path.name for path in out.iterdir()) == ["classes", "test", "train", "val"]
    found = members(out / "train") | members(out / "val") | members(out / "test")
    table, names = split.table, iter(list(members(out / "train")))
    assert len(found) == 2 * len(table)
    for frame_id, row in enumerate(table.rows):
        video, key = table.videos[row["video"]], table.name_of(frame_id)
        assert found[f"{key}.jpg"] == split.read(np.array([frame_id]))[0].tobytes()
        assert json.loads(found[f"{key}.json"]) == {
            "video": video.name,
            "frame": row["frame"],
            "time": pytest.approx(row["time"]),
            "group": video.group,
            "label": video.label,
            "split": video.split,
        }
        if video.split == "train":  # frames in their order, labels behind
            assert [next(names), next(names)] == [f"{key}.jpg", f"{key}.json"]


def test_labels_of_frames_are_written_too(sample: ShardStore, tmp_path: Path) -> None:
    store, frames = open_shards(sample.folder), len(sample.table)
    value = np.where(np.arange(frames) % 3, np.nan, np.arange(frames)).astype(np.float32)
    labels = FrameLabels(Texts.of(["", "wall"][n % 2] for n in range(frames)), value, np.empty(0, SEGMENT))
    store.table = dataclasses.replace(store.table, labels=labels)
    export_webdataset(store, tmp_path / "out")
    for frame_id, known in enumerate(map(json.loads, list(members(tmp_path / "out").values())[1::2])):
        assert known["frame_label"] == labels.label[frame_id]
        assert known["value"] == (None if frame_id % 3 else frame_id)


def test_numbers_of_labels(sample: ShardStore, tmp_path: Path) -> None:
    result = export(sample.folder, tmp_path / "out", "--sidecar", "cls")
    assert result.exit_code == 0
    assert "96 frames; exported in" in result.output
    classes = (tmp_path / "out" / "classes").read_text().splitlines()
    assert classes == sorted(set(sample.table.videos.label))
    numbers = [int(content) for name, content in members(tmp_path / "out").items() if name.endswith(".cls")]
    labels = list(sample.table.videos.label)
    assert [classes[number] for number in numbers] == [labels[video] for video in sample.table.rows["video"]]


def test_what_others_read(split: ShardStore, tmp_path: Path) -> None:
    datasets, webdataset = pytest.importorskip("datasets"), pytest.importorskip("webdataset")
    export_webdataset(split, tmp_path / "out")
    read: Any = datasets.load_dataset(str(tmp_path / "out"), streaming=True)
    seen = {name: [sample["json"]["video"] for sample in read[name]] for name in read}
    videos = split.table.videos
    assert {name: set(names) for name, names in seen.items()} == {
        "train": {videos[0].name, videos[3].name},
        "validation": {videos[1].name},
        "test": {videos[2].name},
    }
    assert sum(map(len, seen.values())) == len(split.table)
    tars = [str(path) for path in sorted((tmp_path / "out" / "train").glob("*.tar"))]
    samples = list(webdataset.WebDataset(tars, shardshuffle=False).decode("pil"))
    assert [sample["json"]["frame"] for sample in samples] == [*range(24)] * 2


@pytest.mark.parametrize("sidecar", ["json", "cls"])
def test_dali_reads_frames_and_labels_by_the_index(sample: ShardStore, tmp_path: Path, sidecar: str) -> None:
    pytest.importorskip("nvidia.dali")
    from nvidia.dali import fn, pipeline_def

    export_webdataset(sample, tmp_path / "out", sidecar)
    (tar,) = (tmp_path / "out").glob("*.tar")

    @pipeline_def(batch_size=len(sample.table), num_threads=1, device_id=None)
    def pipeline() -> Any:
        index = [str(tar.with_suffix(".idx"))]
        found: Any = fn.readers.webdataset(paths=[str(tar)], index_paths=index, ext=["jpg", sidecar])
        return tuple(found)

    made = pipeline()
    made.build()
    frames, labels = made.run()
    found = list(members(tmp_path / "out").values())
    for frame_id in range(len(sample.table)):
        assert np.asarray(frames[frame_id]).tobytes() == found[2 * frame_id]
        assert np.asarray(labels[frame_id]).tobytes() == found[2 * frame_id + 1]


def test_a_video_is_never_cut(sample: ShardStore, tmp_path: Path) -> None:
    """Each tar may hold one byte, so that each video has its own."""
    sample = open_shards(sample.folder)
    sample.settings = dataclasses.replace(sample.settings, shard_mb=0)
    export_webdataset(sample, tmp_path / "out")
    tars = sorted((tmp_path / "out").glob("*.tar"))
    for tar, video in zip(tars, sample.table.videos, strict=True):
        with tarfile.open(tar) as file:
            assert {name.split("/")[0] for name in file.getnames()} == {video.id}


def test_the_same_bytes_each_time(split: ShardStore, tmp_path: Path) -> None:
    for name in ("a", "b"):
        export_webdataset(split, tmp_path / name)
    a, b = ({path.relative_to(tmp_path / n): path for path in (tmp_path / n).rglob("*.*")} for n in ("a", "b"))
    assert [path.read_bytes() for path in a.values()] == [path.read_bytes() for path in b.values()]


def test_nothing_is_lost(sample: ShardStore, tmp_path: Path) -> None:
    out = tmp_path / "out"
    export_webdataset(sample, out)
    assert "already there: choose another" in export(sample.folder, out).output
    (out / "notes.txt").write_text("mine")
    result = export(sample.folder, out, "--overwrite")
    assert result.exit_code != 0
    assert "holds files that are not an export's" in result.output
    (out / "notes.txt").unlink()
    before = members(out)
    assert export(sample.folder, out, "--overwrite", "--sidecar", "cls").exit_code == 0
    assert [*members(out)] != [*before]
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_an_interrupted_packing_into_the_same_folder_stays(sample: ShardStore, tmp_path: Path) -> None:
    packed = tmp_path / ".out.usucl-partial" / "spool"
    packed.mkdir(parents=True)
    (packed / "video").write_text("hours of work")
    export_webdataset(sample, tmp_path / "out")
    assert (packed / "video").read_text() == "hours of work"


def test_damage_leaves_nothing_behind(sample: ShardStore, tmp_path: Path) -> None:
    folder = copy_shards(sample.folder, tmp_path / "damaged")
    (tar,) = folder.glob("*.tar")
    content = bytearray(tar.read_bytes())
    row = sample.table.rows[50]
    content[int(row["offset"]) + 100] ^= 1
    tar.write_bytes(content)
    with pytest.raises(DataError, match=r"000002"):
        export_webdataset(open_shards(folder), tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["damaged"]


def test_names_of_splits_are_folders_of_their_own(sample: ShardStore, tmp_path: Path) -> None:
    folder = copy_shards(sample.folder, tmp_path / "odd")
    split_of = dict(zip(sample.table.videos.id, ("..", "a/b", "", "tr ain"), strict=True))
    change_videos(folder, lambda video: dataclasses.replace(video, split=split_of[video.id]))
    export_webdataset(open_shards(folder), tmp_path / "out")
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {"%2E%2E", "a%2Fb", "unassigned", "tr%20ain", "classes"}


def test_without_labels_there_are_no_numbers(sample: ShardStore, tmp_path: Path) -> None:
    folder = copy_shards(sample.folder, tmp_path / "bare")
    change_videos(folder, lambda video: dataclasses.replace(video, label=""))
    result = export(folder, tmp_path / "out", "--sidecar", "cls")
    assert result.exit_code != 0
    assert "no video of" in result.output
    assert "use json" in result.output
    assert not (tmp_path / "out").exists()
