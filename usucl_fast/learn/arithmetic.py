"""How the device computes: in which numbers, and whether always in the same order."""

import contextlib
import dataclasses
import os
from collections.abc import Iterator

import torch

from usucl_fast.errors import UsageError, first_line
from usucl_fast.learn.method import Method
from usucl_fast.machine import computes_in_bf16


def with_precision(config: Method, device: torch.device) -> Method:
    """The settings with the arithmetic that `auto` stands for on the device.

    Raises:
        UsageError: the device does not have that arithmetic.
    """
    if config.precision == "tf32" and device.type != "cuda":
        raise UsageError(f"--precision tf32 is arithmetic of GPUs, and the run is on {device}; use fp32 or bf16")
    if config.precision != "auto":
        return config
    return dataclasses.replace(config, precision="bf16" if computes_in_bf16(device) else "fp32")


@contextlib.contextmanager
def arithmetic(precision: str, deterministic: bool) -> Iterator[None]:
    """Sets torch's switches for a run, and sets them back.

    Without `tf32`, float32 is float32: torch's default rounds the inputs of convolutions to TF32 on a GPU.

    Args:
        precision: as `TrainConfig.precision`.
        deterministic: every operation gives the same bits each time, and cuDNN does not choose algorithms by timing.

    Raises:
        UsageError: an operation has no deterministic implementation.
    """
    matmul, convolutions = torch.backends.cuda.matmul, torch.backends.cudnn
    before = (
        (matmul, "allow_tf32", matmul.allow_tf32),
        (convolutions, "allow_tf32", convolutions.allow_tf32),
        (convolutions, "benchmark", convolutions.benchmark),
        (convolutions, "deterministic", convolutions.deterministic),
    )
    was_deterministic = torch.are_deterministic_algorithms_enabled()
    matmul.allow_tf32 = convolutions.allow_tf32 = precision == "tf32"
    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS reads it when it is first used
        torch.use_deterministic_algorithms(True)
        convolutions.benchmark, convolutions.deterministic = False, True
    try:
        yield
    except RuntimeError as error:
        if "deterministic" not in str(error):
            raise
        raise UsageError(f"--deterministic cannot be kept: {first_line(error)}; run without it") from error
    finally:
        torch.use_deterministic_algorithms(was_deterministic)
        for switches, name, value in before:
            setattr(switches, name, value)
