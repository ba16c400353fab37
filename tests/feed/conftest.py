import pytest

from usucl_fast.feed import LOADERS


def needs(loader: str) -> object:
    """The name of a loader, marked with what a machine must have for it."""
    return pytest.param(loader, marks=pytest.mark.system) if loader == "ffcv" else loader


@pytest.fixture(params=[needs(loader) for loader in LOADERS])
def name(request: pytest.FixtureRequest) -> str:
    """Each loader."""
    if request.param in ("dali", "ffcv"):
        pytest.importorskip({"dali": "nvidia.dali", "ffcv": "ffcv"}[request.param])
    return str(request.param)


@pytest.fixture(params=[loader for loader in LOADERS if loader != "ffcv"])
def shard_reader(request: pytest.FixtureRequest) -> str:
    """Each loader that reads the shards themselves."""
    if request.param == "dali":
        pytest.importorskip("nvidia.dali")
    return str(request.param)
