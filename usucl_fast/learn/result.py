"""What a run leaves behind when it ends: the backbone, and a summary."""

from typing import TYPE_CHECKING, TypedDict

import torch
from safetensors.torch import save as safetensors_bytes

from usucl_fast.files import write_json, write_whole
from usucl_fast.learn.watch import Collapse

if TYPE_CHECKING:
    from usucl_fast.learn.engine import Run


class RunSummary(TypedDict, total=False):
    """What `summary.json` says of a run, finished or stopped; nothing on ranks but the first.

    steps, of: done, and of the whole run.
    videos: that were trained on.
    loss, mean_cosine, effective_rank: of the last step.
    frames_per_second, data_wait, seconds: over all steps; `data_wait` is the share of the time spent waiting for data.
    gpu_memory_gb: the most that tensors took on the GPU.
    """

    steps: int
    of: int
    split: str
    videos: int
    loss: float
    mean_cosine: float | None
    effective_rank: float
    warnings: list[str]
    frames_per_second: float
    data_wait: float
    seconds: float
    loader: str
    ranks: int
    device: str
    gpu_memory_gb: float


def write_result(run: "Run") -> RunSummary:
    """Writes the backbone and `summary.json` into the run folder, and returns the summary."""
    backbone = {name: tensor.contiguous() for name, tensor in run.network.query.backbone.state_dict().items()}
    with write_whole(run.folder.backbone) as file:
        file.write(safetensors_bytes(backbone))
    lines = run.folder.read_metrics()
    seconds = sum(line["seconds"] for line in lines)
    collapse = Collapse(run.config, run.steps)
    summary: RunSummary = {
        "steps": run.step,
        "of": run.steps,
        "split": run.config.split,
        "videos": len(run.planner.planned),
        "loss": lines[-1]["loss"],
        "mean_cosine": lines[-1]["mean_cosine"],
        "effective_rank": lines[-1]["effective_rank"],
        "warnings": [*run.config.doubts(), *(warning for line in lines if (warning := collapse.look(line)))],
        "frames_per_second": round(sum(line["frames"] for line in lines) / seconds, 1),
        "data_wait": round(sum(line["wait"] for line in lines) / seconds, 4),
        "seconds": round(seconds, 3),
        "loader": run.execution.loader,
        "ranks": run.ranks.count,
        "device": str(run.execution.device),
    }
    if run.execution.device.type == "cuda":
        summary["gpu_memory_gb"] = torch.cuda.max_memory_allocated(run.execution.device) / 1e9
    write_json(run.folder.summary, summary)
    return summary
