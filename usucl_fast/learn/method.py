"""The base class of the methods: the settings that a method takes, and the parts of training that it decides.

Nothing here imports torch when it is imported, so that `usucl-train --help` lists the settings of all methods at once;
functions that compute import it themselves.
"""

import dataclasses
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from usucl_fast.curriculum import Curriculum, Stage
from usucl_fast.errors import UsageError
from usucl_fast.feed import AUGMENTATIONS, Planner
from usucl_fast.learn.config import TrainConfig, setting
from usucl_fast.learn.splits import find_split, videos_of_split
from usucl_fast.shards import FrameTable

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from usucl_fast.feed import BatchPlan
    from usucl_fast.learn.network import Network, Outcome, Tuples
    from usucl_fast.mining import MemoryBank


@dataclass(frozen=True, kw_only=True)
class Method(TrainConfig):
    """A training method with its settings: the fields of a subclass are the options that it takes.

    To add a method, add a file to `usucl_fast/learn/methods` with a subclass under the name `METHOD`, which has its
    name in `method`, and with the functions in `RECIPES`, which return it with named settings.
    """

    needs_lightly: ClassVar[bool] = False

    def check(self) -> None:
        """Checks the settings against each other.

        Raises:
            UsageError: they contradict each other, or one would have no effect.
        """

    def from_weights(self) -> Self:
        """The settings, where a run is to start with weights that have learned and nothing else is said."""
        return self

    def doubts(self) -> list[str]:
        """Doubts about settings that do work, one line each, with a way out."""
        return []

    def check_data(self, table: FrameTable, videos: NDArray[np.int64], name: str) -> None:
        """Checks the settings against the dataset, called `name` in messages.

        videos: numbers of those that are trained on.

        Raises:
            UsageError: there would be nothing to learn from it.
        """

    def has_keys(self) -> bool:
        """Whether there is a key encoder, which follows the query encoder slowly."""
        return False

    def key_momentum_at(self, progress: float) -> float:
        """The momentum of the key encoder at this share of the run."""
        raise NotImplementedError

    def make_bank(self, table: FrameTable, device: "torch.device", kind: "type[MemoryBank]") -> "MemoryBank | None":
        """The memory bank, of this kind, where there is one. What `forward` returns as rows is written to it when the
        step ends."""
        return None

    def tuples(self) -> str:
        """What a tuple is made of, see `Planner`."""
        return "pair"

    def make_curriculum(self) -> Curriculum:
        """The curriculum of the run."""
        return Curriculum("cosine")

    def make_planner(self, table: FrameTable) -> Planner:
        """The planner of the run over a dataset."""
        return Planner(
            table,
            seed=self.seed,
            epochs=self.epochs,
            batch_size=self.batch_size,
            curriculum=self.make_curriculum(),
            augmentation=AUGMENTATIONS[self.augment],
            tuples=self.tuples(),
            videos=videos_of_split(find_split(self.split, table, "the dataset"), table),
            tuples_per_video=self.tuples_per_video,
            length=self.steps,
            shuffle_shards=self.shuffle_shards,
        )

    def max_row_age(self) -> int | None:
        """Steps after which a row of the bank is no hard negative; None for no limit."""
        return None

    def stage_metrics(self, stage: Stage) -> dict[str, Any]:
        """What a line of metrics records of the stage of the curriculum."""
        return {}

    def make_head(self, width: int) -> "nn.Module":
        """The projection head: features `[M, width]` to embeddings `[M, D]`."""
        raise NotImplementedError

    def make_parts(self) -> "dict[str, nn.Module]":
        """What is trained or kept besides the encoders, by name: predictors, queues, losses."""
        return {}

    def forward(self, network: "Network", frames: "Tensor", plan: "BatchPlan") -> "Outcome":
        """The loss of a batch, or of one of the parts that it is accumulated from.

        Args:
            frames: uint8 `[b, V, C, H, W]`, of this rank's tuples.
            plan: of all ranks' tuples; `b` of its `B` are this rank's.
        """
        raise NotImplementedError

    def mine(self, network: "Network", plan: "BatchPlan", tuples: "Tuples") -> "tuple[Tensor, Tensor]":
        """What a method with a bank would choose as negatives, the anchors' rows of the bank being the queries.

        Args:
            plan: whose `valid` says which of its frames have a row in the bank.
            tuples: the plan on the device.

        Returns:
            int64 `[B, J]` and `[B, K]`: the frames of the intra-video negatives, and of the cross-video one; -1 where
            there are fewer.
        """
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class PairMethod(Method):
    """A method whose tuples have a positive beside the anchor."""

    reach: int = setting(
        0,
        "Frames from an anchor to its positive, at most; 0 is the anchor's frame itself, with other augmentations.",
        low=0,
    )

    def make_planner(self, table: FrameTable) -> Planner:
        return dataclasses.replace(super().make_planner(table), reach=self.reach)


@dataclass(frozen=True, kw_only=True)
class TemperatureMethod(Method):
    """A method whose loss has a temperature."""

    tau: float = setting(0.1, "Temperature.", low=1e-3)


@dataclass(frozen=True, kw_only=True)
class HeadNormMethod(Method):
    """A method whose projection head may have batch norm."""

    head_norm: bool = setting(True, "Batch norm in the projection head; without it a fresh network can stay collapsed.")


@dataclass(frozen=True, kw_only=True)
class MomentumMethod(Method):
    """A method with a key encoder."""

    key_momentum: tuple[float, float] = setting(
        (0.99, 0.99), "Momentum of the key encoder, at the start and at the end of the run.", low=0, high=1
    )

    def has_keys(self) -> bool:
        return True

    def key_momentum_at(self, progress: float) -> float:
        first, last = self.key_momentum
        return last - (last - first) * (1 + math.cos(math.pi * progress)) / 2


@dataclass(frozen=True, kw_only=True)
class BankMethod(Method):
    """A method with a memory bank of all frames, which it asks for the most similar rows of other videos."""

    cross_topk: tuple[int, int] = setting(
        (16, 16),
        "Stored embeddings that the cross-video hard negative (cycle: the soft nearest neighbour) is made of; 0 for no"
        " such negative.",
        low=0,
    )
    exclude: str = setting(
        "group",
        "What of the bank is never a negative of an anchor: its group (patient), its video, or nothing.",
        choices=("group", "video", "none"),
    )

    def make_bank(self, table: FrameTable, device: "torch.device", kind: "type[MemoryBank]") -> "MemoryBank":
        group = table.group if self.exclude == "group" else None
        return kind(table.first_row, self.dim, device=device, group=group)

    def check_data(self, table: FrameTable, videos: NDArray[np.int64], name: str) -> None:
        kinds = {"group": len(set(table.group[videos])), "video": len(videos), "none": 2}[self.exclude]
        if kinds < 2:
            of_split = "" if len(videos) == len(table.videos) else f" to train on (--split {self.split})"
            raise UsageError(
                f"--exclude {self.exclude} leaves no cross-video negatives: {name} holds one {self.exclude}"
                f" alone{of_split}; use --exclude {'video' if len(videos) > 1 else 'none'}"
            )
