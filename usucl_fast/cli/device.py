"""`--device`."""

import click

device_option = click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda or cuda:N.")
