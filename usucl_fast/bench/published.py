"""The published way of loading: original-size JPEG files, PIL, torchvision transforms, worker processes."""

from pathlib import Path

import numpy as np
from PIL import Image

from usucl_fast.bench.stock import Tuples
from usucl_fast.feed import BatchPlan
from usucl_fast.pack.decode import open_video
from usucl_fast.pack.kinds import Source
from usucl_fast.progress import Progress
from usucl_fast.shards import FrameTable

QUALITY = 90


def extract_frames(table: FrameTable, sources: dict[str, Source], frame_ids: np.ndarray, out: Path) -> None:
    """Writes the frames as JPEG files of their original size, `out/<frame id>.jpg`.

    Args:
        table: of the shards made from `sources`.
        sources: by name.
        frame_ids: which frames.
        out: folder.
    """
    out.mkdir(parents=True)
    wanted = np.unique(frame_ids)
    videos = np.unique(table.rows["video"][wanted])
    done = 0
    with Progress("videos unpacked", len(videos)) as progress:
        for video in videos:
            first, end = table.first_row[video], table.first_row[video + 1]
            here = set((wanted[(wanted >= first) & (wanted < end)] - first).tolist())
            for number, (picture, _) in enumerate(open_video(sources[table.videos[video].name]).pictures):
                if number in here:
                    picture.to_image().convert("RGB").save(out / f"{first + number}.jpg", quality=QUALITY)
                    done += 1
            progress.advance(frames=done)


class FrameFiles(Tuples):
    """Tuples out of the files that `extract_frames` wrote."""

    def __init__(self, folder: Path, plans: list[BatchPlan], size: int, tensors: bool = True) -> None:
        super().__init__(plans, size, tensors)
        self.folder = folder

    def pictures(self, frame_ids: list[int]) -> list[Image.Image]:
        """See `Tuples.pictures`."""
        return [Image.open(self.folder / f"{frame_id}.jpg") for frame_id in frame_ids]
