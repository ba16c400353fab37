"""Logistic regression on many folds of a dataset at once, with the optimum that scikit-learn finds.

All folds read the same features, so a step of all of them is one product of matrices. The search is L-BFGS (Nocedal and
Wright, "Numerical Optimization", algorithm 7.4), begun with the curvature that all folds nearly have.

Shapes: M samples, F features, S folds, K classes.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import inv

Array = NDArray[np.float64]

C = 0.01
"""Inverse strength of the penalty, as scikit-learn counts it."""
TOLERANCE = 3e-6
"""Of the distance to the optimum in logits, root mean square, as the curvature has it; probabilities are then within
1e-4 of the optimum's."""
MOST_STEPS = 500
REMEMBERED = 6
"""Steps that the curvature is estimated from."""
CONSTANT = 1e-6
"""A feature whose deviation is less, beside its greatest number or its deviation over all samples, is constant."""
MOST_BLOCKS = 8
"""Classes that have a block of the curvature of their own; where there are more, all share one."""
COLUMNS = 128
"""Columns of weights, S times K, that are sought at once."""


def fit_predict(
    features: NDArray[np.float32], labels: NDArray[np.int64], classes: int, trains: Sequence[NDArray[np.int64]]
) -> Array:
    """Fits a multinomial logistic regression to each training set, and returns its probabilities of all samples.

    That is `LogisticRegression(C=C, class_weight="balanced")` after a `StandardScaler`, both fitted to that set only.

    Args:
        features: `[M, F]`.
        labels: `[M]`, from 0 to `classes` - 1.
        trains: the places of the samples of each of S training sets.

    Returns:
        `[S, M, K]`; 0 for a class that a training set lacks.
    """
    scaled = (features - features.mean(axis=0)).astype(np.float64)
    scaled /= _deviation(scaled)
    whole = _Fit(scaled, labels, classes, [np.unique(np.concatenate(trains))])
    whole.search(_Curvature(scaled, np.full((len(labels), 1), C / 4)))
    curvature = _Curvature(scaled, whole.curvature())
    at_once, found = max(1, COLUMNS // classes), []
    for first in range(0, len(trains), at_once):
        part = _Fit(scaled, labels, classes, trains[first : first + at_once])
        part.start_from(whole)
        part.search(curvature)
        found.append(part.probabilities())
    return np.concatenate(found)


class _Curvature:
    """The curvature that the losses of all training sets nearly have: a block for each class, or one for all.

    It only shows the way, so float32 will do.

    of_samples: `[M, K]`, what each sample adds to it, or `[M, 1]`.
    """

    def __init__(self, scaled: Array, of_samples: Array) -> None:
        single = scaled.astype(np.float32)
        if of_samples.shape[1] > MOST_BLOCKS:
            of_samples = of_samples.mean(axis=1, keepdims=True)
        self._biases = np.maximum(of_samples.sum(axis=0), 1e-9)
        self._inverses = []
        for own in of_samples.T:
            block = single.T @ (single * own[:, None].astype(np.float32))
            block.flat[:: len(block) + 1] += 1  # of the penalty
            self._inverses.append(inv(block, overwrite_a=True, check_finite=False))

    def solve(self, gradient: Array) -> Array:
        """The gradient `[F + 1, S, K]` times the inverse."""
        single = gradient[:-1].astype(np.float32)
        if len(self._inverses) == 1:
            weights = (self._inverses[0] @ single.reshape(len(single), -1)).reshape(single.shape)
        else:
            weights = np.stack([inverse @ single[:, :, k] for k, inverse in enumerate(self._inverses)], axis=2)
        return np.concatenate([weights, gradient[-1:] / self._biases])


class _Fit:
    """Fits S training sets together. Weights are `[F, S, K]`, biases `[S, K]`, in one array `[F + 1, S, K]`."""

    def __init__(
        self, scaled: Array, labels: NDArray[np.int64], classes: int, trains: Sequence[NDArray[np.int64]]
    ) -> None:
        self._scaled = scaled
        self._truth = np.eye(classes)[labels][:, None]  # [M, 1, K]
        shape = (len(labels), len(trains), classes)
        self._weight = np.zeros((*shape[:2], 1))  # of each sample in each training set
        self._absent = np.zeros(shape[1:])  # -inf for a class that a training set lacks
        for number, train in enumerate(trains):
            counts = np.bincount(labels[train], minlength=classes)
            present = counts > 0
            self._absent[number, ~present] = -np.inf
            self._weight[train, number, 0] = len(train) / (present.sum() * counts[labels[train]])
        shares = (self._weight[..., 0] > 0) / np.array([len(train) for train in trains])
        mean = scaled.T @ shares
        spread = np.sqrt(np.maximum(np.square(scaled).T @ shares - mean**2, 0))
        self._mean, self._deviation = mean[..., None], np.where(spread > CONSTANT, spread, 1.0)[..., None]
        # Of two classes scikit-learn has one vector of weights, the difference of these two: it weighs twice as much.
        self._penalty = np.where(np.isfinite(self._absent).sum(axis=1) == 2, 2.0, 1.0)[:, None]
        self._solution = np.zeros((scaled.shape[1] + 1, *shape[1:]))

    def start_from(self, other: "_Fit") -> None:
        """Begins with the solution of another, of a single training set, whatever mean and deviation that one has."""
        own = other._solution[:-1] / other._deviation
        bias = other._solution[-1] - (other._mean * own).sum(axis=0)
        self._solution[:-1] = own * self._deviation
        self._solution[-1] = bias + (self._mean * own).sum(axis=0)
        self._solution[:, np.isinf(self._absent)] = 0

    def curvature(self) -> Array:
        """What each sample adds to the curvature of each class, `[M, K]`, of a single training set."""
        probabilities = self.probabilities()[0]
        return C * self._weight[:, 0] * probabilities * (1 - probabilities)

    def probabilities(self) -> Array:
        """The probabilities of all samples, `[S, M, K]`."""
        return self._softmax(self._solution)[0].transpose(1, 0, 2)

    def _softmax(self, point: Array) -> tuple[Array, Array]:
        """Probabilities and their logarithms, `[M, S, K]`."""
        own = point[:-1] / self._deviation
        logits = (self._scaled @ own.reshape(len(own), -1)).reshape(-1, *own.shape[1:])
        logits += point[-1] - (self._mean * own).sum(axis=0) + self._absent
        logits -= logits.max(axis=-1, keepdims=True)
        powers = np.exp(logits)
        total = powers.sum(axis=-1, keepdims=True)
        return powers / total, logits - np.log(total)

    def _loss(self, point: Array) -> tuple[Array, Array]:
        """The penalised loss of each training set, `[S]`, and its gradient, as the point."""
        probabilities, logs = self._softmax(point)
        known = np.where(self._truth * self._weight > 0, logs, 0.0)  # 0 times an infinite logarithm is NaN
        value = -C * (self._weight * self._truth * known).sum(axis=(0, 2))
        value += 0.5 * (self._penalty * point[:-1] ** 2).sum(axis=(0, 2))
        slope = C * self._weight * (probabilities - self._truth)
        slope[:, np.isinf(self._absent)] = 0
        total = slope.sum(axis=0)
        by_weight = (self._scaled.T @ slope.reshape(len(slope), -1)).reshape(-1, *slope.shape[1:])
        by_weight = (by_weight - self._mean * total) / self._deviation + self._penalty * point[:-1]
        return value, np.concatenate([by_weight, total[None]])

    def search(self, curvature: _Curvature) -> None:
        """Goes from the solution so far to the optimum."""
        point = self._solution
        value, gradient = self._loss(point)
        tolerance = 0.5 * C * TOLERANCE**2 * (self._weight > 0).sum(axis=(0, 2))
        steps: list[tuple[Array, Array, Array]] = []
        for _ in range(MOST_STEPS):
            direction = -self._quasi_newton(gradient, steps, curvature)
            decrease = -_dot(gradient, direction)
            going = decrease > tolerance
            if not going.any():
                break
            length = going.astype(np.float64)
            while True:
                tried = point + length[:, None] * direction
                next_value, next_gradient = self._loss(tried)
                short = going & (length > 1e-6) & (next_value > value - 1e-4 * length * decrease)
                if not short.any():
                    break
                length[short] /= 2
            change, turn = tried - point, next_gradient - gradient
            curved = _dot(change, turn)
            steps = [*steps[1 - REMEMBERED :], (change, turn, curved)]
            point, value, gradient = tried, next_value, next_gradient
        self._solution = point

    def _quasi_newton(self, gradient: Array, steps: list[tuple[Array, Array, Array]], curvature: _Curvature) -> Array:
        """The gradient times the inverse of the curvature, estimated from the last steps."""
        result, shares = gradient.copy(), []
        for change, turn, curved in reversed(steps):
            share = np.where(curved > 0, _dot(change, result) / np.where(curved > 0, curved, 1), 0.0)
            result -= share[:, None] * turn
            shares.append(share)
        result = curvature.solve(result)
        for (change, turn, curved), share in zip(steps, reversed(shares), strict=True):
            back = np.where(curved > 0, _dot(turn, result) / np.where(curved > 0, curved, 1), 0.0)
            result += (share - back)[:, None] * change
        return result


def _dot(a: Array, b: Array) -> Array:
    """The dot product for each training set, `[S]`."""
    product: Array = np.einsum("fsk,fsk->s", a, b)
    return product


def _deviation(features: Array) -> Array:
    """Standard deviation of each feature; 1 if it is constant."""
    deviation = features.std(axis=0)
    return np.where(deviation > CONSTANT * np.abs(features).max(axis=0), deviation, 1.0)
