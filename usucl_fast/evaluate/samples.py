"""Labelled frames or images, their splits, and predictions for them."""

import zipfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from usucl_fast.errors import DataError, UsageError
from usucl_fast.files import write_whole
from usucl_fast.learn.splits import videos_of_split
from usucl_fast.shards import FrameTable, Texts

TARGETS = ("frame", "video", "value")
"""What may be predicted of a frame: its own label, that of its video, or its number."""


@dataclass(frozen=True)
class Samples:
    """M labelled frames of videos, or images.

    labels: `[M]`, classes counted from 0.
    videos, groups: `[M]`, any integers that are alike where the video, or the group (patient), is.
    classes: names of the classes, K of them.
    names: `[M]`, of the samples: `video/frame`, or the path of an image.
    target: what is predicted, in `TARGETS`. Of `value`, labels say whether a value is above the median, for the folds.
    numbers: `[M]`, of the frames in their videos, where there are any.
    values: `[M]`, numbers to predict, where there are any.
    """

    labels: NDArray[np.int64]
    videos: NDArray[np.int64]
    groups: NDArray[np.int64]
    classes: list[str]
    names: list[str]
    target: str = "video"
    numbers: NDArray[np.int64] | None = None
    values: NDArray[np.float64] | None = None

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class Split:
    """One fold of one repeat: the places in `Samples` of those to train on, and of those to test."""

    repeat: int
    fold: int
    train: NDArray[np.int64]
    test: NDArray[np.int64]


