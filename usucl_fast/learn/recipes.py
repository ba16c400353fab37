"""The settings of a run, and the named ones."""

import dataclasses
from dataclasses import dataclass
from typing import Any

from usucl_fast.curriculum import CURRICULA, Curriculum
from usucl_fast.errors import UsageError
from usucl_fast.feed import AUGMENTATIONS, REACH

METHODS = {
    "usucl": "Usucl",
    "simclr": "SimCLR",
    "moco": "MoCo",
    "byol": "BYOL",
    "simsiam": "SimSiam",
    "cycle": "CycleContrast",
    "uscl": "USCL",
}
"""By name: the class, in the module of that name in `usucl_fast.learn.methods`."""

IMAGENET = "imagenet"
"""The word that stands for the weights of a network's own publishers."""


def _setting(
    default: Any,
    help: str,
    *,
    choices: tuple[str, ...] = (),
    low: float | None = None,
    high: float | None = None,
    methods: tuple[str, ...] = tuple(METHODS),
) -> Any:
    return dataclasses.field(
        default=default,
        metadata={"help": help, "choices": choices, "low": low, "high": high, "methods": methods},
    )


@dataclass(frozen=True)
class TrainConfig:
    """All that the result of a run depends on, beside the shards. Written to `config.json`.

    A pair is the first and the last value of what the curriculum moves, see `Curriculum`, or the run.
    The fields' own values are the `default` recipe. The command line offers each field as an option.
    """

    recipe: str = "default"
    method: str = _setting("usucl", "What is learned from; see the README.", choices=tuple(METHODS))
    arch: str = _setting("resnet18", "Backbone: the name of a torchvision ResNet, or timm/NAME for a model of timm.")
    size: int = _setting(224, "Height and width of the pictures in pixels.", low=32, high=1024)
    channels: int = _setting(
        1, "1 loads the luma alone (fast, and all there is in a grey video), 3 loads RGB.", choices=("1", "3")
    )
    epochs: int = _setting(60, "Epochs; one tuple a video an epoch.", low=1)
    batch_size: int = _setting(32, "Tuples a step.", low=1)
    seed: int = _setting(0, "Seed of the weights and of all draws.", low=0)
    init: str = _setting(
        "random",
        "Weights that the backbone starts with: random; imagenet, torchvision's; or a file or run, see the README.",
    )
    reach: int = _setting(
        0,
        "Frames from an anchor to its positive, at most; 0 is the anchor's frame itself, with other augmentations.",
        low=0,
        methods=("usucl", "simclr", "moco", "byol", "simsiam", "cycle"),
    )
    mining: str = _setting(
        "bank",
        "What intra-video negatives are: encode, frames of the window, loaded and encoded with gradient; bank, the most"
        " similar rows that the memory bank has of it, with nothing more to load.",
        choices=("encode", "bank"),
        methods=("usucl",),
    )
    negatives: tuple[int, int] = _setting(
        (3, 3), "Intra-video negatives a tuple.", low=0, high=1024, methods=("usucl",)
    )
    hard_share: tuple[float, float] = _setting(
        (0.0, 0.0),
        "With --mining encode, the share of them that are the hardest of the window by the bank, not random.",
        low=0,
        high=1,
        methods=("usucl",),
    )
    hard: tuple[int, int] = _setting(
        (16, 16),
        "Stored embeddings that the cross-video hard negative (cycle: the soft nearest neighbour) is made of; 0 for no"
        " such negative.",
        low=0,
        methods=("usucl", "cycle"),
    )
    band_start: tuple[float, float] = _setting(
        (0.0, 0.0),
        "Share of the bank, the most similar first, that is passed over before those.",
        low=0,
        high=1,
        methods=("usucl",),
    )
    band_end: tuple[float, float] = _setting(
        (1.0, 1.0),
        "Share of the bank beyond which none of those lies.",
        low=0,
        high=1,
        methods=("usucl",),
    )
    max_age: int = _setting(
        0,
        "Rows of the bank written more steps ago than this are no negatives; 0 for no limit.",
        low=0,
        methods=("usucl",),
    )
    candidates: str = _setting(
        "bank",
        "Where those come from: the memory bank of all frames, or the negatives of the batch.",
        choices=("bank", "batch"),
        methods=("usucl",),
    )
    in_batch: bool = _setting(
        True,
        "The positives of the batch's other tuples are negatives as well, but for what --exclude says. Without them, a"
        " fresh network is not pulled apart.",
        methods=("usucl",),
    )
    symmetric: bool = _setting(
        True,
        "The encoder itself encodes the positives, with gradient, and each of a pair is the other's anchor, as in"
        " SimCLR; else a key encoder does, which follows it slowly.",
        methods=("usucl",),
    )
    exclude: str = _setting(
        "group",
        "What of the bank is never a negative of an anchor: its group (patient), its video, or nothing.",
        choices=("group", "video", "none"),
        methods=("usucl", "cycle"),
    )
    curriculum: str = _setting(
        "cosine",
        "How the window of the intra-video negatives closes, and by how much all A:B move; see --show-curriculum.",
        choices=tuple(CURRICULA),
        methods=("usucl",),
    )
    floor: float = _setting(
        0.15, "The window stays above this share of its first size.", low=0, high=1, methods=("usucl",)
    )
    tau: float = _setting(0.1, "Temperature.", low=1e-3, methods=("usucl", "simclr", "moco", "cycle", "uscl"))
    dim: int = _setting(128, "Dimension of the embeddings.", low=2)
    head_norm: bool = _setting(
        True,
        "Batch norm in the projection head; without it a fresh network can stay collapsed.",
        methods=("usucl", "moco", "cycle"),
    )
    key_momentum: tuple[float, float] = _setting(
        (0.99, 0.99),
        "Momentum of the key encoder, at the start and at the end of the run.",
        low=0,
        high=1,
        methods=("usucl", "moco", "byol", "cycle"),
    )
    queue: int = _setting(1024, "Keys of earlier batches that are negatives.", low=1, methods=("moco", "cycle"))
    batch_norm: str = _setting(
        "rank",
        "Statistics of batch norm: rank, of the pictures that a process encodes; sync, of all processes' (GPUs only);"
        " shuffle, keys with those of other tuples, as MoCo has it; frozen, the running ones, for weights that have"
        " learned.",
        choices=("rank", "sync", "shuffle", "frozen"),
    )
    optimizer: str = _setting("sgd", "What moves the weights.", choices=("sgd", "lars", "adamw"))
    lr: float = _setting(0.03, "Peak learning rate.", low=0)
    lr_schedule: str = _setting("step", "Cosine decay, updated every step or every epoch.", choices=("step", "epoch"))
    warm_up: float = _setting(0.0, "Epochs over which the learning rate rises to its peak.", low=0)
    momentum: float = _setting(0.9, "Momentum of SGD and LARS.", low=0, high=1)
    weight_decay: float = _setting(1e-4, "Weight decay.", low=0)
    accumulate: int = _setting(
        1,
        "Parts that a batch is encoded in, one after the other, to need less memory. Batch norm, and negatives that"
        " come from the batch, are those of a part.",
        low=1,
    )
    augment: str = _setting(
        "mocov2",
        "What is done to the pictures, drawn in the plan: see `usucl_fast.feed.augmentation`.",
        choices=tuple(AUGMENTATIONS),
    )
    precision: str = _setting(
        "auto",
        "Arithmetic of the encoders; auto is bf16 where the device computes in it, else fp32.",
        choices=("auto", "bf16", "fp32"),
    )
    compile: bool = _setting(False, "Compile the encoders with torch.compile: a slow start, then faster steps.")


