"""The whole of `usucl-shard`: sources in, a finished shard folder out."""

import hashlib
import json
import multiprocessing
import shutil
import signal
import time
from collections import defaultdict
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from usucl_fast.errors import DataError, DecodeError, UsageError
from usucl_fast.files import holds_only, write_json
from usucl_fast.frames import FORMAT, FRAMES, MANIFEST
from usucl_fast.pack.sources import Source
from usucl_fast.pack.spool import Spooled, spool
from usucl_fast.pack.writer import ShardWriter, escape
from usucl_fast.report.progress import Progress

OUTPUT = ("usucl-*.tar", "usucl-*.idx", FRAMES, MANIFEST, "summary.json")


@dataclass(frozen=True)
class PackSettings:
    """What the bytes of the shards depend on, beside the sources."""

    size: int = 224
    """Short side of the stored frames in pixels; smaller videos are not enlarged."""
    quality: int = 90
    """JPEG quality, 1 to 100."""
    shard_mb: int = 256
    """A new shard begins before this many MB (10^6 bytes) are passed."""


def pack(
    sources: list[Source], out: Path, settings: PackSettings, *, workers: int, overwrite: bool = False
) -> dict[str, Any]:
    """Packs `sources` into the shard folder `out`, in order, and returns its summary (also in `summary.json`).

    The shards are written beside `out` and moved there when whole. A video that does not decode is left out
    and listed under `quarantined`. The shards do not depend on `workers`.

    Raises:
        UsageError: `out` holds something else, or no video decodes.
        DataError: a worker process died.
    """
    fingerprint = _fingerprint(sources)
    finished = _check_out(out, settings, fingerprint, overwrite)
    if finished is not None:
        return finished
    partial = out.with_name(f".{out.name}.usucl-partial")
    shutil.rmtree(partial, ignore_errors=True)
    spools = partial / "spool"
    spools.mkdir(parents=True)
    try:
        summary = _pack(sources, partial, spools, settings, fingerprint, workers)
        spools.rmdir()
        if not summary["videos"]:
            first = summary["quarantined"][0]
            raise UsageError(
                f"none of the {len(sources)} videos decodes; the first, {first['source']}, {first['reason']}"
            )
        replaced = out.with_name(f".{out.name}.usucl-replaced")
        if out.exists():
            out.rename(replaced)
        partial.rename(out)
        shutil.rmtree(replaced, ignore_errors=True)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    return summary


def _pack(
    sources: list[Source], folder: Path, spools: Path, settings: PackSettings, fingerprint: str, workers: int
) -> dict[str, Any]:
    started = time.perf_counter()
    writer = ShardWriter(folder, settings.shard_mb * 10**6)
    quarantined: list[dict[str, str]] = []
    stages: defaultdict[str, float] = defaultdict(float)
    frames = 0
    # A fresh interpreter a worker: nothing of this process (threads, locks, CUDA) leaks into it.
    context = multiprocessing.get_context("spawn")
    with (
        ProcessPoolExecutor(workers, mp_context=context, initializer=_leave_interrupts_to_the_parent) as pool,
        Progress("videos", len(sources)) as progress,
    ):
        jobs: list[Future[Spooled]] = [
            pool.submit(spool, source, escape(source.name), spools / f"{number}", settings.size, settings.quality)
            for number, source in enumerate(sources)
        ]
        try:
            for source, job in zip(sources, jobs, strict=True):
                try:
                    video = job.result()
                except DecodeError as error:
                    quarantined.append({"source": source.name, "reason": str(error)})
                    progress.note(f"quarantined {source.name}: {error}")
                except BrokenProcessPool as error:
                    raise DataError(
                        f"a worker process died on {source.name} or a video soon after it (a crash, or out of memory);"
                        " lower --workers, or take the video away"
                    ) from error
                else:
                    writer.append(video)
                    video.path.unlink()
                    for stage, spent in video.stages.items():
                        stages[stage] += spent
                    frames += len(video.rows)
                progress.advance(frames=frames)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    for left in spools.iterdir():  # of quarantined videos
        left.unlink()
    writer.finish({"settings": asdict(settings), "sources": fingerprint, "quarantined": quarantined})
    seconds = time.perf_counter() - started
    summary = {
        "videos": len(writer.videos),
        "frames": frames,
        "quarantined": quarantined,
        "seconds": round(seconds, 3),
        "frames_per_second": round(frames / seconds, 1),
        "megabytes": round(sum(shard["bytes"] for shard in writer.shards) / 1e6, 3),
        "stages": {stage: round(value, 3) for stage, value in stages.items()},
    }
    write_json(folder / "summary.json", summary)
    return summary


def _leave_interrupts_to_the_parent() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _fingerprint(sources: list[Source]) -> str:
    facts = [[s.name, s.bytes, s.group, s.label, s.split] for s in sources]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()


def _check_out(out: Path, settings: PackSettings, fingerprint: str, overwrite: bool) -> dict[str, Any] | None:
    """Returns the summary of `out` where it already holds what is asked for."""
    if not out.exists():
        return None
    if not out.is_dir():
        raise UsageError(f"OUT {out} is a file; name a folder")
    if not any(out.iterdir()):
        return None
    try:
        manifest = json.loads((out / MANIFEST).read_bytes())
        is_ours = manifest["format"] == FORMAT
    except (OSError, ValueError, LookupError, TypeError):
        is_ours = False
    if not is_ours:
        raise UsageError(f"OUT {out} holds files that are not shards; name a new or empty folder")
    if overwrite:
        if not holds_only(out, OUTPUT):
            raise UsageError(f"OUT {out} holds other files beside the shards: move them away, or name another folder")
        return None
    if manifest["settings"] != asdict(settings) or manifest["sources"] != fingerprint:
        what = "sources or labels" if manifest["settings"] == asdict(settings) else f"settings {manifest['settings']}"
        raise UsageError(f"OUT {out} holds finished shards of other {what}; name another folder or add --overwrite")
    summary: dict[str, Any] = json.loads((out / "summary.json").read_bytes())
    return summary
