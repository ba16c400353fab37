"""What all commands share: errors as one line, `--debug`, exit codes, a command that need not be named."""

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


class DefaultGroup(click.Group):
    """A group of commands of which `default` is meant where none is named.

    What is neither a command nor an option of the group's own goes to it.
    """

    def __init__(self, *args: Any, default: str, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._default = default

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        own = {option for parameter in self.get_params(ctx) for option in parameter.opts}
        if args[0] not in {*self.commands, *own} if args else not self.no_args_is_help:
            args = [self._default, *args]
        return super().parse_args(ctx, args)
