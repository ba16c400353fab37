"""`usucl-shard`: videos -> shards."""

from pathlib import Path

import click

from usucl_fast.cli.command import Command
from usucl_fast.machine import cores
from usucl_fast.pack import PackSettings, find_sources, pack, read_labels


@click.command(cls=Command)
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
def main(
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
    if others:
        kinds = ", ".join(f"{count} {suffix or 'without extension'}" for suffix, count in sorted(others.items()))
        click.echo(f"passed over files that are not videos: {kinds}", err=True)
    summary = pack(sources, out, PackSettings(size, quality, shard_mb), workers=workers, overwrite=overwrite)
    click.echo(
        f"{out}: {summary['videos']} videos, {summary['frames']} frames, {summary['megabytes']} MB,"
        f" {len(summary['quarantined'])} quarantined; packed in {summary['seconds']:.1f} s,"
        f" {summary['frames_per_second']:,.0f} frames/s"
    )
    if summary["quarantined"]:
        ctx.exit(1)