@dataclass(frozen=True)
class Predictions:
    """Predictions for samples, each by a classifier that was not trained on it.

    probabilities: float64 `[repeats, M, K]` of the classes; of the target `value`, the number, `[repeats, M, 1]`.
        NaN where a sample was not tested in a repeat.
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
                target=np.array(samples.target),
                **{name: array for name in ("numbers", "values") if (array := getattr(samples, name)) is not None},
            )

    @staticmethod
    def load(path: Path) -> "Predictions":
        """Reads what `save` wrote.

        Raises:
            DataError: there is no such file, it is damaged, or it holds something else.
        """
        try:
            with np.load(path, allow_pickle=False) as file:
                more: dict[str, Any] = {name: file[name] for name in ("numbers", "values") if name in file}
                samples = Samples(
                    file["labels"],
                    file["videos"],
                    file["groups"],
                    file["classes"].tolist(),
                    file["names"].tolist(),
                    str(file["target"]) if "target" in file else "video",
                    **more,
                )
                probabilities, fold = file["probabilities"], file["fold"]
        except (OSError, EOFError, KeyError, TypeError, ValueError, zipfile.BadZipFile) as error:
            raise DataError(f"{path} holds no predictions that can be read ({error}); evaluate again") from error
        shape = (len(fold), len(samples), 1 if samples.target == "value" else len(samples.classes))
        if probabilities.shape != shape or fold.shape != shape[:2] or len(samples.names) != len(samples):
            raise DataError(f"{path} is damaged: its arrays differ in length; evaluate again")
        return Predictions(samples, probabilities, fold)


def shuffled_by_group(samples: Samples, seed: int) -> Samples:
    """Permutes the labels among the groups, as a control: all samples of a group get the main label of another.

    What a classifier still finds in such labels it has found by recognising groups.
    """
    codes = np.unique(samples.groups, return_inverse=True)[1]
    counts = np.zeros((codes.max() + 1, len(samples.classes)), np.int64)
    np.add.at(counts, (codes, samples.labels), 1)
    dealt = np.random.default_rng(seed).permutation(counts.argmax(axis=1))
    return replace(samples, labels=dealt[codes])


def find_samples(
    table: FrameTable, count: int, target: str | None = None, split: str | None = None
) -> tuple[NDArray[np.int64], Samples]:
    """Picks the frames of a dataset to evaluate: their ids, and their labels, videos and groups.

    Args:
        count: frames of each video at most, evenly spread; of the target `frame`, of each label in each video.
        target: what is predicted, in `TARGETS`; None for the labels of frames where there are any, else of videos, else
            for values.
        split: only videos of this split; None for all.

    Raises:
        UsageError: there is nothing of the kind, or no such split.
    """
    target, videos = target or _usual_target(table), _videos_of(table, split)
    if target == "video":
        frame_ids, labels, classes = _of_videos(table, videos, count)
        values = None
    else:
        frame_ids, labels, classes, values = _of_frames(table, videos, count, target)
    video = table.rows["video"][frame_ids].astype(np.int64)
    return frame_ids, Samples(
        labels=labels,
        videos=video,
        groups=table.group[video],
        classes=classes,
        names=[table.name_of(frame_id) for frame_id in frame_ids.tolist()],
        target=target,
        numbers=frame_ids - table.first_row[video],
        values=values,
    )


def _usual_target(table: FrameTable) -> str:
    if table.labels and not table.labels.label.is_empty.all():
        return "frame"
    return "value" if table.labels and table.videos.label.is_empty.all() else "video"


def _videos_of(table: FrameTable, split: str | None) -> NDArray[np.int64]:
    if split is None:
        return np.arange(len(table.videos))
    known = sorted(set(table.videos.split.different) - {""})
    if split not in known:
        raise UsageError(f"--split {split}: SHARDS have {', '.join(known) if known else 'no splits'}")
    return videos_of_split(split, table)


def _of_videos(
    table: FrameTable, videos: NDArray[np.int64], count: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], list[str]]:
    """Frame ids, labels and classes, where labels are of videos."""
    texts = table.videos.label
    videos = videos[~texts.is_empty[videos]]
    if not len(videos):
        raise UsageError("SHARDS hold no labelled video; pack them with usucl-shard --labels")
    frame_ids = spread_frames(table, videos, count)
    labels, classes = _classes(texts, table.rows["video"][frame_ids])
    return frame_ids, labels, classes


def _of_frames(
    table: FrameTable, videos: NDArray[np.int64], count: int, target: str
) -> tuple[NDArray[np.int64], NDArray[np.int64], list[str], NDArray[np.float64] | None]:
    """Frame ids, labels, classes and values, where these are of single frames."""
    own = table.labels
    has = (
        np.zeros(len(table), np.bool_)
        if not own
        else ~(own.label.is_empty if target == "frame" else np.isnan(own.value))
    )
    frame_ids = np.flatnonzero(has & np.isin(table.rows["video"], videos))
    if not own or not len(frame_ids):
        raise UsageError(f"--target {target}: SHARDS hold no frame with such; pack them with usucl-shard --labels")
    kind = own.label.codes[frame_ids] if target == "frame" else np.zeros(len(frame_ids), np.int64)
    _, part = np.unique(np.stack((table.rows["video"][frame_ids], kind)), axis=1, return_inverse=True)
    in_parts = np.argsort(part, kind="stable")
    runs = np.split(frame_ids[in_parts], np.cumsum(np.bincount(part))[:-1])
    frame_ids = np.sort(np.concatenate([run[_spread(len(run), count)] for run in runs]))
    if target == "frame":
        labels, classes = _classes(own.label, frame_ids)
        return frame_ids, labels, classes, None
    values = own.value[frame_ids].astype(np.float64)
    return frame_ids, (values > np.median(values)).astype(np.int64), ["lower half", "upper half"], values


def _classes(texts: Texts, places: NDArray[np.int64]) -> tuple[NDArray[np.int64], list[str]]:
    """Numbers for the texts at some places, and the sorted names of these classes."""
    codes = texts.codes[places]
    names = texts.different
    classes = sorted({names[code] for code in np.unique(codes)})
    number = np.array([classes.index(name) if name in classes else -1 for name in names], np.int64)
    return number[codes], classes


def spread_frames(table: FrameTable, videos: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """At most `count` frame ids a video, evenly spread over it."""
    picked = []
    for video in videos:
        picked.append(table.first_row[video] + _spread(int(table.videos.frames[video]), count))
    return np.concatenate(picked)


def _spread(length: int, count: int) -> NDArray[np.int64]:
    """At most `count` of `length` places, evenly spread."""
    return np.unique(np.linspace(0, length - 1, min(count, length)).round().astype(np.int64))
