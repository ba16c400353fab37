"""One file a method; each is fed by the same loaders and trained by the same engine.

usucl.py     the paper's: negatives within a video and across videos
simclr.py, moco.py, byol.py, simsiam.py   two views of a frame
cycle.py     CycleContrast; uscl.py, USCL

Those beside USUCL take their heads and losses from lightly, an optional extra.
"""

import importlib
from typing import TYPE_CHECKING

from usucl_fast.learn.recipes import METHODS
from usucl_fast.optional import needed

if TYPE_CHECKING:
    from usucl_fast.learn.method import Method


def method_class(name: str) -> "type[Method]":
    """The class of the method of that name, in `METHODS`.

    Raises:
        UsageError: it needs lightly, which is not installed.
    """
    with needed("lightly", f"--method {name}", "baselines"):
        module = importlib.import_module(f"usucl_fast.learn.methods.{name}")
    made: type[Method] = getattr(module, METHODS[name])
    return made
