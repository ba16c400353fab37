"""The whole of `usucl-shard`: sources in, a finished shard folder out.

Everything is made in the folder `.OUT.usucl-partial` beside OUT, which takes OUT's place when it is whole:

    job.json            which job this is; another one is refused
    spool/<hash>        encoded frames of a video whose shard is not finished
    spool/<hash>.npz    all else of a video that is done: its presence says so
    spool/<hash>.json   why a video is not in the shards
    spool/<hash>.late   written to when a picture takes longer than the time limit
    usucl-*.receipt     beside each finished shard
    manifest.json       written last: from then on only the folders have to change places

`.OUT.usucl-partial.lock` is held while a process works on it.

So a process that is killed at any moment leaves a state from which the same command goes on.
"""

import errno
import hashlib
import json
import shutil
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from usucl_fast.errors import DataError, UsageError
from usucl_fast.files import holds_only, locked, read_json, write_json, write_whole
from usucl_fast.pack.contact_sheet import write_sheets
from usucl_fast.pack.duplicates import find_duplicates
from usucl_fast.pack.identity import Pseudonyms, escape
from usucl_fast.pack.limits import TIME_LIMIT, share_of_memory
from usucl_fast.pack.sector import Polygon
from usucl_fast.pack.sources import Source
from usucl_fast.pack.splits import assign_splits, torn_groups
from usucl_fast.pack.spool import NOTHING, Order, Spooled
from usucl_fast.pack.workers import spool_all
from usucl_fast.pack.writer import ShardWriter
from usucl_fast.progress import Progress
from usucl_fast.shards import (
    FORMAT,
    FRAME_LABELS,
    FRAMES,
    MANIFEST,
    MEMBER_SUFFIX,
    VIDEOS,
    FileRecord,
    FrameTable,
    LeftOut,
    Manifest,
    PackSettings,
    VideoRecord,
    open_shards,
    read_manifest,
)

SPOOL = "spool"
SECTORS, SHEETS, SUMMARY = "sectors.json", "sectors-*.png", "summary.json"
OUTPUT = ("usucl-*.tar", "usucl-*.idx", FRAMES, VIDEOS, FRAME_LABELS, MANIFEST, SECTORS, SHEETS, SUMMARY)
_SUMMARY: dict[str, Any] = {
    **dict.fromkeys(("videos", "frames"), int),
    **dict.fromkeys(("megabytes", "seconds", "frames_per_second"), int | float),
    **dict.fromkeys(("quarantined", "left_out", "warnings", "torn_groups", "duplicates"), list),
    "splits": dict,
}
"""What is told of a summary, and of which type it is."""
SCAFFOLDING = (SPOOL, "job.json", "usucl-*.receipt")


@dataclass(frozen=True)
class _Known:
    """The shards that OUT holds already, and keeps."""

    manifest: Manifest
    table: FrameTable


@dataclass(frozen=True)
class _Job:
    """What is to be packed, how, and where to.

    known: what `out` holds and keeps; None where there is nothing.
    partial: the folder that all is made in.
    """

    orders: list[Order]
    settings: PackSettings
    pseudonyms: Pseudonyms | None
    known: _Known | None
    out: Path
    partial: Path
    workers: int
    memory_limit: int
    notes: Sequence[str]


@dataclass
class _Outcome:
    """What has become of the videos.

    packed: those that are in the shards now.
    frames: how many were encoded, and not found from an interrupted packing.
    gone: the others, by what the manifest calls them.
    """

    packed: list[Order] = field(default_factory=list)
    frames: int = 0
    gone: dict[str, list[LeftOut]] = field(default_factory=lambda: {"quarantined": [], "left_out": []})
    warnings: list[dict[str, str]] = field(default_factory=list)
    stages: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))


