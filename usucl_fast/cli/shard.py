"""`usucl-shard`: packs videos into shards, lists, verifies and exports them."""

import functools
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from usucl_fast import __version__, feed, pack
from usucl_fast.cli.command import Command, DefaultGroup, gather, say
from usucl_fast.cli.shards import open_given, shards_argument
from usucl_fast.cli.sources import find_given, follow_links_option, names, salt_option, source_argument
from usucl_fast.errors import UsageError, printable
from usucl_fast.files import is_url, shown_place
from usucl_fast.machine import cores
from usucl_fast.shards import CHOICES, SIDECARS, PackSettings

option = functools.partial(click.option, show_default=True)
positive, count = click.FloatRange(0, min_open=True), click.IntRange(1)


@click.group(cls=DefaultGroup, default="pack")
@click.version_option(__version__, package_name="usucl-fast")
def main() -> None:
    """Packs ultrasound videos into shards, and inspects shards.

    \b
      usucl-shard SOURCE... OUT     packs; `usucl-shard pack --help` shows the options
      usucl-shard verify SHARDS     checks that every byte is as it was written
      usucl-shard list SHARDS       shows the videos as a table
      usucl-shard names SOURCE...   shows which hash stands for which video
      usucl-shard export-webdataset SHARDS OUT     writes tars with the labels beside the frames
      usucl-shard export-ffcv SHARDS OUT.beton     writes the frames as a dataset of FFCV
    """


main.add_command(names)


