"""What a person types after a command (``pruner=nuwa budget=64``), checked and composed with ``conf/``."""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import suppress
from math import isfinite

import hydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from nuwa.config import ConfigError, register
from nuwa.pruners.catalogue import conf_folder


def compose_job(overrides: Sequence[str]) -> DictConfig:
    """The config of the job that ``nuwa run <overrides>`` runs.

    Raises:
        ConfigError: an override cannot be used; the message names it.
    """
    register()
    given = for_hydra(overrides)
    try:
        with hydra.initialize_config_dir(str(conf_folder()), version_base="1.3"):
            return hydra.compose("config", given)
    except (HydraException, OmegaConfBaseException) as error:
        reason = str(error.__cause__ or "").partition("\n")[0]  # what is wrong with a value stands there
        raise ConfigError(" ".join(f"{error} {reason}".split())) from error


def check_groups(overrides: Sequence[str], known: Sequence[str], where: str) -> None:
    """Refuse overrides of what has no meaning ``where`` they are given.

    Raises:
        ConfigError: one is of a group or key that is not ``known``.
    """
    for override in overrides:
        if re.split(r"[.=/]", override.lstrip("+~"))[0] not in known:
            raise ConfigError(f"{override}: {where}, choose {', '.join(known)}")


def for_hydra(overrides: Sequence[str]) -> list[str]:
    """Overrides as Hydra takes them: a budget given as a number is ``budget.average``, below 1 ``budget.ratio``.

    Raises:
        ConfigError: a value cannot be read, a group is left without a choice, or budgets of several kinds are one list.

    >>> for_hydra(["pruner=nuwa", "budget=64,128"])
    ['pruner=nuwa', 'budget.average=64,128', 'budget.ratio=null']
    """
    spelt: list[str] = []
    for override in overrides:
        group, _, choice = override.partition("=")
        spelt += _budget(choice) if group == "budget" else [override]
    for override in spelt:
        _check(override)
    return spelt


def _check(override: str) -> None:
    """Refuse a value whose signs Hydra would take for its grammar, or for none, and a group that is given no name."""
    key, equals, typed = override.partition("=")
    if not equals or not key or key.startswith("-"):
        return
    try:
        read = OverridesParser.create().parse_override(override)
    except HydraException as error:
        quoted = re.sub(r"(\\*)('|$)", lambda at: 2 * at[1] + at[2].replace("'", "\\'"), typed)
        raise ConfigError(f"{override}: cannot be read; in quotes it can: \"{key}='{quoted}'\"") from error
    named = read.is_sweep_override() or (isinstance(read.value(), str | list) and read.value() not in ("", "None", []))
    if not named and (conf_folder() / key).is_dir():
        raise ConfigError(f"{override}: nothing is chosen; give {key}=<name>, one of the files of conf/{key}")


def _budget(choice: str) -> list[str]:
    """Numbers as what they mean; names as they are."""
    words, numbers = choice.split(","), []
    for word in words:
        with suppress(ValueError):
            numbers += [number] if isfinite(number := float(word)) else []
    if not numbers:
        return [f"budget={choice}"]
    if len(numbers) == len(words) and all(number >= 1 for number in numbers):
        return [f"budget.average={choice}", "budget.ratio=null"]
    if len(numbers) == len(words) and all(number < 1 for number in numbers):
        return [f"budget.ratio={choice}", "budget.average=null"]
    raise ConfigError(
        f"budget={choice}: tokens, shares below 1 and names do not mix in one list; "
        "give budget=64,128 or budget=0.25,0.5 or names, budget=avg64,ratio25"
    )
