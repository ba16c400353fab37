"""`--device`. Apart from the other helpers because it needs torch, which takes seconds to import."""

import click
import torch

from usucl_fast.errors import UsageError

device_option = click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda or cuda:N.")


def pick_device(name: str) -> torch.device:
    """`auto` is the GPU where there is one.

    Raises:
        UsageError: the device cannot be used here.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise UsageError(f"--device {name} cannot be used here: {str(error).splitlines()[0]}") from error
    return device
