"""SOURCE, the videos to pack; --salt, the secret that names are hashed with; and `usucl-shard names`."""

from collections import Counter
from pathlib import Path

import click

from usucl_fast import pack
from usucl_fast.cli.command import Command, say
from usucl_fast.errors import UsageError

source_argument = click.argument("source", nargs=-1, required=True, type=click.Path(path_type=Path))
salt_option = click.option(
    "--salt",
    type=click.Path(path_type=Path),
    default=pack.default_secret,
    show_default="in your configuration folder",
    help="File with the secret that names and patients are hashed with; made if missing. Keep it to add videos later.",
)
follow_links_option = click.option("--follow-links", is_flag=True, help="Follow symbolic links out of SOURCE.")


def find_given(paths: tuple[Path, ...], follow_links: bool) -> tuple[list[pack.Source], Counter[str], list[str]]:
    """Finds the sources; also returns the number of other files by kind, and notes on how a list was read."""
    lists = [path for path in paths if path.suffix.lower() in pack.LISTS and path.is_file()]
    if not lists:
        return *pack.find_sources(paths, follow_links=follow_links), []
    if len(paths) > 1:
        raise UsageError(f"SOURCE {lists[0]} is a list; give it alone")
    sources, note = pack.read_list(lists[0])
    return sources, Counter(), [note]


@click.command("names", cls=Command)
@source_argument
@salt_option
@follow_links_option
def names(source: tuple[Path, ...], salt: Path, follow_links: bool) -> None:
    """Shows which hash stands for which video in SOURCE, in shards that were packed with hashed names.

    This list undoes the hashing: keep it where the videos are.
    """
    if not salt.exists():
        raise UsageError(f"--salt {salt}: there is no such file; give the one that the videos were packed with")
    pseudonyms = pack.read_pseudonyms(salt)
    for one in find_given(source, follow_links)[0]:
        say(f"{pseudonyms.of('video', one.name)}  {one.name}")
