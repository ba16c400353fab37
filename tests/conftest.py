"""Fixtures of all tests. What takes seconds to make is made once, and shared by the processes of pytest-xdist."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from filelock import FileLock

from tests.helpers import SAMPLE
from tests.helpers.videos import write_all
from tools import make_phantoms
from usucl_fast.pack import find_sources, pack, read_labels
from usucl_fast.shards import PackSettings, ShardStore, open_shards

if not torch.cuda.is_available():  # before anything imports Triton, which reads it then
    os.environ["TRITON_INTERPRET"] = "1"


@pytest.fixture(autouse=True)
def one_thread() -> None:
    """Sums in one order, so that equal inputs give equal bits."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def made_once(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, Callable[[Path], None]], Path]:
    """`made_once(name, make)`: the folder of that name, which the process that comes first makes. To be read only."""
    root = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        root = root.parent

    def once(name: str, make: Callable[[Path], None]) -> Path:
        folder = root / f"shared-{name}"
        with FileLock(f"{folder}.lock"):
            if not folder.exists():
                unfinished = Path(f"{folder}.unfinished")
                unfinished.mkdir()
                make(unfinished)
                unfinished.rename(folder)
        return folder

    return once


@pytest.fixture(scope="session")
def videos(made_once: Callable[..., Path]) -> Path:
    """A folder with one video of every kind and `labels.csv`."""
    return made_once("videos", write_all)


@pytest.fixture(scope="session")
def shards(videos: Path, made_once: Callable[..., Path]) -> Path:
    """Those videos, packed at 64 pixels into several shards."""

    def make(folder: Path) -> None:
        sources = read_labels([videos / "labels.csv"], find_sources([videos])[0])[0]
        pack(sources, folder / "shards", PackSettings(size=64, shard_mb=1), workers=2)

    return made_once("shards", make) / "shards"


@pytest.fixture(scope="session")
def phantoms(made_once: Callable[..., Path]) -> Path:
    """Shards of 12 phantoms of 6 patients and 3 classes, with 4 frames each."""

    def make(folder: Path) -> None:
        videos = folder / "videos"
        arguments = [str(videos), "--videos", "12", "--frames", "4", "--width", "96", "--height", "72"]
        assert CliRunner().invoke(make_phantoms.main, arguments).exit_code == 0
        sources = read_labels([videos / "labels.csv"], find_sources([videos])[0])[0]
        pack(sources, folder / "shards", PackSettings(size=64), workers=1)

    return made_once("phantoms", make) / "shards"


@pytest.fixture(scope="session")
def a_shard_each(phantoms: Path, made_once: Callable[..., Path]) -> Path:
    """Shards of the same 12 phantoms, each in a shard of its own; all of about the same size."""

    def make(folder: Path) -> None:
        pack(
            find_sources([phantoms.parent / "videos"])[0],
            folder / "shards",
            PackSettings(size=64, shard_mb=0),
            workers=1,
        )

    return made_once("a-shard-each", make) / "shards"


@pytest.fixture
def store(shards: Path) -> ShardStore:
    return open_shards(shards)


@pytest.fixture
def sample() -> ShardStore:
    """The sample of the repository."""
    return open_shards(SAMPLE)
