"""Labelled frames or images, how they are split, and the class probabilities that are predicted for them."""

import zipfile
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from usucl_fast.errors import DataError, UsageError
from usucl_fast.files import write_whole
from usucl_fast.shards import FrameTable


@dataclass(frozen=True)
class Samples:
    """M labelled frames of videos, or images.

    labels: `[M]`, classes counted from 0.
    videos, groups: `[M]`, any integers that are alike where the video, or the group (patient), is.
    classes: names of the classes, K of them.
    names: `[M]`, of the samples: `video/frame`, or the path of an image.
    """

    labels: NDArray[np.int64]
    videos: NDArray[np.int64]
    groups: NDArray[np.int64]
    classes: list[str]
    names: list[str]

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class Split:
    """One fold of one repeat: which samples (their places in `Samples`) are learned from, and which are tested."""

    repeat: int
    fold: int
    train: NDArray[np.int64]
    test: NDArray[np.int64]


@dataclass(frozen=True)
class Predictions:
    """Predicted class probabilities of the samples, each by a classifier that was not trained on it.

    probabilities: float64 `[repeats, M, K]`, NaN where a sample was not tested in a repeat.
    fold: int64 `[repeats, M]`, the fold that tested the sample; -1 where none did.
    """

    samples: Samples
    probabilities: NDArray[np.float64]
    fold: NDArray[np.int64]

    def by_video(self) -> "Predictions":
        """The mean of the tested frames' probabilities for each video in each repeat, sorted by video.

        Label and group are those of the video's first frame; the fold is that of its first tested one. The name is
        its frames' without the last part; a video of one frame, or an image, keeps its name.
        """
        samples, tested = self.samples, self.fold >= 0
        _, first, place, frames = np.unique(samples.videos, return_index=True, return_inverse=True, return_counts=True)
        total = np.zeros((len(self.fold), len(first), len(samples.classes)))
        count = np.zeros(total.shape[:2])
        fold = np.full(count.shape, -1, np.int64)
        for repeat, here in enumerate(tested):
            np.add.at(total[repeat], place[here], self.probabilities[repeat, here])
            np.add.at(count[repeat], place[here], 1)
            backwards = np.flatnonzero(here)[::-1]  # the last to be written is the first frame
            fold[repeat, place[backwards]] = self.fold[repeat, backwards]
        with np.errstate(invalid="ignore"):
            mean = total / count[..., None]
        names = [samples.names[place] for place in first]
        videos = replace(
            samples,
            labels=samples.labels[first],
            videos=samples.videos[first],
            groups=samples.groups[first],
            names=[name.rpartition("/")[0] if count > 1 else name for name, count in zip(names, frames, strict=True)],
        )
        return Predictions(videos, mean, fold)

    def save(self, path: Path) -> None:
        """Writes everything, the samples too, as an npz file."""
        samples = self.samples
        with write_whole(path) as file:
            np.savez_compressed(
                file,
                probabilities=self.probabilities,
                fold=self.fold,
                labels=samples.labels,
                videos=samples.videos,
                groups=samples.groups,
                classes=np.array(samples.classes, np.str_),
                names=np.array(samples.names, np.str_),
            )

    @staticmethod
    def load(path: Path) -> "Predictions":
        """What `save` wrote.

        Raises:
            DataError: there is no such file, it is damaged, or it holds something else.
        """
        try:
            with np.load(path, allow_pickle=False) as file:
                samples = Samples(
                    file["labels"], file["videos"], file["groups"], file["classes"].tolist(), file["names"].tolist()
                )
                probabilities, fold = file["probabilities"], file["fold"]
        except (OSError, EOFError, KeyError, TypeError, ValueError, zipfile.BadZipFile) as error:
            raise DataError(f"{path} holds no predictions that can be read ({error}); evaluate again") from error
        shape = (len(fold), len(samples), len(samples.classes))
        if probabilities.shape != shape or fold.shape != shape[:2] or len(samples.names) != len(samples):
            raise DataError(f"{path} is damaged: its arrays differ in length; evaluate again")
        return Predictions(samples, probabilities, fold)


def shuffled_by_group(samples: Samples, seed: int) -> Samples:
    """A control: each group's most frequent label is dealt to a group at random, and all its samples get it.

    What a classifier still finds in such labels it has found by recognising groups.
    """
    codes = np.unique(samples.groups, return_inverse=True)[1]
    counts = np.zeros((codes.max() + 1, len(samples.classes)), np.int64)
    np.add.at(counts, (codes, samples.labels), 1)
    dealt = np.random.default_rng(seed).permutation(counts.argmax(axis=1))
    return replace(samples, labels=dealt[codes])


def labelled_frames(table: FrameTable, count: int) -> tuple[NDArray[np.int64], Samples]:
    """At most `count` frames of each labelled video, evenly spread over it: their ids, and what is known of them.

    Raises:
        UsageError: no video has a label.
    """
    labels = table.videos.label
    classes = sorted(set(labels) - {""})
    videos = np.flatnonzero(~labels.is_empty)
    if not classes:
        raise UsageError("SHARDS hold no labelled video; pack them with usucl-shard --labels")
    frame_ids = spread_frames(table, videos, count)
    of_frame = table.rows["video"][frame_ids].astype(np.int64)
    label = np.array([classes.index(label) if label else -1 for label in labels], np.int64)
    names = [table.name_of(frame_id) for frame_id in frame_ids.tolist()]
    return frame_ids, Samples(label[of_frame], of_frame, table.group[of_frame].astype(np.int64), classes, names)


def spread_frames(table: FrameTable, videos: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """At most `count` frame ids a video, evenly spread over it."""
    picked = []
    for video in videos:
        first, length = table.first_row[video], int(table.videos.frames[video])
        picked.append(first + np.unique(np.linspace(0, length - 1, min(count, length)).round().astype(np.int64)))
    return np.concatenate(picked)
