"""Interrupted, resumed, added to: the whole job."""

import errno
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom.uid import DeflatedExplicitVRLittleEndian

from tests.helpers.dicoms import write_dicom
from tests.helpers.forged import reseal
from tests.helpers.videos import moving_texture, write_video
from tools.hostile_shards import huge_png
from usucl_fast.errors import DataError, UsageError
from usucl_fast.files import locked
from usucl_fast.pack import PackSummary, find_sources, job, limits, pack, writer
from usucl_fast.pack.identity import Pseudonyms
from usucl_fast.pack.writer import ShardWriter
from usucl_fast.shards import Manifest, PackSettings, open_shards, read_manifest

SETTINGS = PackSettings(size=48, shard_mb=1)


def pack_folder(root: Path, out: Path, workers: int = 1, **more: Any) -> PackSummary:
    return pack(find_sources([root])[0], out, SETTINGS, workers=workers, **more)


def content(out: Path) -> dict[str, bytes]:
    """Every file but the summary, which tells the time."""
    return {path.name: path.read_bytes() for path in sorted(out.iterdir()) if path.name != "summary.json"}


@pytest.fixture(scope="module")
def some(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six videos that fill three shards, a broken and a short one among them."""
    root = tmp_path_factory.mktemp("some")
    for number in range(5):
        noise = np.random.default_rng(number).integers(0, 256, (160, 64, 64, 1), dtype=np.uint8)
        write_video(root / f"{number}.avi", np.repeat(noise, 3, axis=-1), "mjpeg", pix_fmt="yuvj420p")
    (root / "2b.mp4").write_bytes(b"no video at all")
    return root


@pytest.fixture(scope="module")
def whole(some: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """What an uninterrupted packing of them gives."""
    out = tmp_path_factory.mktemp("whole") / "out"
    pack_folder(some, out)
    return content(out)


def test_it_fills_several_shards(whole: dict[str, bytes]) -> None:
    assert sum(name.endswith(".tar") for name in whole) >= 2


@pytest.mark.parametrize("step", [1, 2, 4, 5, "manifest", "swap", "between"])
def test_interrupted_anywhere_the_same_call_goes_on(
    some: Path, whole: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int | str
) -> None:
    class StopError(BaseException):
        pass

    def stops(method: Callable[..., Any], at: int) -> Callable[..., Any]:
        calls = iter(range(1, 1000))

        def wrapped(*args: Any, **kwargs: Any) -> Any:
            if next(calls) == at:
                raise StopError
            return method(*args, **kwargs)

        return wrapped

    out = tmp_path / "out"
    if step == "between":  # the folders have half changed places
        pack_folder(some, out)
        out.rename(tmp_path / ".out.usucl-partial")
        (tmp_path / ".out.usucl-replaced").mkdir()
    else:
        with monkeypatch.context() as patch:
            if isinstance(step, int):
                patch.setattr(ShardWriter, "append", stops(ShardWriter.append, step))
            elif step == "manifest":
                patch.setattr(Manifest, "write", stops(Manifest.write, 1))
            else:
                patch.setattr(job.shutil, "rmtree", stops(job.shutil.rmtree, 1))
            with pytest.raises(StopError):
                pack_folder(some, out)
        assert not out.exists()
    pack_folder(some, out)
    assert content(out) == whole
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("workers", [1, 2])
def test_killed_at_any_moment_the_same_command_goes_on(
    some: Path, whole: dict[str, bytes], tmp_path: Path, workers: int
) -> None:
    """Real processes, SIGKILL; the moments are spread over the run."""
    out = tmp_path / "out"
    command = [sys.executable, "-c", "from usucl_fast.cli.shard import main; main()", str(some), str(out)]
    command += ["--size", "48", "--shard-mb", "1", "--workers", str(workers)]
    for share in (0.2, 0.5, 0.8):
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(2.5 * share)
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert subprocess.run(command, capture_output=True, check=False).returncode == 1  # one is quarantined
    assert content(out) == whole
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_workers_die_with_the_command(some: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    command = [sys.executable, "-c", "from usucl_fast.cli.shard import main; main()", str(some), str(out)]
    process = subprocess.Popen([*command, "--workers", "2"], stderr=subprocess.DEVNULL)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    if not children.exists():
        pytest.skip("needs /proc")
    deadline = time.monotonic() + 20
    while not (tmp_path / ".out.usucl-partial" / "spool").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    time.sleep(0.5)
    workers = [
        int(child)
        for task in Path(f"/proc/{process.pid}/task").iterdir()
        for child in (task / "children").read_text().split()
    ]
    process.kill()
    process.wait()
    deadline = time.monotonic() + 5
    while any(Path(f"/proc/{pid}").exists() for pid in workers) and time.monotonic() < deadline:
        time.sleep(0.05)
    states = [Path(f"/proc/{pid}/cmdline") for pid in workers]
    assert not any(path.exists() and b"spawn_main" in path.read_bytes() for path in states)


def test_a_full_disk_is_said_and_what_is_done_is_kept(
    some: Path, whole: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(ShardWriter, "append", full)
        with pytest.raises(DataError, match=r"no space is left.*same command again"):
            pack_folder(some, out)
    assert any((tmp_path / ".out.usucl-partial" / "spool").glob("*.npz"))
    pack_folder(some, out)
    assert content(out) == whole


def test_another_job_does_not_take_over_an_unfinished_one(
    some: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    sources = find_sources([some])[0]

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(ShardWriter, "finish", interrupt)
        with pytest.raises(KeyboardInterrupt):
            pack_folder(some, out)
    with pytest.raises(UsageError, match="was interrupted and waits"):
        pack(sources, out, PackSettings(size=32), workers=1)
    assert pack(sources, out, PackSettings(size=32), workers=1, overwrite=True)["videos"] == 5


def test_two_commands_do_not_work_on_one_out(some: Path, tmp_path: Path) -> None:
    lock = locked(tmp_path / ".out.usucl-partial.lock", "")
    with lock, pytest.raises(UsageError, match="another usucl-shard is at work"):
        pack_folder(some, tmp_path / "out")


def test_added_videos_keep_the_frame_ids(some: Path, tmp_path: Path) -> None:
    root, out = tmp_path / "in", tmp_path / "out"
    for name in ("b.mp4", "d.mp4"):
        write_video(root / name, moving_texture(12, 64, 64, seed=ord(name[0])), "libx264")
    first = pack_folder(root, out)
    before = open_shards(out)
    old = {before.table.name_of(n): bytes(before.read(np.array([n]))[0]) for n in range(len(before.table))}
    names_before = [before.table.name_of(n) for n in range(len(before.table))]
    tar = (out / "usucl-000000.tar").read_bytes()

    write_video(root / "a.mp4", moving_texture(8, 64, 64, seed=1), "libx264")
    (root / "c.mp4").write_bytes(b"nothing")
    second = pack_folder(root, out)
    after = open_shards(out)
    assert (first["videos"], second["videos"], second["packed_videos"]) == (2, 3, 1)
    assert [entry["source"] for entry in second["quarantined"]] == ["c.mp4"]
    assert [after.table.name_of(n) for n in range(len(before.table))] == names_before
    assert {name: bytes(after.read(np.array([n]))[0]) for n, name in enumerate(names_before)} == old
    assert (out / "usucl-000000.tar").read_bytes() == tar
    assert [video.name for video in after.table.videos] == ["b.mp4", "d.mp4", "a.mp4"]
    assert pack_folder(root, out) == second  # nothing is new, the broken one included

    write_video(root / "a.mp4", moving_texture(9, 64, 64, seed=1), "libx264")
    with pytest.raises(UsageError, match=r"holds a\.mp4 of another size"):
        pack_folder(root, out)


@pytest.mark.parametrize("workers", [1, 3])  # the second decode ahead
def test_a_decoder_that_hangs_or_crashes_costs_its_video_only(tmp_path: Path, workers: int) -> None:
    """A FIFO never gives a byte; a worker that is killed from outside is a decoder that crashed."""
    root = tmp_path / "in"
    write_video(root / "good.mp4", moving_texture(12, 64, 64, seed=0), "libx264")
    write_video(root / "hangs.mp4", moving_texture(12, 64, 64, seed=1), "libx264")
    sources = find_sources([root])[0]
    (root / "hangs.mp4").unlink()
    os.mkfifo(root / "hangs.mp4")
    writer = os.open(root / "hangs.mp4", os.O_RDWR)  # opening it succeeds, reading waits for ever
    try:
        summary = pack(sources, tmp_path / "out", SETTINGS, workers=workers, time_limit=1.0)
    finally:
        os.close(writer)
    assert summary["videos"] == 1
    assert summary["quarantined"] == [{"source": "hangs.mp4", "reason": "gives no picture for 1 s (--time-limit)"}]


def test_a_video_that_takes_too_much_memory_costs_itself_only(tmp_path: Path) -> None:
    """A file of 0.3 MB that holds 0.3 GB: its worker is ended before it has them."""
    root = tmp_path / "in"
    write_video(root / "good.mp4", moving_texture(12, 64, 64, seed=0), "libx264")
    write_dicom(root / "a.dcm", np.zeros((300, 1000, 1000), np.uint8), syntax=DeflatedExplicitVRLittleEndian)
    assert (root / "a.dcm").stat().st_size < 10**6
    pseudonyms = Pseudonyms(b"0" * 32)
    settings = replace(SETTINGS, names="keep")
    out = tmp_path / "out"
    summary = pack(find_sources([root])[0], out, settings, workers=1, pseudonyms=pseudonyms, memory_limit=200 * 10**6)
    reason = "takes more than 0.2 GB of memory (--memory-limit)"
    assert summary["quarantined"] == [{"source": "a.dcm", "reason": reason}]
    assert summary["videos"] == 1


def test_pictures_of_too_many_pixels_cost_themselves_only(some: Path, tmp_path: Path) -> None:
    """More than Pillow opens."""
    root = tmp_path / "in"
    (root / "frames").mkdir(parents=True)
    shutil.copy(some / "0.avi", root)
    for number in range(2):
        (root / "frames" / f"{number}.png").write_bytes(huge_png(30_000))
    summary = pack(find_sources([root])[0], tmp_path / "out", SETTINGS, workers=1)
    assert [left_out["source"] for left_out in summary["quarantined"]] == ["frames"]
    assert summary["videos"] == 1


def test_workers_share_the_memory_that_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "memory", lambda: 18 << 30)
    assert [limits.share_of_memory(workers) for workers in (1, 4, 8, 256)] == [4 << 30, 4 << 30, 2 << 30, 1 << 29]


@pytest.fixture
def added_to(some: Path, tmp_path: Path) -> tuple[Path, Path, Path]:
    """Sources of which one is not in the shards yet, the shards, and a file beside them that is nobody's."""
    sources, out, victim = tmp_path / "sources", tmp_path / "out", tmp_path / "victim.txt"
    sources.mkdir()
    shutil.copy(some / "0.avi", sources)
    pack_folder(sources, out)
    shutil.copy(some / "1.avi", sources)
    victim.write_text("precious")
    return sources, out, victim


@pytest.mark.parametrize("name", ["../victim.txt", "{victim}", "usucl-000001.tar", "usucl-000000.idx"])
def test_a_manifest_deletes_nothing(added_to: tuple[Path, Path, Path], name: str) -> None:
    sources, out, victim = added_to
    (record,) = read_manifest(out).shards
    reseal(out, shards=(replace(record, name=name.format(victim=victim)),))
    before = content(out)
    with pytest.raises(DataError, match=r"manifest.json is damaged \(name is"):
        pack_folder(sources, out)
    assert victim.read_text() == "precious"
    assert content(out) == before


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b"{}", b'{"videos": "many"}', b"[" * 100_000])
@pytest.mark.parametrize("name", ["summary.json", "sectors.json"])
def test_a_damaged_file_of_an_earlier_packing_is_named(
    added_to: tuple[Path, Path, Path], name: str, content: bytes
) -> None:
    sources, out, _ = added_to
    if name == "summary.json":  # told again where nothing is new
        (sources / "1.avi").unlink()
    elif content.endswith(b"}"):
        pytest.skip("it is an object, and more is not known of it")
    (out / name).write_bytes(content)
    with pytest.raises(DataError, match=f"{name} is damaged"):
        pack_folder(sources, out)


