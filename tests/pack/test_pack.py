import json
import shutil
import tarfile
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import simplejpeg
from PIL import Image

from tests.helpers.videos import FOLDER, FOLDER_FRAMES, VIDEOS, moving_texture, write_video
from usucl_fast.errors import UsageError
from usucl_fast.pack import PackSummary, find_sources, pack
from usucl_fast.pack.picture import fit
from usucl_fast.shards import PackSettings, ShardStore, open_shards

FILES = ("frames.npy", "manifest.json")


def pack_folder(root: Path, out: Path, workers: int = 1, **settings: Any) -> PackSummary:
    return pack(find_sources([root])[0], out, PackSettings(**settings), workers=workers)


def test_every_frame_of_every_container_is_packed(store: ShardStore) -> None:
    expected = {**{name: spec[0] for name, spec in VIDEOS.items()}, FOLDER: FOLDER_FRAMES}
    assert {video.name: video.frames for video in store.table.videos} == expected
    assert len(store.table) == sum(expected.values())


def test_frames_lie_where_the_table_says(shards: Path, store: ShardStore) -> None:
    frame_id = 0
    for shard in range(len(list(shards.glob("*.tar")))):
        with tarfile.open(store.shard_path(shard)) as tar:
            for member in tar.getmembers():
                assert member.name == f"{store.table.name_of(frame_id)}.jpg"
                file = tar.extractfile(member)
                assert file is not None
                assert bytes(store.read(np.array([frame_id]))[0]) == file.read()
                frame_id += 1
    assert frame_id == len(store.table)


def test_pictures_are_those_of_the_video(videos: Path, store: ShardStore) -> None:
    """Against an independent way: PIL's antialiased bilinear resize of PyAV's RGB picture."""
    for video, first in zip(store.table.videos, store.table.first_row, strict=False):
        if video.name == FOLDER:
            continue
        with av.open(str(videos / video.name)) as container:
            pictures = [frame.to_image() for frame in container.decode(video=0)]
        for number in {0, video.frames - 1}:
            data = store.read(np.array([first + number]))[0]
            mode, channels = ("L", "GRAY") if video.color == "grey" else ("RGB", "RGB")
            expected = pictures[number].convert(mode).resize((video.width, video.height), Image.Resampling.BILINEAR)
            found = simplejpeg.decode_jpeg(data, colorspace=channels).squeeze()
            assert np.abs(found.astype(float) - np.asarray(expected)).mean() < 3, video.name


def test_grey_videos_are_stored_grey_and_colour_ones_in_colour_throughout(store: ShardStore) -> None:
    for video, first, end in zip(
        store.table.videos, store.table.first_row[:-1], store.table.first_row[1:], strict=True
    ):
        spaces = {simplejpeg.decode_jpeg_header(data)[2] for data in store.read(np.arange(first, end))}
        assert spaces == ({"YCbCr"} if video.name == "doppler.mp4" else {"Gray"}), video.name


def test_sizes_and_times(store: ShardStore) -> None:
    by_name = {video.name: video for video in store.table.videos}
    assert (by_name["a.mp4"].height, by_name["a.mp4"].width) == (64, 85)
    assert (by_name["small.mp4"].height, by_name["small.mp4"].width) == (40, 50)  # never enlarged
    first = store.table.first_row[list(by_name).index("a.mp4")]
    assert np.allclose(store.table.rows["time"][first : first + 40], np.arange(40) / 25, atol=1e-3)
    assert by_name["a.mp4"].frame_rate == 25


def test_labels_and_groups_come_from_the_csv(store: ShardStore) -> None:
    assert {video.label for video in store.table.videos} == {"lung", "liver"}
    assert len(set(store.table.group)) == 5


def test_the_indexes_are_those_of_wds2idx(shards: Path, tmp_path: Path) -> None:
    wds2idx = pytest.importorskip("wds2idx")
    for tar in shards.glob("*.tar"):
        with wds2idx.IndexCreator(str(tar), str(tmp_path / "idx"), verbose=False) as creator:
            creator.create_index()
        assert (tmp_path / "idx").read_text() == tar.with_suffix(".idx").read_text()


def test_stock_webdataset_reads_every_frame(shards: Path, store: ShardStore) -> None:
    import webdataset

    tars = sorted(str(tar) for tar in shards.glob("*.tar"))
    keys = [s["__key__"] for s in webdataset.WebDataset(tars, shardshuffle=False) if "jpg" in s]
    assert keys == [store.table.name_of(frame_id) for frame_id in range(len(store.table))]


def test_stock_dali_reads_every_frame(shards: Path, store: ShardStore) -> None:
    pytest.importorskip("nvidia.dali")
    from nvidia.dali import fn, pipeline_def, types

    tars = sorted(shards.glob("*.tar"))

    @pipeline_def(batch_size=1, num_threads=1, device_id=None)
    def stock() -> object:
        return fn.readers.webdataset(
            paths=[str(tar) for tar in tars],
            index_paths=[str(tar.with_suffix(".idx")) for tar in tars],
            ext=["jpg"],
            missing_component_behavior="error",
            dtypes=[types.UINT8],
        )

    pipeline = stock()
    pipeline.build()
    assert next(iter(pipeline.reader_meta().values()))["epoch_size"] == len(store.table)
    for frame_id in range(len(store.table)):
        assert bytes(np.asarray(pipeline.run()[0][0])) == bytes(store.read(np.array([frame_id]))[0])


