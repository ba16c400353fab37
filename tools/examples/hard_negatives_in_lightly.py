"""Hard negatives from our memory bank in a training step written with lightly's parts.

Usage: python tools/examples/hard_negatives_in_lightly.py SHARDS [EPOCHS]
"""

import sys

import torch
import torch.nn.functional as F
import torchvision
from lightly.models.modules import SimCLRProjectionHead
from torch import nn

from usucl_fast.curriculum import Curriculum
from usucl_fast.feed import AUGMENTATIONS, Delivery, Normaliser, Planner, make_loader
from usucl_fast.mining import MemoryBank
from usucl_fast.shards import open_shards


def main(shards: str, epochs: int = 2, size: int = 64, tau: float = 0.1) -> list[float]:
    """Contrasts each anchor with its positive and with 8 rows of the bank; returns the loss of each step."""
    store = open_shards(shards)
    table, cpu = store.table, torch.device("cpu")
    curriculum, augmentation = Curriculum("cosine"), AUGMENTATIONS["mocov2"]
    planner = Planner(table, 0, epochs, 32, curriculum, augmentation, tuples="pair", reach=0)
    loader = make_loader(
        "torch", store, Delivery(size=size, channels=1, device=cpu, threads=2, most_frames=planner.most_frames)
    )
    backbone = torchvision.models.resnet18()
    backbone.fc = nn.Identity()
    network = nn.Sequential(backbone, SimCLRProjectionHead(512, 512, 128))
    optimizer = torch.optim.SGD(network.parameters(), lr=0.03, momentum=0.9)
    bank = MemoryBank(table.first_row, dim=128, group=table.group)  # one row a frame
    normalise, losses = Normaliser(cpu), []

    for step, batch in enumerate(loader.run(planner.plans())):
        anchors = torch.from_numpy(batch.plan.frame_ids[:, 0])  # frame ids: rows of the bank
        z = F.normalize(network(normalise(batch.frames.transpose(0, 1).flatten(0, 1))), dim=1)
        query, positive = z.chunk(2)
        intra = bank.intra(anchors, query.detach(), window=(0.2, 0.4), k=4)  # of the same video, some way off
        cross = bank.cross(query.detach(), bank.video_of(anchors), k=4)  # of other patients
        found = torch.cat([intra.frame_ids, cross.frame_ids], dim=1)  # -1 where the bank has no more
        negatives = torch.einsum("bd,bkd->bk", query, bank.rows(found)).masked_fill(found < 0, -torch.inf)
        logits = torch.cat([(query * positive).sum(1, keepdim=True), negatives], dim=1) / tau
        loss = F.cross_entropy(logits, torch.zeros(len(logits), dtype=torch.int64))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        bank.write(anchors, query.detach(), step)
        losses.append(loss.item())
        print(f"step {step + 1} of {planner.steps}: loss {losses[-1]:.3f}, {int((found >= 0).sum())} hard negatives")
    return losses


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:]))
