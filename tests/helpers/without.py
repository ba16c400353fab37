"""Packages hidden, or broken, for the tests of what happens without them."""

import os
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tests.helpers import REPOSITORY

OPTIONAL = (
    *("nvidia.dali", "ffcv", "lightly", "timm", "onnx", "onnxscript", "pyarrow", "tensorboard", "faiss", "spdl"),
    *("torchcodec", "webdataset"),
)


class Without:
    """A finder of modules that does not find some packages, or finds that they do not load."""

    def __init__(self, finder: Any, packages: tuple[str, ...], error: Exception | None) -> None:
        self._finder, self._packages, self._error = finder, packages, error

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        if not is_of(name, self._packages):
            return self._finder.find_spec(name, path, target)
        if self._error:
            raise self._error
        return None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._finder, name)


def is_of(module: str, packages: Iterable[str]) -> bool:
    return any(module == package or module.startswith(f"{package}.") for package in packages)


def finders_without(packages: tuple[str, ...], error: Exception | None = None) -> list[Any]:
    """What `sys.meta_path` is to be, so that the packages are not installed, or raise `error` when imported."""
    return [Without(finder, packages, error) for finder in sys.meta_path]


def run_after(hide: str, program: str, folder: Path) -> "subprocess.CompletedProcess[str]":
    """Runs `program`, whose argument is `folder`, in a process that runs `hide` first, as do those that it starts."""
    (folder / "hide").mkdir()
    (folder / "hide" / "sitecustomize.py").write_text(hide)
    return subprocess.run(
        [sys.executable, "-c", program, str(folder)],
        env=os.environ | {"PYTHONPATH": os.pathsep.join((str(folder / "hide"), str(REPOSITORY)))},
        capture_output=True,
        text=True,
        check=False,
    )
