"""Named settings: all methods and recipes, found in the files of the methods."""

import dataclasses
from collections.abc import Callable
from typing import Any

from usucl_fast.errors import UsageError
from usucl_fast.learn.config import RANDOM, TrainConfig
from usucl_fast.learn.method import Method
from usucl_fast.learn.methods import find_methods

METHODS: dict[str, type[Method]] = {module.METHOD.method: module.METHOD for module in find_methods()}
"""By name: the class."""
RECIPES: dict[str, Callable[[], Method]] = {made.__name__: made for module in find_methods() for made in module.RECIPES}
"""By name: what makes its settings."""


def all_settings() -> list[dataclasses.Field[Any]]:
    """The settings of all methods, each once, those that all methods have first."""
    fields: dict[str, dataclasses.Field[Any]] = {}
    every: list[type[TrainConfig]] = [TrainConfig, *METHODS.values()]
    for made in every:
        for field in dataclasses.fields(made):
            if field.metadata:
                fields.setdefault(field.name, field)
    return list(fields.values())


def make_config(recipe: str, overrides: dict[str, Any]) -> Method:
    """The named recipe with some settings replaced.

    Raises:
        UsageError: there is no such recipe, the settings contradict each other, or one has no effect.
    """
    if recipe not in RECIPES:
        raise UsageError(f"--recipe {recipe}: there is no such recipe; choose from {', '.join(RECIPES)}")
    if overrides.get("steps"):
        if overrides.get("epochs"):
            raise UsageError("--steps and --epochs both say how long the run is; remove one of them")
        overrides = {**overrides, "epochs": 0}  # so that nothing reads a length that it does not have
    made = RECIPES[recipe]()
    if overrides.get("init", RANDOM) != RANDOM:
        made = made.from_weights()
    if overrides.get("optimizer", made.optimizer) != made.optimizer and "lr" not in overrides:
        raise UsageError(
            f"--optimizer {overrides['optimizer']} needs --lr as well: {made.lr:g} is a rate for {made.optimizer}"
        )
    config = with_overrides(made, {"recipe": recipe, **overrides})
    config.check()
    return config


def with_overrides(config: Method, overrides: dict[str, Any]) -> Method:
    """The settings with some replaced. With another method, those that both have are kept.

    Raises:
        UsageError: there is no such method, or a setting has no effect with it.
    """
    name = overrides.get("method", config.method)
    if name not in METHODS:
        raise UsageError(f"--method {name}: there is no such method; choose from {', '.join(METHODS)}")
    taken = {field.name for field in dataclasses.fields(METHODS[name])}
    for setting in overrides:
        if setting not in taken:
            raise UsageError(f"--{setting.replace('_', '-')} has no effect with --method {name}; remove it")
    kept = {setting: value for setting, value in vars(config).items() if setting in taken}
    return METHODS[name](**{**kept, "method": name, **overrides})
