"""What a run leaves behind when it ends: the backbone, and a summary."""

from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import save as safetensors_bytes

from usucl_fast.files import write_json, write_whole
from usucl_fast.learn.watch import Collapse

if TYPE_CHECKING:
    from usucl_fast.learn.engine import Run


def write_result(run: "Run") -> dict[str, Any]:
    """Writes the backbone and `summary.json` into the run folder, and returns the summary."""
    backbone = {name: tensor.contiguous() for name, tensor in run.network.query.backbone.state_dict().items()}
    with write_whole(run.folder.backbone) as file:
        file.write(safetensors_bytes(backbone))
    lines = run.folder.read_metrics()
    seconds = sum(line["seconds"] for line in lines)
    collapse = Collapse(run.config, run.steps)
    summary = {
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
        **_gpu_memory(run.execution.device),
    }
    write_json(run.folder.summary, summary)
    return summary


def _gpu_memory(device: torch.device) -> dict[str, float]:
    """The most memory that tensors took on the GPU, in GB; nothing on a CPU."""
    return {"gpu_memory_gb": torch.cuda.max_memory_allocated(device) / 1e9} if device.type == "cuda" else {}
