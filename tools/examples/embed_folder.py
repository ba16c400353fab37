"""Embeds every frame of a folder of videos by a trained backbone: pack, load, encode.

Usage: python tools/examples/embed_folder.py VIDEOS BACKBONE OUT.npz
BACKBONE is a run of usucl-train, a file of weights, or `random`.
"""

import sys
import tempfile
from pathlib import Path

import numpy as np
import torch

from usucl_fast.evaluate import embed, load_backbone, load_frames
from usucl_fast.feed import Delivery
from usucl_fast.pack import find_sources, pack
from usucl_fast.shards import PackSettings, open_shards

BATCH = 64


def main(videos: str, backbone: str, out: str, arch: str = "resnet18", size: int = 112) -> None:
    """Writes `features [N, F]`, and for each row its `video` and `frame`."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    network = load_backbone(None if backbone == "random" else backbone, arch)
    with tempfile.TemporaryDirectory() as folder:
        sources, _ = find_sources([Path(videos)])
        pack(sources, Path(folder) / "shards", PackSettings(size=size), workers=2)
        store = open_shards(Path(folder) / "shards")
        frame_ids = np.arange(len(store.table))
        pictures = load_frames(
            store, frame_ids, "torch", Delivery(size=size, channels=1, device=device, threads=2, most_frames=BATCH)
        )
        features = embed(network, pictures, len(frame_ids), device)
        of_video = store.table.rows["video"]
        names = np.array(list(store.table.videos.name))[of_video]
        np.savez(out, features=features, video=names, frame=store.table.rows["frame"])
    print(f"{out}: {len(features)} frames of {len(sources)} videos, {features.shape[1]} numbers each")


if __name__ == "__main__":
    videos, backbone, out = sys.argv[1:]
    main(videos, backbone, out)