@pytest.mark.parametrize("damaged", ["refuse", "drop"])
def test_shards_do_not_depend_on_workers(videos: Path, tmp_path: Path, damaged: str) -> None:
    """Nor on their being more than videos, when each decodes ahead."""
    root = tmp_path / "in"
    shutil.copytree(videos, root)
    (root / "cut.mp4").write_bytes((videos / "a.mp4").read_bytes()[:-3000])
    for workers in (1, 3, 100):
        pack_folder(root, tmp_path / f"{workers}", workers, size=48, shard_mb=1, damaged=damaged)
    names = {path.name for path in (tmp_path / "1").iterdir()}
    for workers in (3, 100):
        assert names == {path.name for path in (tmp_path / f"{workers}").iterdir()}
        for name in names - {"summary.json"}:
            assert (tmp_path / "1" / name).read_bytes() == (tmp_path / f"{workers}" / name).read_bytes(), name


def test_a_video_is_never_cut_between_shards(tmp_path: Path) -> None:
    for number in range(3):
        noise = np.random.default_rng(number).integers(0, 256, (40, 160, 160, 1), dtype=np.uint8)
        write_video(tmp_path / "in" / f"{number}.avi", np.repeat(noise, 3, axis=-1), "mjpeg", pix_fmt="yuvj420p")
    pack_folder(tmp_path / "in", tmp_path / "out", shard_mb=1)
    table = open_shards(tmp_path / "out").table
    assert set(zip(table.rows["video"], table.rows["shard"], strict=True)) == {(0, 0), (1, 1), (2, 2)}


def test_a_video_that_does_not_decode_is_quarantined(videos: Path, tmp_path: Path) -> None:
    root = tmp_path / "in"
    write_video(root / "good.mp4", moving_texture(10, 64, 64, 0), "libx264")
    (root / "noise.mp4").write_bytes(np.random.default_rng(0).bytes(5000))
    (root / "empty.avi").write_bytes(b"")
    whole = (videos / "b c.avi").read_bytes()
    (root / "header-only.avi").write_bytes(whole[:2000])
    summary = pack_folder(root, tmp_path / "out")
    assert summary["videos"] == 1
    quarantined = summary["quarantined"]
    assert isinstance(quarantined, list)
    assert {entry["source"] for entry in quarantined} == {"noise.mp4", "empty.avi", "header-only.avi"}
    assert all(entry["reason"] and "\n" not in entry["reason"] for entry in quarantined)
    assert [video.name for video in open_shards(tmp_path / "out").table.videos] == ["good.mp4"]
    in_manifest = json.loads((tmp_path / "out" / "manifest.json").read_bytes())["quarantined"]
    assert [{key: entry[key] for key in ("source", "reason")} for entry in in_manifest] == quarantined


def test_a_finished_folder_is_kept(tmp_path: Path) -> None:
    write_video(tmp_path / "in" / "a.mp4", moving_texture(10, 64, 64, 0), "libx264")
    first = pack_folder(tmp_path / "in", tmp_path / "out")
    stamp = (tmp_path / "out" / "manifest.json").stat().st_mtime_ns
    assert pack_folder(tmp_path / "in", tmp_path / "out") == first
    with pytest.raises(UsageError, match="settings"):
        pack_folder(tmp_path / "in", tmp_path / "out", size=100)
    assert (tmp_path / "out" / "manifest.json").stat().st_mtime_ns == stamp
    sources = find_sources([tmp_path / "in"])[0]
    (tmp_path / "out" / "notes.txt").write_text("mine")
    with pytest.raises(UsageError, match="other files beside the shards"):
        pack(sources, tmp_path / "out", PackSettings(), workers=1, overwrite=True)
    (tmp_path / "out" / "notes.txt").unlink()
    assert pack(sources, tmp_path / "out", PackSettings(), workers=1, overwrite=True)["videos"] == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in", "out"]


def test_a_folder_of_other_files_is_never_replaced(tmp_path: Path) -> None:
    write_video(tmp_path / "in" / "a.mp4", moving_texture(10, 64, 64, 0), "libx264")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.tex").write_text("years of work")
    for overwrite in (False, True):
        with pytest.raises(UsageError, match="not shards"):
            pack(find_sources([tmp_path / "in"])[0], tmp_path / "out", PackSettings(), workers=1, overwrite=overwrite)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["thesis.tex"]


def test_fit_never_enlarges() -> None:
    assert fit((480, 640), 224) == (224, 299)
    assert fit((100, 300), 224) == (100, 300)
    assert fit((1, 4000), 16) == (1, 4000)
