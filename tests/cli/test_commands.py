"""The commands as a user meets them: exit codes, one-line errors, nothing written on bad input."""

import contextlib
import io
import json
import os
import random
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
import psutil
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

from tests.helpers import SAMPLE, copy_shards
from tests.helpers.commands import refused, tree, usucl_bench, usucl_eval, usucl_shard, usucl_train
from tests.helpers.forged import change_videos
from tests.helpers.processes import warm_processes
from tests.helpers.training import curve, tiny_options
from tests.helpers.videos import moving_texture, write_video
from usucl_fast.cli import bench, shard, train
from usucl_fast.feed import LOADERS
from usucl_fast.learn.run_folder import RunFolder
from usucl_fast.shards import open_shards

TINY = [str(word) for word in tiny_options(epochs=6)]


@pytest.fixture
def two_videos(tmp_path: Path) -> Path:
    for number in range(2):
        write_video(tmp_path / "videos" / f"{number}.mp4", moving_texture(12, 64, 64, number), "libx264")
    return tmp_path / "videos"


@pytest.mark.parametrize(
    ("prepare", "words"),
    [
        (lambda root: [root / "nowhere"], ["nowhere does not exist"]),
        (lambda root: [_folder(root / "empty")], ["empty holds no video"]),
        (lambda root: [root / "videos", "--labels", _csv(root, "no.mp4")], ["l.csv", "not in SOURCE", "no.mp4"]),
        (lambda root: [root / "videos", "--labels", root / "none.csv"], ["none.csv", "No such file"]),
    ],
)
def test_bad_sources_are_refused(two_videos: Path, prepare: Callable[[Path], list[object]], words: list[str]) -> None:
    root = two_videos.parent
    arguments = prepare(root)
    before = tree(root)
    refused(usucl_shard(arguments[0], root / "out", *arguments[1:]), *words)
    assert tree(root) == before


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--every", "2", "--fps", "5"], ["--every and --fps"]),
        (["--split", "train=.5"], ["--split", "sum to 0.5"]),
        (["--group-regex", "("], ["--group-regex", "not a regular expression"]),
        (["--group-regex", "x"], ["--group-regex", "finds no group in '0.mp4'"]),
        (["--sector", "none.json"], ["--sector none.json", "No such file"]),
        (["--labels", "torn.csv"], ["group 'p' has videos in the splits 'train' and 'test'"]),
        (["--names", "hash", "--salt", "short"], ["--salt short", "fewer than 32 bytes"]),
    ],
)
def test_bad_options_are_refused(
    two_videos: Path, monkeypatch: pytest.MonkeyPatch, options: list[str], words: list[str]
) -> None:
    root = two_videos.parent
    monkeypatch.chdir(root)
    (root / "torn.csv").write_text("video,group,split\n0.mp4,p,train\n1.mp4,p,test\n")
    (root / "short").write_text("x")
    before = tree(root)
    refused(usucl_shard(two_videos, root / "out", *options), *words)
    assert tree(root) == before


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[]", ["not a JSON file of polygons"]),
        ("{}", ["does not have '0.mp4'"]),
        ('{"*": {"polygons": [[[0, 0], [9, 9]]]}}', ["three corners"]),
        ('{"0*": {"polygons": [[[0, 0], [9, 0], [9, 9]]]}}', ["does not have '1.mp4'"]),
    ],
)
def test_bad_sector_files_are_refused(two_videos: Path, tmp_path: Path, text: str, words: list[str]) -> None:
    (tmp_path / "s.json").write_text(text)
    refused(usucl_shard(two_videos, tmp_path / "out", "--sector", tmp_path / "s.json"), "s.json", *words)


