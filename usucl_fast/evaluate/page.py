"""A summary and its predictions -> plots, and a page that shows all of them without any other file."""

import base64
import html
import io
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray
from sklearn.manifold import TSNE
from sklearn.metrics import roc_auc_score, roc_curve
from sklearn.preprocessing import StandardScaler

from usucl_fast.evaluate.samples import Predictions, Samples
from usucl_fast.evaluate.table import design, figure_rows
from usucl_fast.files import write_whole

MAPPED = 2000
"""Samples that are shown on the map, at most."""
FEWEST_MAPPED = 5

ROC_CAPTION = (
    "Each class against the rest, by video: every repeat, and the mean. The folds of a repeat are taken together here,"
    " so an area may differ a little from the AUROC, a mean over folds."
)

STYLE = """
body { font-family: system-ui, sans-serif; line-height: 1.45; max-width: 60rem; margin: 0 auto; padding: 1rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: 0.9rem; }
th, td { border-bottom: 1px solid #ccc; padding: 0.25rem 0.75rem; text-align: left; white-space: nowrap; }
img { display: block; max-width: 100%; height: auto; }
figure { margin: 1.5rem 0; }
figcaption { color: #555; font-size: 0.9rem; }
"""


def write_page(
    out: Path, summary: dict[str, Any], predictions: Predictions, features: NDArray[np.float32] | None
) -> None:
    """Writes `confusion.png`, `roc.png`, `folds.png`, `map.png` and `page.html`, which holds them, into `out`.

    A plot whose figures are missing in the summary is left out.

    Args:
        out: folder; made where it is missing.
        summary: as written to `summary.json`: figures by frame, and the same by video under `video`.
        predictions: by frame.
        features: `[M, F]` of the predictions' samples; None, or features that are all alike, make no map.
    """
    levels = {"by frame": summary, "by video": summary.get("video", {})}
    plots = {
        "confusion.png": (_confusion(levels, summary["classes"]), "Predicted and true classes: mean over the repeats."),
        "roc.png": (_roc(predictions.by_video()), ROC_CAPTION),
        "folds.png": (_folds(levels, summary.get("chance")), "Every fold of every repeat."),
        "map.png": (_map(predictions.samples, features), "The features in two dimensions (t-SNE)."),
    }
    out.mkdir(parents=True, exist_ok=True)
    parts = [paragraph(counts_text(summary)), table_html(("", "by frame", "by video"), figure_rows(summary))]
    parts.append(paragraph(design(summary)))
    for name, (figure, caption) in plots.items():
        if figure is None:
            (out / name).unlink(missing_ok=True)  # of an evaluation that this one replaces
        else:
            parts.append(write_plot(out / name, figure, caption))
    if summary.get("notes"):
        parts.append("<h2>Notes</h2>\n" + "\n".join(map(paragraph, summary["notes"])))
    title = ", ".join(str(summary[key]) for key in ("model", "protocol") if key in summary)
    write_html(out / "page.html", title, parts)


def counts_text(counts: dict[str, Any]) -> str:
    """`frames`, `videos` and `groups` as one line."""
    return ", ".join(f"{counts[key]:,} {key}" for key in ("frames", "videos", "groups") if key in counts)


def write_plot(path: Path, figure: Figure, caption: str) -> str:
    """Writes a PNG, and returns the HTML that holds it."""
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=120, metadata={"Software": None})
    with write_whole(path) as file:
        file.write(picture.getvalue())
    data, text = base64.b64encode(picture.getvalue()).decode(), html.escape(caption)
    return f'<figure><img src="data:image/png;base64,{data}" alt="{text}">\n<figcaption>{text}</figcaption></figure>'


def write_html(path: Path, title: str, parts: Iterable[str]) -> None:
    """Writes a page of its own: the title, which is escaped, above parts that are HTML."""
    name = html.escape(title)
    head = '<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">\n'
    head += f"<title>{name}</title><style>{STYLE}</style>"
    body = "\n".join([f"<h1>{name}</h1>", *parts])
    with write_whole(path) as file:
        file.write(f'<!DOCTYPE html>\n<html lang="en"><head>{head}</head>\n<body>\n{body}\n</body></html>\n'.encode())


def table_html(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table of texts, which are escaped; the first cell of a row is its title."""
    lines = ["".join(f'<th scope="col">{html.escape(cell)}</th>' for cell in header)]
    for title, *cells in rows:
        line = "".join(f"<td>{html.escape(cell)}</td>" for cell in cells)
        lines.append(f'<th scope="row">{html.escape(title)}</th>{line}')
    return '<div class="wide"><table>\n' + "\n".join(f"<tr>{line}</tr>" for line in lines) + "\n</table></div>"


def paragraph(text: str) -> str:
    """A paragraph of a text, which is escaped."""
    return f"<p>{html.escape(text)}</p>"


def plot_text(name: str) -> str:
    """A name as matplotlib shows it as it is: neither as a formula nor hidden from legends."""
    return ("\u2009" if name.startswith("_") else "") + name.replace("$", r"\$")


def _confusion(levels: dict[str, dict[str, Any]], classes: list[str]) -> Figure | None:
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


def _roc(videos: Predictions) -> Figure | None:
    figure = Figure(figsize=(6, 5), layout="constrained")
    axes, grid, drawn = figure.subplots(), np.linspace(0, 1, 201), False
    for k, name in enumerate(videos.samples.classes):
        curves, areas = [], []
        for probabilities, fold in zip(videos.probabilities, videos.fold, strict=True):
            truth, score = videos.samples.labels[fold >= 0] == k, probabilities[fold >= 0, k]
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


def _folds(levels: dict[str, dict[str, Any]], chance: float | None) -> Figure | None:
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


def _map(samples: Samples, features: NDArray[np.float32] | None) -> Figure | None:
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
