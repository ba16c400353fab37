"""How a run was made: its command, versions and commit, so that somebody else can make it again."""

import contextlib
import json
import platform
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import usucl_fast
from usucl_fast.errors import shown
from usucl_fast.files import is_url

PACKAGES = ("torch", "torchvision", "numpy", "nvidia-dali-cuda130", "nvidia-dali-cuda120", "ffcv", "lightly", "timm")
"""Those besides ours that a result may depend on, where they are installed."""


@dataclass(frozen=True)
class Origin:
    """How a process of a run was started.

    command: without what a URL keeps secret.
    shards: where they were, a folder or a URL without what it keeps secret.
    versions: of Python and packages.
    commit: of the source; None where it is not known.
    """

    command: str
    shards: str
    versions: dict[str, str]
    commit: str | None

    @classmethod
    def of_process(cls, shards: str) -> "Origin":
        """That of this process; `shards` is their name, see `ShardStore`."""
        import importlib.metadata  # and not before: both bring much

        versions = {"usucl-fast": usucl_fast.__version__, "python": platform.python_version()}
        for package in PACKAGES:
            with contextlib.suppress(importlib.metadata.PackageNotFoundError):
                versions[package] = importlib.metadata.version(package)
        command = shlex.join([Path(sys.argv[0]).name, *map(shown, sys.argv[1:])])
        return cls(command, shards if is_url(shards) else str(Path(shards).absolute()), versions, _commit())

    @classmethod
    def read(cls, value: Any) -> "Origin | None":
        """Reads what `dataclasses.asdict` made of one; None where it is something else."""
        try:
            found = cls(**value)
            texts = [found.command, found.shards, found.commit or "", *found.versions, *found.versions.values()]
        except (TypeError, AttributeError):
            return None
        return found if all(isinstance(text, str) for text in texts) else None


def _commit() -> str | None:
    """The commit of the source: of the repository that the package lies in, or that pip took it from."""
    import importlib.metadata

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
