"""From sources to a finished shard folder.

Everything is made in the folder `.OUT.usucl-partial` beside OUT, which takes OUT's place when it is whole; where OUT is
at a URL, in a folder of the cache or of `--work`, from which finished shards are uploaded and the rest at the end:

    job.json            which job this is; another one is refused
    spool/<hash>        encoded frames of a video whose shard is not finished
    spool/<hash>.npz    everything else about a video that is packed: this file says that it is
    spool/<hash>.json   why a video is not in the shards
    spool/<hash>.late   written to when a picture takes longer than the time limit
    usucl-*.receipt     beside each finished shard
    manifest.json       written last: from then on only the folders have to change places

`.OUT.usucl-partial.lock` is held while a process works on it.

So a process that is killed at any moment leaves a state from which the same command continues.
"""

import errno
import functools
import hashlib
import json
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from usucl_fast.errors import DataError, UsageError
from usucl_fast.files import SMALL_JSON_BYTES, holds_only, link_or_copy, locked, read_json, write_json
from usucl_fast.pack.contact_sheet import report_sectors
from usucl_fast.pack.duplicates import find_duplicates, look_at_all
from usucl_fast.pack.existing import OUTPUT, Existing, new_tasks
from usucl_fast.pack.identity import Pseudonyms
from usucl_fast.pack.kinds import Source
from usucl_fast.pack.limits import TIME_LIMIT, share_of_memory
from usucl_fast.pack.output import EXCHANGE, Output, open_output
from usucl_fast.pack.sector import Polygon
from usucl_fast.pack.sectors_page import write_pages
from usucl_fast.pack.splits import assign_splits
from usucl_fast.pack.summary import SUMMARY, Outcome, PackSummary, summarise
from usucl_fast.pack.task import Spooled, Task, make_task
from usucl_fast.pack.workers import LocalPool, Pool, spool_all
from usucl_fast.pack.writer import ShardWriter
from usucl_fast.progress import Progress
from usucl_fast.shards import (
    FRAME_LABELS,
    FRAMES,
    MANIFEST,
    MEMBER_SUFFIX,
    VIDEOS,
    FileRecord,
    LeftOut,
    Manifest,
    PackSettings,
)

SPOOL = "spool"
SCAFFOLDING = (SPOOL, "job.json", "usucl-*.receipt")


@dataclass(frozen=True)
class _Job:
    """What is to be packed, how, and where to.

    existing: the shards that `out` holds and keeps; None where there are none.
    workers: processes of this machine, for what is done when all videos are packed.
    """

    tasks: list[Task]
    settings: PackSettings
    pseudonyms: Pseudonyms | None
    existing: Existing | None
    out: Output
    workers: int
    notes: Sequence[str]

    @property
    def megabytes(self) -> float:
        return sum(task.source.bytes for task in self.tasks) / 1e6

    @functools.cached_property
    def digest(self) -> str:
        """Tells this job from others."""
        facts = [
            asdict(self.settings),
            self.pseudonyms and self.pseudonyms.fingerprint,
            self.existing and self.existing.folder and FileRecord.of(self.existing.folder / MANIFEST).sha256,
            [[task.name, task.digest, task.source.versions] for task in self.tasks],
        ]
        return hashlib.sha256(json.dumps(facts).encode()).hexdigest()