def default() -> TrainConfig:
    """Learns from random weights: two views of a frame, each the other's anchor; bank over all frames."""
    return TrainConfig()


def reference() -> TrainConfig:
    """The published semantics: compounding cosine, candidates from the current batch, nothing excluded.

    Source: Basu et al., MICCAI 2022, and its published code.
    """
    return TrainConfig(
        recipe="reference",
        arch="resnet50",
        init=IMAGENET,
        channels=3,
        reach=REACH,
        mining="encode",
        hard=(4, 4),
        candidates="batch",
        in_batch=False,
        symmetric=False,
        exclude="none",
        curriculum="published-cosine",
        floor=0.0,
        tau=0.07,
        head_norm=False,
        key_momentum=(0.999, 0.999),
        lr=0.003,
        lr_schedule="epoch",
        augment="reference",
        precision="fp32",
    )


def fast() -> TrainConfig:
    """The default with a key encoder for the positives: two thirds of the work a tuple."""
    return TrainConfig(recipe="fast", symmetric=False)


def simclr() -> TrainConfig:
    """Two views of one frame; all else of the batch is negative. Source: Chen et al., ICML 2020."""
    return TrainConfig(recipe="simclr", method="simclr")


def mocov2() -> TrainConfig:
    """Two views of one frame; earlier batches are negatives. Source: Chen et al., arXiv 2003.04297."""
    return TrainConfig(recipe="mocov2", method="moco", tau=0.2, head_norm=False)


