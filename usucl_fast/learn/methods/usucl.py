"""USUCL: intra-video negatives and a synthesised cross-video one, under a curriculum.

Source: Basu et al., "Unsupervised Contrastive Learning of Image Representations from Ultrasound Videos with Hard
Negative Mining", MICCAI 2022.
"""

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from usucl_fast.curriculum import CURRICULA, INTRA_FROM, WIDE, Curriculum, Stage
from usucl_fast.errors import UsageError
from usucl_fast.feed import REACH
from usucl_fast.learn.config import IMAGENET, RANDOM, setting
from usucl_fast.learn.method import BankMethod, HeadNormMethod, MomentumMethod, PairMethod, TemperatureMethod
from usucl_fast.shards import FrameTable

if TYPE_CHECKING:
    from torch import Tensor, nn

    from usucl_fast.feed import BatchPlan
    from usucl_fast.learn.network import Network, Outcome, Tuples

LET_IN = 0.3
"""Share of a run after which a network from random weights separates videos, as measured over 120 and 600 steps."""


@dataclass(frozen=True, kw_only=True)
class Usucl(MomentumMethod, HeadNormMethod, TemperatureMethod, BankMethod, PairMethod):
    """An encoder, or a momentum pair of them, and a bank of the embeddings of all frames. Its loss is `contrast`."""

    method: str = "usucl"
    intra_mining: str = setting(
        "bank",
        "What intra-video negatives are: encode, frames of the window, loaded and encoded with gradient; bank, the most"
        " similar rows that the memory bank has of it, with nothing more to load.",
        choices=("encode", "bank"),
    )
    intra_negatives: tuple[int, int] = setting((16, 16), "Intra-video negatives a tuple.", low=0, high=1024)
    cross_topk: tuple[int, int] = setting(
        (0, 0), "Stored embeddings that the cross-video hard negative is made of; 0 for no such negative.", low=0
    )
    intra_hard_share: tuple[float, float] = setting(
        (0.0, 0.0),
        "With --intra-mining encode, the share of them that are the hardest of the window by the bank, not random.",
        low=0,
        high=1,
    )
    cross_band_start: tuple[float, float] = setting(
        (0.0, 0.0),
        "Share of the bank, the most similar first, that is passed over before those of --cross-topk.",
        low=0,
        high=1,
    )
    cross_band_end: tuple[float, float] = setting(
        (1.0, 1.0), "Share of the bank beyond which none of those of --cross-topk lies.", low=0, high=1
    )
    bank_max_age: int = setting(
        0, "Rows of the bank written more steps ago than this are no negatives; 0 for no limit.", low=0
    )
    cross_candidates: str = setting(
        "bank",
        "Where those of --cross-topk come from: the memory bank of all frames, or the negatives of the batch.",
        choices=("bank", "batch"),
    )
    in_batch: bool = setting(
        True,
        "Views of the batch's other tuples are negatives as well, but for what --exclude says: both where --symmetric,"
        " else the positives. Without them, a fresh network is not pulled apart.",
    )
    symmetric: bool = setting(
        True,
        "The encoder itself encodes the positives, with gradient, and each of a pair is the other's anchor, as in"
        " SimCLR; else a key encoder does, which follows it slowly.",
    )
    curriculum: str = setting(
        "cosine",
        "How the window of the intra-video negatives closes, and by how much all A:B move; see --show-curriculum.",
        choices=tuple(CURRICULA),
    )
    intra_window: tuple[float, float] = setting(
        (0.1, 1.0),
        "Where intra-video negatives lie at first: an interval of distances from the anchor, as shares of the video's"
        " length. Not a movement from A to B: the curriculum closes the whole window.",
        low=0,
        high=1,
        interval=True,
    )
    intra_floor: float = setting(1.0, "The window stays above this share of its first size.", low=0, high=1)
    intra_from: float = setting(
        LET_IN,
        "Share of the run before intra-video negatives count in the loss: hard ones hold a fresh network back.",
        low=0,
        high=1,
    )
    cross_from: float = setting(LET_IN, "Share of the run before n̂ counts in the loss.", low=0, high=1)

    def from_weights(self) -> Self:
        """Slow; a recipe that begins with weights has its own rate."""
        return dataclasses.replace(self, lr=0.005) if self.init == RANDOM else self

    def doubts(self) -> list[str]:
        if self.in_batch or self.init != RANDOM:
            return []
        return [
            f"--recipe {self.recipe} with --no-in-batch is made for weights that have learned, and leaves random ones"
            f" nearly alike; add --init {IMAGENET} or --in-batch"
        ]

    def check(self) -> None:
        if self.symmetric and self.batch_norm == "shuffle":
            raise UsageError("--batch-norm shuffle is about keys, and --symmetric has none; add --no-symmetric")
        if not (min(self.cross_topk) or min(self.intra_negatives) or self.in_batch):
            raise UsageError(
                "--intra-negatives 0 --cross-topk 0 --no-in-batch leaves no negatives at all; remove one of them"
            )
        from_start = (self.cross_from == 0 and self.cross_topk[0]) or (self.intra_from == 0 and self.intra_negatives[0])
        if not (self.in_batch or from_start):
            raise UsageError(
                "--no-in-batch leaves no negatives at the start: add --cross-from 0 or --intra-from 0, from which on"
                " theirs count"
            )
        if self.intra_window[0] >= self.intra_window[1]:
            raise UsageError("--intra-window {:g}:{:g} is empty; its start is below its end".format(*self.intra_window))
        banded = (self.cross_band_start, self.cross_band_end) != ((0, 0), (1, 1))
        if self.cross_candidates == "batch":
            if min(self.intra_negatives) == 0:
                raise UsageError(
                    "--cross-candidates batch needs --intra-negatives of at least 1: they are the candidates"
                )
            if self.intra_mining == "bank":
                raise UsageError(
                    "--intra-mining bank encodes no negatives, and --cross-candidates batch needs them;"
                    " remove one of them"
                )
            if banded:
                raise UsageError(
                    "--cross-band-start and --cross-band-end choose from the bank; they need --cross-candidates bank"
                )
            if self.bank_max_age and not any(self.intra_hard_share):
                raise UsageError(
                    "--bank-max-age has no effect with --cross-candidates batch and without --intra-hard-share:"
                    " the bank is not asked; remove it"
                )
        if self.intra_mining == "bank" and any(self.intra_hard_share):
            raise UsageError(
                "--intra-hard-share has no effect with --intra-mining bank, where all are the hardest of the window;"
                " remove it, or add --intra-mining encode"
            )
        for start, end in zip(self.cross_band_start, self.cross_band_end, strict=True):
            if start >= end:
                raise UsageError(f"--cross-band-start {start:g} is not below --cross-band-end {end:g}")

    def check_data(self, table: FrameTable, videos: NDArray[np.int64], name: str) -> None:
        if self.cross_candidates == "bank":
            super().check_data(table, videos, name)

    def has_keys(self) -> bool:
        return not self.symmetric

    def tuples(self) -> str:
        if self.intra_mining == "bank":
            return "pair"
        return "full" if self.cross_candidates == "batch" else "mined"

    def make_curriculum(self) -> Curriculum:
        return Curriculum(
            self.curriculum,
            intra_window=self.intra_window,
            intra_floor=self.intra_floor,
            intra_from=self.intra_from,
            cross_from=self.cross_from,
            intra_negatives=self.intra_negatives,
            intra_hard_share=(1.0, 1.0) if self.intra_mining == "bank" else self.intra_hard_share,
            cross_topk=self.cross_topk,
            cross_band_start=self.cross_band_start,
            cross_band_end=self.cross_band_end,
        )

    def max_row_age(self) -> int | None:
        return self.bank_max_age or None

    def stage_metrics(self, stage: Stage) -> dict[str, Any]:
        return dataclasses.asdict(stage)

    def make_head(self, width: int) -> "nn.Module":
        """As wide as the features, twice linear, `batch norm and` ReLU between."""
        from torch import nn

        norm = [nn.BatchNorm1d(width)] if self.head_norm else []
        return nn.Sequential(nn.Linear(width, width), *norm, nn.ReLU(inplace=True), nn.Linear(width, self.dim))

    def forward(self, network: "Network", frames: "Tensor", plan: "BatchPlan") -> "Outcome":
        from usucl_fast.learn.contrast import contrast  # and not before: it imports torch

        return contrast(self, network, frames, plan)

    def mine(self, network: "Network", plan: "BatchPlan", tuples: "Tuples") -> "tuple[Tensor, Tensor]":
        from usucl_fast.learn.contrast import mine

        assert network.bank is not None
        rows = network.bank.rows(tuples.frame_ids)
        found = mine(self, network, plan, tuples, 0, rows[:, 0], rows[:, 2:])
        return found.intra, found.members


