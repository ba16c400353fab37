"""Exporting shards as a dataset of FFCV, read again by stock FFCV and by our own decoder over it."""

import importlib.util
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import simplejpeg
from click.testing import CliRunner, Result

from tests.helpers import copy_shards
from usucl_fast.cli import shard
from usucl_fast.errors import DataError, DecodeError
from usucl_fast.feed.beton import PAGE, Beton, _places, export_beton
from usucl_fast.feed.decode import decode_frame
from usucl_fast.pack import find_sources, pack
from usucl_fast.shards import PackSettings, ShardStore, open_shards

pytestmark = [
    pytest.mark.system,
    pytest.mark.skipif(not importlib.util.find_spec("ffcv"), reason="needs FFCV"),
]
KEPT: list[Any] = []
"""Stock loaders: numba trips over itself when code that FFCV has compiled is freed."""


def export(*arguments: object) -> Result:
    return CliRunner().invoke(shard.main, ["export-ffcv", *map(str, arguments)], prog_name="usucl-shard")


def stock_loader(path: Path, **settings: object) -> Any:
    from ffcv.loader import Loader

    KEPT.append(Loader(str(path), num_workers=1, **settings))
    return KEPT[-1]


@pytest.fixture
def beton(store: ShardStore, tmp_path: Path) -> Path:
    export_beton(store, tmp_path / "all.beton")
    return tmp_path / "all.beton"


@pytest.fixture
def lossless(videos: Path, tmp_path: Path) -> ShardStore:
    pack(
        find_sources([videos / "doppler.mp4", videos / "a.mp4"])[0],
        tmp_path / "png",
        PackSettings(size=64, codec="png"),
        workers=1,
    )
    return open_shards(tmp_path / "png")


def decoded(store: ShardStore, frame_id: int) -> np.ndarray:
    # FFCV asks TurboJPEG for its fast transform; without it, pixels differ by up to 4.
    return np.asarray(simplejpeg.decode_jpeg(store.read(np.array([frame_id]))[0], colorspace="RGB", fastdct=True))


def test_frames_are_those_of_the_shards_in_any_thread(store: ShardStore, beton: Path) -> None:
    opened = Beton(beton, store)
    assert {video.color for video in store.table.videos} == {"grey", "rgb"}
    with ThreadPoolExecutor(3) as pool:
        for frame_id, pixels in enumerate(pool.map(opened.decode, range(len(store.table)))):
            expected = decoded(store, frame_id)
            assert pixels.shape == expected.shape
            assert np.abs(pixels.astype(int) - expected).max() <= 4


def test_lossless_frames_are_stored_as_pixels(lossless: ShardStore, tmp_path: Path) -> None:
    export_beton(lossless, tmp_path / "raw.beton")
    opened = Beton(tmp_path / "raw.beton", lossless)
    for frame_id in range(len(lossless.table)):
        data = lossless.read(np.array([frame_id]))[0]
        assert np.array_equal(opened.decode(frame_id), decode_frame(lossless, frame_id, data, 3))


def test_stock_ffcv_opens_it(store: ShardStore, beton: Path) -> None:
    from ffcv.fields.rgb_image import CenterCropRGBImageDecoder, RandomResizedCropRGBImageDecoder

    for decoder in (CenterCropRGBImageDecoder((32, 32), 1), RandomResizedCropRGBImageDecoder((32, 32))):
        loader = stock_loader(beton, batch_size=8, drop_last=False, pipelines={"image": [decoder]})
        # FFCV fills its batches again.
        images, frame_ids, videos = zip(
            *([np.asarray(field).copy() for field in batch] for batch in loader), strict=True
        )
        assert np.concatenate(frame_ids).ravel().tolist() == list(range(len(store.table)))
        assert np.concatenate(videos).ravel().tolist() == store.table.rows["video"].tolist()
        assert {image.shape[1:] for image in images} == {(32, 32, 3)}
        assert all(image.std() > 1 for image in images)


