"""`usucl-train page`: writes the page of a run anew."""

import functools
from pathlib import Path

import click

from usucl_fast import learn
from usucl_fast.cli.command import Command, say
from usucl_fast.cli.shards import open_given, shards_argument


@click.command(cls=Command)
@click.argument("run", type=click.Path(path_type=Path))
@functools.partial(shards_argument, required=False)
def page(run: Path, shards: str | None, cache: Path | None, cache_gb: float) -> None:
    """Writes RUN/page.html anew: one file to look at, which fetches nothing.

    It shows curves, what was mined for some anchors through the run, and a map of the memory bank, with the pictures
    of these frames. SHARDS are those that the run was begun on; they need to be named only where they have moved.

    \b
    Example:
      usucl-train page my-run
    """
    store = open_given(shards or learn.RunFolder(run).read_shards(), cache, cache_gb)
    path = learn.page_of(run, store)
    say(f"{path}: {path.stat().st_size / 1e6:.1f} MB")
