"""How many of the bank's most similar rows of other patients show the same finding, and so are no negatives by rights?

python bench/false_negatives.py RUN SHARDS
"""

from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from numpy.typing import NDArray

from usucl_fast.learn import RunFolder
from usucl_fast.shards import open_shards

MEMBERS = 16
BOUNDS = (1.0, 0.9, 0.8, 0.7, 0.6, 0.5)
ROUNDING = 1e-3
"""Of products of rows in float16."""

Array = NDArray[Any]


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
    click.echo(f"{len(ill):,} frames with a finding; chance {share_alike(rows, label, group, ill, len(rows), 1.0):.3f}")
    for bound in BOUNDS:
        share = share_alike(rows, label, group, ill, MEMBERS, bound)
        click.echo(f"bound {bound:.1f}: {share:.3f} show the same finding")


def share_alike(rows: Array, label: Array, group: Array, anchors: Array, count: int, bound: float) -> float:
    """Of the `count` rows most similar to an anchor, of other groups and not above the bound, the share with its label.

    Args:
        rows: `[N, D]`, unit length.
        label, group: `[N]`.
        anchors: `[A]`, frame ids.
    """
    similarity = rows[anchors] @ rows.T
    allowed = (group[anchors, None] != group) & (similarity <= bound + ROUNDING)
    order = np.argsort(np.where(allowed, -similarity, np.inf), axis=1)[:, :count]
    is_member = np.take_along_axis(allowed, order, axis=1)
    alike = label[order] == label[anchors, None]
    return float((alike & is_member).sum() / is_member.sum())


if __name__ == "__main__":
    main()
