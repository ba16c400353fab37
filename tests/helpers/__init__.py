"""What several test modules need: made-up data, tiny settings, the commands in this process, independent oracles."""

import shutil
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
SAMPLE = REPOSITORY / "shards" / "sample"
"""The shards in the repository: four videos of four patients."""


def copy_shards(shards: Path, to: Path) -> Path:
    """Copies a shard folder, but not the decoded frames that runs have left there, which hide damage to the shards."""
    return Path(shutil.copytree(shards, to, ignore=shutil.ignore_patterns("decoded-*")))