def default() -> Usucl:
    """Learns from random weights, and more slowly from others: two views of a frame, each the other's anchor; the 16
    most similar rows of the anchor's video, a tenth of it away or more, as hard negatives. See `bench/quality.py`."""
    return Usucl()


def fast() -> Usucl:
    """The default with a key encoder for the positives: two thirds of the work a tuple."""
    return Usucl(symmetric=False)


def reference() -> Usucl:
    """The published semantics: compounding cosine, candidates from the current batch, nothing excluded.

    Source: Basu et al., MICCAI 2022, and its published code.
    """
    return Usucl(
        arch="resnet50",
        init=IMAGENET,
        channels=3,
        reach=REACH,
        intra_mining="encode",
        intra_negatives=(3, 3),
        intra_window=WIDE,
        cross_topk=(4, 4),
        cross_candidates="batch",
        in_batch=False,
        symmetric=False,
        exclude="none",
        curriculum="published-cosine",
        intra_floor=0.0,
        intra_from=INTRA_FROM,
        cross_from=0.0,
        tau=0.07,
        head_norm=False,
        key_momentum=(0.999, 0.999),
        batch_size=32,
        optimizer="sgd",
        lr=0.003,
        lr_schedule="epoch",
        warm_up=0,
        augment="reference",
        precision="fp32",
    )


METHOD, RECIPES = Usucl, (default, fast, reference)