def byol() -> TrainConfig:
    """Predicts the key encoder's view; no negatives. Source: Grill et al., NeurIPS 2020."""
    return TrainConfig(recipe="byol", method="byol", dim=256, key_momentum=(0.99, 1.0), warm_up=1.0)


def simsiam() -> TrainConfig:
    """Predicts the other view, without gradient; no negatives, no key encoder. Source: Chen and He, CVPR 2021."""
    return TrainConfig(recipe="simsiam", method="simsiam", dim=2048)


def cyclecontrast() -> TrainConfig:
    """Neighbouring frames, and the way back from other videos' frames. Source: Wu and Wang, ICCV 2021."""
    return TrainConfig(recipe="cyclecontrast", method="cycle", reach=REACH, tau=0.2, exclude="video")


def uscl() -> TrainConfig:
    """SimCLR on pairs mixed of three frames. Source: Chen et al., MICCAI 2021; without its labels."""
    return TrainConfig(recipe="uscl", method="uscl", tau=0.5)


RECIPES = {
    made.__name__: made for made in (default, fast, reference, simclr, mocov2, byol, simsiam, cyclecontrast, uscl)
}


def make_config(recipe: str, overrides: dict[str, Any]) -> TrainConfig:
    """The named recipe with some fields replaced.

    Raises:
        UsageError: there is no such recipe, the fields contradict each other, or one is nothing to the method.
    """
    if recipe not in RECIPES:
        raise UsageError(f"--recipe {recipe}: there is no such recipe; choose from {', '.join(RECIPES)}")
    config = dataclasses.replace(RECIPES[recipe](), **overrides)
    for field in dataclasses.fields(config):
        if field.name in overrides and config.method not in field.metadata.get("methods", (config.method,)):
            raise UsageError(f"--{field.name.replace('_', '-')} is nothing to --method {config.method}; leave it out")
    if config.method == "usucl":
        _check(config)
    if config.method == "cycle" and not min(config.hard):
        raise UsageError("--hard is at least 1 with --method cycle: they are the way there and back")
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
    """Raises where settings of USUCL contradict each other, or would be without effect."""
    if config.symmetric and config.batch_norm == "shuffle":
        raise UsageError("--batch-norm shuffle is about keys, and --symmetric has none; add --no-symmetric")
    if not (min(config.hard) or min(config.negatives) or config.in_batch):
        raise UsageError("--negatives 0 --hard 0 --no-in-batch leaves no negatives at all; leave one of them out")
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
