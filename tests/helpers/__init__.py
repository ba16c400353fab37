"""What several test modules need: made-up data, tiny settings, the commands in this process, independent oracles."""

from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
SAMPLE = REPOSITORY / "shards" / "sample"
"""The shards in the repository: four videos of four patients."""
