"""The mistakes of an evaluation: frames that are most confidently wrong, and the figures by group, worst first."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from usucl_fast.evaluate.samples import Predictions
from usucl_fast.html import escape, jpeg_url, paragraph, table_html

SHOWN = 4
"""Frames that are shown of each true class, at most one a video."""
NEIGHBOURS = 3
GROUPS = 20
"""Groups that are shown, the worst ones."""
SIDE = 128
"""Pixels of a picture's longer side, at most."""

Pictures = Callable[[NDArray[np.int64]], NDArray[np.uint8]]
"""Places of n samples -> their pictures, `[n, C, S, S]`."""


@dataclass(frozen=True)
class Mistake:
    """A sample that is predicted wrongly in the first repeat.

    place: of the sample.
    said: what was predicted, and what is true.
    neighbours: places of the samples that its classifier was trained on whose features are most similar to its own, by
        cosine.
    """

    place: int
    said: str
    neighbours: NDArray[np.int64]


def worst_samples(predictions: Predictions, features: NDArray[np.float32] | None) -> dict[str, list[Mistake]]:
    """The samples that are most confidently wrong in the first repeat, by true class; of values, those that are
    furthest off. At most `SHOWN` each, and one a video.

    features: `[M, F]`; None where neighbours are not to be had.
    """
    samples, found = predictions.samples, predictions.probabilities[0]
    tested = predictions.fold[0] >= 0
    if samples.target == "value":
        assert samples.values is not None
        error = abs(found[:, 0] - samples.values)
        said = [f"predicted {p:.4g}, true {t:.4g}" for p, t in zip(found[:, 0], samples.values, strict=True)]
        parts = {"furthest off": np.flatnonzero(tested)}
    else:
        taken = np.where(tested[:, None], found, 0).argmax(axis=1)
        error = np.take_along_axis(found, taken[:, None], axis=1)[:, 0]
        said = [f"taken for {samples.classes[k]} ({p:.2f})" for k, p in zip(taken, error, strict=True)]
        wrong = tested & (taken != samples.labels)
        parts = {name: np.flatnonzero(wrong & (samples.labels == k)) for k, name in enumerate(samples.classes)}
    worst = {}
    for name, places in parts.items():
        ranked = places[np.argsort(-error[places], kind="stable")]
        _, first = np.unique(samples.videos[ranked], return_index=True)
        chosen = ranked[np.sort(first)[:SHOWN]].tolist()
        worst[name] = [Mistake(place, said[place], _neighbours(predictions, features, place)) for place in chosen]
    return {name: found for name, found in worst.items() if found}


def _neighbours(predictions: Predictions, features: NDArray[np.float32] | None, place: int) -> NDArray[np.int64]:
    """At most one a video."""
    if features is None:
        return np.empty(0, np.int64)
    fold = predictions.fold[0]
    trained = np.flatnonzero((fold >= 0) & (fold != fold[place]))
    own = features[[place, *trained]].astype(np.float64)
    own -= own[1:].mean(axis=0)
    own /= np.maximum(np.linalg.norm(own, axis=1, keepdims=True), 1e-12)
    ranked = trained[np.argsort(-(own[1:] @ own[0]), kind="stable")]
    _, first = np.unique(predictions.samples.videos[ranked], return_index=True)
    return ranked[np.sort(first)[:NEIGHBOURS]]


def by_group(predictions: Predictions) -> list[tuple[str, ...]]:
    """A row for each group, the worst first: the name of its first video, and texts of the figures that `GROUP_TITLES`
    names. All are means over the repeats."""
    samples = predictions.samples
    rows = []
    if samples.target == "value":
        assert samples.values is not None
        scores = -abs(predictions.probabilities[..., 0] - samples.values)
    else:
        taken = np.nan_to_num(predictions.probabilities, nan=-1).argmax(axis=2)
        scores = np.where(predictions.fold >= 0, taken == samples.labels, np.nan)
    for group in np.unique(samples.groups):
        places = np.flatnonzero(samples.groups == group)
        tested = predictions.fold[:, places] >= 0
        if not tested.any():
            continue
        videos = np.unique(samples.videos[places])
        mean = float(scores[:, places][tested].mean())
        confused = ""
        if samples.target != "value":
            wrong = tested & (taken[:, places] != samples.labels[places])
            counts = np.bincount(taken[:, places][wrong], minlength=len(samples.classes))
            confused = samples.classes[counts.argmax()] if counts.any() else ""
        first = samples.names[places[0]].rpartition("/")[0] or samples.names[places[0]]
        more = f" and {len(videos) - 1} more" if len(videos) > 1 else ""
        figure = f"{-mean:.4g}" if samples.target == "value" else f"{mean:.3f}"
        rows.append((mean, (first + more, str(len(places)), figure, confused)))
    return [row for _, row in sorted(rows, key=lambda row: row[0])]


def mistakes_html(
    predictions: Predictions, features: NDArray[np.float32] | None, pictures: Pictures | None
) -> list[str]:
    """What a page says of the mistakes."""
    parts = ["<h2>Most confidently wrong</h2>"]
    worst = worst_samples(predictions, features)
    if not worst:
        parts.append(paragraph("Nothing is predicted wrongly in the first repeat."))
    else:
        what = "of each true class" if predictions.samples.target != "value" else "those that are furthest off"
        beside = (
            " Beside each: the most similar ones that its classifier was trained on." if features is not None else ""
        )
        parts.append(paragraph(f"In the first repeat, {what}, one a video.{beside}"))
    shown = sorted({p for found in worst.values() for one in found for p in (one.place, *one.neighbours.tolist())})
    urls = _urls(pictures, shown)
    for name, found in worst.items():
        parts.append(f"<h3>{escape(name)}</h3>")
        parts += [_row(predictions, one, urls) for one in found]
    rows = by_group(predictions)
    value = predictions.samples.target == "value"
    header = ("videos of the group", "frames", "mean error" if value else "share right", "" if value else "taken for")
    parts.append("<h2>By group, the worst first</h2>")
    parts.append(table_html(header, rows[:GROUPS]))
    parts.append(paragraph(f"{min(len(rows), GROUPS)} of {len(rows)} groups shown."))
    return parts


def _row(predictions: Predictions, mistake: Mistake, urls: dict[int, str]) -> str:
    samples = predictions.samples

    def card(place: int, text: str) -> str:
        caption = escape(f"{samples.names[place]}: {text}")
        picture = f'<img src="{urls[place]}" alt="{caption}">' if place in urls else ""
        return f'<figure class="anchor">{picture}<figcaption>{caption}</figcaption></figure>'

    def truth(place: int) -> str:
        if samples.target == "value":
            assert samples.values is not None
            return f"{samples.values[place]:.4g}"
        return samples.classes[samples.labels[place]]

    cards = [card(mistake.place, mistake.said), *(card(int(p), truth(p)) for p in mistake.neighbours)]
    return f'<div class="row">{"".join(cards)}</div>'


def _urls(pictures: Pictures | None, places: list[int]) -> dict[int, str]:
    if pictures is None or not places:
        return {}
    urls = {}
    for place, pixels in zip(places, pictures(np.array(places, np.int64)), strict=True):
        image = Image.fromarray(pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0))
        image.thumbnail((SIDE, SIDE))
        urls[place] = jpeg_url(image)
    return urls
