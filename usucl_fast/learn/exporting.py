"""What a run has learned, in files for other programs."""

from pathlib import Path

from usucl_fast.errors import UsageError
from usucl_fast.files import check_file_out, write_whole
from usucl_fast.learn.run_folder import RunFolder

EXPORT_FORMATS = ("us_ucl", "onnx")


def export(run: Path, format: str, out: Path, overwrite: bool = False) -> str:
    """Writes what the run has learned to `out`, whole or not at all, and returns in words what went in.

    format:
        us_ucl: the newest checkpoint, for US_UCL: `{epoch, arch, state_dict, optimizer}`, with the backbone and its
            head under `module.encoder_q`, and the momentum copy, or the same again where there is none, under
            `module.encoder_k`. Batch norms of the head are folded into its linear layers, with their running
            statistics, which leaves `fc.0`, `fc.2`, and so on; a head of other parts is left out. The optimizer has
            no state.
        onnx: the backbone: `pictures` `[N, 3, size, size]`, float32, (levels / 255 - mean) / std, -> `features`
            `[N, F]`, for any N. `mean` and `std`, of the three channels, are in its metadata.

    Raises:
        UsageError: there is no run, it has not come so far, its backbone does not go into the format, a package is
            missing, or `out` is there.
        DataError: what it has written is damaged.
    """
    check_file_out("--out", out, overwrite)
    folder = RunFolder(run)
    try:
        config = folder.read_config()
    except UsageError as error:
        raise UsageError(f"RUN {run} is no run folder: it has no {folder.config.name} of usucl-train") from error
    from usucl_fast.learn.formats import MAKERS  # needs torch, which takes seconds to import

    content, words = MAKERS[format](folder, config)
    out.parent.mkdir(parents=True, exist_ok=True)
    with write_whole(out) as file:
        file.write(content)
    return words
