"""Frames/s of packing a folder of videos: our command, decoding alone, and FFmpeg with tar."""

import functools
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from usucl_fast.bench.harness import Arm
from usucl_fast.errors import DataError, UsageError
from usucl_fast.pack import find_sources
from usucl_fast.shards import FRAMES, PackSettings

JPEG_SCALE = 2
"""`-q:v` of FFmpeg: its best, and of its steps the nearest to JPEG quality 90 (files 8 to 23 % smaller)."""


def shard_arms(names: Sequence[str], source: Path, *, size: int, workers: int) -> list[Arm]:
    """Makes the named arms ready to run, on the videos in `source`.

    A run is timed from the start of its first process to the end of its last, and must see as many frames as the
    others. All files are read once here, so that every run finds them in memory, as far as they fit.

    Args:
        names: some of `SHARD_ARMS`.
        source: folder of videos, or one video.
        size: short side of the frames in pixels; smaller videos are not enlarged.
        workers: videos at the same time, in every arm.

    Raises:
        UsageError: a program is missing, or `source` holds frame folders or DICOM files.
    """
    videos = _find_videos(source)
    agreed: dict[str, int] = {}
    arms = []
    for name in names:
        if name.startswith("usucl-shard"):
            program = _find_program(name, "usucl-shard", beside=Path(sys.executable))
            sector = "none" if name.endswith("uncropped") else "auto"
            run = functools.partial(_run_ours, name, program, source, size, workers, sector)
            delivers = (
                f"shards: JPEG quality {PackSettings.quality}, grey where the video is, "
                + ("whole pictures" if sector == "none" else "cropped to the sector")
                + f", short side {size} or less; 1 thread a video"
            )
        elif name == "decode":
            run = functools.partial(_run_decode, videos, workers)
            delivers = "nothing: frames are decoded with PyAV and dropped; 1 thread a video"
        else:
            ffmpeg, tar = _find_program(name, "ffmpeg"), _find_program(name, "tar")
            run = functools.partial(_run_ffmpeg_tar, ffmpeg, tar, videos, size, workers)
            version = _call(name, ffmpeg, "-version").split()[2]
            delivers = (
                f"one tar of JPEG files -q:v {JPEG_SCALE}, yuvj420p (grey videos too), bilinear, short side {size} or"
                f" less; ffmpeg {version}, 1 thread a video"
            )
        arms.append(Arm(name, delivers, functools.partial(_rate, name, run, agreed), videos))
    for video in videos:
        with video.open("rb") as file:
            while file.read(1 << 24):
                pass
    return arms


def _find_videos(source: Path) -> list[Path]:
    sources = find_sources([source])[0]
    for found in sources:
        if found.kind != "container":
            raise UsageError(f"SOURCE {source} holds {found.name!r}, which is not a video file; the arms need these")
    return [found.files[0].resolve() for found in sources]


def _find_program(arm: str, program: str, beside: Path | None = None) -> str:
    found = shutil.which(program, path=str(beside.parent) if beside else None)
    if not found:
        where = f" beside {beside}" if beside else ""
        raise UsageError(f"the arm {arm} needs the {program} program{where}; install it, or leave the arm out")
    return found


def _rate(arm: str, run: Callable[[Path], tuple[float, int]], agreed: dict[str, int]) -> float:
    """Frames/s of one run in a temporary folder; the frames must be as many as in `agreed`."""
    with tempfile.TemporaryDirectory(prefix="usucl-bench-") as work:
        seconds, frames = run(Path(work))
    agreed.setdefault(arm, frames)
    for other, expected in agreed.items():
        if frames != expected:
            raise DataError(f"the arm {arm} saw {frames} frames in the videos, {other} saw {expected}")
    return frames / seconds


def _run_ours(
    arm: str, program: str, source: Path, size: int, workers: int, sector: str, work: Path
) -> tuple[float, int]:
    out = work / "shards"
    started = time.perf_counter()
    _call(arm, program, source, out, "--size", size, "--workers", workers, "--sector", sector)
    seconds = time.perf_counter() - started
    return seconds, len(np.load(out / FRAMES))


def _run_decode(videos: list[Path], workers: int, _: Path) -> tuple[float, int]:
    paths = "\n".join(map(str, videos))
    started = time.perf_counter()
    printed = _call("decode", sys.executable, "-m", "usucl_fast.bench.decode_floor", workers, input=paths)
    seconds = time.perf_counter() - started
    return seconds, int(printed)


def _run_ffmpeg_tar(
    ffmpeg: str, tar: str, videos: list[Path], size: int, workers: int, work: Path
) -> tuple[float, int]:
    scale = f"scale='if(lte(iw,ih),min(iw,{size}),-1)':'if(lte(iw,ih),-1,min(ih,{size}))':flags=bilinear"
    before = ("-nostdin", "-v", "error", "-filter_threads", 1, "-threads", 1)
    # Times are kept in the video's own unit: rounded to its frame rate, two of them may be one, and FFmpeg stops there.
    every = ("-fps_mode", "passthrough", "-enc_time_base", -1)
    after = ("-map", "0:v:0", "-vf", scale, *every, "-pix_fmt", "yuvj420p", "-q:v", JPEG_SCALE, "-threads", 1)

    def extract(number: int, video: Path) -> None:
        # The folders have numbers for names: FFmpeg takes a % in a path for its own.
        folder = work / "frames" / f"{number:06d}"
        folder.mkdir(parents=True)
        _call("ffmpeg-tar", ffmpeg, *before, "-i", video, *after, folder / "%06d.jpg")

    started = time.perf_counter()
    with ThreadPoolExecutor(workers) as pool:
        list(pool.map(extract, range(len(videos)), videos))
    _call("ffmpeg-tar", tar, "cf", work / "frames.tar", "-C", work, "frames")
    seconds = time.perf_counter() - started
    with tarfile.open(work / "frames.tar") as file:
        return seconds, sum(member.isfile() for member in file)


def _call(arm: str, *command: object, input: str = "") -> str:
    """Runs a program to its end and returns what it printed."""
    done = subprocess.run(
        [str(word) for word in command], input=input, capture_output=True, encoding="utf-8", errors="replace"
    )
    if done.returncode != 0:
        said = " | ".join(done.stderr.splitlines()[-5:])
        raise DataError(f"the arm {arm}: {Path(str(command[0])).name} ended with status {done.returncode}: {said}")
    return done.stdout
