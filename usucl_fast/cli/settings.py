"""The settings of training as options of the command line, or from a TOML file."""

import difflib
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from usucl_fast import learn
from usucl_fast.errors import UsageError


class _Moved(click.ParamType):
    """`A`, or `A:B`: a setting that the curriculum moves from A to B."""

    name = "A[:B]"

    def __init__(self, number: click.ParamType) -> None:
        self._number = number

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[Any, Any]:
        if isinstance(value, list):  # of a TOML file
            value = ":".join(map(str, value))
        start, colon, end = str(value).partition(":")
        return self._number.convert(start, param, ctx), self._number.convert(end if colon else start, param, ctx)


class _Interval(_Moved):
    """`A:B`: an interval."""

    name = "A:B"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[Any, Any]:
        if isinstance(value, str) and ":" not in value:
            self.fail(f"{value} is one number; an interval is written as A:B", param, ctx)
        return super().convert(value, param, ctx)


def setting_options(command: Callable[..., None]) -> Callable[..., None]:
    """Adds an option for each setting; the default shown is the `default` recipe's."""
    for field in reversed(learn.all_settings()):
        meta, default = field.metadata, field.default
        moved = isinstance(default, tuple)
        kind = type(default[0]) if moved else type(default)
        option = f"--{field.name.replace('_', '-')}"
        choices = tuple(learn.METHODS) if field.name == "method" else meta["choices"]
        value: Any = kind
        if choices:
            value = click.Choice(choices)
        elif kind in (int, float) and (meta["low"], meta["high"]) != (None, None):
            value = (click.IntRange if kind is int else click.FloatRange)(meta["low"], meta["high"])
        if moved:
            value = (_Interval if meta["interval"] else _Moved)(value)
            default = ":".join(f"{end:g}" for end in dict.fromkeys(default))
        text = f"{meta['help']}  [default: {default}]"
        name = f"{option}/--no-{field.name.replace('_', '-')}" if kind is bool else option
        command = click.option(name, field.name, type=value, default=None, help=text)(command)
    return command


def read_options(ctx: click.Context, param: click.Parameter, file: Path | None) -> None:
    """Reads options from a TOML file; those on the command line take precedence."""
    if file is None:
        return
    try:
        options = tomllib.loads(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise UsageError(f"--config {file} cannot be read: {error}") from error
    known = [str(p.name) for p in ctx.command.params if isinstance(p, click.Option) and p.expose_value]
    for name in options:
        if name.replace("-", "_") not in known:
            near = difflib.get_close_matches(name, known, 1)
            raise UsageError(
                f"--config {file}: there is no option {name}{f'; is it {near[0]}?' if near else ''}; see --help"
            )
    ctx.default_map = {**(ctx.default_map or {}), **{name.replace("-", "_"): v for name, v in options.items()}}
