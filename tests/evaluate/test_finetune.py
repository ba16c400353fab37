from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.metrics import balanced_accuracy_score
from torch import nn

from usucl_fast.errors import DataError, UsageError
from usucl_fast.evaluate.finetuning import draw_crops, finetune
from usucl_fast.evaluate.protocols import GBCU, FineTune
from usucl_fast.evaluate.samples import Predictions, Samples, Split
from usucl_fast.learn.backbones import make_backbone

CPU = torch.device("cpu")
QUICK = FineTune(epochs=5, batch_size=16, lr=0.05, hidden=32)
SIZE = 12


def tiny() -> nn.Module:
    """A network of one convolution, with the same weights whenever it is made."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        return nn.Sequential(
            nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()
        )


def made_up(count: int, signal: float, seed: int = 0, classes: int = 2) -> tuple[torch.Tensor, Samples]:
    """Noise, three pictures a group; class 0 is dark, the next ones are brighter by `signal` levels each."""
    rng = np.random.default_rng(seed)
    groups = np.arange(count) // 3
    labels = groups % classes
    pictures = rng.integers(0, 100, (count, 1, SIZE, SIZE)) + (signal * labels)[:, None, None, None]
    samples = Samples(
        labels, np.arange(count), groups, [str(label) for label in range(classes)], [str(name) for name in range(count)]
    )
    return torch.from_numpy(pictures.clip(0, 255).astype(np.uint8)), samples


def halves(samples: Samples) -> list[Split]:
    """Two folds of whole groups of both classes."""
    part = samples.groups // 2 % 2
    return [Split(0, fold, np.flatnonzero(part != fold), np.flatnonzero(part == fold)) for fold in range(2)]


def run(pictures: torch.Tensor, samples: Samples, settings: FineTune = QUICK) -> tuple[Predictions, list[int]]:
    return finetune(tiny, pictures, samples, halves(samples), settings, CPU)


def score(predictions: Predictions) -> float:
    return float(balanced_accuracy_score(predictions.samples.labels, predictions.probabilities[0].argmax(-1)))


@pytest.mark.parametrize("epoch", ["last", "inner"])
@pytest.mark.parametrize("balanced", [True, False])
def test_a_class_that_shows_is_found_and_one_that_does_not_is_not(epoch: str, balanced: bool) -> None:
    settings = replace(QUICK, epoch=epoch, balanced=balanced)
    predictions, epochs = run(*made_up(120, 80), settings)
    assert score(predictions) > 0.9
    assert np.allclose(predictions.probabilities.sum(-1), 1)
    assert len(epochs) == 2
    assert epoch == "inner" or epochs == [4, 4]
    predictions, _ = run(*made_up(120, 0), settings)
    assert 0.3 < score(predictions) < 0.7


def test_all_layers_of_a_resnet_learn() -> None:
    pictures, samples = made_up(36, 80)
    start = make_backbone("resnet18")[0]
    made = []

    def make() -> nn.Module:
        network = make_backbone("resnet18")[0]
        network.load_state_dict(start.state_dict())
        made.append(network)
        return network

    pictures = pictures.expand(-1, 3, -1, -1).repeat(1, 1, 3, 3)[..., :32, :32].contiguous()
    finetune(make, pictures, samples, halves(samples), replace(QUICK, epochs=1), CPU)
    assert len(made) == 2
    for network in made:
        for (name, before), after in zip(start.named_parameters(), network.parameters(), strict=True):
            assert not torch.equal(before, after), name


def test_what_is_not_tested_has_no_answer() -> None:
    pictures, samples = made_up(36, 80)
    first, second = halves(samples)
    splits = [first, replace(second, repeat=1, test=second.test[:5])]
    predictions, _ = finetune(tiny, pictures, samples, splits, QUICK, CPU)
    assert predictions.probabilities.shape == (2, 36, 2)
    for repeat, split in enumerate(splits):
        tested = np.isin(np.arange(36), split.test)
        assert np.array_equal(predictions.fold[repeat], np.where(tested, split.fold, -1))
        assert np.array_equal(np.isnan(predictions.probabilities[repeat]).any(-1), ~tested)


def test_a_fold_alone_is_what_it_is_among_others() -> None:
    pictures, samples = made_up(36, 30)
    among, _ = run(pictures, samples)
    second = halves(samples)[1]
    state = torch.get_rng_state()
    alone, _ = finetune(tiny, pictures, samples, [second], QUICK, CPU)
    assert np.array_equal(alone.probabilities[0, second.test], among.probabilities[0, second.test])
    assert torch.equal(torch.get_rng_state(), state)


def test_answers_depend_on_the_seed_alone() -> None:
    pictures, samples = made_up(36, 30)
    first, again, other = (run(pictures, samples, replace(QUICK, seed=seed))[0].probabilities for seed in (0, 0, 1))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


@pytest.mark.parametrize("epoch", ["last", "inner"])
def test_what_is_tested_is_neither_learned_nor_chosen_by(epoch: str) -> None:
    """Other labels and other pictures of what is tested change nothing in what is learned."""
    pictures, samples = made_up(120, 20)
    split = halves(samples)[0]
    settings = replace(QUICK, epoch=epoch)
    expected, chosen = finetune(tiny, pictures, samples, [split], settings, CPU)
    labels = samples.labels.copy()
    labels[split.test] = 1 - labels[split.test]
    found, also = finetune(tiny, pictures, replace(samples, labels=labels), [split], settings, CPU)
    assert np.array_equal(found.probabilities, expected.probabilities, equal_nan=True)
    assert chosen == also
    changed = pictures.clone()
    changed[split.test[1:]] = 255
    found, also = finetune(tiny, changed, samples, [split], settings, CPU)
    assert np.allclose(found.probabilities[0, split.test[0]], expected.probabilities[0, split.test[0]])
    assert chosen == also


def test_the_inner_fifth_is_not_learned_from() -> None:
    """Of ten groups a training fold holds two back: networks see the others alone, at learning."""
    _, samples = made_up(60, 0)
    seen: list[set[int]] = []

    class Spy(nn.Module):
        """Writes down which groups are learned from: every picture is of its number's level."""

        def __init__(self) -> None:
            super().__init__()
            self.inner = tiny()
            seen.append(set())

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if self.training:
                levels = (x[:, 0].amax(dim=(1, 2)) * 0.229 + 0.485) * 255
                seen[-1].update((levels.round().long() // 3).tolist())
            features: torch.Tensor = self.inner(x)
            return features

    flat = torch.arange(60).to(torch.uint8)[:, None, None, None].expand(-1, 1, SIZE, SIZE).contiguous()
    finetune(Spy, flat, samples, halves(samples), replace(QUICK, epoch="inner"), CPU)
    finetune(Spy, flat, samples, halves(samples), QUICK, CPU)
    for fold, split in enumerate(halves(samples)):
        all_groups = set(samples.groups[split.train])
        assert seen[fold] < all_groups
        assert len(seen[fold]) == 8
        assert {group % 2 for group in all_groups - seen[fold]} == {0, 1}
        assert seen[2 + fold] == all_groups


def test_the_best_epoch_of_the_test_fold_is_no_worse_than_the_last() -> None:
    pictures, samples = made_up(60, 8)
    settings = replace(QUICK, epochs=8, lr=0.2)
    last, _ = run(pictures, samples, settings)
    best, epochs = run(pictures, samples, replace(settings, epoch="test"))
    for split, epoch in zip(halves(samples), epochs, strict=True):
        truth = samples.labels[split.test]
        at_last, at_best = ((found.probabilities[0, split.test].argmax(-1) == truth).mean() for found in (last, best))
        assert at_best >= at_last
        if epoch == 7:
            assert np.array_equal(best.probabilities[0, split.test], last.probabilities[0, split.test])
    assert min(epochs) < 7
    assert score(best) > score(last)


def test_a_rare_class_weighs_as_much_as_the_others() -> None:
    """One in six, and hardly different: left to their numbers, the many win."""
    pictures, samples = made_up(180, 6, classes=6)
    samples = replace(samples, labels=(samples.labels == 5).astype(np.int64), classes=["many", "few"])
    pictures[samples.labels == 1] = (pictures[samples.labels == 1].long() + 6).clamp(max=255).to(torch.uint8)
    few = np.flatnonzero(samples.labels == 1)
    part = samples.groups // 6 % 2
    splits = [Split(0, fold, np.flatnonzero(part != fold), np.flatnonzero(part == fold)) for fold in range(2)]
    found = [
        finetune(tiny, pictures, samples, splits, replace(QUICK, epochs=8, balanced=balanced), CPU)[0]
        for balanced in (True, False)
    ]
    balanced, plain = (one.probabilities[0, few, 1].mean() for one in found)
    assert balanced > plain + 0.2


@pytest.mark.parametrize(("train", "batch_size"), [(17, 16), (5, 4), (3, 2), (2, 1)])
def test_no_batch_is_of_one(train: int, batch_size: int) -> None:
    """A batch norm over features cannot do with one sample."""

    def make() -> nn.Module:
        return nn.Sequential(tiny(), nn.BatchNorm1d(8))

    pictures, samples = made_up(36, 80)
    split = Split(0, 0, np.arange(train), np.arange(train, train + 1))
    predictions, _ = finetune(make, pictures, samples, [split], replace(QUICK, batch_size=batch_size), CPU)
    assert np.isfinite(predictions.probabilities[0, train]).all()


def test_what_cannot_be_trained_is_refused() -> None:
    pictures, samples = made_up(36, 80)
    split = halves(samples)[0]
    with pytest.raises(UsageError, match="fold 0 of repeat 0 trains on 1 samples"):
        finetune(tiny, pictures, samples, [replace(split, train=split.train[:1])], QUICK, CPU)
    few = replace(split, train=np.flatnonzero(samples.groups < 4))
    with pytest.raises(UsageError, match=r"fold 0 .* too few groups .* \(4, of one class 2\)"):
        finetune(tiny, pictures, samples, [few], replace(QUICK, epoch="inner"), CPU)
    lone = replace(split, train=np.flatnonzero((samples.labels == 0) | (samples.groups == 1)))
    with pytest.raises(UsageError, match=r"\(7, of one class 1\)"):
        finetune(tiny, pictures, samples, [lone], replace(QUICK, epoch="inner"), CPU)
    with pytest.raises(UsageError, match="epoch 'best' is none of last, inner, test"):
        FineTune(epoch="best")
    with pytest.raises(UsageError, match="0 epochs"):
        FineTune(epochs=0)


def test_a_loss_that_is_no_number_is_told() -> None:
    pictures, samples = made_up(36, 80)
    with pytest.raises(DataError, match=r"fold 0 of repeat 0: .* not finite; lower the learning rate, 1e\+30"):
        run(pictures, samples, replace(QUICK, lr=1e30))


def test_crops_are_parts_of_the_picture() -> None:
    """On a ramp a crop is a ramp: its slope tells its side, its middle its place, its sign whether it is mirrored."""
    ramp = torch.arange(32.0).expand(400, 1, 32, 32)
    crops = draw_crops(ramp, torch.Generator().manual_seed(0))
    slope = (crops[:, 0, 16, 30] - crops[:, 0, 16, 1]) / 29
    area = slope.square()
    assert 0.38 < area.min() < 0.45
    assert 0.95 < area.max() <= 1.001
    assert abs(area.mean() - 0.7) < 0.02
    assert 150 < (slope < 0).sum() < 250
    middle = crops[:, 0, 16, 15:17].mean(-1)
    assert ((middle - 15.5).abs() <= 16 * (1 - slope.abs()) + 0.01).all()
    assert middle.std() > 1
    upright = draw_crops(ramp.transpose(2, 3), torch.Generator().manual_seed(0))
    assert (upright[:, 0, 30, 16] > upright[:, 0, 1, 16]).all()
    assert not torch.equal(crops, draw_crops(ramp, torch.Generator().manual_seed(1)))


def test_grey_pictures_are_what_they_are_in_colour() -> None:
    pictures, samples = made_up(36, 30)
    grey, _ = run(pictures, samples)
    colour, _ = run(pictures.expand(-1, 3, -1, -1).contiguous(), samples)
    assert np.allclose(grey.probabilities, colour.probabilities, atol=1e-3)


def test_the_published_protocol_weighs_samples_alike() -> None:
    assert (GBCU.balanced, GBCU.lr, GBCU.weight_decay, GBCU.batch_size, GBCU.epochs) == (False, 0.003, 5e-4, 64, 30)
    assert (GBCU.hidden, GBCU.dropout) == (256, 0.4)
