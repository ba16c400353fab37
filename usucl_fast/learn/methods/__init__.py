"""The methods, one file each: settings, recipes, and the loss of a batch.

usucl.py     the paper's: negatives within a video and across videos
simclr.py, moco.py, byol.py, simsiam.py   two views of a frame
dino.py      two large views and small crops of a frame
cycle.py     CycleContrast; uscl.py, USCL

`Method`, in the package above, says what a file holds. Methods beside USUCL take their heads and losses from lightly,
an optional extra.
"""

import importlib
import pkgutil
from types import ModuleType


def find_methods() -> list[ModuleType]:
    """The modules of all methods, that of USUCL first: it has the default recipe."""
    names = sorted((module.name for module in pkgutil.iter_modules(__path__)), key=lambda name: (name != "usucl", name))
    return [importlib.import_module(f"{__name__}.{name}") for name in names]
