"""The plots of an evaluation's page."""

from typing import Any
from urllib.parse import unquote

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray
from sklearn.manifold import TSNE
from sklearn.metrics import roc_auc_score, roc_curve
from sklearn.preprocessing import StandardScaler

from usucl_fast.errors import printable
from usucl_fast.evaluate.samples import Predictions, Samples

MAPPED = 2000
"""Samples that are shown on the map, at most."""
FEWEST_MAPPED = 5
ALONG = 6
"""Videos that predictions are shown along, at most."""


def confusion_plot(levels: dict[str, dict[str, Any]], classes: list[str]) -> Figure | None:
    """Plots predicted against true classes, by frame and by video; None where there are no classes."""
    shown = {title: np.array(level["confusion"]) for title, level in levels.items() if "confusion" in level}
    if not shown:
        return None
    side = 2.2 + 0.55 * len(classes)
    figure = Figure(figsize=(side * len(shown), side), layout="constrained")
    for axes, (title, counts) in zip(figure.subplots(1, len(shown), squeeze=False)[0], shown.items(), strict=True):
        shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1e-9)
        axes.imshow(shares, vmin=0, vmax=1, cmap="Blues")
        for (row, column), count in np.ndenumerate(counts):
            colour = "white" if shares[row, column] > 0.5 else "black"
            axes.text(column, row, f"{round(count, 1):,g}", ha="center", va="center", color=colour, fontsize="small")
        ticks, names = range(len(classes)), list(map(plot_text, classes))
        axes.set_xticks(ticks, names, rotation=45, ha="right")
        axes.set_yticks(ticks, names)
        axes.set(title=title, xlabel="predicted", ylabel="true")
    return figure


def roc_plot(predictions: Predictions) -> Figure | None:
    """Plots the ROC of each class against the rest: every repeat, and the mean; None where no repeat tests both."""
    figure = Figure(figsize=(6, 5), layout="constrained")
    axes, grid, drawn = figure.subplots(), np.linspace(0, 1, 201), False
    for k, name in enumerate(predictions.samples.classes):
        curves, areas = [], []
        for probabilities, fold in zip(predictions.probabilities, predictions.fold, strict=True):
            truth, score = predictions.samples.labels[fold >= 0] == k, probabilities[fold >= 0, k]
            if truth.all() or not truth.any():
                continue
            false, true, _ = roc_curve(truth, score)
            axes.plot(false, true, color=f"C{k}", alpha=0.2, linewidth=0.8)
            curves.append(np.interp(grid, false, true))
            areas.append(roc_auc_score(truth, score))
        if curves:
            mean = np.concatenate([[0], np.mean(curves, axis=0)])  # interp leaves out the rise at 0
            label = f"{plot_text(name)} ({np.mean(areas):.3f})"
            axes.plot([0, *grid], mean, color=f"C{k}", linewidth=2, label=label)
            drawn = True
    if not drawn:
        return None
    axes.plot([0, 1], [0, 1], ":", color="grey")
    axes.set(xlabel="false positives", ylabel="true positives", aspect="equal")
    axes.legend(title="area", fontsize="small", loc="lower right")
    return figure


def folds_plot(levels: dict[str, dict[str, Any]], chance: float | None) -> Figure | None:
    """Plots the balanced accuracy of every fold; None where there is none."""
    found = {title: level.get("fold_scores") for title, level in levels.items()}
    shown = {title: scores for title, scores in found.items() if scores}
    if not shown:
        return None
    figure = Figure(figsize=(4 * len(shown), 3.5), layout="constrained")
    panels = figure.subplots(1, len(shown), sharey=True, squeeze=False)[0]
    for axes, (title, scores) in zip(panels, shown.items(), strict=True):
        repeats = [score["repeat"] for score in scores]
        axes.plot(repeats, [score["balanced_accuracy"] for score in scores], "o", color="#4477aa", alpha=0.6)
        if chance is not None:
            axes.axhline(chance, linestyle=":", color="grey", label="chance")
            axes.legend(fontsize="small")
        axes.set_xticks(sorted(set(repeats)))
        axes.set(title=title, xlabel="repeat", ylim=(-0.03, 1.03))
    panels[0].set_ylabel("balanced accuracy")
    return figure


