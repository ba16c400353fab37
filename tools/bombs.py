"""Hands files that are small and ask for much memory to who reads them, and tells how much was taken.

    python -m tools.bombs

Each is read in a process of its own. It must be refused, or left out by name, and the process, or the one that it
decodes in, may take no more than its limit; the exit status is 1 where one does not hold to that.
"""

import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import click
import numpy as np
from pydicom.uid import DeflatedExplicitVRLittleEndian

from tests.helpers.dicoms import write_dicom
from tests.helpers.servers import FaultyServer
from tools import make_phantoms
from tools.campaign import Outcome, measured
from tools.hostile_shards import huge_png
from usucl_fast.errors import UsuclError
from usucl_fast.pack import find_sources, pack
from usucl_fast.pack.identity import Pseudonyms
from usucl_fast.shards import MANIFEST, PackSettings, attempts, open_shards
from usucl_fast.shards.manifest import MANIFEST_BYTES

SAMPLE = Path(__file__).parent.parent / "shards" / "sample"
SECONDS = 120
MB = 10**6
WORKER = 1024 * MB
"""The limit that is given to a worker. It is looked at every so often, and may be passed by `PASSED`."""
PASSED = 300 * MB
READER = 1600 * MB
"""What a process that opens shards may take: 400 MB for torch and others, a manifest with four bytes a letter, once
more as what is read of it, and as what its checksum is of."""


class Bomb(NamedTuple):
    """What does harm: `make` puts it into a folder, `read` reads it there, in `limit` bytes of memory."""

    make: Callable[[Path], object]
    read: Callable[[Path], object]
    limit: int


def _packed(folder: Path) -> None:
    settings = PackSettings(size=32, sector="none", burned_in="allow", names="keep")
    make_phantoms.main([str(folder / "in"), "--videos", "1", "--frames", "6", "--width", "64"], standalone_mode=False)
    sources = find_sources([folder / "in"])[0]
    pseudonyms = Pseudonyms(b"0" * 32)
    summary = pack(sources, folder / "out", settings, workers=1, pseudonyms=pseudonyms, memory_limit=WORKER)
    (left_out,) = summary["quarantined"]
    raise UsuclError(left_out["reason"])


def _palette(bits: int) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        colors = ("Red", "Green", "Blue")
        facts: dict[str, Any] = {f"{c}PaletteColorLookupTableDescriptor": [256, 0, bits] for c in colors}
        facts |= {f"{c}PaletteColorLookupTableData": bytes(512) for c in colors}
        wide = np.zeros((2, 32, 32 * (1 if bits == 32 else 4)), np.uint8)
        further: dict[str, Any] = {} if bits == 32 else {"BitsAllocated": 32}
        write_dicom(folder / "in" / "a.dcm", wide, photometric="PALETTE COLOR", Columns=32, **facts, **further)

    return make


def _deflated(folder: Path) -> None:
    pictures = np.zeros((3000, 1000, 1000), np.uint8)
    write_dicom(folder / "in" / "a.dcm", pictures, syntax=DeflatedExplicitVRLittleEndian)


def _picture(folder: Path) -> None:
    """PNGs that say of themselves that they have 30,000 by 30,000 pixels, and more than Pillow opens."""
    (folder / "in" / "frames").mkdir(parents=True)
    for number in range(2):
        (folder / "in" / "frames" / f"{number}.png").write_bytes(huge_png(30_000))


def _sample(folder: Path) -> None:
    shutil.copytree(SAMPLE, folder / "shards")


def _manifest(start: bytes, text: bytes, end: bytes) -> Callable[[Path], None]:
    """A manifest that is as long as one may be, by a text again and again."""

    def make(folder: Path) -> None:
        _sample(folder)
        path = folder / "shards" / MANIFEST
        start_all = b'{"format": "usucl-shards", "version": 3, "x": ' + start
        count = (MANIFEST_BYTES - len(start_all) - len(end) - 1) // len(text)
        path.write_bytes(start_all + text * count + end + b"}")

    return make


def _served(fault: str) -> Callable[[Path], None]:
    def read(folder: Path) -> None:
        attempts.BACKOFF_SECONDS = 0.01
        name = "frames.npy" if "table" in fault else MANIFEST
        server = FaultyServer(folder / "shards")
        server.faults[name] = [fault.split()[0], "always"]
        with server.running():
            open_shards(server.url, folder / "cache")

    return read


def _open(folder: Path) -> None:
    open_shards(folder / "shards")


BOMBS = {
    "DICOM, a palette of 32 bits": Bomb(_palette(32), _packed, WORKER + PASSED),
    "DICOM, palette indices of 32 bits": Bomb(_palette(16), _packed, WORKER + PASSED),
    "DICOM, 3 GB of pictures deflated": Bomb(_deflated, _packed, WORKER + PASSED),
    "pictures of 0.9 gigapixels": Bomb(_picture, _packed, WORKER + PASSED),
    "manifest, gzip of zeros": Bomb(_sample, _served("bomb"), READER),
    "manifest, a page without end": Bomb(_sample, _served("endless"), READER),
    "frames.npy, gzip of zeros": Bomb(_sample, _served("bomb table"), READER),
    "frames.npy, a page without end": Bomb(_sample, _served("endless table"), READER),
    "manifest, 64 MiB of []": Bomb(_manifest(b"[", b"[],", b"[]]"), _open, READER),
    "manifest, 64 MiB of {}": Bomb(_manifest(b"[", b'{"a":0},', b"0]"), _open, READER),
    "manifest, 64 MiB of numbers": Bomb(_manifest(b"[", b"1.5,", b"0]"), _open, READER),
    "manifest, 64 MiB of letters": Bomb(_manifest(b'"', b"a", '\U0001f600"'.encode()), _open, READER),
    "manifest, 64 MiB of umlauts": Bomb(_manifest(b'"', "\u00e4".encode(), b'"'), _open, READER),
    "manifest, 64 MiB of [": Bomb(_manifest(b"", b"[", b""), _open, READER),
}


def attempt(bomb: Bomb, folder: Path) -> Outcome:
    """Reads what lies in the folder."""
    try:
        bomb.read(folder)
    except UsuclError as error:
        return "refused", str(error)
    return "right", "it was read"


def main() -> None:
    """Prints what each took."""
    held = True
    click.echo(f"{'MB':>6}  {'limit':>6}  what, and how it ended")
    for name, bomb in BOMBS.items():
        with tempfile.TemporaryDirectory(prefix="usucl-bomb-") as root:
            measured(lambda: (bomb.make(Path(root)), ("right", ""))[1], SECONDS)  # noqa: B023  not in this process
            (end, why), taken = measured(lambda: attempt(bomb, Path(root)), SECONDS)  # noqa: B023  at once
        held &= end == "refused" and taken <= bomb.limit
        click.echo(f"{taken / MB:6.0f}  {bomb.limit / MB:6.0f}  {name}: {end}: {why[:100]}")
    sys.exit(not held)


if __name__ == "__main__":
    main()