def test_the_choices_of_packing(two_videos: Path, tmp_path: Path) -> None:
    """Every option that changes the frames, in one go, as a real user would look at them."""
    (tmp_path / "s.json").write_text('{"*": {"polygons": [[[8, 0], [64, 0], [64, 64], [8, 64]]]}}')
    options = ["--codec", "png", "--color", "rgb", "--every", 2, "--size", 112, "--enlarge", "--min-frames", 6]
    options += ["--sector", tmp_path / "s.json", "--names", "hash", "--salt", tmp_path / "salt", "--workers", 1]
    options += ["--group-regex", ".", "--split", "train=.5,test=.5"]
    write_video(two_videos / "short.mp4", moving_texture(9, 64, 64, 5), "libx264")
    result = usucl_shard(two_videos, tmp_path / "out", *options)
    assert result.exit_code == 0, result.stderr
    assert "left out 1 videos that are too short" in result.output
    store = open_shards(tmp_path / "out")
    assert len(store.table.videos) == 2
    for video in store.table.videos:
        assert (video.frames, video.height, video.width, video.color) == (6, 128, 112, "rgb")
        assert video.frame_rate == 12.5
        assert video.name == video.id != video.group
        assert video.split in ("train", "test")
    assert np.allclose(store.table.rows["time"][:6], np.arange(6) * 2 / 25, atol=1e-3)
    assert Image.open(io.BytesIO(store.read(np.array([0]))[0].tobytes())).mode == "RGB"
    assert not any(b"mp4" in path.read_bytes() for path in (tmp_path / "out").iterdir())
    assert CliRunner().invoke(shard.main, ["verify", str(tmp_path / "out")]).exit_code == 0


def test_fps_keeps_the_rate(tmp_path: Path) -> None:
    write_video(tmp_path / "in" / "a.mp4", moving_texture(50, 64, 64, 0), "libx264", rate=25)
    assert usucl_shard(tmp_path / "in", tmp_path / "out", "--fps", 10, "--workers", 1).exit_code == 0
    table = open_shards(tmp_path / "out").table
    assert np.allclose(
        table.rows["time"],
        [
            0,
            0.12,
            0.2,
            0.32,
            0.4,
            0.52,
            0.6,
            0.72,
            0.8,
            0.92,
            *(1 + np.array([0, 0.12, 0.2, 0.32, 0.4, 0.52, 0.6, 0.72, 0.8, 0.92])),
        ],
        atol=1e-3,
    )
    assert table.videos[0].frame_rate == 10