def map_plot(samples: Samples, features: NDArray[np.float32] | None) -> Figure | None:
    """Plots the features in two dimensions; None where there are few, or all are alike."""
    if features is None or len(features) < FEWEST_MAPPED or not np.ptp(features, axis=0).any():
        return None
    places = np.linspace(0, len(features) - 1, min(len(features), MAPPED)).astype(np.int64)
    scaled = StandardScaler().fit_transform(features[places])
    perplexity = min(30, (len(places) - 1) / 3)
    points = TSNE(init="pca", perplexity=perplexity, random_state=0).fit_transform(scaled)
    figure = Figure(figsize=(9, 4.5), layout="constrained")
    by_class, by_video = figure.subplots(1, 2)
    for k, name in enumerate(samples.classes):
        _dots(by_class, points[samples.labels[places] == k], color=f"C{k}", label=plot_text(name))
    by_class.legend(fontsize="small", markerscale=2)
    _dots(by_video, points, c=np.unique(samples.videos[places], return_inverse=True)[1] % 20, cmap="tab20")
    by_class.set_title("by class")
    by_video.set_title("by video")
    return figure


def _dots(axes: Axes, points: NDArray[np.float32], **look: Any) -> None:
    axes.scatter(points[:, 0], points[:, 1], s=8, linewidths=0, **look)
    axes.set(xticks=[], yticks=[])


def along_plot(predictions: Predictions) -> Figure | None:
    """What was predicted along some videos, in the first repeat, against the truth: the probability of each class above
    bands where it is shown, or the value beside the true one. None where frames have nothing of their own.

    The videos are those in which the truth changes most often, from different groups as far as possible.
    """
    samples = predictions.samples
    if samples.target == "video" or samples.numbers is None:
        return None
    videos = _most_changing(samples, predictions.fold[0] >= 0)
    figure = Figure(figsize=(9, 1.6 * len(videos) + 0.6), layout="constrained")
    panels = figure.subplots(len(videos), 1, squeeze=False)[:, 0]
    for axes, video in zip(panels, videos, strict=True):
        places = np.flatnonzero((samples.videos == video) & (predictions.fold[0] >= 0))
        places = places[np.argsort(samples.numbers[places])]
        at, found = samples.numbers[places], predictions.probabilities[0, places]
        if samples.values is not None:
            axes.plot(at, samples.values[places], ":", color="black", label="true")
            axes.plot(at, found[:, 0], ".-", color="C0", label="predicted")
        else:
            edges = np.concatenate([[at[0] - 0.5], (at[1:] + at[:-1]) / 2, [at[-1] + 0.5]])
            for k, name in enumerate(samples.classes):
                axes.plot(at, found[:, k], ".-", color=f"C{k}", linewidth=1, markersize=3, label=plot_text(name))
                for place in np.flatnonzero(samples.labels[places] == k):
                    axes.axvspan(edges[place], edges[place + 1], color=f"C{k}", alpha=0.15, linewidth=0)
            axes.set_ylim(-0.03, 1.03)
        name = unquote(samples.names[places[0]].rpartition("/")[0])  # ids are escaped names
        axes.set_title(plot_text(name), fontsize="small", loc="left")
    panels[0].legend(fontsize="x-small", loc="upper right", ncols=4)
    panels[-1].set_xlabel("frame")
    return figure


def _most_changing(samples: Samples, tested: NDArray[np.bool_]) -> list[int]:
    """The videos in which the truth changes most often, at most `ALONG`, one a group before a second of any."""
    assert samples.numbers is not None
    changes = []
    for video in np.unique(samples.videos[tested]).tolist():
        places = np.flatnonzero((samples.videos == video) & tested)
        places = places[np.argsort(samples.numbers[places])]
        truth = samples.labels if samples.values is None else samples.values
        changes.append((-int((np.diff(truth[places]) != 0).sum()), int(samples.groups[places[0]]), video))
    seen: set[int] = set()
    ranked = []
    for count, group, video in sorted(changes):
        ranked.append((group in seen, count, video))
        seen.add(group)
    return [video for _, _, video in sorted(ranked)[:ALONG]]


def plot_text(name: str) -> str:
    """A text that matplotlib shows unchanged, in one line: not as a formula, and not hidden from legends."""
    return ("\u2009" if name.startswith("_") else "") + printable(name).replace("$", r"\$")
