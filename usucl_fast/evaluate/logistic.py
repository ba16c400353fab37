"""Logistic regression on many folds of a dataset at once, with the optimum that scikit-learn finds.

All folds read the same features, so a step of all of them is one product of matrices. The search is L-BFGS (Nocedal and
Wright, "Numerical Optimization", algorithm 7.4), begun with the curvature that all folds nearly have.

Shapes: M samples, F features, S folds, K classes.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_factor, cho_solve

Array = NDArray[np.float64]

C = 0.01
"""Inverse strength of the penalty, as scikit-learn counts it."""
TOLERANCE = 1e-5
"""Of the distance to the optimum in logits, root mean square; probabilities are then within 1e-4 of the optimum's."""
MOST_STEPS = 500
REMEMBERED = 6
"""Steps that the curvature is estimated from."""
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
    curvature = scaled.T @ scaled * (C / 4)
    curvature.flat[:: len(curvature) + 1] += 1
    inverse = cho_factor(curvature, overwrite_a=True)
    at_once = max(1, COLUMNS // classes)
    parts = (trains[first : first + at_once] for first in range(0, len(trains), at_once))
    return np.concatenate([_Fit(scaled, labels, classes, part, inverse).probabilities() for part in parts])


class _Fit:
    """Fits S training sets together. Weights are `[F, S, K]`, biases `[S, K]`, in one array `[F + 1, S, K]`."""

    def __init__(
        self, scaled: Array, labels: NDArray[np.int64], classes: int, trains: Sequence[NDArray[np.int64]], inverse: Any
    ) -> None:
        self._scaled, self._inverse = scaled, inverse
        self._truth = np.eye(classes)[labels][:, None]  # [M, 1, K]
        shape = (len(labels), len(trains), classes)
        self._weight = np.zeros((*shape[:2], 1))  # of each sample in each training set
        self._mean, self._deviation = np.zeros((2, scaled.shape[1], len(trains), 1))
        self._absent = np.zeros(shape[1:])  # -inf for a class that a training set lacks
        for number, train in enumerate(trains):
            counts = np.bincount(labels[train], minlength=classes)
            present = counts > 0
            self._absent[number, ~present] = -np.inf
            self._weight[train, number, 0] = len(train) / (present.sum() * counts[labels[train]])
            self._mean[:, number, 0] = scaled[train].mean(axis=0)
            self._deviation[:, number, 0] = _deviation(scaled[train])
        # Of two classes scikit-learn has one vector of weights, the difference of these two: it weighs twice as much.
        self._penalty = np.where(np.isfinite(self._absent).sum(axis=1) == 2, 2.0, 1.0)[:, None]
        self._solution = self._search()

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

    def _precondition(self, gradient: Array) -> Array:
        """The gradient times the inverse of a curvature that is nearly that of every training set."""
        flat = gradient[:-1].reshape(len(gradient) - 1, -1)
        weights = cho_solve(self._inverse, flat, check_finite=False).reshape(gradient[:-1].shape)
        samples = (self._weight > 0).sum(axis=0)
        return np.concatenate([weights, gradient[-1:] * 4 / (C * samples)])

    def _search(self) -> Array:
        point = np.zeros((self._scaled.shape[1] + 1, *self._absent.shape))
        value, gradient = self._loss(point)
        tolerance = 0.5 * C * TOLERANCE**2 * (self._weight > 0).sum(axis=(0, 2))
        steps: list[tuple[Array, Array, Array]] = []
        for _ in range(MOST_STEPS):
            direction = -self._quasi_newton(gradient, steps)
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
        return point

    def _quasi_newton(self, gradient: Array, steps: list[tuple[Array, Array, Array]]) -> Array:
        """The gradient times the inverse of the curvature, estimated from the last steps."""
        result, shares = gradient.copy(), []
        for change, turn, curved in reversed(steps):
            share = np.where(curved > 0, _dot(change, result) / np.where(curved > 0, curved, 1), 0.0)
            result -= share[:, None] * turn
            shares.append(share)
        result = self._precondition(result)
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
    return np.where(deviation > 1e-6 * np.abs(features).max(axis=0), deviation, 1.0)
