"""The options of a class or function, checked against its signature: each is declared once, where it is used."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Mapping
from dataclasses import is_dataclass
from functools import cache
from typing import Any, get_type_hints

from pydantic import BaseModel, ConfigDict, ValidationError, create_model

SETTINGS = ConfigDict(
    extra="forbid",
    coerce_numbers_to_str=True,
    validate_default=True,
    arbitrary_types_allowed=True,
    allow_inf_nan=False,
)


class ConfigError(ValueError):
    """A value that cannot work; the message starts with its config key."""


@cache
def options_of(target: Callable, provided: tuple[str, ...] = ()) -> type[BaseModel]:
    """A pydantic model with the parameters of a class or function as fields, but for those ``provided`` by the caller.

    >>> def resize(size: int, exact: bool = False): ...
    >>> options_of(resize)(size="3")
    Options(size=3, exact=False)
    """
    target = inspect.unwrap(target)
    plain_class = inspect.isclass(target) and not is_dataclass(target)
    hints = get_type_hints(target.__init__ if plain_class else target, include_extras=True)
    options: dict[str, Any] = {
        name: (hints.get(name, Any), ... if parameter.default is parameter.empty else parameter.default)
        for name, parameter in inspect.signature(target).parameters.items()
        if name not in provided and parameter.kind not in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL)
    }
    with warnings.catch_warnings():  # pydantic's own methods (``register``) are no options
        warnings.filterwarnings("ignore", "Field name .* shadows an attribute")
        return create_model("Options", __config__=SETTINGS, **options)


def check_options(
    target: Callable, values: Mapping[str, Any], group: str, provided: tuple[str, ...] = ()
) -> dict[str, Any]:
    """The options of ``target``: ``values`` converted to the types of its signature, defaults filled in.

    ``group`` is where the values come from, e.g. ``pruner``. A bool is not taken for a number.

    Raises:
        ConfigError: an unknown option, a missing one, or a value of the wrong type.
    """
    model = options_of(target, provided)
    try:
        options = dict(model(**values))
    except ValidationError as error:
        first = error.errors()[0]
        key = f"{group}.{first['loc'][0]}"
        if first["type"] == "extra_forbidden":
            owner, known = inspect.unwrap(target), ", ".join(model.model_fields)
            reason = f"{key}: unknown option of {owner.__module__}.{owner.__qualname__}; it has {known}"
        else:
            reason = f"{key}: needs a value" if first["type"] == "missing" else complaint(error, group)
        raise ConfigError(reason) from error
    for key, value in values.items():
        if isinstance(value, bool) and type(options[key]) in (int, float):
            raise ConfigError(f"{group}.{key}={value}: must be a number")
    return options


def complaint(error: ValidationError, *group: str) -> str:
    """The first thing that is wrong, as ``<key>=<value>: <rule>``; the keys are those of ``group``."""
    first = error.errors()[0]
    key = ".".join(map(str, (*group, *first["loc"])))
    return f"{key}={first['input']}: {first['msg'].replace('Input should be', 'must be')}"
