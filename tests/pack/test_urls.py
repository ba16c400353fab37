"""SOURCE and OUT at URLs: the same bytes as on disk, whatever fails in between."""

import csv
import hashlib
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest

from tests.helpers.commands import refused, usucl_shard
from tests.helpers.dicoms import write_dicom
from tests.helpers.servers import FaultyServer
from tests.helpers.videos import moving_texture, write_frame_folder, write_video
from usucl_fast.errors import DataError, UsageError
from usucl_fast.pack import PackSummary, find_sources, output, pack, remote_sources, workers
from usucl_fast.pack.identity import Pseudonyms
from usucl_fast.pack.task import Task
from usucl_fast.pack.writer import ShardWriter
from usucl_fast.shards import Manifest, PackSettings, attempts, open_shards, remote

SETTINGS = PackSettings(size=48, shard_mb=1, burned_in="warn", min_frames=4)
real_spool = workers._spool
PSEUDONYMS = Pseudonyms(b"0" * 32)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attempts, "BACKOFF_SECONDS", 0.01)
    monkeypatch.setattr(attempts, "POLL_SECONDS", 0.01)


@pytest.fixture(scope="module")
def some(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Videos that fill three shards, of every kind: containers, images, DICOM of any name; and what is none."""
    root = tmp_path_factory.mktemp("some")
    for number in range(3):
        noise = np.random.default_rng(number).integers(0, 256, (160, 64, 64, 1), dtype=np.uint8)
        write_video(root / "a folder" / f"{number}.avi", np.repeat(noise, 3, axis=-1), "mjpeg", pix_fmt="yuvj420p")
    write_frame_folder(root / "images 5%", moving_texture(12, 64, 64, 9))
    write_dicom(root / "1.2.840", moving_texture(6, 64, 64, 0)[..., 0])
    (root / "broken.mp4").write_bytes(b"no video at all")
    (root / "notes.txt").write_text("to whom it may concern")
    (root / ".hidden.mp4").write_bytes(b"hidden")
    (root / "@eaDir").mkdir()
    (root / "@eaDir" / "thumbnail.jpg").write_bytes(b"litter")
    (root / "packed").mkdir()
    (root / "packed" / "usucl-000000.tar").write_bytes(b"shards")
    (root / "packed" / "0.avi").write_bytes(b"in the way")
    return root


@pytest.fixture(scope="module")
def whole(some: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """What they give, packed on disk."""
    folder = tmp_path_factory.mktemp("whole")
    summary = pack_into(some, folder / "out", folder)
    assert summary["videos"] == 5
    assert [entry["source"] for entry in summary["quarantined"]] == ["broken.mp4"]
    return content(folder / "out")


@pytest.fixture
def server(some: Path) -> Iterator[FaultyServer]:
    with FaultyServer(some).running() as running:
        yield running


def pack_into(source: Path | str, out: Path | str, work: Path, **more: Any) -> PackSummary:
    sources = find_sources([source])[0]
    return pack(sources, out, SETTINGS, workers=1, pseudonyms=PSEUDONYMS, work=work, **more)


def content(out: Path) -> dict[str, bytes]:
    """Every file but the summary, which tells the time."""
    return {path.name: path.read_bytes() for path in out.iterdir() if path.name != "summary.json"}


def test_a_url_holds_the_videos_that_a_folder_does(some: Path, server: FaultyServer) -> None:
    here, others = find_sources([some])
    for url in (f"file://{some}", server.url, f"{server.url}/"):
        there, others_there = find_sources([url])
        told = [(source.name, source.kind, source.bytes, len(source.files)) for source in there]
        assert told == [(source.name, source.kind, source.bytes, len(source.files)) for source in here]
        assert others_there == others
    (one,), _ = find_sources([f"{server.url}/a%20folder/1.avi?key=secret"])
    assert (one.name, one.kind, one.bytes) == ("1.avi", "container", (some / "a folder" / "1.avi").stat().st_size)


@pytest.mark.parametrize("source", ["folder", "file", "http"])
@pytest.mark.parametrize("out", ["folder", "file"])
def test_the_shards_are_the_same(
    some: Path, whole: dict[str, bytes], server: FaultyServer, tmp_path: Path, source: str, out: str
) -> None:
    sources: dict[str, Path | str] = {"folder": some, "file": f"file://{some}", "http": server.url}
    target = tmp_path / "deep" / "out"
    target.parent.mkdir()
    summary = pack_into(sources[source], f"file://{target}" if out == "file" else target, tmp_path / "work")
    assert content(target) == whole
    assert summary["videos"] == 5
    if out == "file":
        assert not list((tmp_path / "work").glob("*/*"))
        again = pack_into(sources[source], f"file://{target}", tmp_path / "work")
        assert again == summary


@pytest.mark.parametrize("fault", ["drop", "stall", "short", "500"])
def test_a_video_that_comes_wrong_is_fetched_again(
    whole: dict[str, bytes],
    server: FaultyServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    fault: str,
) -> None:
    monkeypatch.setattr(workers, "_spool", quick_spool)
    server.faults["a folder/1.avi"] = [fault]
    pack_into(server.url, tmp_path / "out", tmp_path)
    assert content(tmp_path / "out") == whole
    assert server.requests["a folder/1.avi"] == 2
    assert server.requests["a folder/0.avi"] == 1


def test_bytes_are_checked_where_the_store_tells_an_md5(some: Path, tmp_path: Path) -> None:
    video = (some / "a folder" / "0.avi").read_bytes()
    right, wrong = tmp_path / "right", tmp_path / "wrong"
    right.write_bytes(video)
    wrong.write_bytes(video[:-1] + b"?")
    check = remote_sources._Check(len(video), f'"{hashlib.md5(video).hexdigest()}"')
    assert check(wrong) == "the bytes that came are not those of its checksum"
    assert not check(right)
    encrypted = remote_sources._Check(len(video), hashlib.md5(b"something else").hexdigest())
    assert encrypted(wrong)
    assert encrypted(right)
    assert not encrypted(right)


def quick_spool(task: Task) -> None:
    """Packs a video in a worker, which tries again soon."""
    attempts.BACKOFF_SECONDS, remote.STALL_SECONDS = 0.01, 0.3
    real_spool(task)


@pytest.mark.parametrize(("fault", "words"), [("403", "403 F"), ("500", "500 .*; 4 attempts"), ("garbage", "HTTP")])
def test_a_server_that_fails_costs_no_video(
    whole: dict[str, bytes],
    server: FaultyServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    fault: str,
    words: str,
) -> None:
    """An expired permission must not put the rest of a bucket among the videos that cannot be packed."""
    monkeypatch.setattr(workers, "_spool", quick_spool)
    sources = find_sources([server.url])[0]
    server.faults["a folder/1.avi"] = [fault, "always"]
    with pytest.raises(DataError, match=f"1.avi cannot be fetched .*{words}.*same command again"):
        pack(sources, tmp_path / "out", SETTINGS, workers=1, pseudonyms=PSEUDONYMS)
    assert not (tmp_path / "out").exists()
    server.faults.clear()
    pack(sources, tmp_path / "out", SETTINGS, workers=1, pseudonyms=PSEUDONYMS)
    assert content(tmp_path / "out") == whole
    assert server.requests["a folder/0.avi"] == 1


def test_a_video_that_is_gone_is_left_out_and_named(server: FaultyServer, tmp_path: Path) -> None:
    sources = find_sources([server.url])[0]
    server.faults["a folder/1.avi"] = ["404", "always"]
    summary = pack(sources, tmp_path / "out", SETTINGS, workers=1, pseudonyms=PSEUDONYMS)
    assert {"source": "a folder/1.avi", "reason": "is no longer at its URL"} in summary["quarantined"]


class StopError(BaseException):
    pass


def stops(method: Callable[..., Any], at: int, after: bool = False) -> Callable[..., Any]:
    calls = iter(range(1, 1000))

    def wrapped(*args: Any, **kwargs: Any) -> Any:
        number = next(calls)
        if number == at and not after:
            raise StopError
        result = method(*args, **kwargs)
        if number == at:
            raise StopError
        return result

    return wrapped


MOMENTS: dict[str, tuple[Any, str, int, bool]] = {
    "while a shard is made": (ShardWriter, "append", 2, False),
    "before an upload": (remote.RemoteFolder, "upload", 2, False),
    "before a receipt": (output.UrlOutput, "keep", 2, True),
    "before the manifest": (Manifest, "write", 1, False),
    "amid what is beside": (remote.RemoteFolder, "upload", 9, True),
    "before the last upload": (remote.RemoteFolder, "remove", 1, True),
    "after the last upload": (output.shutil, "rmtree", 1, False),
}


@pytest.mark.parametrize("moment", MOMENTS)
def test_interrupted_at_any_moment_the_same_call_goes_on(
    some: Path, whole: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    out = tmp_path / "out"
    place, name, at, after = MOMENTS[moment]
    with monkeypatch.context() as patch:
        patch.setattr(place, name, stops(getattr(place, name), at, after))
        with pytest.raises(StopError):
            pack_into(some, f"file://{out}", tmp_path / "work")
    if not moment.startswith("after"):
        with pytest.raises(UsageError, match="is not a shard folder"):  # a reader sees all or nothing
            open_shards(f"file://{out}", tmp_path / "cache")
    pack_into(some, f"file://{out}", tmp_path / "work")
    assert content(out) == whole
    assert not list((tmp_path / "work").glob("*/*"))


@pytest.mark.parametrize("failures", [3, 4])
def test_an_upload_that_fails_is_tried_again(
    some: Path, whole: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failures: int
) -> None:
    """A store that takes a half and drops the connection, or says that it has all and has not."""
    files = type(fsspec.filesystem("file"))
    before, left = files.open, [failures]

    def opened(self: Any, path: str, mode: str = "rb", **options: Any) -> Any:
        file = before(self, path, mode, **options)
        if mode == "wb" and path.endswith(".tar") and left[0]:
            left[0] -= 1
            write = file.write

            def half(data: bytes) -> int:
                write(data[: len(data) // 2])
                if left[0] % 2:
                    raise ConnectionResetError("secret://user:password@host/?query dropped")
                return len(data)

            file.write = half
        return file

    with monkeypatch.context() as patch:
        patch.setattr(files, "open", opened)
        if failures == 4:
            with pytest.raises(DataError, match=r"usucl-000000.tar cannot be written .*; 4 attempts\); see") as told:
                pack_into(some, f"file://{tmp_path / 'out'}", tmp_path / "work")
            assert "password" not in str(told.value)
    pack_into(some, f"file://{tmp_path / 'out'}", tmp_path / "work")
    assert content(tmp_path / "out") == whole


def test_replaced_only_once_there_is_something_new(some: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    pack_into(some, f"file://{out}", tmp_path / "work")
    before = content(out)
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "broken.mp4").write_bytes(b"no video at all")
    with pytest.raises(UsageError, match="no video of 1 can be packed"):
        pack_into(tmp_path / "bad", f"file://{out}", tmp_path / "work", overwrite=True)
    assert content(out) == before
    pack_into(some / "images 5%", f"file://{out}", tmp_path / "work", overwrite=True)
    assert len(open_shards(f"file://{out}", tmp_path / "cache").table.videos) == 1
    assert not (out / "usucl-000001.tar").exists()


def test_what_cannot_be_done_at_a_url_is_said(some: Path, server: FaultyServer, tmp_path: Path) -> None:
    out, work, salt = tmp_path / "out", ("--work", tmp_path / "work"), ("--salt", tmp_path / "salt")
    options: tuple[object, ...] = ("--size", 48, *salt)
    avi = some / "a folder"
    refused(usucl_shard(avi, f"{server.url}/out", *options), "OUT is at a web server", "object store")
    refused(usucl_shard("memory://videos", out, *options), "SOURCE memory://videos", "share no memory")
    refused(usucl_shard(f"{server.url}/?key=secret", out, *options), "a URL with a query is that of a file")
    refused(usucl_shard(f"{server.url}/list.csv?key=secret", out, *options), "list.csv is a list at a URL")
    refused(usucl_shard("no-such://videos", out, *options), "SOURCE no-such://videos cannot be opened")
    refused(usucl_shard(f"file://{tmp_path}/nothing", out, *options), "holds no video")
    refused(usucl_shard(avi, out, "--work", tmp_path), "--work", "only where OUT is a URL")
    assert not out.exists()
    options = ("--size", 48, *work, *salt)
    (out / "deep").mkdir(parents=True)
    (out / "deep" / "usucl-000000.tar").write_bytes(b"somebody's")
    refused(usucl_shard(avi, f"file://{out}", *options), "holds deep/usucl-000000.tar", "move it away")
    shutil.rmtree(out / "deep")
    assert usucl_shard(avi / "0.avi", f"file://{out}", *options).exit_code == 0
    refused(usucl_shard(avi, f"file://{out}", *options), "1.avi", "cannot be added at a URL", "--overwrite")
    refused(usucl_shard(avi, f"file://{out}", "--size", 32, *work, *salt), "other settings", "--overwrite")
    assert usucl_shard(avi / "0.avi", f"file://{out}", *options).exit_code == 0


def test_a_list_may_hold_urls_and_no_secret_of_them_is_written(
    some: Path, server: FaultyServer, tmp_path: Path
) -> None:
    listed = tmp_path / "list.csv"
    with listed.open("w", newline="") as file:
        rows = [("path", "id", "group")]
        rows += [(f"{server.url}/a%20folder/{number}.avi?signature=SECRET", "", f"p{number}") for number in range(2)]
        csv.writer(file).writerows([*rows, (f"{server.url}/1.2.840?signature=SECRET", "heart", "p2")])
    result = usucl_shard(
        listed,
        f"file://{tmp_path / 'out'}",
        "--work",
        tmp_path / "work",
        "--salt",
        tmp_path / "salt",
        "--names",
        "keep",
    )
    assert result.exit_code == 0, result.output
    videos = open_shards(f"file://{tmp_path / 'out'}", tmp_path / "cache").table.videos
    host = server.url.removeprefix("http://")
    assert list(videos.name) == [f"{host}/a%20folder/0.avi", f"{host}/a%20folder/1.avi", "heart"]
    assert list(videos.group) == ["p0", "p1", "p2"]
    for path in [*(tmp_path / "out").iterdir(), *(tmp_path / "work").rglob("*")]:
        assert path.is_dir() or b"SECRET" not in path.read_bytes()
    assert "SECRET" not in result.output
