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

import contextlib
import errno
import hashlib
import json
import shutil
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout
from numpy.typing import NDArray

from usucl_fast.errors import DataError, UsageError
from usucl_fast.files import holds_only, write_json, write_whole
from usucl_fast.frames import FORMAT, FORMAT_VERSION, FRAMES, MANIFEST, MEMBER_SUFFIX, ROW, VideoRecord
from usucl_fast.pack.contact_sheet import write_sheets
from usucl_fast.pack.duplicates import find_duplicates
from usucl_fast.pack.identity import Pseudonyms, escape
from usucl_fast.pack.sector import Polygon
from usucl_fast.pack.settings import TIME_LIMIT, PackSettings
from usucl_fast.pack.sources import Source
from usucl_fast.pack.splits import assign_splits, torn_groups
from usucl_fast.pack.spool import Order, Spooled
from usucl_fast.pack.workers import spool_all
from usucl_fast.pack.writer import ShardWriter
from usucl_fast.progress import Progress

SPOOL = "spool"
SECTORS, SHEETS, SUMMARY = "sectors.json", "sectors-*.png", "summary.json"
OUTPUT = ("usucl-*.tar", "usucl-*.idx", FRAMES, MANIFEST, SECTORS, SHEETS, SUMMARY)
SCAFFOLDING = (SPOOL, "job.json", "usucl-*.receipt")

Manifest = dict[str, Any]
NOTHING: Manifest = {"shards": [], "videos": [], "quarantined": [], "left_out": [], "sha256": "", "salt": ""}


def pack(
    sources: list[Source],
    out: Path,
    settings: PackSettings,
    *,
    workers: int,
    outlines: Mapping[str, tuple[Polygon, ...]] | None = None,
    pseudonyms: Pseudonyms | None = None,
    time_limit: float = TIME_LIMIT,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Packs `sources` into the shard folder `out` and returns its summary (also in `summary.json`).

    A video that does not decode, or whose decoder crashes or gives no picture for `time_limit` seconds, is left out and
    listed under `quarantined`. Interrupted at any moment, the same call goes on; the shards are the same as without
    the interruption, for any number of `workers`. Where `out` holds shards already, videos that are new to it are
    appended and the frame ids in it stay.

    outlines: by name of the source, polygons to keep of its picture, for the setting `sector="file"`.
    pseudonyms: hashes names and patients; needed where DICOM files are among the sources or names are hashed.

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
    known = _read_out(out, settings, pseudonyms, overwrite)
    orders = _unknown(
        [
            _order(source, settings, pseudonyms, (outlines or {}).get(source.name, ()), time_limit, partial / SPOOL)
            for source in sources
        ],
        known,
        out,
    )
    if known is not NOTHING and not orders:
        return _read_summary(out)
    partial.mkdir(parents=True, exist_ok=True)
    with _locked(partial):
        _claim(partial, orders, settings, pseudonyms, known, overwrite)
        if not (partial / MANIFEST).exists():
            try:
                _pack(orders, partial, out, settings, pseudonyms, known, workers)
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
    summary: dict[str, Any] = json.loads((out / SUMMARY).read_bytes())
    return summary


def _read_out(out: Path, settings: PackSettings, pseudonyms: Pseudonyms | None, overwrite: bool) -> Manifest:
    """The manifest of what `out` holds and is to be kept."""
    if not out.exists():
        return NOTHING
    if not out.is_dir():
        raise UsageError(f"OUT {out} is a file; name a folder")
    if not any(out.iterdir()):
        return NOTHING
    try:
        manifest: Manifest = json.loads((out / MANIFEST).read_bytes())
        is_ours = manifest["format"] == FORMAT
    except (OSError, ValueError, LookupError, TypeError):
        is_ours = False
    if not is_ours:
        raise UsageError(f"OUT {out} holds files that are not shards; name a new or empty folder")
    if not holds_only(out, OUTPUT):
        raise UsageError(f"OUT {out} holds other files beside the shards: move them away, or name another folder")
    if overwrite:
        return NOTHING
    if manifest["version"] != FORMAT_VERSION or manifest["settings"] != asdict(settings):
        raise UsageError(
            f"OUT {out} holds finished shards of other settings, {manifest['settings']};"
            " name another folder or add --overwrite"
        )
    if pseudonyms and manifest["salt"] not in ("", pseudonyms.fingerprint):
        raise UsageError(f"OUT {out} holds names hashed with another --salt; give that one, or name another folder")
    return manifest


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
    facts = [source.bytes, group, source.label, source.split, outline]
    digest = hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]
    # Not the id itself: two that differ in case alone would share a file on Windows and macOS.
    path = spools / hashlib.sha256(id.encode()).hexdigest()[:32]
    return Order(source, id, name, group, digest, outline, pseudonyms, settings, time_limit, path)