def pack(
    sources: list[Source],
    out: Path | str,
    settings: PackSettings,
    *,
    workers: int,
    outlines: Mapping[str, tuple[Polygon, ...]] | None = None,
    pseudonyms: Pseudonyms | None = None,
    time_limit: float = TIME_LIMIT,
    memory_limit: int | None = None,
    overwrite: bool = False,
    notes: Sequence[str] = (),
    on: str | None = None,
    work: Path | None = None,
) -> PackSummary:
    """Packs `sources` into the shard folder `out`, here or at a URL, and returns its summary (also in `summary.json`).

    A video that does not decode, crashes its decoder, gives no picture for `time_limit` seconds or takes more than
    `memory_limit` bytes of memory (None: `share_of_memory`, on a cluster `MOST`) is left out and listed under
    `quarantined`. After an interruption at any moment the same call continues; the shards are the same as without it,
    for any number of `workers`. Where `out` holds shards already, videos that are new to it are appended and its frame
    ids stay.

    outlines: polygons to keep of the pictures, by name of the source, for the setting `sector="file"`.
    pseudonyms: hashes names and patients; needed where DICOM files are among the sources or names are hashed.
    notes: how lists and labels were read, for the summary.
    on: the cluster that packs, see `RayPool`; None for `workers` processes of this machine.
    work: see `open_output`.

    Raises:
        UsageError: `out` holds something else, shards of other settings or changed videos; another job is unfinished
            there; or no video decodes.
        DataError: the disk is full, or a URL cannot be read or written; what is done is kept.
    """
    output, outlines = open_output(out, work), outlines or {}
    partial = output.partial
    existing = output.existing(settings, pseudonyms, overwrite)
    tasks = [
        make_task(source, settings, pseudonyms, outlines.get(source.name, ()), time_limit, partial / SPOOL)
        for source in sources
    ]
    tasks = new_tasks(tasks, existing, output.name)
    if existing and not tasks:
        return output.summary()
    if on is None and len(tasks) < workers:
        tasks = [replace(task, ahead=True) for task in tasks]
    job = _Job(tasks, settings, pseudonyms, existing, output, workers, notes)
    pool = _make_pool(job, on, memory_limit)  # before anything is written, or thrown away
    partial.mkdir(parents=True, exist_ok=True)
    lock = partial.with_name(f"{partial.name}.lock")  # not in it: Windows renames no folder with an open file
    with locked(lock, f"another usucl-shard is at work on the same OUT, in {partial}; wait for it"):
        _claim(job, overwrite)
        if not (partial / MANIFEST).exists():
            _fill(job, pool)
        for pattern in SCAFFOLDING:
            for path in partial.glob(pattern):
                _remove(path)
        output.publish()
    return output.summary()


def _make_pool(job: _Job, on: str | None, memory_limit: int | None) -> Pool:
    if on is None:
        workers = max(1, min(job.workers, len(job.tasks)))
        return LocalPool(workers, share_of_memory(workers) if memory_limit is None else memory_limit)
    from usucl_fast.pack.on_ray import RayPool

    return RayPool(on, memory_limit, f"{job.out.url}/{EXCHANGE}-{job.digest[:16]}" if job.out.url else "")


def _claim(job: _Job, overwrite: bool) -> None:
    """Makes the partial folder this job's own, or continues what the same job has begun there.

    Raises:
        UsageError: another job is unfinished there, and is not to be overwritten.
    """
    partial = job.out.partial
    path = partial / "job.json"
    if path.exists() and not _says(path, {"job": job.digest}):
        if not overwrite:
            raise UsageError(
                "a packing of other videos or settings into the same OUT was interrupted and waits in"
                f" {partial}; finish it with the same command as then, or add --overwrite to begin anew"
            )
        if not holds_only(partial, (*OUTPUT, *SCAFFOLDING, ".*.partial")):
            raise UsageError(f"{partial} holds other files beside what a packing leaves; move them away")
        for entry in partial.iterdir():
            _remove(entry)
    (partial / SPOOL).mkdir(exist_ok=True)
    write_json(path, {"job": job.digest})


def _says(path: Path, digest: dict[str, str]) -> bool:
    try:
        return bool(read_json(path, SMALL_JSON_BYTES) == digest)
    except DataError:
        return False


def _remove(path: Path) -> None:
    shutil.rmtree(path) if path.is_dir() else path.unlink()


def _fill(job: _Job, pool: Pool) -> None:
    """Packs the job into its partial folder.

    Raises:
        UsageError: no video can be packed; the folder is removed.
        DataError: the disk is full.
    """
    try:
        _pack(job, pool)
    except UsageError:
        shutil.rmtree(job.out.partial)
        raise
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise DataError(
            f"no space is left in {job.out.partial.parent}: free some and run the same command again to continue"
        ) from error


