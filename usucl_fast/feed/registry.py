"""The loaders by name: choosing the fastest one, and making one."""

import importlib.util

from usucl_fast.errors import UsageError
from usucl_fast.feed.batch import Delivery, Loader, decoded_bytes
from usucl_fast.files import is_url
from usucl_fast.optional import needed
from usucl_fast.shards import DECODED, ShardStore

LOADERS = ("dali", "torch", "resident", "ffcv")


def choose_loader(store: ShardStore, channels: int, resident_bytes: int) -> tuple[str, str]:
    """Chooses the fastest loader for these shards on this machine, and says why."""
    needed = int(decoded_bytes(store.table, channels).sum())
    if needed <= resident_bytes:
        where = "in memory" if is_url(store.name) else f"in {DECODED.format(channels)} beside the shards, for all runs"
        return "resident", f"all frames decoded take {needed / 1e9:.1f} GB, {where}"
    why = f"all frames decoded would take {needed / 1e9:.1f} GB, more than --resident-gb {resident_bytes / 1e9:g}"
    if importlib.util.find_spec("nvidia") and importlib.util.find_spec("nvidia.dali"):
        return "dali", why
    return "torch", f"{why}, and NVIDIA DALI is not installed"


def make_loader(name: str, store: ShardStore, delivery: Delivery) -> Loader:
    """Makes the loader of that name, importing only what it needs.

    Raises:
        UsageError: there is no such loader, or what it needs is not installed.
    """
    if name == "dali":
        with needed("NVIDIA DALI", "--loader dali", "dali", ", or use --loader torch"):
            from usucl_fast.feed.loaders.dali import DaliLoader
        return DaliLoader(store, delivery)
    if name == "torch":
        from usucl_fast.feed.loaders.torch import TorchLoader

        return TorchLoader(store, delivery)
    if name == "resident":
        from usucl_fast.feed.loaders.resident import make_resident

        return make_resident(store, delivery)
    if name == "ffcv":
        from usucl_fast.feed.loaders.ffcv import FfcvLoader

        if delivery.beton is None:
            raise UsageError(f"--loader ffcv needs --beton, made by: usucl-shard export-ffcv {store.name} FILE.beton")
        return FfcvLoader(store, delivery, delivery.beton)
    raise UsageError(f"there is no loader {name!r}; choose from {', '.join(LOADERS)}")
