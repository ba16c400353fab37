"""Writes the plots of an evaluation, and a self-contained HTML page that shows all of them."""

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from usucl_fast.evaluate.metrics import at_level
from usucl_fast.evaluate.mistakes import Pictures, mistakes_html
from usucl_fast.evaluate.plots import along_plot, confusion_plot, folds_plot, map_plot, roc_plot
from usucl_fast.evaluate.samples import Predictions
from usucl_fast.evaluate.table import design, figure_rows
from usucl_fast.files import write_whole
from usucl_fast.html import figure_html, image_url, paragraph, table_html, write_html

ROC_CAPTION = (
    "Each class against the rest, by {level}: every repeat, and the mean. The folds of a repeat are taken together"
    " here, so an area may differ a little from the AUROC, a mean over folds."
)

ALONG_CAPTION = (
    "What was predicted along the videos in which the truth changes most often, one a group, in the first repeat; each"
    " by a classifier that has seen no frame of the video's group. Bands: the true class; dotted: the true value."
)


def write_page(
    out: Path,
    summary: dict[str, Any],
    predictions: Predictions,
    features: NDArray[np.float32] | None,
    pictures: Pictures | None = None,
) -> None:
    """Writes `page.html` into `out`, and the plots that it holds: `confusion.png`, `roc.png`, `folds.png`, `along.png`,
    `map.png`.

    A plot whose figures are missing in the summary is left out.

    Args:
        out: folder; made where it is missing.
        summary: as written to `summary.json`: figures by frame, and the same by video under `video`.
        predictions: by frame.
        features: `[M, F]` of the predictions' samples; None, or features that are all alike, make no map.
        pictures: gives those of some samples; None where there are none to show.
    """
    target = predictions.samples.target
    predicted = at_level(predictions, "video" if target == "video" else "frame")
    roc = roc_plot(predicted) if isinstance(predicted, Predictions) and target != "value" else None
    levels = {"by frame": summary, "by video": summary.get("video", {})}
    plots = {
        "confusion.png": (confusion_plot(levels, summary["classes"]), "Predicted and true: mean over the repeats."),
        "roc.png": (roc, ROC_CAPTION.format(level="video" if target == "video" else "frame")),
        "folds.png": (folds_plot(levels, summary.get("chance")), "Every fold of every repeat."),
        "along.png": (along_plot(predictions), ALONG_CAPTION),
        "map.png": (map_plot(predictions.samples, features), "The features in two dimensions (t-SNE)."),
    }
    out.mkdir(parents=True, exist_ok=True)
    parts = [paragraph(counts_text(summary)), table_html(("", "by frame", "by video"), figure_rows(summary))]
    parts.append(paragraph(design(summary)))
    for name, (figure, caption) in plots.items():
        if figure is None:
            (out / name).unlink(missing_ok=True)  # of an evaluation that this one replaces
        else:
            parts.append(write_plot(out / name, figure, caption))
    parts += mistakes_html(predictions, features, pictures)
    if summary.get("notes"):
        parts.append("<h2>Notes</h2>\n" + "\n".join(map(paragraph, summary["notes"])))
    title = ", ".join(str(summary[key]) for key in ("model", "protocol") if key in summary)
    write_html(out / "page.html", title, parts)


def counts_text(counts: Mapping[str, Any]) -> str:
    """`frames`, `videos` and `groups` as one line."""
    return ", ".join(f"{counts[key]:,} {key}" for key in ("frames", "videos", "groups") if key in counts)


def write_plot(path: Path, figure: Figure, caption: str) -> str:
    """Writes a PNG, and returns the HTML that holds it."""
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=120, metadata={"Software": None})
    with write_whole(path) as file:
        file.write(picture.getvalue())
    return figure_html(image_url(picture.getvalue(), "png"), caption)
