"""Checks, writes and reads the folders of evaluations and comparisons."""

from collections.abc import Iterable
from pathlib import Path

from usucl_fast.errors import UsageError
from usucl_fast.evaluate.job import Evaluation
from usucl_fast.evaluate.samples import Predictions
from usucl_fast.files import check_folder_out, write_json

EVALUATION = ("summary.json", "predictions.npz", "page.html", "*.png", ".*.partial")
COMPARISON = ("comparison.json", "comparison.png", "page.html", ".*.partial")


def check_evaluation_out(out: Path, overwrite: bool) -> None:
    """Raises UsageError where an evaluation must not be written to the folder `out`."""
    check_folder_out(out, "an evaluation", EVALUATION, "summary.json", overwrite)


def check_comparison_out(out: Path, overwrite: bool) -> None:
    """Raises UsageError where a comparison must not be written to the folder `out`."""
    check_folder_out(out, "a comparison", COMPARISON, "comparison.json", overwrite)


def write_evaluation(out: Path, evaluation: Evaluation) -> None:
    """Writes the folder of an evaluation. The summary comes last: a folder that has one is complete."""
    from usucl_fast.evaluate.page import write_page  # imports matplotlib, which takes long

    out.mkdir(parents=True, exist_ok=True)
    (out / "summary.json").unlink(missing_ok=True)
    evaluation.predictions.save(out / "predictions.npz")
    write_page(out, evaluation.summary, evaluation.predictions, evaluation.features, evaluation.pictures)
    write_json(out / "summary.json", evaluation.summary)


def read_evaluations(folders: Iterable[str]) -> dict[str, list[Predictions]]:
    """Reads the predictions of evaluations to compare, each given as `FOLDER` or `NAME=FOLDER`, by name.

    Raises:
        UsageError: one is not a folder that usucl-eval wrote, or there are fewer than two names.
        DataError: predictions are damaged.
    """
    arms: dict[str, list[Predictions]] = {}
    for given in folders:
        name, equals, folder = given.partition("=")
        if not equals:
            name, folder = Path(given).name, given
        if not (Path(folder) / "predictions.npz").is_file():
            raise UsageError(f"EVALUATION {folder} is not a folder that usucl-eval wrote: it has no predictions.npz")
        arms.setdefault(name, []).append(Predictions.load(Path(folder) / "predictions.npz"))
    if len(arms) < 2:
        raise UsageError(f"there is {len(arms)} to compare; give two or more, as in ours=FOLDER theirs=FOLDER")
    return arms
