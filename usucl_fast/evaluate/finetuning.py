"""Fine-tunes a network on each fold, and predicts the samples that it tests."""

import math
import warnings
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from sklearn.metrics import accuracy_score, balanced_accuracy_score
from sklearn.model_selection import StratifiedGroupKFold
from torch import Tensor, nn

from usucl_fast.errors import DataError, UsageError
from usucl_fast.evaluate.protocols import FineTune
from usucl_fast.evaluate.samples import Predictions, Samples, Split
from usucl_fast.feed.normalise import Normaliser
from usucl_fast.learn.backbones import normalisation
from usucl_fast.machine import computes_in_bf16
from usucl_fast.progress import Progress

INNER_FOLDS = 5
LEAST_AREA = 0.4


def finetune(
    make_backbone: Callable[[], nn.Module],
    pictures: Tensor,
    samples: Samples,
    splits: list[Split],
    settings: FineTune,
    device: torch.device,
) -> tuple[Predictions, list[int]]:
    """Fine-tunes a network on each split, from the same weights, and predicts the samples that the split tests.

    A split's answers do not depend on the other splits. On the CPU, the same seed gives the same answers.

    Args:
        make_backbone: makes the network to start from, with its weights: `[N, 3, S, S]` -> features `[N, F]`.
        pictures: uint8 `[M, C, S, S]`, C 1 or 3; where they lie on the device already, nothing is copied.
        samples: M of them.
        splits: one at least.
        settings: how.
        device: where it is computed.

    Returns:
        The predictions, and for each split the epoch that they are of, counted from 0.

    Raises:
        UsageError: a split trains on fewer than two samples, or has too few groups to hold some back.
        DataError: the loss is not a number.
    """
    repeats = 1 + max(split.repeat for split in splits)
    probabilities = np.full((repeats, len(samples), len(samples.classes)), np.nan)
    fold = np.full((repeats, len(samples)), -1)
    chosen = []
    with Progress("epochs", len(splits) * settings.epochs) as progress:
        for split in splits:
            with torch.random.fork_rng([device] if device.type == "cuda" else []):
                torch.manual_seed(settings.seed)  # weights that are drawn are alike too
                backbone = make_backbone().to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
                run = _Run(backbone, pictures, samples, split, settings, device)
                probabilities[split.repeat, split.test], epoch = run.learn(progress)
            fold[split.repeat, split.test] = split.fold
            chosen.append(epoch)
    return Predictions(samples, probabilities, fold), chosen