def pack(
    sources: list[Source],
    out: Path,
    settings: PackSettings,
    *,
    workers: int,
    outlines: Mapping[str, tuple[Polygon, ...]] | None = None,
    pseudonyms: Pseudonyms | None = None,
    time_limit: float = TIME_LIMIT,
    memory_limit: int | None = None,
    overwrite: bool = False,
    notes: Sequence[str] = (),
) -> dict[str, Any]:
    """Packs `sources` into the shard folder `out` and returns its summary (also in `summary.json`).

    A video that does not decode, or whose decoder crashes, gives no picture for `time_limit` seconds or takes more than
    `memory_limit` bytes of memory (None: `share_of_memory`), is left out and listed under `quarantined`. Interrupted at
    any moment, the same call goes on; the shards are the same as without the interruption, for any number of `workers`.
    Where `out` holds shards already, videos that are new to it are appended and the frame ids in it stay.

    outlines: by name of the source, polygons to keep of its picture, for the setting `sector="file"`.
    pseudonyms: hashes names and patients; needed where DICOM files are among the sources or names are hashed.
    notes: how lists and labels were read, for the summary.

    Raises:
        UsageError: `out` holds something else, shards of other settings or changed videos; another job is unfinished
            there; or no video decodes.
        DataError: the disk is full; what is done is kept.
    """
    out = out.absolute()
    partial, replaced = (out.with_name(f".{out.name}.usucl-{state}") for state in ("partial", "replaced"))
    if replaced.exists():  # killed while the folders changed places
        if not out.exists():
            partial.rename(out)
        shutil.rmtree(replaced)
    known = _open_known(out, settings, pseudonyms, overwrite)
    orders = _unknown(
        [
            _order(source, settings, pseudonyms, (outlines or {}).get(source.name, ()), time_limit, partial / SPOOL)
            for source in sources
        ],
        known,
        out,
    )
    if known and not orders:
        return _read_summary(out)
    memory_limit = share_of_memory(workers) if memory_limit is None else memory_limit
    job = _Job(orders, settings, pseudonyms, known, out, partial, workers, memory_limit, notes)
    partial.mkdir(parents=True, exist_ok=True)
    lock = partial.with_name(f"{partial.name}.lock")  # not in it: Windows renames no folder with an open file
    with locked(lock, f"another usucl-shard is at work on the same OUT, in {partial}; wait for it"):
        _claim(job, overwrite)
        if not (partial / MANIFEST).exists():
            try:
                _pack(job)
            except UsageError:
                shutil.rmtree(partial)
                raise
            except OSError as error:
                if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                    raise
                raise DataError(
                    f"no space is left for {out}: free some and run the same command again; what is done is kept"
                ) from error
        for pattern in SCAFFOLDING:
            for path in partial.glob(pattern):
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        if out.exists():
            out.rename(replaced)
        partial.rename(out)
        shutil.rmtree(replaced, ignore_errors=True)
    return _read_summary(out)


def _read_summary(out: Path) -> dict[str, Any]:
    """What `_summary` made of these shards.

    Raises:
        DataError: it is damaged.
    """
    summary = read_json(out / SUMMARY)
    for name, kind in _SUMMARY.items():
        if not isinstance(summary, dict) or not isinstance(summary.get(name), kind):
            raise DataError(f"{out / SUMMARY} is damaged (at {name}); restore it, or pack the videos again")
    for pair in summary["duplicates"]:
        if not isinstance(pair, dict) or not isinstance(pair.get("videos"), list) or "kind" not in pair:
            raise DataError(f"{out / SUMMARY} is damaged (at duplicates); restore it, or pack the videos again")
    return summary


def _open_known(out: Path, settings: PackSettings, pseudonyms: Pseudonyms | None, overwrite: bool) -> _Known | None:
    """The shards that `out` holds and that are to be kept.

    Raises:
        UsageError: it holds anything else, or shards that nothing can be added to.
        DataError: the shards are damaged.
    """
    if not out.exists():
        return None
    if not out.is_dir():
        raise UsageError(f"OUT {out} is a file; name a folder")
    if not any(out.iterdir()):
        return None
    try:
        is_ours = read_json(out / MANIFEST)["format"] == FORMAT
    except (DataError, LookupError, TypeError):
        is_ours = False
    if not is_ours:
        raise UsageError(f"OUT {out} holds files that are not shards; name a new or empty folder")
    if not holds_only(out, OUTPUT):
        raise UsageError(f"OUT {out} holds other files beside the shards: move them away, or name another folder")
    if overwrite:
        return None
    manifest = read_manifest(out)
    if manifest.settings != settings:
        raise UsageError(
            f"OUT {out} holds finished shards of other settings, {asdict(manifest.settings)};"
            " name another folder or add --overwrite"
        )
    if pseudonyms and manifest.salt not in ("", pseudonyms.fingerprint):
        raise UsageError(f"OUT {out} holds names hashed with another --salt; give that one, or name another folder")
    return _Known(manifest, open_shards(out).table)


