"""What only Linux has, hidden: packing runs without it; and names of which Windows or macOS would make no file."""

import os
import re
import subprocess
import sys
import urllib.parse
from pathlib import Path

import pytest

from tests.helpers.videos import moving_texture, write_video
from tests.helpers.without import run_after
from usucl_fast.pack import Source, workers
from usucl_fast.pack.identity import escape
from usucl_fast.pack.limits import is_late
from usucl_fast.pack.task import make_task
from usucl_fast.shards import PackSettings

HIDDEN = """
import ctypes, mmap, os, signal, sys
import platformdirs  # these ask which system this is, and go another way on each
import psutil

for name in ("fcntl", "resource", "pwd", "grp", "termios"):
    sys.modules[name] = None
for module, names in (
    (os, "fork forkpty getuid geteuid posix_fadvise sched_getaffinity sched_setaffinity"),
    (signal, "SIGALRM SIGCHLD SIGHUP SIGKILL SIGUSR1 ITIMER_REAL alarm pause setitimer getitimer pthread_sigmask"),
    (mmap, "MADV_DONTNEED"),
):
    for name in names.split():
        delattr(module, name)


class CDLL(ctypes.CDLL):
    def __getattr__(self, name):
        if name in ("prctl", "madvise"):
            raise AttributeError(name)
        return super().__getattr__(name)


ctypes.CDLL = CDLL
"""
"""Comes before everything else in the command and in its workers, as Python's `sitecustomize`."""

PACK = """
import os, signal, sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from usucl_fast.bench.usage import Usage, drop_from_page_cache
from usucl_fast.cli.shard import main
from usucl_fast.errors import UsageError
from usucl_fast.pack import find_sources, pack
from usucl_fast.shards import PackSettings

assert not hasattr(signal, "SIGKILL") and sys.modules["fcntl"] is None
root = Path(sys.argv[1])
sources = find_sources([root / "in"])[0]
(root / "in" / "hangs.mp4").unlink()
os.mkfifo(root / "in" / "hangs.mp4")
writer = os.open(root / "in" / "hangs.mp4", os.O_RDWR)  # opening it succeeds, reading waits for ever
summary = pack(sources, root / "out", PackSettings(size=32, sector="none"), workers=1, time_limit=2.0)
assert summary["videos"] == 4
reason = "gives no picture for 2 s (--time-limit)"
assert summary["quarantined"] == [{"source": "hangs.mp4", "reason": reason}], summary["quarantined"]
for command in ("list", "verify"):
    result = CliRunner().invoke(main, [command, str(root / "out")])
    assert result.exit_code == 0, result.output
with Usage() as usage:
    pass
with pytest.raises(UsageError, match="--page-cache cold"):
    drop_from_page_cache([root / "out" / "manifest.json"])
print("done")
"""

NAMES = ("A.mp4", "a.mp4", "aux.mp4", 'b: "c" <d>|e?*.mp4')
"""Of videos; Windows would not take some of them, and macOS not two of them in one folder."""


@pytest.mark.skipif(os.name != "posix", reason="hides what other systems do not have in the first place")
def test_packing_needs_nothing_that_only_linux_has(tmp_path: Path) -> None:
    for seed, name in enumerate((*NAMES, "hangs.mp4")):
        write_video(tmp_path / "in" / name, moving_texture(9, 32, 32, seed), "mpeg4")
    done = run_after(HIDDEN, PACK, tmp_path)
    assert done.stdout == "done\n", done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["hide", "in", "out"]


@pytest.mark.skipif(os.name != "posix", reason="sleeps by a function of POSIX")
def test_a_decoder_that_keeps_the_interpreter_s_lock_is_ended(tmp_path: Path) -> None:
    """No handler of a signal, and no other thread of Python's, would get its turn."""
    hangs = (
        "import ctypes, pathlib, sys\n"
        "from usucl_fast.pack.limits import TimeLimit\n"
        "with TimeLimit(pathlib.Path(sys.argv[1]), 0.2):\n"
        "    ctypes.PyDLL(None).sleep(60)\n"
    )
    done = subprocess.run([sys.executable, "-c", hangs, str(tmp_path / "a")], timeout=30, check=False)
    assert done.returncode == 1
    assert is_late(tmp_path / "a")


def test_how_a_process_ended_is_said_on_every_system() -> None:
    assert workers._how(-11) == "by SIGSEGV"
    assert workers._how(3) == "with status 3"
    assert workers._how(0xC0000005) == workers._how(0xC0000005 - (1 << 32)) == "with status 0xc0000005"


@pytest.mark.parametrize(
    ("name", "id"),
    [
        ("monday/scan 1.mp4", "monday%2Fscan%201%2Emp4"),
        ("herz-ü.gif", "herz-%C3%BC%2Egif"),
        ("A_b~c", "A_b~c"),
        ("auxiliary", "auxiliary"),
        ("com10", "com10"),
        ("aux.mp4", "aux%2Emp4"),
    ],
)
def test_ids_of_safe_names_stay_what_they_were(name: str, id: str) -> None:
    assert escape(name) == id


BAD = ("aux", "CON", "Nul", "prn", "COM1", "com0", "lpt9", "com¹", "CONIN$", "a.", "a ", " ", ".", "..", "a\x07b")
DEVICE = re.compile(r"(con|prn|aux|nul|com[0-9¹²³]|lpt[0-9¹²³]|conin\$|conout\$)(\..*)?", re.IGNORECASE)
"""What Microsoft's "Naming Files, Paths, and Namespaces" calls reserved."""


def test_ids_are_file_names_everywhere() -> None:
    names = [*BAD, *(f"a{character}b" for character in '<>:"/\\|?*'), *NAMES, "x" * 300]
    ids = [escape(name) for name in names]
    for id in ids:
        assert re.fullmatch(r"[A-Za-z0-9_~%-]{1,85}", id)
        assert not DEVICE.fullmatch(id)
    assert [urllib.parse.unquote(id) for id in ids[:-1]] == names[:-1]  # so no two names have one


def test_ids_that_differ_in_case_alone_share_no_spool_file(tmp_path: Path) -> None:
    sources = [Source(name, (), 0, "container") for name in ("scan.mp4", "Scan.mp4", "SCAN.MP4")]
    tasks = [make_task(source, PackSettings(), None, (), 60.0, tmp_path) for source in sources]
    assert len({task.path.name.lower() for task in tasks}) == 3
