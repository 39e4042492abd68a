"""What a person types after a command (``pruner=nuwa budget=64``), checked and composed with ``conf/``."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress

import hydra
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
        raise ConfigError(" ".join(str(error).split())) from error


def for_hydra(overrides: Sequence[str]) -> list[str]:
    """Overrides as Hydra takes them: a budget given as a number is ``budget.average``, below 1 ``budget.ratio``.

    Raises:
        ConfigError: a group is left without a choice, or budgets of several kinds are one list; Hydra has a traceback.

    >>> for_hydra(["pruner=nuwa", "budget=64,128"])
    ['pruner=nuwa', 'budget.average=64,128', 'budget.ratio=null']
    """
    spelt: list[str] = []
    for override in overrides:
        group, equals, choice = override.partition("=")
        if equals and choice in ("", "null", "None") and (conf_folder() / group).is_dir():
            raise ConfigError(f"{override}: nothing is chosen; give {group}=<name>, one of the files of conf/{group}")
        spelt += _budget(choice) if group == "budget" else [override]
    return spelt


def _budget(choice: str) -> list[str]:
    """Numbers as what they mean; names as they are."""
    words, numbers = choice.split(","), []
    for word in words:
        with suppress(ValueError):
            numbers.append(float(word))
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