def _order(
    source: Source,
    settings: PackSettings,
    pseudonyms: Pseudonyms | None,
    outline: tuple[Polygon, ...],
    time_limit: float,
    spools: Path,
) -> Order:
    group, id, name = source.group, escape(source.name), source.name
    if pseudonyms and is_hashed(source, settings):
        id = name = pseudonyms.of("video", name)
    if pseudonyms and group and settings.names == "hash":
        group = pseudonyms.of("group", group)
    facts = json.dumps([source.bytes, group, source.label, source.split, outline, *map(asdict, source.segments)])
    # Keyed where the name is: the size of a file tells which one it is to whoever has the files.
    if pseudonyms and is_hashed(source, settings):
        digest = pseudonyms.of("source", facts)
    else:
        digest = hashlib.sha256(facts.encode()).hexdigest()[:16]
    # Not the id itself: two that differ in case alone would share a file on Windows and macOS.
    path = spools / hashlib.sha256(id.encode()).hexdigest()[:32]
    return Order(source, id, name, group, digest, outline, pseudonyms, settings, time_limit, path)


def is_hashed(source: Source, settings: PackSettings) -> bool:
    """Whether the source's name is replaced by a hash."""
    return settings.names == "hash" or (settings.names == "auto" and source.kind == "dicom")


def _unknown(orders: list[Order], known: _Known | None, out: Path) -> list[Order]:
    """The orders for videos that `known` does not have, in the order of their names in the shards."""
    digests: dict[str, str] = {}
    if known:
        digests = dict(zip(known.table.videos.name, known.table.videos.source, strict=True))
        digests |= {entry.source: entry.digest for entry in known.manifest.quarantined + known.manifest.left_out}
    for order in orders:
        if digests.get(order.name, order.digest) != order.digest:
            raise UsageError(
                f"OUT {out} holds {order.name} of another size, label, group, split or sector;"
                " name another folder, or add --overwrite to pack all again"
            )
    # By these names and not the sources', so that the order of hashed names tells nothing.
    return sorted((order for order in orders if order.name not in digests), key=lambda order: order.name)


def _claim(job: _Job, overwrite: bool) -> None:
    """Makes the partial folder this job's, or goes on with it.

    Raises:
        UsageError: another job is unfinished there, and is not to be overwritten.
    """
    facts = [
        asdict(job.settings),
        job.pseudonyms and job.pseudonyms.fingerprint,
        job.known and FileRecord.of(job.out / MANIFEST).sha256,
        [[order.name, order.digest, [file.stat().st_mtime_ns for file in order.source.files]] for order in job.orders],
    ]
    digest = {"job": hashlib.sha256(json.dumps(facts).encode()).hexdigest()}
    path = job.partial / "job.json"
    if path.exists() and not _says(path, digest):
        if not overwrite:
            raise UsageError(
                "a packing of other videos or settings into the same OUT was interrupted and waits in"
                f" {job.partial}; finish it with the same command as then, or add --overwrite to begin anew"
            )
        if not holds_only(job.partial, (*OUTPUT, *SCAFFOLDING, ".*.partial")):
            raise UsageError(f"{job.partial} holds other files beside what a packing leaves; move them away")
        for entry in job.partial.iterdir():
            shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
    (job.partial / SPOOL).mkdir(exist_ok=True)
    write_json(path, digest)


def _says(path: Path, digest: dict[str, str]) -> bool:
    try:
        return bool(read_json(path) == digest)
    except DataError:
        return False


def _pack(job: _Job) -> None:
    """Packs the job into its partial folder, behind what is known, up to the manifest."""
    started = time.perf_counter()
    known = job.known
    writer = ShardWriter(
        job.partial,
        job.settings.shard_mb * 10**6,
        MEMBER_SUFFIX[job.settings.codec],
        known.manifest.shards if known else (),
        known.table if known else None,
    )
    outcome = _append_all(job, writer)
    if known:
        for shard in known.manifest.shards:
            for name in (shard.name, Path(shard.name).with_suffix(".idx").name):
                _link(job.out / name, job.partial / name)
    if job.settings.sector != "none":
        _report_sectors(job, outcome.packed)
    writer.videos = assign_splits(writer.videos, job.settings.split)
    rows = writer.finish()
    tars = [job.partial / shard.name for shard in writer.shards]
    duplicates = find_duplicates(tars, rows, writer.videos, job.workers)
    before = {name: list(getattr(known.manifest, name)) if known else [] for name in outcome.gone}
    tables = [job.partial / name for name in (FRAMES, VIDEOS, FRAME_LABELS)]
    manifest = Manifest(
        settings=job.settings,
        salt=job.pseudonyms.fingerprint if job.pseudonyms else known.manifest.salt if known else "",
        quarantined=(*before["quarantined"], *outcome.gone["quarantined"]),
        left_out=(*before["left_out"], *outcome.gone["left_out"]),
        totals={
            "videos": len(writer.videos),
            "frames": len(rows),
            "bytes": sum(shard.bytes for shard in writer.shards),
        },
        files={
            path.name: FileRecord.of(path) for path in (*tables, *sorted(job.partial.glob("sectors*"))) if path.exists()
        },
        shards=tuple(writer.shards),
    )
    summary = _summary(manifest, writer.videos, outcome, time.perf_counter() - started, job.orders)
    write_json(job.partial / SUMMARY, {**summary, "duplicates": duplicates, "notes": list(job.notes)})
    manifest.write(job.partial, writer.videos)