def is_hashed(source: Source, settings: PackSettings) -> bool:
    """Whether the source's name is replaced by a hash."""
    return settings.names == "hash" or (settings.names == "auto" and source.kind == "dicom")


def _unknown(orders: list[Order], known: Manifest, out: Path) -> list[Order]:
    """The orders for videos that `known` does not have, in the order of their names in the shards."""
    digests = {video["name"]: video["source"] for video in known["videos"]}
    digests |= {entry["source"]: entry["digest"] for entry in known["quarantined"] + known["left_out"]}
    for order in orders:
        if digests.get(order.name, order.digest) != order.digest:
            raise UsageError(
                f"OUT {out} holds {order.source.name} of another size, label, group, split or sector;"
                " name another folder, or add --overwrite to pack all again"
            )
    # By these names and not the sources', so that the order of hashed names tells nothing.
    return sorted((order for order in orders if order.name not in digests), key=lambda order: order.name)


@contextlib.contextmanager
def _locked(partial: Path) -> Iterator[None]:
    path = partial.with_name(f"{partial.name}.lock")  # not in it: Windows renames no folder with an open file
    lock = FileLock(path, timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise UsageError(f"another usucl-shard is at work on the same OUT, in {partial}; wait for it") from None
    try:
        yield
    finally:
        with contextlib.suppress(OSError):  # Windows lets nobody remove it while it is held: there filelock does
            path.unlink()
        lock.release()


def _claim(
    partial: Path,
    orders: list[Order],
    settings: PackSettings,
    pseudonyms: Pseudonyms | None,
    known: Manifest,
    overwrite: bool,
) -> None:
    """Makes `partial` this job's, or goes on with it.

    Raises:
        UsageError: another job is unfinished there, and is not to be overwritten.
    """
    facts = [
        asdict(settings),
        pseudonyms and pseudonyms.fingerprint,
        known["sha256"],
        [[order.name, order.digest, [file.stat().st_mtime_ns for file in order.source.files]] for order in orders],
    ]
    job = {"job": hashlib.sha256(json.dumps(facts).encode()).hexdigest()}
    path = partial / "job.json"
    if path.exists() and json.loads(path.read_bytes()) != job:
        if not overwrite:
            raise UsageError(
                f"a packing of other videos or settings into the same OUT was interrupted and waits in {partial};"
                " finish it with the same command as then, or add --overwrite to begin anew"
            )
        for entry in partial.iterdir():
            shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
    (partial / SPOOL).mkdir(exist_ok=True)
    write_json(path, job)


def _pack(
    orders: list[Order],
    partial: Path,
    out: Path,
    settings: PackSettings,
    pseudonyms: Pseudonyms | None,
    known: Manifest,
    workers: int,
) -> None:
    """Packs the orders into `partial`, behind what `known` of `out` has, up to the manifest."""
    started = time.perf_counter()
    writer = ShardWriter(
        partial,
        settings.shard_mb * 10**6,
        MEMBER_SUFFIX[settings.codec],
        known["shards"],
        [VideoRecord(**video) for video in known["videos"]],
        np.load(out / FRAMES) if known["videos"] else np.empty(0, ROW),
    )
    gone = {name: list(known[name]) for name in ("quarantined", "left_out")}
    warnings: list[dict[str, str]] = []
    packed: list[Order] = []
    stages: defaultdict[str, float] = defaultdict(float)
    frames = 0
    megabytes = [order.source.bytes / 1e6 for order in orders]
    fresh = [not order.path.with_suffix(".npz").exists() for order in orders]
    with Progress("videos", len(orders), megabytes=sum(megabytes)) as progress:
        for order, outcome, size, is_fresh in zip(orders, spool_all(orders, workers), megabytes, fresh, strict=True):
            if isinstance(outcome, Spooled):
                writer.append(outcome, order.path)
                packed.append(order)
                frames += len(outcome.rows) * is_fresh
                for stage, seconds in outcome.stages.items():
                    stages[stage] += seconds
                if outcome.warning:
                    warnings.append({"source": order.name, "reason": outcome.warning})
                    progress.note(f"warning: {order.source.name} {outcome.warning}")
            else:
                entry = {"source": order.name, "reason": outcome.reason, "digest": order.digest}
                gone["quarantined" if outcome.fault else "left_out"].append(entry)
                if outcome.fault:
                    progress.note(f"quarantined {order.source.name}: {outcome.reason}")
            progress.advance(frames=frames, megabytes=size)
    if not writer.videos:
        reason = (gone["quarantined"] or gone["left_out"])[0]["reason"]
        raise UsageError(
            f"none of the {len(orders)} videos can be packed; the first, {orders[0].source.name}, {reason}"
        )
    for shard in known["shards"]:
        for name in (shard["name"], Path(shard["name"]).with_suffix(".idx").name):
            _link(out / name, partial / name)
    if settings.sector != "none":
        _report_sectors(packed, partial, out)
    writer.videos = assign_splits(writer.videos, settings.split)
    rows = writer.finish()
    duplicates = find_duplicates([partial / shard["name"] for shard in writer.shards], rows, writer.videos, workers)
    seconds = time.perf_counter() - started
    write_json(
        partial / SUMMARY,
        {
            "videos": len(writer.videos),
            "frames": len(rows),
            "megabytes": round(sum(shard["bytes"] for shard in writer.shards) / 1e6, 3),
            "groups": len({video.group or video.id for video in writer.videos}),
            "splits": dict(Counter(video.split for video in writer.videos if video.split)),
            **{name: [{key: entry[key] for key in ("source", "reason")} for entry in gone[name]] for name in gone},
            "warnings": warnings,
            "duplicates": duplicates,
            "torn_groups": torn_groups(writer.videos),
            "packed_videos": len(packed),
            "packed_frames": frames,
            "seconds": round(seconds, 3),
            "frames_per_second": round(frames / seconds, 1),
            "source_megabytes_per_second": round(sum(megabytes) / seconds, 3),
            "stages": {stage: round(value, 3) for stage, value in stages.items()},
        },
    )
    writer.write_manifest(
        {
            "settings": asdict(settings),
            "salt": pseudonyms.fingerprint if pseudonyms else known["salt"],
            **gone,
        },
        [partial / FRAMES, *sorted(path for path in partial.glob("sectors*"))],
    )


def _report_sectors(packed: list[Order], partial: Path, out: Path) -> None:
    """Writes what was kept of each picture, as JSON and for the eye, after what `out` says of its videos."""
    old = json.loads((out / SECTORS).read_bytes()) if (out / SECTORS).exists() else {}
    pages = sorted(out.glob(SHEETS))
    for page in pages:
        _link(page, partial / page.name)
    new = {}

    def pairs() -> Iterator[tuple[str, NDArray[np.uint8]]]:
        for order in packed:
            video = Spooled.load(order.path.with_suffix(".npz"))
            new[order.name] = video.sector
            yield f"{order.name}: {video.sector['how']}", video.pair

    write_sheets(partial, pairs(), first=len(pages))
    write_json(partial / SECTORS, old | new)


def _link(source: Path, target: Path) -> None:
    """A second name for a finished file, or a copy where the file system has none."""
    target.unlink(missing_ok=True)
    try:
        target.hardlink_to(source)
    except OSError:
        with source.open("rb") as old, write_whole(target) as new:
            shutil.copyfileobj(old, new)
