"""The shards that OUT already holds: whether videos can be added to them, and which videos are new."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from usucl_fast.errors import DataError, UsageError
from usucl_fast.files import holds_only, read_small
from usucl_fast.pack.contact_sheet import SECTORS, SHEETS
from usucl_fast.pack.identity import Pseudonyms
from usucl_fast.pack.sectors_page import NUMBERED_PAGES, SECTORS_PAGE
from usucl_fast.pack.summary import SUMMARY
from usucl_fast.pack.task import Task
from usucl_fast.shards import (
    DECODED,
    FRAME_LABELS,
    FRAMES,
    MANIFEST,
    MANIFEST_BYTES,
    VIDEOS,
    FrameTable,
    Manifest,
    PackSettings,
    is_manifest,
    open_shards,
    read_manifest,
)

OF_SECTORS = (SECTORS, SHEETS, SECTORS_PAGE, NUMBERED_PAGES)
TABLES = (FRAMES, VIDEOS, FRAME_LABELS, MANIFEST)
OUTPUT = ("usucl-*.tar", "usucl-*.idx", *TABLES, SUMMARY, *OF_SECTORS, DECODED.format("?"))


@dataclass(frozen=True)
class Existing:
    """The shards that OUT already holds and keeps.

    folder: where they are; None where they are at a URL.
    """

    manifest: Manifest
    table: FrameTable
    folder: Path | None


def open_existing(out: Path, settings: PackSettings, pseudonyms: Pseudonyms | None, overwrite: bool) -> Existing | None:
    """Opens the shards in `out`; None where there are none, or they are to be replaced.

    Raises:
        UsageError: `out` holds anything else, or shards that nothing can be added to.
        DataError: the shards are damaged.
    """
    if not out.exists():
        return None
    if not out.is_dir():
        raise UsageError(f"OUT {out} is a file; name a folder")
    if not any(out.iterdir()):
        return None
    try:
        is_ours = is_manifest(read_small(out / MANIFEST, MANIFEST_BYTES))
    except DataError:
        is_ours = False
    if not is_ours:
        raise UsageError(f"OUT {out} holds files that are not shards; name a new or empty folder")
    if not holds_only(out, OUTPUT):
        raise UsageError(f"OUT {out} holds other files beside the shards: move them away, or name another folder")
    if overwrite:
        return None
    manifest = read_manifest(out)
    check_addable(manifest, str(out), settings, pseudonyms)
    return Existing(manifest, open_shards(out).table, out)


def check_addable(manifest: Manifest, out: str, settings: PackSettings, pseudonyms: Pseudonyms | None) -> None:
    """Raises UsageError where videos packed in this way cannot be added to the shards that `out` holds."""
    if manifest.settings != settings:
        raise UsageError(
            f"OUT {out} holds finished shards of other settings, {asdict(manifest.settings)};"
            " name another folder or add --overwrite"
        )
    if pseudonyms and manifest.salt not in ("", pseudonyms.fingerprint):
        raise UsageError(f"OUT {out} holds names hashed with another --salt; give that one, or name another folder")


def new_tasks(tasks: Iterable[Task], existing: Existing | None, out: str) -> list[Task]:
    """The tasks whose videos are not in the existing shards, sorted by the names that videos have there.

    Raises:
        UsageError: a video has changed since it was packed, or `out` is at a URL, where none can be added.
    """
    digests: dict[str, str] = {}
    if existing:
        digests = dict(zip(existing.table.videos.name, existing.table.videos.source, strict=True))
        digests |= {entry.source: entry.digest for entry in existing.manifest.quarantined + existing.manifest.left_out}
    new = []
    for task in tasks:
        if task.name not in digests:
            new.append(task)
        elif digests[task.name] != task.digest:
            raise UsageError(
                f"OUT {out} holds {task.name} of another size, label, group, split or sector;"
                " name another folder, or add --overwrite to pack all again"
            )
    if new and existing and not existing.folder:
        raise UsageError(
            f"OUT {out} holds finished shards, and {new[0].name} is not among them; videos cannot be added at a URL:"
            " name another, or add --overwrite to pack all again"
        )
    # By these names and not the sources', so that the order of hashed names tells nothing.
    return sorted(new, key=lambda task: task.name)
