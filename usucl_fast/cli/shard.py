"""`usucl-shard`: videos -> shards, and looking at them."""

import sys
from pathlib import Path

import click
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from usucl_fast import __version__
from usucl_fast.cli.command import Command
from usucl_fast.machine import cores
from usucl_fast.pack import PackSettings, find_sources, read_labels
from usucl_fast.pack import pack as pack_videos


class _PackUnlessNamed(click.Group):
    """`usucl-shard SOURCE... OUT` packs; the other commands go by their name."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if args and args[0] not in self.commands and args[0] not in ("--help", "--version"):
            args = ["pack", *args]
        return super().parse_args(ctx, args)


@click.group(cls=_PackUnlessNamed)
@click.version_option(__version__, package_name="usucl-fast")
def main() -> None:
    """Packs ultrasound videos into shards, and looks at them.

    \b
      usucl-shard SOURCE... OUT     packs; `usucl-shard pack --help` tells the options
      usucl-shard verify SHARDS     is every byte what was written?
      usucl-shard list SHARDS       the videos, as a table
    """


@main.command(cls=Command)
@click.argument("source", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.argument("out", type=click.Path(path_type=Path))
@click.option(
    "--labels",
    type=click.Path(path_type=Path),
    help="CSV with the columns video (path relative to SOURCE) and any of label, group, split.",
)
@click.option(
    "--size",
    default=PackSettings.size,
    show_default=True,
    type=click.IntRange(16, 4096),
    help="Short side of the stored frames in pixels; smaller videos are not enlarged.",
)
@click.option(
    "--quality",
    default=PackSettings.quality,
    show_default=True,
    type=click.IntRange(1, 100),
    help="JPEG quality.",
)
@click.option(
    "--shard-mb",
    default=PackSettings.shard_mb,
    show_default=True,
    type=click.IntRange(1),
    help="Size at which a new shard begins, in MB.",
)
@click.option(
    "--workers",
    default=cores(),
    show_default="one a CPU core",
    type=click.IntRange(1),
    help="Videos decoded side by side; the shards do not depend on it.",
)
@click.option("--overwrite", is_flag=True, help="Replace finished shards in OUT.")
@click.pass_context
def pack(
    ctx: click.Context,
    source: tuple[Path, ...],
    out: Path,
    labels: Path | None,
    size: int,
    quality: int,
    shard_mb: int,
    workers: int,
    overwrite: bool,
) -> None:
    """Packs the ultrasound videos in SOURCE... into shards in the folder OUT.

    SOURCE is a video file, or a folder that is searched for videos (mp4, avi, mov, mpeg, gif and whatever else
    FFmpeg opens) and for folders of numbered images (video/00000.jpg).

    A video that does not decode is left out and named, and the exit status is 1.

    \b
    Example:
      usucl-shard my-videos my-shards --labels labels.csv --size 224
    """
    sources, others = find_sources(source)
    if labels:
        sources = read_labels(labels, sources)
    summary = pack_videos(sources, out, PackSettings(size, quality, shard_mb), workers=workers, overwrite=overwrite)
    click.echo(
        f"{out}: {summary['videos']} videos, {summary['frames']} frames, {summary['megabytes']} MB,"
        f" {len(summary['quarantined'])} quarantined; packed in {summary['seconds']:.1f} s,"
        f" {summary['frames_per_second']:,.0f} frames/s"
    )
    if others:
        kinds = ", ".join(f"{count} {suffix or 'without extension'}" for suffix, count in sorted(others.items()))
        click.echo(f"passed over files that are not videos: {kinds}", err=True)
    if summary["quarantined"]:
        ctx.exit(1)


@main.command(cls=Command)
@click.argument("shards", type=click.Path(path_type=Path))
@click.pass_context
def verify(ctx: click.Context, shards: Path) -> None:
    """Reads SHARDS again in full: a line for each fault, with shard, video and frame, and exit status 1."""
    from usucl_fast.pack.verify import verify as find_faults  # needs torch, which takes seconds to import

    faults = find_faults(shards)
    for fault in faults:
        click.echo(fault)
    if faults:
        ctx.exit(1)
    click.echo(f"{shards}: every byte is what was written")


@main.command("list", cls=Command)
@click.argument("shards", type=click.Path(path_type=Path))
def list_videos(shards: Path) -> None:
    """Shows the videos in SHARDS as a table, with their first frame ids."""
    from usucl_fast.feed import open_shards

    table = open_shards(shards).table
    shown = Table("first frame id", "frames", "size", "colour", "frames/s", "label", "group", "split", "video")
    for video, first in zip(table.videos, table.first_row[:-1].tolist(), strict=True):
        size, rate = f"{video.width}x{video.height}", f"{video.frame_rate:.4g}"
        shown.add_row(
            str(first),
            str(video.frames),
            size,
            video.color,
            rate,
            *map(escape, (video.label, video.group, video.split, video.name)),
        )
    Console(width=None if sys.stdout.isatty() else 200).print(shown)