def _append_all(job: _Job, writer: ShardWriter) -> _Outcome:
    """Packs all videos, and appends those that can be packed to the shards.

    Raises:
        UsageError: there is none, and none was there before.
    """
    outcome = _Outcome()
    fresh = [not order.path.with_suffix(".npz").exists() for order in job.orders]
    with Progress("videos", len(job.orders), megabytes=_megabytes(job.orders)) as progress:
        packed = zip(job.orders, spool_all(job.orders, job.workers, job.memory_limit), fresh, strict=True)
        for order, video, is_fresh in packed:
            if isinstance(video, Spooled):
                writer.append(video, order.path)
                outcome.packed.append(order)
                outcome.frames += len(video.rows) * is_fresh
                for stage, seconds in video.stages.items():
                    outcome.stages[stage] += seconds
                if video.warning:
                    outcome.warnings.append({"source": order.name, "reason": video.warning})
                    progress.note(f"warning: {order.name} {video.warning}")
            else:
                entry = LeftOut(source=order.name, reason=video.reason, digest=order.digest)
                outcome.gone["quarantined" if video.fault else "left_out"].append(entry)
                if video.fault:
                    progress.note(f"quarantined {order.name}: {video.reason}")
            progress.advance(frames=outcome.frames, megabytes=order.source.bytes / 1e6)
    if not writer.videos:
        first = (outcome.gone["quarantined"] or outcome.gone["left_out"])[0]
        raise UsageError(
            f"none of the {len(job.orders)} videos can be packed; the first, {job.orders[0].name}, {first.reason}"
        )
    return outcome


def _megabytes(orders: list[Order]) -> float:
    return sum(order.source.bytes for order in orders) / 1e6


def _summary(
    manifest: Manifest, videos: list[VideoRecord], outcome: _Outcome, seconds: float, orders: list[Order]
) -> dict[str, Any]:
    return {
        "videos": len(videos),
        "frames": manifest.totals["frames"],
        "megabytes": round(manifest.totals["bytes"] / 1e6, 3),
        "groups": len({video.group or video.id for video in videos}),
        "splits": dict(Counter(video.split for video in videos if video.split)),
        "quarantined": [{"source": entry.source, "reason": entry.reason} for entry in manifest.quarantined],
        "left_out": [{"source": entry.source, "reason": entry.reason} for entry in manifest.left_out],
        "warnings": outcome.warnings,
        "torn_groups": torn_groups(videos),
        "packed_videos": len(outcome.packed),
        "packed_frames": outcome.frames,
        "seconds": round(seconds, 3),
        "frames_per_second": round(outcome.frames / seconds, 1),
        "source_megabytes_per_second": round(_megabytes(orders) / seconds, 3),
        "stages": {stage: round(value, 3) for stage, value in outcome.stages.items()},
    }


def _report_sectors(job: _Job, packed: list[Order]) -> None:
    """Writes what was kept of each picture, as JSON and for the eye, after what OUT says of its videos."""
    old = read_json(job.out / SECTORS) if job.known and (job.out / SECTORS).exists() else {}
    if not isinstance(old, dict):
        raise DataError(f"{job.out / SECTORS} is damaged; restore it, or pack the videos again")
    pages = sorted(job.out.glob(SHEETS)) if job.known else []
    for page in pages:
        _link(page, job.partial / page.name)
    new = {}

    def pairs() -> Iterator[tuple[str, bool, NDArray[np.uint8]]]:
        for order in packed:
            video = Spooled.load(order.path.with_suffix(".npz"))
            new[order.name] = video.sector
            yield f"{order.name}: {video.sector['how']}", video.sector["how"] == NOTHING, video.pair

    write_sheets(job.partial, pairs(), first=len(pages))
    write_json(job.partial / SECTORS, old | new)


def _link(source: Path, target: Path) -> None:
    """A second name for a finished file, or a copy where the file system has none."""
    target.unlink(missing_ok=True)
    try:
        target.hardlink_to(source)
    except OSError:
        with source.open("rb") as old, write_whole(target) as new:
            shutil.copyfileobj(old, new)
