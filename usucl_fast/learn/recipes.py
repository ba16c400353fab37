"""The settings of a run, and the named ones."""

import dataclasses
from dataclasses import dataclass
from typing import Any

from usucl_fast.errors import UsageError
from usucl_fast.feed import AUGMENTATIONS
from usucl_fast.mining.curriculum import CURRICULA, Curriculum


def _setting(
    default: Any,
    help: str,
    *,
    choices: tuple[str, ...] = (),
    low: float | None = None,
    high: float | None = None,
) -> Any:
    return dataclasses.field(default=default, metadata={"help": help, "choices": choices, "low": low, "high": high})


@dataclass(frozen=True)
class TrainConfig:
    """All that the result of a run depends on, beside the shards. Written to `config.json`.

    A pair is the first and the last value of what the curriculum moves, see `Curriculum`.
    The fields' own values are the `default` recipe. The command line offers each field as an option.
    """

    recipe: str = "default"
    arch: str = _setting("resnet18", "Backbone: the name of a torchvision ResNet.")
    size: int = _setting(224, "Height and width of the pictures in pixels.", low=32, high=1024)
    channels: int = _setting(
        1, "1 loads the luma alone (fast, and all there is in a grey video), 3 loads RGB.", choices=("1", "3")
    )
    epochs: int = _setting(60, "Epochs; one tuple a video an epoch.", low=1)
    batch_size: int = _setting(32, "Tuples a step.", low=1)
    seed: int = _setting(0, "Seed of the weights and of all draws.", low=0)
    mining: str = _setting(
        "encode",
        "What intra-video negatives are: encode, frames of the window, loaded and encoded with gradient; bank, the most"
        " similar rows that the memory bank has of it, with nothing more to load.",
        choices=("encode", "bank"),
    )
    negatives: tuple[int, int] = _setting((3, 3), "Intra-video negatives a tuple.", low=0, high=1024)
    hard_share: tuple[float, float] = _setting(
        (0.0, 0.0),
        "With --mining encode, the share of them that are the hardest of the window by the bank, not random.",
        low=0,
        high=1,
    )
    hard: tuple[int, int] = _setting(
        (16, 16), "Stored embeddings that the cross-video hard negative is made of.", low=1
    )
    band_start: tuple[float, float] = _setting(
        (0.0, 0.0), "Share of the bank, the most similar first, that is passed over before those.", low=0, high=1
    )
    band_end: tuple[float, float] = _setting(
        (1.0, 1.0), "Share of the bank beyond which none of those lies.", low=0, high=1
    )
    max_age: int = _setting(
        0, "Rows of the bank written more steps ago than this are no negatives; 0 for no limit.", low=0
    )
    candidates: str = _setting(
        "bank",
        "Where those come from: the memory bank of all frames, or the negatives of the batch.",
        choices=("bank", "batch"),
    )
    exclude: str = _setting(
        "group",
        "What of the bank is never a negative of an anchor: its group (patient), its video, or nothing.",
        choices=("group", "video", "none"),
    )
    curriculum: str = _setting(
        "cosine",
        "How the window of the intra-video negatives closes, and by how much all A:B move; see --show-curriculum.",
        choices=tuple(CURRICULA),
    )
    floor: float = _setting(0.15, "The window stays above this share of its first size.", low=0, high=1)
    tau: float = _setting(0.2, "Temperature.", low=1e-3)
    dim: int = _setting(128, "Dimension of the embeddings.", low=2)
    head_norm: bool = _setting(
        True, "Batch norm in the projection head; without it a fresh network can stay collapsed."
    )
    key_momentum: float = _setting(0.99, "Momentum of the key encoder.", low=0, high=1)
    lr: float = _setting(0.03, "Peak learning rate of SGD.", low=0)
    lr_schedule: str = _setting("step", "Cosine decay, updated every step or every epoch.", choices=("step", "epoch"))
    momentum: float = _setting(0.9, "Momentum of SGD.", low=0, high=1)
    weight_decay: float = _setting(1e-4, "Weight decay of SGD.", low=0)
    augment: str = _setting(
        "crops",
        "What is done to the pictures, drawn in the plan: see `usucl_fast.feed.augmentation`.",
        choices=tuple(AUGMENTATIONS),
    )
    precision: str = _setting(
        "auto",
        "Arithmetic of the encoders; auto is bf16 where the device computes in it, else fp32.",
        choices=("auto", "bf16", "fp32"),
    )


def default() -> TrainConfig:
    """Learns from random weights: bank over all frames, group excluded, plain cosine with a floor."""
    return TrainConfig()


def reference() -> TrainConfig:
    """The published semantics: compounding cosine, candidates from the current batch, nothing excluded.

    Source: Basu et al., MICCAI 2022, and its published code.
    """
    return TrainConfig(
        recipe="reference",
        arch="resnet50",
        channels=3,
        hard=(4, 4),
        candidates="batch",
        exclude="none",
        curriculum="published-cosine",
        floor=0.0,
        tau=0.07,
        head_norm=False,
        key_momentum=0.999,
        lr=0.003,
        lr_schedule="epoch",
        augment="reference",
        precision="fp32",
    )


RECIPES = {"default": default, "reference": reference}


def make_config(recipe: str, overrides: dict[str, Any]) -> TrainConfig:
    """The named recipe with some fields replaced.

    Raises:
        UsageError: there is no such recipe, or the fields contradict each other.
    """
    if recipe not in RECIPES:
        raise UsageError(f"--recipe {recipe}: there is no such recipe; choose from {', '.join(RECIPES)}")
    config = dataclasses.replace(RECIPES[recipe](), **overrides)
    _check(config)
    return config


def make_curriculum(config: TrainConfig) -> Curriculum:
    """What the settings say of it."""
    return Curriculum(
        config.curriculum,
        floor=config.floor,
        negatives=config.negatives,
        hard_share=(1.0, 1.0) if config.mining == "bank" else config.hard_share,
        hard=config.hard,
        band_start=config.band_start,
        band_end=config.band_end,
    )


def _check(config: TrainConfig) -> None:
    """Raises where settings contradict each other, or would be without effect."""
    banded = (config.band_start, config.band_end) != ((0, 0), (1, 1))
    if config.candidates == "batch":
        if min(config.negatives) == 0:
            raise UsageError("--candidates batch needs --negatives of at least 1: they are the candidates")
        if config.mining == "bank":
            raise UsageError("--mining bank encodes no negatives, and --candidates batch needs them; leave out either")
        if banded:
            raise UsageError("--band-start and --band-end choose from the bank; they need --candidates bank")
        if config.max_age and not any(config.hard_share):
            raise UsageError("--max-age is about the bank, which --candidates batch without --hard-share does not ask")
    if config.mining == "bank" and any(config.hard_share):
        raise UsageError("--hard-share is for --mining encode: with --mining bank all are the hardest of the window")
    for start, end in zip(config.band_start, config.band_end, strict=True):
        if start >= end:
            raise UsageError(f"--band-start {start:g} is not below --band-end {end:g}")