@main.command("pack", cls=Command)
@source_argument
@click.argument("out")
@click.option(
    "--labels",
    multiple=True,
    metavar="FILE|FOLDER|folder",
    help="Table (CSV, TSV, JSONL, Excel) with video (path relative to SOURCE) and any of label, value, group, split; of"
    " single frames with first and last, frame, or start and end in seconds; or JSON of Label Studio, XML of CVAT; or"
    " the word folder: a video's folder in SOURCE is its label. May be given several times.",
)
@click.option("--label-fps", metavar="F", type=positive, help="Frame rate that was set in Label Studio.")
@click.option(
    "--label-regex", metavar="REGEX", help="Takes a video's label from its name: the first parentheses' match."
)
@click.option(
    "--group-regex", metavar="REGEX", help="Takes a video's group from its name: the first parentheses' match."
)
@click.option(
    "--split",
    metavar="SHARES",
    callback=lambda ctx, param, value: pack.parse_split(value) if value else {},
    help="Assigns the groups to splits, as train=.8,val=.1,test=.1; a group stays in its split when videos are added.",
)
@option(
    "--sector",
    "sector_from",
    default="auto",
    metavar="auto|none|FILE",
    help="Crop to the ultrasound sector and black out the rest: found in each video, not at all, or as FILE says"
    " (in the format of sectors.json, which every packing writes).",
)
@option(
    "--damaged",
    default=PackSettings.damaged,
    type=click.Choice(CHOICES["damaged"]),
    help="What to do with a video that has damaged frames, which FFmpeg fills with made-up pixels, or whose end is"
    " missing: leave it out and name it; pack it without these frames; or as it decodes, with a warning.",
)
@option(
    "--burned-in",
    default="refuse",
    type=click.Choice(CHOICES["burned_in"]),
    help="What to do with a DICOM file that declares text burned into its picture, or in which no sector is found;"
    " other videos without a sector are packed with a warning, or, with allow, without.",
)
@click.option(
    "--names",
    type=click.Choice(["keep", "hash"]),
    callback=lambda ctx, param, value: value or "auto",
    show_default="hash for DICOM, keep for others",
    help="Names of videos in the shards. hash replaces the groups that you give, too.",
)
@salt_option
@option(
    "--size",
    default=PackSettings.size,
    type=click.IntRange(16, 4096),
    help="Short side of the stored frames in pixels; smaller videos are not enlarged.",
)
@click.option("--enlarge", is_flag=True, help="Enlarge smaller videos to --size.")
@option("--codec", default=PackSettings.codec, type=click.Choice(CHOICES["codec"]), help="png: lossless.")
@option("--quality", default=PackSettings.quality, type=click.IntRange(1, 100), help="JPEG quality.")
@option(
    "--color",
    default=PackSettings.color,
    type=click.Choice(CHOICES["color"]),
    help="auto: in colour where any frame of the video is.",
)
@option("--every", metavar="N", default=1, type=click.IntRange(1), help="Keep 1 of N frames.")
@click.option(
    "--fps",
    metavar="F",
    type=positive,
    callback=lambda ctx, param, value: value or 0.0,
    help="Keep at most F frames a second.",
)
@option("--min-frames", default=PackSettings.min_frames, type=count, help="Leave out videos that have fewer frames.")
@option("--shard-mb", default=PackSettings.shard_mb, type=count, help="Size at which a new shard begins, in MB.")
@follow_links_option
@option(
    "--time-limit",
    metavar="SECONDS",
    default=pack.TIME_LIMIT,
    type=positive,
    help="A video that gives no picture for this long is left out.",
)
@click.option(
    "--memory-limit",
    metavar="GB",
    type=positive,
    callback=lambda ctx, param, value: None if value is None else int(value * 1e9),
    show_default="the machine's less 2 GB, divided among the workers; 4 at most",
    help="A video whose worker takes more memory is left out.",
)
@click.option(
    "--workers",
    default=cores(),
    show_default="one a CPU core",
    type=count,
    help="Videos decoded at the same time; the shards do not depend on it.",
)
@click.option(
    "--on",
    metavar="ray[://HOST:PORT]",
    help="Pack on a Ray cluster whose machines share SOURCE and OUT, folders or URLs, a video a core: the one that this"
    " machine belongs to or RAY_ADDRESS names, else one of this machine alone; or that at HOST:PORT.",
)
@click.option(
    "--work",
    metavar="FOLDER",
    type=click.Path(path_type=Path),
    show_default="in your cache folder",
    help="Where OUT is a URL: folder for what is packed and not uploaded yet.",
)
@click.option("--overwrite", is_flag=True, help="Replace finished shards in OUT, or an unfinished packing into it.")
@gather(PackSettings)
def pack_command(
    source: tuple[str, ...],
    out: str,
    config: PackSettings,
    labels: tuple[str, ...],
    label_fps: float | None,
    label_regex: str | None,
    group_regex: str | None,
    sector_from: str,
    salt: Path,
    follow_links: bool,
    **how: Any,
) -> None:
    """Packs the ultrasound videos in SOURCE... into shards in the folder OUT.

    SOURCE is a video file (mp4, avi, mov, mpeg, gif and whatever else FFmpeg opens, or DICOM), a folder that is
    searched for these and for folders of numbered images (video/00000.jpg), or a list: a .csv, .tsv, .xlsx or .jsonl
    with path and any of id, label, group, split. SOURCE and OUT may be URLs, as s3://bucket/videos.

    After an interruption the same command continues. It also adds videos that are new in SOURCE to finished shards.

    A video that does not decode is left out and named, and the exit status is 1.

    \b
    Examples:
      usucl-shard my-videos my-shards --labels labels.csv --size 224
      usucl-shard my-dicoms my-shards --split train=.8,val=.1,test=.1
    """
    if config.fps and config.every > 1:
        raise UsageError("--every and --fps: give one of them")
    if how["work"] and not is_url(out):
        raise UsageError(f"--work {how['work']} has an effect only where OUT is a URL; remove it")
    if how["on"] is not None:
        _check_cluster(how["on"])
    sources, others, notes = find_given(source, follow_links)
    sources, more = pack.read_labels(map(Path, labels), sources, label_fps)
    notes += more
    for fact, regex in (("group", group_regex), ("label", label_regex)):
        sources = pack.by_name(sources, fact, regex) if regex else sources
    pack.check_splits(sources)
    for note in notes:
        say(note, err=True)
    from_file = sector_from not in ("auto", "none")
    config = replace(config, sector="file" if from_file else sector_from)
    hashed = any(pack.is_hashed(one, config) for one in sources)
    secret = hashed or any(one.kind == "dicom" for one in sources)  # for PatientIDs
    how["pseudonyms"] = pack.read_pseudonyms(salt) if secret else None
    how["outlines"] = pack.read_outlines(Path(sector_from), sources, how["pseudonyms"]) if from_file else {}
    try:
        summary = pack.pack(sources, out, config, notes=notes, **how)
    except KeyboardInterrupt:
        context = click.get_current_context()
        say(f"{context.command_path}: interrupted; run the same command again to continue", err=True)
        context.exit(130)
    _tell(out, summary, config.sector != "none")
    if hashed and (summary["quarantined"] or summary["warnings"]):
        say("usucl-shard names SOURCE... tells which hash stands for which video", err=True)
    if others:
        kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(others.items()))
        say(f"skipped files that are not videos: {kinds}", err=True)
    if summary["quarantined"] or summary["torn_groups"]:
        click.get_current_context().exit(1)


def _check_cluster(on: str) -> None:
    if on != "ray" and not on.startswith("ray://"):
        raise UsageError(f"--on {on}: write ray, or ray://HOST:PORT")
    if click.get_current_context().get_parameter_source("workers") is ParameterSource.COMMANDLINE:
        raise UsageError("--workers has no effect with --on: each core of the cluster packs a video; remove it")


