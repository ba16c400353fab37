"""How many of the bank's most similar rows of other patients show the same finding, and so are no negatives by rights?

python bench/false_negatives.py RUN SHARDS
"""

from pathlib import Path

import click
import numpy as np
import torch

from usucl_fast.learn import RunFolder
from usucl_fast.shards import open_shards

MEMBERS = 16
BOUNDS = (1.0, 0.9, 0.8, 0.7, 0.6, 0.5)


@click.command()
@click.argument("run", type=click.Path(path_type=Path, exists=True))
@click.argument("shards")
def main(run: Path, shards: str) -> None:
    """Prints the share of n̂'s members with the anchor's label, of frames that have a label other than `normal`.

    With a bound, rows that are more similar than that are passed over.
    """
    table = open_shards(shards).table
    if not table.labels:
        raise click.UsageError(f"{shards} has no labels of frames")
    label = table.labels.label.codes
    ill = np.flatnonzero(~table.labels.label.is_empty & (np.array(table.labels.label.different)[label] != "normal"))
    group = table.group[table.rows["video"].astype(np.int64)]
    saved = torch.load(RunFolder(run).saved_checkpoints()[0], map_location="cpu", weights_only=True)
    rows = saved["bank"]["embeddings"].float().numpy()
    similarity = rows[ill] @ rows.T
    other = group[ill, None] != group
    chance = np.mean([(label[allowed] == label[anchor]).mean() for anchor, allowed in zip(ill, other, strict=True)])
    click.echo(f"{len(ill):,} frames with a finding; chance {chance:.3f}")
    for bound in BOUNDS:
        allowed = np.where(other & (similarity <= bound), similarity, -np.inf)
        members = np.argsort(-allowed, axis=1)[:, :MEMBERS]
        click.echo(f"bound {bound:.1f}: {(label[members] == label[ill, None]).mean():.3f} show the same finding")


if __name__ == "__main__":
    main()