class _Run:
    """The training on one split."""

    def __init__(
        self,
        backbone: nn.Module,
        pictures: Tensor,
        samples: Samples,
        split: Split,
        settings: FineTune,
        device: torch.device,
    ) -> None:
        self._pictures, self._labels, self._split, self._settings = pictures, samples.labels, split, settings
        self._name = f"fold {split.fold} of repeat {split.repeat}"
        self._train, self._held = split.train, split.train[:0]
        if settings.epoch == "inner":
            self._train, self._held = _hold_back(samples, split, settings.seed, self._name)
        if len(self._train) < 2:
            raise UsageError(
                f"{self._name} trains on {len(self._train)} samples; batch norm needs two: use fewer folds"
            )
        self._device, self._bf16 = device, computes_in_bf16(device)
        self._normalise = Normaliser(device, torch.channels_last, *normalisation(backbone))
        self._seed = int(np.random.SeedSequence([settings.seed, split.repeat, split.fold]).generate_state(1)[0])
        torch.manual_seed(self._seed)  # of the head, and of its dropout
        backbone.eval()
        with torch.no_grad():
            width = backbone(self._normalise(pictures[:1].to(device))).shape[1]
        classes = len(samples.classes)
        head = nn.Sequential(
            nn.Linear(width, settings.hidden),
            nn.ReLU(),
            nn.Dropout(settings.dropout),
            nn.Linear(settings.hidden, classes),
        )
        self._network = nn.Sequential(backbone, head.to(device))
        counts = np.bincount(self._labels[self._train], minlength=classes)
        share = len(self._train) / (np.count_nonzero(counts) * np.maximum(counts, 1))
        self._weight = torch.tensor(
            share if settings.balanced else np.ones(classes), dtype=torch.float32, device=device
        )

    def learn(self, progress: Progress) -> tuple[NDArray[np.float64], int]:
        """Trains, and returns the probabilities `[T, K]` of the test samples and the epoch that they are from."""
        settings = self._settings
        generator = torch.Generator().manual_seed(self._seed)
        # Even batches of two at least: batch norm cannot do with one.
        steps = min(-(-len(self._train) // settings.batch_size), len(self._train) // 2)
        optimizer = torch.optim.SGD(
            self._network.parameters(), settings.lr, settings.momentum, weight_decay=settings.weight_decay
        )
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, settings.epochs * steps)
        best, best_score, best_epoch = np.empty(0), -math.inf, 0
        for epoch in range(settings.epochs):
            loss = self._epoch(steps, optimizer, schedule, generator)
            score = self._score(epoch)
            if score > best_score:
                best, best_score, best_epoch = self._probabilities(self._split.test), score, epoch
            progress.advance(fold=str(self._split.fold), loss=f"{loss:.3f}")
        return best, best_epoch

    def _score(self, epoch: int) -> float:
        """The score of an epoch; the epoch with the highest one counts."""
        if self._settings.epoch == "last":
            return 0.0 if epoch == self._settings.epochs - 1 else -math.inf
        rows, metric = {
            "inner": (self._held, balanced_accuracy_score),
            "test": (self._split.test, accuracy_score),
        }[self._settings.epoch]
        return float(metric(self._labels[rows], self._probabilities(rows).argmax(1)))

    def _epoch(
        self,
        steps: int,
        optimizer: torch.optim.Optimizer,
        schedule: torch.optim.lr_scheduler.LRScheduler,
        generator: torch.Generator,
    ) -> float:
        """Trains on all samples once; returns the mean loss."""
        self._network.train()
        total = torch.zeros((), device=self._device)
        order = torch.from_numpy(self._train)[torch.randperm(len(self._train), generator=generator)]
        for rows in torch.tensor_split(order, steps):
            x_N3SS = draw_crops(self._normalise(self._pictures[rows].to(self._device)), generator)
            labels = torch.from_numpy(self._labels)[rows].to(self._device)
            loss = F.cross_entropy(self._logits(x_N3SS), labels, self._weight)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            total += loss.detach()
        return self._finite(total / steps).item()

    def _logits(self, x_N3SS: Tensor) -> Tensor:
        with torch.autocast(self._device.type, torch.bfloat16, enabled=self._bf16):
            logits: Tensor = self._network(x_N3SS)
        return logits.float()

    @torch.no_grad()
    def _probabilities(self, rows: NDArray[np.int64]) -> NDArray[np.float64]:
        """`[N, K]`, of whole pictures."""
        self._network.eval()
        logits = [
            self._finite(self._logits(self._normalise(self._pictures[part].to(self._device)))).cpu()
            for part in torch.from_numpy(rows).split(self._settings.batch_size)
        ]
        found: NDArray[np.float64] = torch.cat(logits).double().softmax(1).numpy()
        return found

    def _finite(self, values: Tensor) -> Tensor:
        if not values.isfinite().all():
            raise DataError(
                f"{self._name}: loss or predictions are not finite; lower the learning rate, {self._settings.lr:g}"
            )
        return values


def draw_crops(x_NCSS: Tensor, generator: torch.Generator) -> Tensor:
    """Crops random squares of 40 to 100 % of the pictures' area, half of them mirrored, enlarged to the pictures' size.

    x_NCSS: floats of any device; the chance is drawn on the CPU, so that it is the same on all.
    """
    area, across, down, mirrored = torch.rand(4, len(x_NCSS), generator=generator)
    side = (LEAST_AREA + (1 - LEAST_AREA) * area).sqrt()
    affine = torch.zeros(len(x_NCSS), 2, 3)
    affine[:, 0, 0], affine[:, 1, 1] = torch.where(mirrored < 0.5, -side, side), side
    affine[:, 0, 2], affine[:, 1, 2] = (1 - side) * (2 * across - 1), (1 - side) * (2 * down - 1)
    grid = F.affine_grid(affine.to(x_NCSS.device), list(x_NCSS.shape), align_corners=False)
    crops = F.grid_sample(x_NCSS, grid, padding_mode="border", align_corners=False)
    return crops.contiguous(memory_format=torch.channels_last)


def _hold_back(samples: Samples, split: Split, seed: int, name: str) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Holds back a fifth of the training samples to choose the epoch by; no group is cut, no class missing."""
    labels, groups = samples.labels[split.train], samples.groups[split.train]
    classes = set(labels)
    if min(len(set(groups)), np.bincount(labels).max()) >= INNER_FOLDS:  # fewer are an error of scikit-learn's
        folds = StratifiedGroupKFold(INNER_FOLDS, shuffle=True, random_state=seed)
        with warnings.catch_warnings(action="ignore"):  # of a rare class, which is looked at here
            parts = list(folds.split(labels, labels, groups))
        for kept, held in parts:
            if set(labels[kept]) == set(labels[held]) == classes:
                return split.train[kept], split.train[held]
    fewest = min(len(set(groups[labels == label])) for label in classes)
    raise UsageError(
        f"{name} trains on too few groups to choose the epoch by a fifth of them ({len(set(groups))}, of one class"
        f" {fewest}); add groups, or let the last epoch count"
    )
