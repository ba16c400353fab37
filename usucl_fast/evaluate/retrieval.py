"""Finds the most similar frames of other groups, draws them, and writes features for other programs."""

import importlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from usucl_fast.errors import UsageError
from usucl_fast.evaluate.embedding import Embeddings
from usucl_fast.files import write_whole
from usucl_fast.optional import needed

BORDER, GAP, CAPTION = 4, 6, 14  # pixels
PAPER, INK, RIGHT, WRONG = (40, 40, 40), (220, 220, 220), (60, 180, 75), (230, 60, 60)


def nearest(
    features: NDArray[np.float32], queries: NDArray[np.int64], groups: NDArray[np.int64], k: int
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Finds the k most similar samples of other groups, by the cosine of the centred features; exact, for few queries.

    Args:
        features: `[M, F]`.
        queries: `[Q]`, places of samples.
        groups: `[M]`.
        k: neighbours of a query; with fewer than k samples, there are as many columns.

    Returns:
        Places `[Q, k]`, the most similar first, and their cosines `[Q, k]`; -1 and -inf where there are fewer.
    """
    centred = features - features.mean(axis=0)
    unit = centred / np.maximum(np.linalg.norm(centred, axis=1, keepdims=True), 1e-12)
    cosines: NDArray[np.float32] = unit[queries] @ unit.T
    cosines[groups[queries][:, None] == groups] = -np.inf
    places = np.argsort(-cosines, axis=1, kind="stable")[:, :k]
    cosines = np.take_along_axis(cosines, places, axis=1)
    return np.where(np.isneginf(cosines), -1, places), cosines


def pick_queries(labels: NDArray[np.int64], videos: NDArray[np.int64], count: int, seed: int) -> NDArray[np.int64]:
    """Picks at most `count` samples, as evenly over the classes as possible, one of a video; returns their places.

    labels, videos: `[M]`; a label of -1 is missing: such samples are drawn where labelled videos run out.
    """
    shuffled = np.random.default_rng(seed).permutation(len(videos))
    drawn = shuffled[np.sort(np.unique(videos[shuffled], return_index=True)[1])]
    label = labels[drawn]
    turn = np.array([np.count_nonzero(label[:n] == label[n]) for n in range(len(drawn))], np.int64)
    picked: NDArray[np.int64] = drawn[np.lexsort((label, turn, label < 0))][:count]
    return picked


def retrieval_picture(embeddings: Embeddings, queries: int = 8, neighbours: int = 6, seed: int = 0) -> Image.Image:
    """Draws some frames, each beside the frames of other groups that the model finds most similar.

    queries: rows, of frames drawn by `pick_queries`.
    neighbours: in a row.
    seed: of the draw.
    """
    labels, groups = embeddings.columns()["label"], embeddings.store.table.group[embeddings.videos]
    codes = np.where(labels == "", -1, np.unique(labels, return_inverse=True)[1])
    chosen = pick_queries(codes, embeddings.videos, queries, seed)
    found, cosines = nearest(embeddings.features, chosen, groups, neighbours)
    return draw_rows(embeddings.pictures, chosen, found, cosines, labels.tolist())


def draw_rows(
    pictures_of: Callable[[NDArray[np.int64]], NDArray[np.uint8]],
    queries: NDArray[np.int64],
    neighbours: NDArray[np.int64],
    similarity: NDArray[np.float32],
    labels: Sequence[str | None],
) -> Image.Image:
    """Draws a row for each query: its frame at the left, then its neighbours with their similarity and label.

    A border shows whether a neighbour's label is the query's (green) or not (red); there is none where one of the two
    is missing.

    Args:
        pictures_of: places `[n]` -> uint8 `[n, S, S]`; asked once, for every sample that is shown.
        queries: `[Q]`, places.
        neighbours: `[Q, k]`, places; -1 leaves a cell empty.
        similarity: `[Q, k]`.
        labels: `[M]`, of all samples.
    """
    places = np.unique(np.append(queries, neighbours[neighbours >= 0]))
    pictures = pictures_of(places)
    picture_of = dict(zip(places.tolist(), pictures, strict=True))
    across = pictures.shape[2] + 2 * BORDER + GAP
    down = pictures.shape[1] + 2 * BORDER + CAPTION + GAP
    page = Image.new("RGB", ((1 + neighbours.shape[1]) * across + 2 * GAP, len(queries) * down + GAP), PAPER)
    draw, font = ImageDraw.Draw(page), ImageFont.load_default()

    def cell(x: int, y: int, place: int, caption: str, border: tuple[int, int, int]) -> None:
        draw.rectangle((x, y, x + across - GAP - 1, y + down - GAP - CAPTION - 1), fill=border)
        page.paste(Image.fromarray(picture_of[place]), (x + BORDER, y + BORDER))
        text = caption.encode("latin-1", "replace").decode("latin-1")  # all that every build of Pillow can draw
        while len(text) > 2 and font.getlength(text) > across - GAP:
            text = text[:-3] + ".."
        draw.text((x, y + down - GAP - CAPTION), text, fill=INK, font=font)

    for row, query in enumerate(queries.tolist()):
        y, label = GAP + row * down, labels[query]
        cell(GAP, y, query, label or "no label", PAPER)
        for column, place in enumerate(neighbours[row].tolist()):
            if place < 0:
                continue
            other = labels[place]
            border = PAPER if not label or not other else RIGHT if label == other else WRONG
            caption = f"{similarity[row, column]:.2f} {other or 'no label'}"
            cell(2 * GAP + (1 + column) * across, y, place, caption, border)
    return page


def check_embeddings_path(path: Path) -> None:
    """Checks, before there are embeddings, that they can be written to a file of that name.

    Raises:
        UsageError: the suffix is neither `.npz` nor `.parquet`, or pyarrow is missing.
    """
    if path.suffix not in (".npz", ".parquet"):
        raise UsageError(f"--out {path} is of no known kind; name a file that ends in .npz or .parquet")
    if path.suffix == ".parquet":
        with needed("pyarrow", f"--out {path}", "parquet", "; or name an .npz"):
            importlib.import_module("pyarrow.parquet")


def write_embeddings(path: Path, columns: dict[str, NDArray], features: NDArray[np.float32]) -> None:
    """Writes features, and columns that describe the samples, to a file for other programs.

    Args:
        path: `.npz` with the array `embeddings`, float32 `[M, F]`, beside an array a column; or `.parquet` with the
            column `embedding`, a list of F float32.
        columns: by name, `[M]` each: numbers or texts. None for a missing text becomes "" in `.npz`, which has no null.
        features: `[M, F]`.

    Raises:
        UsageError: as `check_embeddings_path`.
    """
    check_embeddings_path(path)
    features = np.ascontiguousarray(features, np.float32)
    if path.suffix == ".npz":
        arrays: dict[str, Any] = {name: _without_objects(column) for name, column in columns.items()}
        with write_whole(path) as file:
            np.savez(file, embeddings=features, **arrays)
        return
    import pyarrow as pa
    import pyarrow.parquet as pq

    lists = pa.FixedSizeListArray.from_arrays(pa.array(features.ravel()), features.shape[1])
    table = pa.table({**{name: pa.array(column.tolist()) for name, column in columns.items()}, "embedding": lists})
    with write_whole(path) as file:
        pq.write_table(table, file)


def _without_objects(column: NDArray) -> NDArray:
    """Objects could only be stored as pickles."""
    if column.dtype != object:
        return column
    return np.array(["" if value is None else str(value) for value in column])