def _tell(out: str, summary: "pack.PackSummary", has_page: bool) -> None:
    place = shown_place(out)
    say(
        f"{place}: {summary['videos']} videos, {summary['frames']} frames, {summary['megabytes']} MB,"
        f" {len(summary['quarantined'])} quarantined; packed in {summary['seconds']:.1f} s,"
        f" {summary['frames_per_second']:,.0f} frames/s"
    )
    if summary["left_out"]:
        say(f"left out {len(summary['left_out'])} videos that are too short")
    if summary["splits"]:
        say("splits: " + ", ".join(f"{name} {count} videos" for name, count in sorted(summary["splits"].items())))
    if has_page:
        of_earlier_version = not is_url(out) and not (Path(out) / pack.SECTORS_PAGE).exists()
        page = pack.SHEETS if of_earlier_version else pack.SECTORS_PAGE
        say(f"look at what was kept of each picture: {place.rstrip('/')}/{page}")
    for pair in summary["duplicates"][:5]:
        say(f"{pair['kind']} duplicates in different groups: {' and '.join(pair['videos'])}", err=True)
    if len(summary["duplicates"]) > 5:
        say(f"{len(summary['duplicates']) - 5} more duplicates are in {place.rstrip('/')}/{pack.SUMMARY}", err=True)
    for group in summary["torn_groups"]:
        say(f"group {group} has videos in more than one split: its patient is on both sides", err=True)


@main.command("verify", cls=Command)
@click.argument("shards")
@click.pass_context
def verify_command(ctx: click.Context, shards: str) -> None:
    """Reads SHARDS again in full; prints a line for each fault, with shard, video and frame, and exits with 1."""
    from usucl_fast.shards import verify

    if is_url(shards):
        raise UsageError("SHARDS is at a URL, and verify reads a folder; downloads are always verified")
    faults = verify(Path(shards))
    for fault in faults:
        say(fault)
    if faults:
        ctx.exit(1)
    say(f"{shards}: every byte is as it was written")


@main.command("list", cls=Command)
@shards_argument
def list_videos(shards: str, cache: Path | None, cache_gb: float) -> None:
    """Shows the videos in SHARDS as a table, with their first frame ids."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = open_given(shards, cache, cache_gb).table
    head = ["first frame id", "frames", "size", "colour", "frames/s", "label", "group", "split", "video"]
    shown = Table(*head, *(["labels of frames"] if table.labels else []))
    for video, first in zip(table.videos, table.first_row[:-1].tolist(), strict=True):
        size, rate = f"{video.width}x{video.height}", f"{video.frame_rate:.4g}"
        texts = [video.label, video.group, video.split, video.name]
        if table.labels:
            texts.append(table.labels.counts(slice(first, first + video.frames)))
        shown.add_row(
            str(first), str(video.frames), size, video.color, rate, *(escape(printable(text)) for text in texts)
        )
    Console(width=None if sys.stdout.isatty() else 200).print(shown)


@main.command("export-webdataset", cls=Command)
@shards_argument
@click.argument("out", type=click.Path(path_type=Path))
@option(
    "--sidecar",
    default=SIDECARS[0],
    type=click.Choice(SIDECARS),
    help="json: what is known of each frame and its video; cls: the number of the video's label.",
)
@click.option("--overwrite", is_flag=True, help="Replace OUT.")
def export_webdataset(
    shards: str, cache: Path | None, cache_gb: float, out: Path, sidecar: str, overwrite: bool
) -> None:
    """Writes SHARDS to the folder OUT as tars in which labels lie beside the frames.

    For readers that know no manifest: WebDataset, DALI and Hugging Face's load_dataset(OUT). SHARDS themselves are such
    tars without labels. Where videos have splits, each split has a folder.

    \b
    Example:
      usucl-shard export-webdataset my-shards my-tars --sidecar json
    """
    from usucl_fast.shards import export_webdataset

    started = time.monotonic()
    frames = export_webdataset(open_given(shards, cache, cache_gb), out, sidecar, overwrite)
    seconds = time.monotonic() - started
    of_splits = ", ".join(f"{name} {count:,}" for name, count in sorted(frames.items()) if name)
    total = sum(frames.values())
    say(
        f"{out}: {total:,} frames{f' ({of_splits})' if of_splits else ''}; exported in {seconds:.1f} s,"
        f" {total / seconds:,.0f} frames/s"
    )


@main.command("export-ffcv", cls=Command)
@click.argument("shards", type=click.Path(path_type=Path))
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--overwrite", is_flag=True, help="Replace OUT.")
def export_ffcv(shards: Path, out: Path, overwrite: bool) -> None:
    """Writes the frames in SHARDS to one dataset file of FFCV, OUT, usually named .beton.

    Its fields are image, frame_id and video. JPEG frames are not compressed again; lossless ones are stored as pixels.

    \b
    Example:
      usucl-shard export-ffcv my-shards my-shards.beton
    """
    from usucl_fast.shards import open_shards

    store = open_shards(shards)
    started = time.monotonic()
    feed.export_beton(store, out, overwrite)
    seconds = time.monotonic() - started
    say(
        f"{out}: {len(store.table)} frames, {out.stat().st_size / 1e6:.1f} MB; exported in {seconds:.1f} s,"
        f" {len(store.table) / seconds:,.0f} frames/s"
    )