def test_an_interrupt_says_that_the_same_command_goes_on(two_videos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("usucl_fast.pack.pack", interrupt)
    result = usucl_shard(two_videos, two_videos.parent / "out")
    assert result.exit_code == 130
    assert "interrupted; run the same command again to continue" in result.stderr


def _folder(path: Path) -> Path:
    path.mkdir()
    return path


def _csv(root: Path, name: str) -> Path:
    (root / "l.csv").write_text(f"video,label\n{name},x\n")
    return root / "l.csv"


def test_finished_shards_are_kept_from_other_sources_and_settings(two_videos: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert usucl_shard(two_videos, out, "--workers", 1).exit_code == 0
    before = tree(out)
    assert usucl_shard(two_videos, out).exit_code == 0  # nothing left to do
    refused(usucl_shard(two_videos, out, "--size", 100), "out holds finished shards of other settings", "--overwrite")
    write_video(two_videos / "1.mp4", moving_texture(13, 64, 64, 1), "libx264")
    refused(usucl_shard(two_videos, out), "out holds 1.mp4 of another size", "--overwrite")
    assert tree(out) == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "videos"]


def test_a_quarantined_video_makes_the_exit_status_1(two_videos: Path, tmp_path: Path) -> None:
    (two_videos / "broken.mp4").write_bytes(b"not a video" * 100)
    result = usucl_shard(two_videos, tmp_path / "out", "--workers", 1)
    assert result.exit_code == 1
    assert "quarantined broken.mp4: does not open" in result.stderr
    summary = json.loads((tmp_path / "out" / "summary.json").read_bytes())
    assert summary["videos"] == 2
    assert [entry["source"] for entry in summary["quarantined"]] == ["broken.mp4"]
    for name in ("0.mp4", "1.mp4"):
        (two_videos / name).unlink()
    none = usucl_shard(two_videos, tmp_path / "none", "--workers", 1)
    assert none.exit_code == 2
    assert "no video of 1 can be packed; the first, broken.mp4, does not open" in none.stderr.splitlines()[-1]
    assert not (tmp_path / "none").exists()


def test_what_is_no_shard_folder_is_refused(tmp_path: Path) -> None:
    out = tmp_path / "run"
    refused(usucl_train(tmp_path, "--out", out), str(tmp_path), "not a shard folder", "usucl-shard")
    copy = tmp_path / "newer"
    copy_shards(SAMPLE, copy)
    manifest = json.loads((copy / "manifest.json").read_bytes())
    (copy / "manifest.json").write_text(json.dumps({**manifest, "version": 99}))
    refused(usucl_train(copy, "--out", out), "format version 99", "pack the videos again")
    assert not out.exists()


def test_bad_options_of_training_are_refused(tmp_path: Path) -> None:
    out = tmp_path / "run"
    refused(usucl_train(SAMPLE, "--out", out, "--arch", "vgg16"), "--arch vgg16")
    refused(usucl_train(SAMPLE, "--out", out, "--device", "cuda:99"), "--device cuda:99")
    refused(usucl_train(SAMPLE, "--out", out, "--dali", "--loader", "torch"), "--dali and --loader torch")
    refused(usucl_train(SAMPLE, "--out", out, "--resume"), "holds no run to resume")
    refused(usucl_train(SAMPLE), "SHARDS", "--out", "needed")
    refused(usucl_train("--out", out), "SHARDS", "--out", "needed")
    for bad in ("3:", "3:x", "1:2:3", "-1", "3:1025"):
        assert usucl_train(SAMPLE, "--out", out, "--intra-negatives", bad).exit_code == 2
    assert not out.exists()
    out.mkdir()
    (out / "thesis.tex").write_text("years of work")
    refused(usucl_train(SAMPLE, "--out", out, "--overwrite"), "holds files that are not a run's")
    (out / "config.json").write_text("{}")
    refused(usucl_train(SAMPLE, "--out", out, "--overwrite"), "holds files that are not a run's")
    assert (out / "thesis.tex").exists()


def test_an_interval_is_written_as_one(tmp_path: Path) -> None:
    for bad in (".2", ".2:", "x:.4", ".2:1.5"):
        assert usucl_train(SAMPLE, "--out", tmp_path / "run", "--intra-window", bad).exit_code == 2
    alone = usucl_train("--show-curriculum", "--intra-window", ".2")
    assert "an interval is written as A:B" in alone.stderr
    refused(usucl_train("--show-curriculum", "--intra-window", ".4:.2"), "--intra-window 0.4:0.2 is empty")
    shown = usucl_train("--show-curriculum", "--steps", 6, "--intra-window", ".1:.3", "--intra-from", ".5")
    assert [line.split()[:3] for line in shown.output.splitlines()[:3]] == [
        ["steps", "intra-video", "window"], ["0-2", "-", "-"], ["3-5", "16", "10-30"]
    ]  # fmt: skip


def test_a_run_of_so_many_steps_goes_on_and_keeps_its_length(tmp_path: Path) -> None:
    out, tiny = tmp_path / "run", tiny_options(1)
    place = tiny.index("--epochs")
    del tiny[place : place + 2]
    refused(usucl_train(SAMPLE, "--out", out, *tiny, "--steps", 5, "--epochs", 2), "--steps and --epochs both say")
    refused(usucl_train(SAMPLE, "--out", out, *tiny, "--steps", 5, "--warm-up", 5), "--warm-up 5 is all of the run")
    first = usucl_train(SAMPLE, "--out", out, *tiny, "--steps", 5, "--tuples-per-video", 2, "--stop-after", 2)
    assert "step 2 of 5" in first.output, first.output
    refused(usucl_train(SAMPLE, "--out", out, "--resume", "--steps", 9), "begun with steps 5, not 9")
    refused(usucl_train(SAMPLE, "--out", out, "--resume", "--tuples-per-video", 1), "begun with tuples_per_video 2")
    assert "step 5 of 5" in usucl_train(SAMPLE, "--out", out, "--resume").output
    assert [line["tuples"] for line in RunFolder(out).read_metrics()] == [2, 3, 3, 2, 3]


def test_train_stop_resume_and_overwrite(tmp_path: Path) -> None:
    out = tmp_path / "run"
    first = usucl_train(SAMPLE, "--out", out, *TINY, "--stop-after", 3)
    assert first.exit_code == 0, first.output
    assert f"resume it with: usucl-train {SAMPLE} --out {out} --resume" in first.output
    before = tree(out)
    refused(usucl_train(SAMPLE, "--out", out, *TINY), "--resume to continue")
    refused(usucl_train(SAMPLE, "--out", out, "--resume", "--lr", 0.5), "begun with lr 0.06, not 0.5")
    refused(usucl_train(SAMPLE, "--out", out, "--resume", "--recipe", "reference"), "begun with recipe default")
    assert tree(out) == before
    second = usucl_train(SAMPLE, "--out", out, "--resume", "--threads", 1)
    assert second.exit_code == 0, second.output
    assert "step 12 of 12" in second.output
    assert [line["step"] for line in RunFolder(out).read_metrics()] == list(range(12))
    assert usucl_train(SAMPLE, "--out", out, *TINY, "--overwrite", "--stop-after", 1).exit_code == 0
    assert len(RunFolder(out).read_metrics()) == 1


def test_show_curriculum(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    moved = ["--intra-mining", "encode", "--intra-negatives", "3:8", "--intra-hard-share", "0:.5", "--cross-topk", 16]
    moved += ["--intra-window", ".2:.4", "--intra-floor", ".15"]
    shown = usucl_train("--show-curriculum", "--curriculum", "step", *moved)
    assert shown.exit_code == 0, shown.output
    table, curves = ([line.split() for line in part.splitlines()] for part in shown.output.split("\n\n"))
    assert table == [
        ["epochs", "intra-video", "window", "%", "hardest", "%", "cross-video", "band", "%"],
        ["0-17", "-", "-", "-", "-", "-"],
        ["18-29", "3", "20-40", "0", "16", "-"],
        ["30-49", "6", "10-15", "25", "16", "-"],
        ["50-59", "8", "3-7", "50", "16", "-"],
    ]
    assert [line[0] for line in curves] == ["intra-video", "window", "hardest", "cross-video"]
    assert curves[0][1] == "0"
    assert curves[0][-1] == "8"
    still = usucl_train(
        "--show-curriculum", "--epochs", 1, "--cross-band-start", ".05", "--cross-from", 0, "--cross-topk", 64
    )
    assert still.output.splitlines()[1].split() == ["0", "-", "-", "-", "64", "5-100"]
    long = usucl_train("--show-curriculum", "--epochs", 6000)
    assert len(long.output.splitlines()) < 70
    refused(
        usucl_train("--show-curriculum", "--intra-mining", "bank", "--recipe", "reference"), "--cross-candidates batch"
    )
    refused(usucl_train("--show-curriculum", "--resume"), "--resume needs --out")
    assert not any(tmp_path.iterdir())


def test_a_terminal_without_all_letters_is_no_end(tmp_path: Path) -> None:
    copy = copy_shards(SAMPLE, tmp_path / "s")
    change_videos(copy, lambda video: replace(video, label="h\u00fcfte"))
    done = subprocess.run(
        [sys.executable, "-c", "from usucl_fast.cli.shard import main; main()", "list", str(copy)],
        capture_output=True,
        env={**os.environ, "PYTHONIOENCODING": "ascii"},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert b"h\\xfcfte" in done.stdout


def test_show_curriculum_of_a_run(tmp_path: Path) -> None:
    out = tmp_path / "run"
    moving = ["--intra-mining", "encode", "--intra-negatives", "2:5", "--intra-hard-share", "1", "--bank-max-age", 50]
    assert usucl_train(SAMPLE, "--out", out, *TINY, *moving, "--stop-after", 1).exit_code == 0
    before = tree(out)
    assert usucl_train("--out", out, "--resume", "--show-curriculum").output == (
        usucl_train("--show-curriculum", *TINY, *moving).output
    )
    assert tree(out) == before


def start(out: Path, *arguments: str) -> "subprocess.Popen[str]":
    command = [sys.executable, "-c", "from usucl_fast.cli.train import main; main()"]
    command += [str(SAMPLE), "--out", str(out), *arguments]
    return subprocess.Popen(
        command, env={**os.environ, "OMP_NUM_THREADS": "1"}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def wait_for_step(alive: Callable[[], bool], out: Path, step: int) -> None:
    metrics = out / "metrics.jsonl"
    for _ in range(2400):
        if metrics.exists() and len(RunFolder(out).read_metrics()) > step:
            return
        assert alive()
        time.sleep(0.01)
    raise AssertionError(f"step {step} never came")


@pytest.mark.slow
def test_killed_at_ten_random_steps_and_resumed_equals_uninterrupted(tmp_path: Path) -> None:
    """Real processes, killed by SIGKILL wherever they are once a step is done."""
    options = [*TINY, "--epochs", "20", "--checkpoint-every", "3", "--loader", "torch"]
    context = warm_processes()

    def begin(out: Path, *more: str) -> Any:
        process = context.Process(target=_train, args=([str(SAMPLE), "--out", str(out), *options, *more],))
        process.start()
        return process

    whole = begin(tmp_path / "whole")
    whole.join()
    assert whole.exitcode == 0
    expected = curve(tmp_path / "whole")
    assert len(expected) == 40
    out = tmp_path / "killed"
    process = begin(out)
    for step in sorted(random.Random(0).sample(range(39), 10)):
        wait_for_step(process.is_alive, out, step)
        process.kill()
        process.join()
        lost = len(RunFolder(out).read_metrics())
        saved = [int(path.stem[5:]) for path in (out / "checkpoints").glob("step-*.pt")]
        assert lost - max(saved, default=0) <= 3
        process = begin(out, "--resume")
    process.join()
    assert process.exitcode == 0
    assert curve(out) == expected
    backbones = [(folder / "backbone.safetensors").read_bytes() for folder in (tmp_path / "whole", out)]
    assert backbones[0] == backbones[1]


def _train(arguments: list[str]) -> None:
    torch.set_num_threads(1)
    train.main(arguments)


def test_sigterm_saves_and_exits_0(tmp_path: Path) -> None:
    out = tmp_path / "run"
    process = start(out, *TINY, "--epochs", "1000")
    wait_for_step(lambda: process.poll() is None, out, 2)
    process.send_signal(signal.SIGTERM)
    output, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    assert "--resume" in output
    steps = len(RunFolder(out).read_metrics())
    assert [path.name for path in (out / "checkpoints").iterdir()] == [f"step-{steps:08d}.pt"]


@pytest.mark.slow
@pytest.mark.parametrize("loader", [name for name in LOADERS if name != "ffcv"])  # it is torch in other clothes
def test_ctrl_c_ends_training_with_no_process_and_no_shared_memory_left(tmp_path: Path, loader: str) -> None:
    if loader == "dali":
        pytest.importorskip("nvidia.dali")
    before = shared_memory()
    # A shell's background jobs ignore SIGINT; the group is interrupted, as by a terminal.
    program = """
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)
from usucl_fast.cli.train import main
main()
"""
    arguments = [SAMPLE, *TINY, "--epochs", 10000, "--loader", loader, "--out", tmp_path / "run"]
    command = [sys.executable, "-c", program, *map(str, arguments)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True) as process:
        metrics = tmp_path / "run" / "metrics.jsonl"
        while not metrics.exists() or metrics.stat().st_size == 0:
            assert process.poll() is None
            time.sleep(0.05)
        os.killpg(process.pid, signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    assert "Traceback" not in errors
    with pytest.raises(ProcessLookupError):
        os.killpg(process.pid, 0)
    # Other programs' come and go, and for a moment nobody has them; what is lost stays.
    deadline = time.monotonic() + 20
    while (lost := {path for path in shared_memory() - before if not is_used(path)}) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not lost
    assert RunFolder(tmp_path / "run").read_metrics()


def shared_memory() -> set[Path]:
    return set(Path("/dev/shm").glob("*"))


def is_used(path: Path) -> bool:
    """Whether a process has it: of those that other programs make all the time."""
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if str(path) in Path(f"/proc/{process.pid}/maps").read_text():
                return True
    return False


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no signals that can be held back")
def test_ctrl_c_while_workers_start_is_not_theirs(tmp_path: Path) -> None:
    """A terminal sends it to all processes; it comes where a worker has not begun to import anything of ours."""
    write_video(tmp_path / "videos" / "0.mp4", moving_texture(20, 64, 64, 0), "mpeg4")
    (tmp_path / "sitecustomize.py").write_text(
        "import os, signal, sys\nif sys.argv[0] == '-c' and 'spawn_main' in ' '.join(sys.orig_argv):\n"
        "    os.kill(os.getpid(), signal.SIGINT)\n"
    )
    program = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
    program += "from usucl_fast.cli.shard import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "videos"), str(tmp_path / "out"), "--workers", "1"],
        env={**os.environ, "PYTHONPATH": os.pathsep.join((str(tmp_path), os.environ.get("PYTHONPATH", "")))},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "KeyboardInterrupt" not in done.stderr


def test_ctrl_c_keeps_what_is_done(tmp_path: Path) -> None:
    for number in range(6):
        write_video(tmp_path / "videos" / f"{number}.mp4", moving_texture(20, 64, 64, number), "mpeg4")
    # As a terminal does, to the workers too; when the third video has come in.
    program = """
import os, signal
from usucl_fast.cli.shard import main
from usucl_fast.pack.writer import ShardWriter
append = ShardWriter.append
def interrupted(self, video, spool):
    append(self, video, spool)
    if len(self.videos) == 3:
        os.killpg(0, signal.SIGINT)
ShardWriter.append = interrupted
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
main()
"""
    arguments = [str(tmp_path / "videos"), str(tmp_path / "out"), "--workers", "1"]
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments],
        capture_output=True,
        text=True,
        start_new_session=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 130, done.stderr
    assert done.stderr.splitlines()[-1].endswith("interrupted; run the same command again to continue")
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out").exists()
    assert len(list(tmp_path.glob(".out.usucl-partial/spool/*.npz"))) >= 3
    assert usucl_shard(*arguments).exit_code == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "videos"]


def test_what_the_system_refuses_is_one_line(two_videos: Path, tmp_path: Path) -> None:
    out = tmp_path / ("x" * 300)
    result = usucl_shard(two_videos, out)
    assert result.exit_code == 1
    assert result.stderr.strip().startswith("usucl-shard pack: [Errno 36] File name too long")
    assert len(result.stderr.splitlines()) == 1


def test_debug_shows_the_traceback(tmp_path: Path) -> None:
    command = [sys.executable, "-c", "from usucl_fast.cli.shard import main; main()", str(tmp_path / "no"), "out"]
    plain = subprocess.run(command, capture_output=True, text=True, check=False)
    assert plain.returncode == 2
    assert "Traceback" not in plain.stderr
    debug = subprocess.run([*command, "--debug"], capture_output=True, text=True, check=False)
    assert "Traceback" in debug.stderr


@pytest.mark.parametrize(
    "command",
    [shard.main, *shard.main.commands.values(), train.main, bench.main, *bench.main.commands.values()],
)
def test_every_command_has_help(command: object) -> None:
    result = CliRunner().invoke(command, ["--help"])  # type: ignore[arg-type]
    assert result.exit_code == 0
    assert "Usage" in result.output


def test_settings_from_a_toml_file(tmp_path: Path) -> None:
    """Those of the command line come first; what the run was made with is written beside it."""
    file, out = tmp_path / "settings.toml", tmp_path / "run"
    file.write_text(
        'recipe = "fast"\nsize = 32\nepochs = 6\nbatch-size = 3\ndim = 16\nchannels = 3\nintra_negatives = [2, 5]\n'
        'precision = "fp32"\nhead_norm = true\nthreads = 1\nloader = "torch"\n'
    )
    result = usucl_train(SAMPLE, "--config", file, "--out", out, "--dim", 8, "--stop-after", 1)
    assert result.exit_code == 0, result.output
    settings = json.loads((out / "config.json").read_bytes())["config"]
    expected = {
        "recipe": "fast",
        "intra_mining": "bank",
        "size": 32,
        "dim": 8,
        "channels": 3,
        "intra_negatives": [2, 5],
    }
    assert {name: settings[name] for name in expected} == expected
    again = usucl_train(SAMPLE, "--config", file, "--out", out, "--dim", 8, "--resume", "--stop-after", 2)
    assert again.exit_code == 0, again.output


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("epocs = 3", ["settings.toml", "no option epocs", "is it epochs?"]),
        ("size = ", ["settings.toml cannot be read"]),
        ("epochs = 0", ["epochs", "0"]),
        ('recipe = "slow"', ["recipe", "slow"]),
        ("intra_negatives = [1, 2, 3]", ["intra-negatives"]),
    ],
)
def test_a_bad_toml_file_is_refused(tmp_path: Path, text: str, words: list[str]) -> None:
    (tmp_path / "settings.toml").write_text(text)
    result = usucl_train(SAMPLE, "--config", tmp_path / "settings.toml", "--out", tmp_path / "run")
    assert result.exit_code == 2, result.output
    for word in words:
        assert word in result.stderr
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--recipe", "simclr", "--intra-negatives", "3"], ["--intra-negatives has no effect with --method simclr"]),
        (["--recipe", "byol", "--tau", ".1"], ["--tau has no effect with --method byol"]),
        (["--init", "nowhere.pth"], ["nowhere.pth is neither a run, nor a file"]),
        (["--accumulate", "3", "--batch-size", "2"], ["too few", "--accumulate 3"]),
    ],
)
def test_options_that_make_no_sense_are_refused(tmp_path: Path, options: list[str], words: list[str]) -> None:
    refused(usucl_train(SAMPLE, "--out", tmp_path / "run", *options), *words)
    assert not (tmp_path / "run").exists()


