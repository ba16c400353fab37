"""A training loop of one's own over our loader: SimCLR on two views of a frame, in plain PyTorch.

Usage: python tools/examples/training_loop.py SHARDS [EPOCHS]
"""

import sys

import torch
import torch.nn.functional as F
import torchvision
from torch import nn

from usucl_fast.curriculum import Curriculum
from usucl_fast.feed import AUGMENTATIONS, Delivery, Normaliser, Planner, make_loader
from usucl_fast.shards import open_shards


def main(shards: str, epochs: int = 2, size: int = 64) -> list[float]:
    """Trains a ResNet18 from random weights; returns the loss of each step."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    store = open_shards(shards)
    planner = Planner(
        store.table,
        seed=0,
        epochs=epochs,
        batch_size=32,
        curriculum=Curriculum("cosine"),
        augmentation=AUGMENTATIONS["mocov2"],
        tuples="pair",  # an anchor and its positive
        reach=0,  # which is the same frame, seen otherwise
    )
    loader = make_loader(
        "torch", store, Delivery(size=size, channels=1, device=device, threads=2, most_frames=planner.most_frames)
    )
    normalise = Normaliser(device)
    network = torchvision.models.resnet18(num_classes=128).to(device)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.03, momentum=0.9)

    losses = []
    for batch in loader.run(planner.plans()):  # batch.frames: uint8 [B, V, C, H, W]
        tuples = len(batch.frames)
        z = F.normalize(network(normalise(batch.frames.transpose(0, 1).flatten(0, 1))), dim=1)
        logits = (z @ z.T / 0.1).masked_fill(torch.eye(2 * tuples, dtype=torch.bool, device=device), -torch.inf)
        partner = torch.arange(2 * tuples, device=device).roll(tuples)
        loss = nn.functional.cross_entropy(logits, partner)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
        print(f"step {len(losses)} of {planner.steps}: loss {losses[-1]:.3f}")
    return losses


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:]))
