"""How a run was made: its command, versions and commit, so that somebody else can make it again."""

import contextlib
import importlib.metadata
import json
import platform
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import usucl_fast
from usucl_fast.shards import ShardStore, is_url
from usucl_fast.shards.remote import shown

PACKAGES = ("torch", "torchvision", "numpy", "nvidia-dali-cuda130", "nvidia-dali-cuda120", "ffcv", "lightly", "timm")
"""Those besides ours that a result may depend on, where they are installed."""


def origin(store: ShardStore) -> dict[str, Any]:
    """The command that this process was started with, without what a URL keeps secret, the shards, and versions."""
    versions = {"usucl-fast": usucl_fast.__version__, "python": platform.python_version()}
    for package in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[package] = importlib.metadata.version(package)
    command = shlex.join([Path(sys.argv[0]).name, *map(shown, sys.argv[1:])])
    shards = store.name if is_url(store.name) else str(Path(store.name).absolute())
    return {"command": command, "shards": shards, "versions": versions, "commit": _commit()}


def _commit() -> str | None:
    """The commit of the source: of the repository that the package lies in, or that pip took it from."""
    root = Path(usucl_fast.__file__).parent.parent
    if (root / ".git").exists():
        with contextlib.suppress(OSError, subprocess.SubprocessError):
            git = ["git", "-C", str(root)]
            found = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, timeout=10, check=True)
            changed = subprocess.run([*git, "diff", "--quiet", "HEAD"], capture_output=True, timeout=10).returncode
            return found.stdout.strip() + (" with changes" if changed else "")
    with contextlib.suppress(importlib.metadata.PackageNotFoundError, ValueError, LookupError, TypeError):
        text = importlib.metadata.distribution("usucl-fast").read_text("direct_url.json")
        return str(json.loads(text or "{}")["vcs_info"]["commit_id"])
    return None
