"""What all commands share: errors as one line, `--debug`, exit codes."""

from typing import Any

import click

from usucl_fast.errors import UsuclError

DEBUG = "usucl_fast.debug"


class Command(click.Command):
    """A click command that prints a `UsuclError` or `OSError` as one line; `--debug` shows the traceback."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.params.append(
            click.Option(
                ["--debug"],
                is_flag=True,
                expose_value=False,
                callback=lambda ctx, _, value: ctx.meta.__setitem__(DEBUG, value),
                help="Show the whole traceback of an error.",
            )
        )

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        try:
            return super().parse_args(ctx, args)
        except UsuclError as error:  # of an option that is looked into while options are read
            click.echo(f"{ctx.command_path}: {error}", err=True)
            ctx.exit(error.exit_code)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except UsuclError as error:
            if ctx.meta[DEBUG]:
                raise
            click.echo(f"{ctx.command_path}: {error}", err=True)
            ctx.exit(error.exit_code)
        except OSError as error:  # disk full, no permission, vanished: the system's own line says it best
            if ctx.meta[DEBUG]:
                raise
            click.echo(f"{ctx.command_path}: {error}", err=True)
            ctx.exit(1)
