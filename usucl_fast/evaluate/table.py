"""Shows a summary as a table on the terminal, and gives its rows for other tables."""

import sys
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from usucl_fast.errors import printable

TITLES = {
    "balanced_accuracy": "balanced accuracy",
    "accuracy": "accuracy",
    "auroc": "AUROC",
    "f1": "F1",
    "binary_accuracy": "binary accuracy",
    "sensitivity": "sensitivity",
    "specificity": "specificity",
    "overlap": "intersection over union",
    "r2": "R²",
    "spearman": "Spearman's ρ",
    "r2_within": "R² within videos",
    "spearman_within": "Spearman's ρ within videos",
}
"""What the figures are called, in the order of their rows."""


def show(summary: dict[str, Any]) -> None:
    """Prints the figures by frame and by video, and how they were computed."""
    title = " ".join(str(summary[key]) for key in ("model", "protocol") if key in summary)
    table = Table("", "by frame", "by video", title=as_cell(title))
    for row in figure_rows(summary):
        table.add_row(*map(as_cell, row))
    console = plain_console()
    console.print(table)
    console.print(design(summary), markup=False)


def as_cell(text: str) -> str:
    """Escapes a text for a cell of rich's tables: markup, and control characters that a terminal would obey."""
    return escape(printable(text))


def figure_rows(summary: dict[str, Any]) -> list[tuple[str, str, str]]:
    """Title, figure by frame and figure by video, as text; empty where a figure is missing."""
    levels = (summary, summary.get("video", {}))
    rows = [(title, [level.get(name) for level in levels]) for name, title in TITLES.items()]
    for name in summary.get("classes", []):
        rows.append((f"recall of {name}", [level.get("recall", {}).get(name) for level in levels]))
        rows.append((f"AUROC of {name}", [level.get(f"AUROC of {name}") for level in levels]))
    texts = [(title, *map(figure_text, figures)) for title, figures in rows]
    return [(title, frame, video) for title, frame, video in texts if frame or video]


def figure_text(figure: dict[str, Any] | None) -> str:
    """`mean ± std (low to high)`; nothing where there is no figure."""
    if not figure:
        return ""
    return f"{figure['mean']:.3f} ± {figure['std']:.3f} ({figure['low']:.3f} to {figure['high']:.3f})"


def design(summary: dict[str, Any]) -> str:
    """One line about how the figures were computed: repeats, folds, groups that the intervals are over, and chance."""
    folds = summary.get("folds")
    parts = []
    if "repeats" in summary:
        split = f" of {folds} folds" if folds else ""
        by = f" by {summary['by']}" if "by" in summary else ""
        parts.append(f"mean ± std over {summary['repeats']} repeats{split}{by}")
    if "groups" in summary:
        parts.append(f"95 % interval over the {summary['groups']} groups drawn anew")
    if "chance" in summary:
        parts.append(f"chance is {summary['chance']:.3f}")
    return "; ".join(parts)


def plain_console() -> Console:
    """A console for standard output that does not wrap text, nor, in a pipe, tables."""
    return Console(width=None if sys.stdout.isatty() else 1000, soft_wrap=True, highlight=False)