HOSTILE = "evil\x1b]0;owned\x07\x9b2J\u202e\r"
"""What a terminal obeys, in a name: ESC, a C1 control, an override of the direction, a return."""


def tame(*texts: str) -> None:
    """Each has the name, and a terminal finds nothing to obey in it."""
    for text in texts:
        assert "evil" in text
        assert all(line.isprintable() for line in text.split("\n")), text


def test_names_that_a_terminal_would_obey_are_escaped(two_videos: Path, tmp_path: Path) -> None:
    videos, out = tmp_path / HOSTILE, tmp_path / f"{HOSTILE}\n.out"
    shutil.copytree(two_videos, videos)
    next(iter(videos.iterdir())).rename(videos / f"{HOSTILE}.mp4")
    (videos / f"{HOSTILE}-broken.mp4").write_bytes(b"?")
    packed = usucl_shard(videos, out, "--size", 32, "--workers", 1)
    assert packed.exit_code == 1, packed.output
    tame(packed.stdout, packed.stderr)
    tame(
        usucl_shard("list", out).stdout, usucl_shard("verify", out).stdout, usucl_shard(videos, out, "--fps", 2).stderr
    )
    tame(usucl_shard("list", videos).stderr, usucl_shard("list", videos, "--debug").stderr)
    tame(usucl_shard("list", out, f"--{HOSTILE}").stderr, usucl_train(out, "--out", out, "--size", 32).stderr)
    tame(usucl_eval("random", out, "--out", out).stderr, usucl_bench("feed", videos).stderr)
