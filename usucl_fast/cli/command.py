"""What all commands share: errors as one line, `--debug`, exit codes, default commands, options as a dataclass."""

import contextlib
import dataclasses
import functools
import io
import sys
import traceback
from collections.abc import Callable, Iterator
from typing import Any

import click

from usucl_fast.errors import UsuclError, printable

DEBUG = "usucl_fast.debug"


def say(text: str, err: bool = False) -> None:
    """Prints a line, on standard error if `err`; control characters, as a file's name may have, are escaped."""
    click.echo(printable(text), err=err)


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
        with _one_line(ctx):  # some options are looked into while they are read
            return super().parse_args(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        for stream in (sys.stdout, sys.stderr):  # a terminal that lacks a letter must not end the command
            if isinstance(stream, io.TextIOWrapper):
                stream.reconfigure(errors="backslashreplace")
        with _one_line(ctx):
            return super().invoke(ctx)


@contextlib.contextmanager
def _one_line(ctx: click.Context) -> Iterator[None]:
    try:
        yield
    except click.UsageError as error:  # click prints it, with names that it was given
        raise click.UsageError(printable(error.format_message()), error.ctx) from error
    # Of a full disk, a missing permission, a vanished file the system's own message is the clearest.
    except (UsuclError, OSError) as error:
        if ctx.meta.get(DEBUG):
            for line in "".join(traceback.format_exception(error)).splitlines():
                say(line, err=True)
        else:
            say(f"{ctx.command_path}: {error}", err=True)
        ctx.exit(error.exit_code if isinstance(error, UsuclError) else 1)


class DefaultGroup(click.Group):
    """A group of commands, of which `default` runs where none is named.

    It gets every argument that is neither a command nor an option of the group itself.
    """

    def __init__(self, *args: Any, default: str, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._default = default

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        own = {option for parameter in self.get_params(ctx) for option in parameter.opts}
        if args[0] not in {*self.commands, *own} if args else not self.no_args_is_help:
            args = [self._default, *args]
        return super().parse_args(ctx, args)


def gather(config: type) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Decorates a command so that its options that are fields of a dataclass come as one argument, `config`."""
    names = [field.name for field in dataclasses.fields(config)]

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(command)
        def call(**options: Any) -> None:
            command(config=config(**{name: options.pop(name) for name in names if name in options}), **options)

        return call

    return decorate
