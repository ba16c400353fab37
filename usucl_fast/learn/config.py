"""The settings that every run has, whatever its method."""

import dataclasses
from dataclasses import dataclass
from typing import Any

from usucl_fast.feed import AUGMENTATIONS

WARM_UP_STEPS = 200
IMAGENET, RANDOM = "imagenet", "random"
"""The words that stand for the weights of a network's own publishers, and for untrained ones."""

OTHERS: dict[str, Any] = {"optimizer": "sgd", "lr": 0.03, "batch_size": 32, "augment": "mocov2"}
"""Settings of the recipes of other methods than USUCL."""


def setting(
    default: Any,
    help: str,
    *,
    choices: tuple[str, ...] = (),
    low: float | None = None,
    high: float | None = None,
    interval: bool = False,
) -> Any:
    """A field that the command line offers as an option.

    low, high: the smallest and the largest value allowed.
    interval: of a pair, whether it is the two ends of an interval; else it is a first and a last value.
    """
    metadata = {"help": help, "choices": choices, "low": low, "high": high, "interval": interval}
    return dataclasses.field(default=default, metadata=metadata)


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """All that the result of a run depends on, beside the shards and the settings of its method. See `Method`.

    A pair is the first and the last value of what the curriculum, see `Curriculum`, or the run moves; or an interval.
    """

    recipe: str = "default"
    method: str = setting("usucl", "What is learned from; see the README.")
    arch: str = setting("resnet18", "Backbone: the name of a torchvision ResNet, or timm/NAME for a model of timm.")
    size: int = setting(224, "Height and width of the pictures in pixels.", low=32, high=1024)
    channels: int = setting(
        1, "1 loads the luma alone (fast, and all there is in a grey video), 3 loads RGB.", choices=("1", "3")
    )
    split: str = setting(
        "auto",
        "Split whose videos are trained on; all for every video. auto is train where the videos have splits, else all.",
    )
    epochs: int = setting(60, "Length of the run in epochs, of --tuples-per-video tuples of every video.", low=1)
    steps: int = setting(
        0, "Length of the run in steps, in place of --epochs; the curriculum then advances with every step.", low=1
    )
    tuples_per_video: int = setting(
        1, "Tuples of every video in an epoch. With more, few videos fill large batches.", low=1
    )
    batch_size: int = setting(64, "Tuples a step.", low=1)
    shuffle_shards: int = setting(
        0,
        "Shards that are read side by side and shuffled among each other, so that each is fetched once an epoch where"
        " a cache holds a few of those at a URL. 0 shuffles all.",
        low=0,
    )
    seed: int = setting(0, "Seed of the weights and of all draws.", low=0)
    init: str = setting(
        RANDOM,
        "Weights that the backbone starts with: random; imagenet, torchvision's or timm's; or a file or run, see the"
        " README.",
    )
    dim: int = setting(128, "Dimension of the embeddings.", low=2)
    batch_norm: str = setting(
        "rank",
        "Statistics of batch norm: rank, of the pictures that a process encodes; sync, of all processes' (GPUs only);"
        " shuffle, keys with those of other tuples, as in MoCo; frozen, the running ones, for weights that have"
        " learned.",
        choices=("rank", "sync", "shuffle", "frozen"),
    )
    optimizer: str = setting(
        "sgd",
        "What moves the weights.",
        choices=("sgd", "lars", "adamw"),
    )
    lr: float = setting(0.06, "Peak learning rate. default and fast: .005 where --init names weights.", low=0)
    lr_schedule: str = setting(
        "step", "Whether the cosine decay is updated every step or every epoch.", choices=("step", "epoch")
    )
    warm_up: int = setting(
        -1,
        f"Steps over which the learning rate rises to its peak; -1 for a tenth of the run, {WARM_UP_STEPS} at most.",
        low=-1,
    )
    momentum: float = setting(0.9, "Momentum of SGD and LARS.", low=0, high=1)
    weight_decay: float = setting(1e-4, "Weight decay.", low=0)
    accumulate: int = setting(
        1,
        "Parts that a batch is encoded in, one after the other, to need less memory. Batch norm, and negatives that"
        " come from the batch, are those of a part.",
        low=1,
    )
    augment: str = setting(
        "geometric",
        "What is done to the pictures, drawn in the plan: see `usucl_fast.feed.augmentation`.",
        choices=tuple(AUGMENTATIONS),
    )
    precision: str = setting(
        "auto",
        "Arithmetic of the encoders; auto is bf16 where the device computes in it, else fp32. tf32 rounds what a GPU"
        " multiplies, fp32 does not.",
        choices=("auto", "bf16", "fp32", "tf32"),
    )
    compile: bool = setting(False, "Compile the encoders with torch.compile: a slow start, then faster steps.")

    def warm_up_steps(self, steps: int) -> int:
        """Steps of a run of `steps` over which the learning rate rises."""
        return min(WARM_UP_STEPS, steps // 10) if self.warm_up < 0 else self.warm_up
