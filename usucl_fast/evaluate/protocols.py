"""The evaluation protocols: classifiers of frozen features, and networks fine-tuned on each fold."""

from dataclasses import dataclass, replace

from usucl_fast.errors import UsageError

EPOCHS = ("last", "inner", "test")
"""Which epoch of fine-tuning the predictions are from, see `FineTune`."""


@dataclass(frozen=True)
class FineTune:
    """How all layers of a network are fine-tuned; the numbers are the published ones of `GBCU`.

    epochs: over the training samples of a fold.
    batch_size: at most; sizes differ by one at most.
    lr, momentum, weight_decay: of SGD, on all layers; lr falls to 0 along half a cosine.
    hidden, dropout: the head is width - hidden - ReLU - dropout - classes.
    balanced: whether the loss weighs every class alike, or every sample.
    epoch: the one whose answers count.
        `last`: the last.
        `inner`: that of the best balanced accuracy on a fifth of the training fold, whole groups of it, which is held
            back from training.
        `test`: that of the best accuracy on the test fold itself, as is often published. The figure is too good: it is
            the best of many, chosen by the labels that it claims to predict. Only for comparison with such figures.
    seed: of all random numbers.
    """

    epochs: int = 30
    batch_size: int = 64
    lr: float = 0.003
    momentum: float = 0.9
    weight_decay: float = 5e-4
    dropout: float = 0.4
    hidden: int = 256
    balanced: bool = True
    epoch: str = "last"
    seed: int = 0

    def __post_init__(self) -> None:
        if self.epoch not in EPOCHS:
            raise UsageError(f"epoch {self.epoch!r} is none of {', '.join(EPOCHS)}")
        if self.epochs < 1 or self.batch_size < 1:
            raise UsageError(f"{self.epochs} epochs of batches of {self.batch_size} train nothing; give 1 or more")


GBCU = FineTune(balanced=False)
"""Fine-tuning on GBCU as in Basu et al., "Unsupervised Contrastive Learning of Image Representations from Ultrasound
Videos with Hard Negative Mining", MICCAI 2022: every sample weighs alike. (The cosine and the crops are not theirs.)"""


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """What is done with a backbone on each fold, and how many folds are made by default."""

    finetune: FineTune | None = None
    """How all layers are trained; None for a classifier of frozen features, as in `probes.PROBES`."""
    folds: int = 5
    """Parts that the samples are split into; fewer where the rarest class has fewer groups."""
    repeats: int = 5
    """How many times they are split, each time differently."""
    positive: str | None = None
    """Class whose recall is the sensitivity, where there is one of that name."""


PROTOCOLS = {
    "knn": Protocol(),
    "linear": Protocol(),
    "finetune": Protocol(finetune=FineTune(), repeats=1),
    "gbcu": Protocol(finetune=replace(GBCU, epoch="inner"), folds=10, repeats=1, positive="malignant"),
    "pocus": Protocol(finetune=FineTune(), repeats=1),
}
"""All protocols, by the name that `--protocol` takes."""