def test_stock_simple_decoder_gives_our_pixels(videos: Path, tmp_path: Path) -> None:
    pack(find_sources([videos / "a.mp4"])[0], tmp_path / "one", PackSettings(size=64), workers=1)
    store = open_shards(tmp_path / "one")
    export_beton(store, tmp_path / "one.beton")
    opened = Beton(tmp_path / "one.beton", store)
    for images, frame_ids, _ in stock_loader(tmp_path / "one.beton", batch_size=10, os_cache=False):
        for image, frame_id in zip(images.numpy(), frame_ids.ravel().tolist(), strict=True):
            assert np.array_equal(image, opened.decode(frame_id))


def test_equal_shards_give_equal_bytes(store: ShardStore, beton: Path, tmp_path: Path) -> None:
    result = export(store.folder, tmp_path / "deep" / "again.beton")
    assert result.exit_code == 0
    assert f"{len(store.table)} frames" in result.stdout
    assert (tmp_path / "deep" / "again.beton").read_bytes() == beton.read_bytes()


def test_no_frame_lies_in_two_pages() -> None:
    places, end = _places(np.array([5, PAGE - 6, 2, PAGE]), 100, PAGE)
    assert places.tolist() == [PAGE, PAGE + 5, 2 * PAGE, 3 * PAGE]
    assert end == 4 * PAGE


def test_an_existing_out_is_kept_unless_told(store: ShardStore, tmp_path: Path) -> None:
    out = tmp_path / "old.beton"
    out.write_bytes(b"old")
    result = export(store.folder, out)
    assert result.exit_code == 2
    assert "--overwrite" in result.stderr
    assert out.read_bytes() == b"old"
    assert export(store.folder, out, "--overwrite").exit_code == 0
    assert len(Beton(out, store).decode(0)) == 64
    assert export(store.folder, tmp_path, "--overwrite").exit_code == 2


def test_a_damaged_frame_is_named_and_nothing_is_written(shards: Path, tmp_path: Path) -> None:
    copy = copy_shards(shards, tmp_path / "shards")
    store = open_shards(copy)
    row = store.table.rows[7]
    with store.shard_path(int(row["shard"])).open("r+b") as file:
        file.seek(int(row["offset"]) + 200)
        file.write(b"\0\1\2\3")
    result = export(copy, tmp_path / "out.beton")
    assert result.exit_code == 1
    assert "(id 7)" in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert not list(tmp_path.glob("*beton*"))


def test_without_ffcv_the_way_out_is_told(store: ShardStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ffcv.types", None)
    result = export(store.folder, tmp_path / "out.beton")
    assert result.exit_code == 2
    assert "pip install 'usucl-fast[ffcv]'" in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_other_files_are_refused(store: ShardStore, sample: ShardStore, beton: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="export it again"):
        Beton(beton, sample)
    other = tmp_path / "other.beton"
    for content in (b"", b"no beton at all" * 1000, beton.read_bytes()[:3000]):
        other.write_bytes(content)
        with pytest.raises(DataError, match="not a beton of usucl-shard export-ffcv"):
            Beton(other, store)


def test_a_frame_that_does_not_decode_is_named(store: ShardStore, beton: Path) -> None:
    opened = Beton(beton, store)
    content = bytearray(beton.read_bytes())
    start = int(opened._place[3])
    content[start : start + 2] = b"??"
    beton.write_bytes(content)
    with pytest.raises(DecodeError, match=r"\(id 3\)"):
        Beton(beton, store).decode(3)


def test_a_beton_of_another_packing_is_refused(videos: Path, lossless: ShardStore, tmp_path: Path) -> None:
    export_beton(lossless, tmp_path / "raw.beton")
    pack(
        find_sources([videos / "doppler.mp4", videos / "a.mp4"])[0], tmp_path / "jpg", PackSettings(size=48), workers=1
    )
    with pytest.raises(DataError, match="other frames"):
        Beton(tmp_path / "raw.beton", open_shards(tmp_path / "jpg"))
