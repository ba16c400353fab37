"""`--device`."""

from typing import TYPE_CHECKING

import click

from usucl_fast.errors import UsageError, first_line

if TYPE_CHECKING:
    import torch

device_option = click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda or cuda:N.")


def pick_device(name: str) -> "torch.device":
    """`auto` is the GPU where there is one.

    Raises:
        UsageError: the device cannot be used here.
    """
    import torch

    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise UsageError(f"--device {name} cannot be used here: {first_line(error)}") from error
    return device
