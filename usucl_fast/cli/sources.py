"""SOURCE, the videos to pack; --salt, the secret that names are hashed with; and `usucl-shard names`."""

from collections import Counter
from pathlib import Path

import click

from usucl_fast import pack
from usucl_fast.cli.command import Command, say
from usucl_fast.errors import UsageError
from usucl_fast.files import is_url, shown_place

source_argument = click.argument("source", nargs=-1, required=True, type=click.Path())
salt_option = click.option(
    "--salt",
    type=click.Path(path_type=Path),
    default=pack.default_secret,
    show_default="in your configuration folder",
    help="File with the secret that names and patients are hashed with; made if missing. Keep it to add videos later.",
)
follow_links_option = click.option("--follow-links", is_flag=True, help="Follow symbolic links out of SOURCE.")


def find_given(given: tuple[str, ...], follow_links: bool) -> tuple[list[pack.Source], Counter[str], list[str]]:
    """Finds the sources; also returns the number of other files by kind, and notes on how a list was read."""
    files = [one.partition("?")[0] if is_url(one) else one for one in given]
    lists = [one for one in files if Path(one).suffix.lower() in pack.LISTS and (is_url(one) or Path(one).is_file())]
    if not lists:
        return *pack.find_sources(given, follow_links=follow_links), []
    if len(given) > 1:
        raise UsageError(f"SOURCE {shown_place(lists[0])} is a list; give it alone")
    if is_url(lists[0]):
        raise UsageError(
            f"SOURCE {shown_place(lists[0])} is a list at a URL; copy it here, its column path may hold URLs"
        )
    sources, note = pack.read_list(Path(lists[0]))
    return sources, Counter(), [note]


@click.command("names", cls=Command)
@source_argument
@salt_option
@follow_links_option
def names(source: tuple[str, ...], salt: Path, follow_links: bool) -> None:
    """Shows which hash stands for which video in SOURCE, in shards that were packed with hashed names.

    This list undoes the hashing: keep it where the videos are.
    """
    if not salt.exists():
        raise UsageError(f"--salt {salt}: there is no such file; give the one that the videos were packed with")
    pseudonyms = pack.read_pseudonyms(salt)
    for one in find_given(source, follow_links)[0]:
        say(f"{pseudonyms.of('video', one.name)}  {one.name}")
