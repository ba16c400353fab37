"""SHARDS, the argument of most commands: a folder, or a URL with a cache for its files."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from usucl_fast.files import CACHE_BYTES

if TYPE_CHECKING:
    from usucl_fast.shards import ShardStore


def shards_argument(command: Callable[..., Any], required: bool = True) -> Callable[..., Any]:
    """Adds SHARDS, a folder or a URL, with `--cache` and `--cache-gb`, for `open_given`.

    The command gets `shards` as text (or None, where it is not required), `cache` as a path or None, and `cache_gb`.
    """
    for add in (
        click.option(
            "--cache-gb",
            default=CACHE_BYTES / 1e9,
            show_default=True,
            type=click.FloatRange(0),
            help="Disk space, in GB, for SHARDS from a URL; the least recently used files are removed first.",
        ),
        click.option(
            "--cache",
            type=click.Path(path_type=Path),
            help="Folder for SHARDS from a URL; any number of processes may share it."
            "  [default: usucl_fast in the user's cache folder]",
        ),
        click.argument("shards", required=required),
    ):
        command = add(command)
    return command


def open_given(shards: str | Path, cache: Path | None, cache_gb: float) -> "ShardStore":
    """Opens the shards that these arguments name, and raises what `open_shards` raises."""
    from usucl_fast.shards import open_shards  # and not before: NumPy is not needed for a message

    return open_shards(shards, cache, int(cache_gb * 1e9))
