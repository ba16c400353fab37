"""Evaluates a model, from names to figures. Torch is imported after everything that can be checked without it."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from usucl_fast.errors import UsageError
from usucl_fast.evaluate import images, pocus
from usucl_fast.evaluate.embedding import BATCH, InputConfig, Model, embed, find_model, groups_trained_on, load_frames
from usucl_fast.evaluate.folds import make_folds, most_folds
from usucl_fast.evaluate.protocols import PROTOCOLS, FineTune
from usucl_fast.evaluate.samples import TARGETS, Predictions, Samples, Split, find_samples, shuffled_by_group
from usucl_fast.learn.splits import videos_of_split
from usucl_fast.machine import pick_device
from usucl_fast.shards import FrameTable

if TYPE_CHECKING:
    import torch
    from torch import nn

    from usucl_fast.evaluate.mistakes import Pictures

TUNING = ("epochs", "lr", "batch_size", "epoch")
"""Fields of `FineTune` that `EvaluateConfig` has as well."""

BY_FRAME = (
    "Split by frame: frames of one video are on both sides of a fold, and look alike. The score says how well videos"
    " are recognised, not what is seen in them; it stays high with meaningless labels (--shuffle-labels). Do not"
    " compare it with scores by group."
)
BY_VIDEO = "Split by video: videos of one group (patient) may be on both sides of a fold."
SHUFFLED = (
    "Labels were permuted among the groups: a score above chance comes from recognising videos or groups, in folds"
    " that cut them."
)
CHOSEN_BY_TEST = (
    "The epoch was chosen on the test fold, as is often published: these figures are too good. Compare them only"
    " with figures that were chosen in the same way."
)


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig(InputConfig):
    """How a model is evaluated. A setting of None is chosen by the protocol or the data."""

    protocols: tuple[str, ...] = ("knn",)
    """Names in `PROTOCOLS`; there is an evaluation for each."""
    frames: int = 16
    """Frames of each video of shards, at most, evenly spread; where frames have labels of their own, of each label."""
    target: str | None = None
    """What is predicted, in `TARGETS`; None for labels of frames where there are any, else labels of videos."""
    split: str | None = None
    """Only videos of this split; None for all."""
    folds: int | None = None
    """Parts that the samples are split into; each is tested once."""
    repeats: int | None = None
    """How many times they are split, each time differently."""
    by: str | None = None
    """What is never on both sides of a fold, a name in `UNITS`; None for the group."""
    allow_leakage: bool = False
    """Whether `by` may be `frame`, with frames of one video on both sides."""
    shuffle_labels: bool = False
    """Whether labels are permuted among the groups: a control, by which only chance should be found."""
    positive: str | None = None
    """Class whose recall is the sensitivity; None for the second of two classes."""
    epochs: int | None = None
    """Fine-tuning: epochs on each fold."""
    lr: float | None = None
    """Fine-tuning: learning rate."""
    batch_size: int | None = None
    """Fine-tuning: pictures a step."""
    epoch: str | None = None
    """Fine-tuning: the epoch that counts, a name in `EPOCHS`."""

    def __post_init__(self) -> None:
        for name in self.protocols:
            if name not in PROTOCOLS:
                raise UsageError(f"--protocol {name}: choose from {', '.join(PROTOCOLS)}")
        if self.target not in (None, *TARGETS):
            raise UsageError(f"--target {self.target}: choose from {', '.join(TARGETS)}")
        given = next((name for name in TUNING if getattr(self, name) is not None), None)
        if given and not any(PROTOCOLS[name].finetune for name in self.protocols):
            option, protocols = given.replace("_", "-"), ",".join(self.protocols)
            raise UsageError(f"--{option} has no effect with --protocol {protocols}; remove it")

    def finetune(self, protocol: str) -> FineTune | None:
        """How the protocol trains all layers, with these settings; None where it trains none."""
        own = PROTOCOLS[protocol].finetune
        given = {name: value for name in TUNING if (value := getattr(self, name)) is not None}
        return own and dataclasses.replace(own, seed=self.seed, **given)


@dataclass(frozen=True)
class Evaluation:
    """The result of one protocol.

    summary: settings, counts, notes and figures: the content of `summary.json`.
    predictions: for each sample, in each repeat.
    features: `[M, F]` of the samples; None where networks were fine-tuned, as these differ from fold to fold.
    pictures: places of n samples -> their pictures, uint8 `[n, C, S, S]`.
    """

    protocol: str
    summary: dict[str, Any]
    predictions: Predictions
    features: NDArray[np.float32] | None
    pictures: Pictures


def evaluate(model: str | Path, data: str | Path, config: EvaluateConfig | None = None) -> Iterator[Evaluation]:
    """Measures how well a model's features, or the model fine-tuned, separate the classes of labelled pictures.

    Wrong arguments are refused at once; the iterator that is returned then computes one protocol at a time:

        for evaluation in evaluate("my-run", "my-shards", EvaluateConfig(protocols=("knn", "linear"))):
            print(evaluation.protocol, evaluation.summary["balanced_accuracy"]["mean"])

    Args:
        model: a run folder, a file of weights, or the word `imagenet` or `random`.
        data: shards, a folder or the URL of one; or a CSV file of images, or the folder of GBCU or of USCL's POCUS.
        config: the settings.

    Raises:
        UsageError: there is no such model or data, or the settings do not fit them.
        DataError: weights, shards or images are damaged, or a loss or a feature is not a number.
    """
    config = config or EvaluateConfig()
    found = find_model(model, config)
    # Images are decoded at once, so wrong weights are refused before that; frames are decoded when they are needed.
    backbone = found.backbone() if _holds_images(Path(data)) else None
    read = _read_images(Path(data), found) if backbone else _find_frames(data, found, config)
    if read.splits and (config.folds or config.by or config.repeats):
        raise UsageError(f"--folds, --by and --repeats have no effect with {data}, which comes with its folds")
    samples = shuffled_by_group(read.samples, config.seed) if config.shuffle_labels else read.samples
    if config.positive is not None and config.positive not in samples.classes:
        raise UsageError(f"--positive {config.positive} is not one of the classes {', '.join(samples.classes)}")
    if samples.target == "value":
        tuned = next((name for name in config.protocols if PROTOCOLS[name].finetune), None)
        if tuned or config.shuffle_labels:
            option = f"--protocol {tuned}" if tuned else "--shuffle-labels"
            raise UsageError(f"{option} is for labels, and --target is value; use --protocol knn,linear")
    splits = {name: read.splits or _make_splits(name, samples, config) for name in config.protocols}
    return _evaluate_each(found, backbone, dataclasses.replace(read, samples=samples), splits, config)


@dataclass(frozen=True)
class _Data:
    """Samples, their pictures as batches, uint8 `[m, C, S, S]`, those of some of them, and the folds that they come
    with, if any."""

    samples: Samples
    pictures: Iterable[torch.Tensor]
    some: Pictures
    splits: list[Split] | None
    notes: list[str]
    groups_trained_on: int | None = None
    """How many groups the model was trained on; -1 where that is not known, None where it was trained on none."""


def _holds_images(path: Path) -> bool:
    return path.suffix == ".csv" or images.has_gbcu(path) or pocus.has_covid_pickles(path)


def _read_images(path: Path, model: Model) -> _Data:
    channels, splits = model.channels or 3, None
    if path.suffix == ".csv":
        samples, pictures = images.read_image_list(path, model.size, channels)
    else:
        read = images.read_gbcu if images.has_gbcu(path) else pocus.read_covid_pickles
        samples, pictures, splits = read(path, model.size, channels)
    return _Data(samples, pictures.split(BATCH), lambda places: pictures[places].numpy(), splits, [])


def _find_frames(shards: str | Path, model: Model, config: EvaluateConfig) -> _Data:
    store = config.open_shards(shards)
    frame_ids, samples = find_samples(store.table, config.frames, config.target, config.split)
    trained = groups_trained_on(model.name, store, samples)
    notes = _sample_notes(store.table, samples, config)
    if trained is not None:
        notes += _trained_notes(trained, len(set(samples.groups.tolist())))

    def pictures(places: NDArray[np.int64] | slice) -> Iterator[torch.Tensor]:
        yield from load_frames(store, frame_ids[places], config.loader, model.delivery(pick_device(config.device)))

    def some(places: NDArray[np.int64]) -> NDArray[np.uint8]:
        return np.concatenate([batch.cpu().numpy() for batch in pictures(places)])

    return _Data(samples, pictures(slice(None)), some, None, notes, trained)


def _sample_notes(table: FrameTable, samples: Samples, config: EvaluateConfig) -> list[str]:
    """Notes on which frames are evaluated."""
    videos, notes = len(table.videos), []
    if config.split:
        notes.append(f"Only the split {config.split}: {len(videos_of_split(config.split, table))} of {videos} videos.")
    if samples.target == "video":
        left_out = int(table.videos.label.is_empty.sum())
        return [*notes, f"Left out: {left_out} videos without a label."] if left_out else notes
    assert table.labels
    known = ~(table.labels.label.is_empty if samples.target == "frame" else np.isnan(table.labels.value))
    what = "a label" if samples.target == "frame" else "a value"
    return [
        *notes,
        f"{int(known.sum()):,} of {len(table):,} frames have {what}; {len(samples):,} of them are evaluated.",
    ]


def _trained_notes(trained: int, groups: int) -> list[str]:
    if trained < 0:
        return [
            "SHARDS are not those that MODEL was trained on: whether it has seen these groups (patients) is not known."
        ]
    if not trained:
        return []
    return [
        f"MODEL was trained on the pictures, though not the labels, of {trained} of the {groups} groups (patients) that"
        " are evaluated: for figures of new patients, set some aside (usucl-shard --split) and evaluate them (--split)."
    ]


def _make_splits(protocol: str, samples: Samples, config: EvaluateConfig) -> list[Split]:
    usual, by = PROTOCOLS[protocol], config.by or "group"
    folds = config.folds or max(2, min(usual.folds, most_folds(samples, by)))
    return make_folds(samples, by, folds, config.repeats or usual.repeats, config.seed, config.allow_leakage)


def _evaluate_each(
    model: Model, backbone: nn.Module | None, data: _Data, splits: dict[str, list[Split]], config: EvaluateConfig
) -> Iterator[Evaluation]:
    import torch

    from usucl_fast.evaluate.finetuning import finetune
    from usucl_fast.evaluate.probes import predict

    backbone, device = backbone or model.backbone(), pick_device(config.device)
    tuned = {name: config.finetune(name) for name in splits}
    pictures, features = data.pictures, None
    if any(tuned.values()):  # these see the pictures more than once
        whole = torch.cat(list(pictures))
        pictures = whole.split(BATCH)
    if not all(tuned.values()):
        features = embed(backbone, pictures, len(data.samples), device)
    for name, settings in tuned.items():
        extra: dict[str, Any] = {}
        if settings:
            predictions, chosen = finetune(model.backbone, whole, data.samples, splits[name], settings, device)
            extra = {"finetune": dataclasses.asdict(settings), "epochs_chosen": chosen}
        else:
            assert features is not None
            predictions = predict(name, features, data.samples, splits[name])
        summary = {**_describe(name, model, data, splits[name], config), **extra, **_figures(name, predictions, config)}
        yield Evaluation(name, summary, predictions, None if settings else features, data.some)


def _describe(protocol: str, model: Model, data: _Data, splits: list[Split], config: EvaluateConfig) -> dict[str, Any]:
    """Settings, counts and notes."""
    samples, finetune = data.samples, config.finetune(protocol)
    notes = {
        BY_FRAME: config.by == "frame",
        BY_VIDEO: config.by == "video",
        SHUFFLED: config.shuffle_labels,
        CHOSEN_BY_TEST: finetune is not None and finetune.epoch == "test",
    }
    return {
        "model": model.name,
        "protocol": protocol,
        "arch": model.arch,
        "size": model.size,
        "classes": samples.classes,
        "videos": len(set(samples.videos.tolist())),
        "frames": len(samples),
        "groups": len(set(samples.groups.tolist())),
        "by": "published lists" if data.splits else config.by or "group",
        "folds": 1 + max(split.fold for split in splits),
        "repeats": 1 + max(split.repeat for split in splits),
        "target": samples.target,
        **({} if samples.target == "value" else {"chance": 1 / len(samples.classes)}),
        **({} if data.groups_trained_on is None else {"groups_trained_on": data.groups_trained_on}),
        "notes": [*data.notes, *(note for note, holds in notes.items() if holds)],
    }


def _figures(protocol: str, predictions: Predictions, config: EvaluateConfig) -> dict[str, Any]:
    """By frame, and under `video` the same by video."""
    from usucl_fast.evaluate.metrics import summarise, summarise_videos

    usual = PROTOCOLS[protocol].positive
    positive = config.positive or (usual if usual in predictions.samples.classes else None)
    return {
        **summarise(predictions, positive, config.seed),
        "video": summarise_videos(predictions, positive, config.seed),
    }
