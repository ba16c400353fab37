"""Writes the page of a run: `page.html`, one file that fetches nothing."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from usucl_fast.errors import DataError, UsageError, first_line, printable
from usucl_fast.files import is_url
from usucl_fast.html import escape, paragraph, table_html, write_html
from usucl_fast.learn.checkpoint import load_newest
from usucl_fast.learn.method import BankMethod, Method
from usucl_fast.learn.page.bank_map import bank_map
from usucl_fast.learn.page.curves import curves
from usucl_fast.learn.page.negatives import negatives
from usucl_fast.learn.page.pictures import thumbnails, whole_pictures
from usucl_fast.learn.run_folder import RunFolder
from usucl_fast.learn.snapshots import read_snapshots
from usucl_fast.pack.summary import SUMMARY, read_summary
from usucl_fast.shards import ShardStore

FIGURES = {
    "steps": "steps",
    "videos": "videos trained on",
    "split": "split",
    "loss": "loss",
    "mean_cosine": "mean cosine of the anchors",
    "effective_rank": "effective rank of the anchors",
    "frames_per_second": "frames/s",
    "data_wait": "waiting for data, share of the time",
    "seconds": "seconds",
    "loader": "loader",
    "device": "device",
    "ranks": "ranks",
}
"""Of the summary, those that the page shows, and their titles."""


def page_of(run: Path, store: ShardStore) -> Path:
    """Writes `page.html` of a run anew and returns its path; its map is that of the newest checkpoint.

    run: its folder.
    store: the shards that it was begun on.

    Raises:
        UsageError, DataError: as `write_page`.
    """
    folder = RunFolder(run)
    saved = load_newest(folder)
    return write_page(folder, store, None if saved is None else saved.bank, 0 if saved is None else saved.step)


def write_page(folder: RunFolder, store: ShardStore, bank: dict[str, torch.Tensor] | None, step: int) -> Path:
    """Writes `page.html` of a run, finished or not, and returns its path.

    Args:
        folder: of the run.
        store: the shards that it was begun on.
        bank: `MemoryBank.state_dict()` after `step` steps; None in a method without one, or before there is any.

    Raises:
        UsageError: the run was begun on other shards, or has no metrics yet.
        DataError: a file of the run or a frame is damaged.
    """
    config = folder.read_config()
    if folder.read_fingerprint() != store.fingerprint:
        raise UsageError(
            f"the run in {folder.path} was begun on other shards than {store.name}, or they have changed since; name"
            " those that it was begun on"
        )
    try:
        data: dict[str, Any] = {"curves": curves(folder.read_metrics())}
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise DataError(
            f"{folder.metrics} is damaged ({first_line(error)}); --resume writes it again from the checkpoint"
        ) from error
    if not data["curves"]:
        raise UsageError(f"the run in {folder.path} has no steps yet; there is nothing to show")
    table, notes = store.table, list[str]()
    whole, small = set[int](), set[int]()
    if folder.mined.exists():
        snapshots = read_snapshots(folder.mined, len(table))
        tau = getattr(config, "tau", 1.0)
        data["negatives"] = negatives(snapshots, table, tau, _duplicates(store, notes))
        whole = {
            int(frame) for name in ("anchors", "positive", "intra") for frame in snapshots[name].flat if frame >= 0
        }
        small = {int(frame) for frame in snapshots["cross"].flat if frame >= 0}
    if bank is not None and (found := bank_map(bank["embeddings"], bank["written_at"], step, config.seed)):
        data["map"] = found
        small |= set(found["frames"])
    data["videos"], data["labels"] = _videos(store, whole | small)
    if is_url(store.name):  # these frames lie in as many shards
        notes.append("The shards are at a URL: no pictures but those of the anchors' videos were fetched.")
        small = set()
    data["pictures"], data["thumbnails"] = whole_pictures(store, whole), thumbnails(store, small - whole)
    write_html(folder.page, f"Run {folder.path.name}", _parts(folder, config, notes), "run.js", data)
    return folder.page


def _duplicates(store: ShardStore, notes: list[str]) -> list[tuple[int, int]]:
    """Pairs of videos that `usucl-shard` found to show the same, by their numbers."""
    if is_url(store.name) or not (store.folder / SUMMARY).exists():
        notes.append("Which videos are copies of others is not known: there is no summary of the packing here.")
        return []
    number = {name: video for video, name in enumerate(store.table.videos.name)}
    pairs = [pair["videos"] for pair in read_summary(store.folder)["duplicates"]]
    return [(number[pair[0]], number[pair[1]]) for pair in pairs if len(pair) == 2 and {*pair} <= {*number}]


def _videos(store: ShardStore, frames: set[int]) -> tuple[dict[str, Any], dict[str, str]]:
    """What the page says of the videos of some frames, by number; and labels of these frames, by frame id."""
    ids, table = np.array(sorted(frames), np.int64), store.table
    videos = {}
    for video in np.unique(table.rows["video"][ids]).tolist():
        record = table.videos[video]
        videos[str(video)] = {
            "name": printable(record.name),
            "group": printable(record.group or record.name),
            "label": printable(record.label),
            "first": int(table.first_row[video]),
            "frames": record.frames,
            "rate": record.frame_rate,
            "width": record.width,
        }
    labels = {}
    if table.labels is not None:
        labels = {str(frame): printable(text) for frame in ids.tolist() if (text := table.labels.label[frame])}
    return videos, labels


def _parts(folder: RunFolder, config: Method, notes: list[str]) -> list[str]:
    """The page but for its script, which fills the sections by their ids."""
    summary = folder.read_summary()
    shown = [(title, _text(summary[name])) for name, title in FIGURES.items() if summary.get(name) is not None]
    state = "finished" if summary.get("steps", 0) == summary.get("of") else "not finished"
    parts = [paragraph(f"Recipe {config.recipe}, {state}.")]
    parts += [f'<p class="mark">{escape(str(warning))}</p>' for warning in summary.get("warnings", ())]
    parts += ['<section id="curves"><h2>Curves</h2></section>']
    if not isinstance(config, BankMethod):
        parts.append(paragraph("This method has no memory bank: no negatives are mined, and there is no map."))
    else:
        parts.append('<section id="negatives"><h2>Mined negatives</h2></section>')
        parts.append('<section id="strips"><h2>Where in the video they lie</h2></section>')
        parts.append('<section id="map"><h2>Map of the bank</h2></section>')
    parts += map(paragraph, notes)
    parts.append("<h2>How it was made</h2>")
    parts.append(table_html(("", ""), shown))
    for origin in folder.read_origins():
        versions = ", ".join(f"{name} {version}" for name, version in origin.versions.items())
        parts.append(_copied(origin.command))
        parts.append(paragraph(f"{versions}; commit {origin.commit or 'unknown'}"))
    parts.append(_copied(json.dumps(dataclasses.asdict(config), indent=1, ensure_ascii=False)))
    parts.append(paragraph(f"Fingerprint of the shards: {folder.read_fingerprint()}"))
    return parts


def _copied(text: str) -> str:
    """Preformatted text with a button that copies it, which the script makes."""
    lines = "\n".join(map(escape, text.splitlines()))
    return f'<pre class="copied">{lines}</pre>'


def _text(value: Any) -> str:
    return f"{value:,.4g}" if isinstance(value, float) else str(value)
