import gc
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from tests.videos import write_all
from tools import make_phantoms
from usucl_fast.feed import ShardStore, open_shards
from usucl_fast.pack import PackSettings, find_sources, pack, read_labels

REPOSITORY = Path(__file__).parent.parent
SAMPLE = REPOSITORY / "shards" / "sample"


def pytest_collection_finish() -> None:
    """What is imported by now stays, and need not be looked at again for garbage."""
    gc.freeze()


@pytest.fixture(autouse=True)
def collected() -> Iterator[None]:
    """A network refers to itself: hundreds of tests leave gigabytes behind otherwise."""
    yield
    gc.collect()


@pytest.fixture(autouse=True)
def one_thread() -> None:
    """Sums in one order, so that equal inputs give equal bits."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one video of every kind and `labels.csv`."""
    root = tmp_path_factory.mktemp("videos")
    write_all(root)
    return root


@pytest.fixture(scope="session")
def shards(videos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Those videos, packed at 64 pixels into several shards."""
    out = tmp_path_factory.mktemp("packed") / "shards"
    sources = read_labels(videos / "labels.csv", find_sources([videos])[0])
    pack(sources, out, PackSettings(size=64, shard_mb=1), workers=2)
    return out


@pytest.fixture(scope="session")
def phantoms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards of 12 phantoms of 6 patients and 3 classes, with 4 frames each."""
    root = tmp_path_factory.mktemp("phantoms")
    arguments = [str(root / "v"), "--videos", "12", "--frames", "4", "--width", "96", "--height", "72"]
    assert CliRunner().invoke(make_phantoms.main, arguments).exit_code == 0
    sources = read_labels(root / "v" / "labels.csv", find_sources([root / "v"])[0])
    pack(sources, root / "s", PackSettings(size=64), workers=1)
    return root / "s"


@pytest.fixture
def store(shards: Path) -> ShardStore:
    return open_shards(shards)


@pytest.fixture
def sample() -> ShardStore:
    """The sample of the repository."""
    return open_shards(SAMPLE)
