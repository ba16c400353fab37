"""An installation in which nothing can be written, and users whose home is so, or who have none: containers."""

import os
import shutil
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

import numba
import pytest
from click.testing import CliRunner

from tests.helpers import REPOSITORY, SAMPLE
from usucl_fast import compiled
from usucl_fast.cli import shard
from usucl_fast.errors import UsageError
from usucl_fast.pack.identity import default_secret, read_pseudonyms
from usucl_fast.shards.cache import default_folder

TWICE = """
from usucl_fast.compiled import njit


@njit("int64(int64)")
def twice(number):
    return 2 * number


assert twice(4) == 8
print(sum(twice.stats.cache_hits.values()))  # how often compiled code was found
"""


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder for temporary files."""
    folder = tmp_path / "temporary"
    folder.mkdir(mode=0o700)
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """A copy of the package in which even root can write no cache: files stand where its folders would be.

    Beside it lies the module `twice`.
    """
    copy = tmp_path / "installed" / "usucl_fast"
    shutil.copytree(REPOSITORY / "usucl_fast", copy, ignore=shutil.ignore_patterns("__pycache__"))
    for folder in (copy.parent, copy, *(path for path in copy.iterdir() if path.is_dir())):
        (folder / "__pycache__").touch()
    (copy.parent / "twice.py").write_text(TWICE)
    return copy.parent


def run_without_home(installed: Path, temporary: Path, code: str) -> str:
    environment = {name: os.environ[name] for name in os.environ if not name.startswith(("XDG_", "NUMBA_"))}
    environment |= {"HOME": os.devnull, "TMPDIR": str(temporary), "PYTHONPATH": str(installed)}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=installed, env=environment, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


@pytest.mark.skipif(os.name != "posix", reason="who may write in a folder is asked as POSIX does")
def test_compiled_code_goes_into_a_private_folder(installed: Path, temporary: Path) -> None:
    assert run_without_home(installed, temporary, "import twice") == "0\n"
    (folder,) = temporary.glob("usucl-fast-*")
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert any(folder.rglob("twice.twice-*.nbi"))
    assert run_without_home(installed, temporary, "import twice") == "1\n"

    folder.chmod(0o777)  # whose code is in it now?
    assert run_without_home(installed, temporary, "import twice") == "0\n"


def test_the_bank_needs_no_cache(installed: Path, temporary: Path) -> None:
    code = "import torch; from usucl_fast.mining import MemoryBank; MemoryBank(torch.tensor([0, 2]), 4)"
    assert run_without_home(installed, temporary, code) == ""


@pytest.mark.skipif(os.name != "posix", reason="who may write in a folder is asked as POSIX does")
def test_a_folder_that_others_can_write_to_is_not_taken(temporary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = compiled.private_folder()
    assert folder
    assert folder.parent == temporary
    assert compiled.private_folder() == folder

    for mode in (0o770, 0o707, 0o1777):
        folder.chmod(mode)
        assert compiled.private_folder() is None
    folder.chmod(0o700)
    elsewhere = folder.rename(temporary / "elsewhere")
    folder.symlink_to(elsewhere)
    assert compiled.private_folder() is None
    folder.unlink()
    folder.touch()
    assert compiled.private_folder() is None
    folder.unlink()

    temporary.chmod(0o777)  # others could rename what is in it
    assert compiled.private_folder() is None
    temporary.chmod(0o1777)
    assert compiled.private_folder() == folder

    mine = folder.stat().st_uid
    monkeypatch.setattr(os, "getuid", lambda: mine + 1)
    folder.rename(folder.with_name(f"usucl-fast-{mine + 1}"))  # somebody else was there first
    assert compiled.private_folder() is None


@pytest.mark.parametrize("private", [True, False])
def test_compiling_needs_no_cache(temporary: Path, monkeypatch: pytest.MonkeyPatch, private: bool) -> None:
    def nowhere(*_: object) -> None:
        return None

    if not private:
        monkeypatch.delattr(os, "getuid", raising=False)
    for locator in numba.core.caching.CacheImpl._locator_classes:
        monkeypatch.setattr(locator, "from_function", nowhere)
    before = numba.config.CACHE_DIR

    @compiled.njit("int64(int64)")
    def twice(number: int) -> int:
        return 2 * number

    assert twice(4) == 8
    assert before == numba.config.CACHE_DIR


def test_the_user_s_own_folder_comes_first(installed: Path, temporary: Path, tmp_path: Path) -> None:
    own = tmp_path / "own"
    code = f"import os; os.environ['NUMBA_CACHE_DIR'] = {str(own)!r}; import twice"
    assert run_without_home(installed, temporary, code) == "0\n"
    assert any(own.rglob("twice.twice-*.nbi"))
    assert not any(temporary.iterdir())


def test_no_home_at_all_is_said_where_one_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HOME", "USERPROFILE", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "LOCALAPPDATA", "APPDATA"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)  # as for a user whom the system does not know
    with pytest.raises(UsageError, match="--cache: this user has no home folder"):
        default_folder()
    with pytest.raises(UsageError, match=r"--salt .*: this user has no home folder"):
        read_pseudonyms(default_secret())
    assert CliRunner().invoke(shard.main, ["list", str(SAMPLE)]).exit_code == 0
