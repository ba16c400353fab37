"""Packages hidden, or broken, for the tests of what happens without them."""

import sys
from collections.abc import Iterable
from typing import Any

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