@pytest.mark.parametrize("content", [b"", b"[]", b'{"name": "../x"}', b'{"name": "usucl-000000.tar", "frames": -1}'])
def test_a_damaged_receipt_is_named(
    some: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes
) -> None:
    def damage(path: Path, value: Any) -> None:
        path.write_bytes(content)

    monkeypatch.setattr(writer, "write_json", damage)
    with pytest.raises(DataError, match=r"usucl-000000.receipt is damaged .* remove .* run the same command again"):
        pack_folder(some, tmp_path / "out")


@pytest.mark.parametrize("content", [b"", b"{", b"[]"])
def test_a_damaged_job_is_begun_anew(
    some: Path, whole: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes
) -> None:
    out, partial = tmp_path / "out", tmp_path / ".out.usucl-partial"
    partial.mkdir()
    (partial / "job.json").write_bytes(content)
    (partial / "notes.txt").write_text("precious")
    with pytest.raises(UsageError, match="add --overwrite to begin anew"):
        pack_folder(some, out)
    with pytest.raises(UsageError, match="holds other files"):
        pack_folder(some, out, overwrite=True)
    assert (partial / "notes.txt").read_text() == "precious"
    (partial / "notes.txt").unlink()
    pack_folder(some, out, overwrite=True)
    assert {path.name: path.read_bytes() for path in out.iterdir() if path.name != "summary.json"} == whole


@pytest.mark.parametrize("damage", ["", "npz", "json"])
def test_what_a_damaged_disk_left_of_a_video_is_packed_again_or_named(
    some: Path, whole: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: str
) -> None:
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    out = tmp_path / "out"
    with monkeypatch.context() as patch:
        patch.setattr(job, "ShardWriter", lambda *_: type("Stopping", (), {"append": stop}))
        with pytest.raises(KeyboardInterrupt):
            pack_folder(some, out)
    spools = tmp_path / ".out.usucl-partial" / "spool"
    spooled = next(path for path in spools.iterdir() if not path.suffix and path.with_suffix(".npz").exists())
    if damage == "json":
        spooled.with_suffix(".npz").unlink()
        spooled.with_suffix(".json").write_bytes(b"[]")
    else:
        path = spooled.with_suffix(f".{damage}" if damage else "")
        path.write_bytes(path.read_bytes()[:-700])
    if not damage:
        with pytest.raises(DataError, match=f"{spooled.name} has .* remove it"):
            pack_folder(some, out)
        for path in (spooled, spooled.with_suffix(".npz")):
            path.unlink()
    pack_folder(some, out)
    assert content(out) == whole
