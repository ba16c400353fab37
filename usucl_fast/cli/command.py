"""What all commands share: errors as one line, `--debug`, exit codes."""

import sys
from typing import Any

import click

from usucl_fast import __version__
from usucl_fast.errors import UsuclError


class Command(click.Command):
    """A click command that prints a `UsuclError` as one line and exits with its code; `--debug` shows all."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.params += [
            click.Option(["--debug"], is_flag=True, expose_value=False, help="Show the whole traceback of an error."),
            click.version_option(__version__, package_name="usucl-fast")(lambda: None).__click_params__[0],  # type: ignore[attr-defined]
        ]

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except UsuclError as error:
            if "--debug" in sys.argv:
                raise
            click.echo(f"{ctx.info_name}: {error}", err=True)
            ctx.exit(error.exit_code)