def _pack(job: _Job, pool: Pool) -> None:
    """Packs the job into its partial folder, after the existing shards; the manifest comes last."""
    started = time.perf_counter()
    existing, partial = job.existing, job.out.partial
    old = existing.manifest if existing else None
    earlier = existing.folder if existing else None
    writer = ShardWriter(
        job.out,
        job.settings.shard_mb * 10**6,
        MEMBER_SUFFIX[job.settings.codec],
        old.shards if old else (),
        existing.table if existing else None,
    )
    outcome = _append_all(job, writer, pool)
    if old and earlier:
        for shard in old.shards:
            for name in (shard.name, Path(shard.name).with_suffix(".idx").name):
                link_or_copy(earlier / name, partial / name)
    writer.videos = assign_splits(writer.videos, job.settings.split)
    rows = writer.finish()
    if job.settings.sector != "none":
        report_sectors(partial, outcome.packed, earlier)
        write_pages(partial, writer.videos, rows, outcome.packed, earlier, job.workers)
    looks = look_at_all(earlier, existing.table, job.workers) if earlier and existing else []
    outcome.notes, outcome.duplicates = list(job.notes), find_duplicates(looks + outcome.looks, writer.videos)
    beside = [partial / name for name in (FRAMES, VIDEOS, FRAME_LABELS)] + sorted(partial.glob("sectors*"))
    manifest = Manifest(
        settings=job.settings,
        salt=job.pseudonyms.fingerprint if job.pseudonyms else old.salt if old else "",
        quarantined=(*(old.quarantined if old else ()), *outcome.not_packed["quarantined"]),
        left_out=(*(old.left_out if old else ()), *outcome.not_packed["left_out"]),
        totals={
            "videos": len(writer.videos),
            "frames": len(rows),
            "bytes": sum(shard.bytes for shard in writer.shards),
        },
        files={path.name: FileRecord.of(path) for path in beside if path.exists()},
        shards=tuple(writer.shards),
    )
    seconds = time.perf_counter() - started
    summary = summarise(manifest, writer.videos, outcome, job.megabytes, seconds)
    write_json(partial / SUMMARY, summary)
    manifest.write(partial, writer.videos)


def _append_all(job: _Job, writer: ShardWriter, pool: Pool) -> Outcome:
    """Packs all videos, and appends those that can be packed to the shards.

    Raises:
        UsageError: no video can be packed, and there were none before.
    """
    outcome = Outcome()
    fresh = [not task.facts.exists() for task in job.tasks]
    with Progress("videos", len(job.tasks), megabytes=job.megabytes) as progress:
        packed = zip(job.tasks, spool_all(job.tasks, pool), fresh, strict=True)
        for task, video, is_fresh in packed:
            if isinstance(video, Spooled):
                writer.append(video, task.path)
                outcome.packed.append(task)
                outcome.looks.append(video.look)
                outcome.frames += len(video.rows) * is_fresh
                for stage, seconds in video.stages.items():
                    outcome.stages[stage] += seconds
                if video.warning:
                    outcome.warnings.append({"source": task.name, "reason": video.warning})
                    progress.note(f"warning: {task.name} {video.warning}")
            else:
                entry = LeftOut(source=task.name, reason=video.reason, digest=task.digest)
                outcome.not_packed["quarantined" if video.fault else "left_out"].append(entry)
                if video.fault:
                    progress.note(f"quarantined {task.name}: {video.reason}")
            progress.advance(frames=outcome.frames, megabytes=task.source.bytes / 1e6)
    if not writer.videos:
        first = (outcome.not_packed["quarantined"] or outcome.not_packed["left_out"])[0]
        raise UsageError(f"no video of {len(job.tasks)} can be packed; the first, {job.tasks[0].name}, {first.reason}")
    return outcome
