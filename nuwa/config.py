"""What a person may change, checked; and the key that names a run by the choices that change its result.

The groups that build an object (pruner, dataset, model) get their types from the signature of their ``_target_``, so
that an option is declared once, where it is used. The other groups are the dataclasses of `nuwa.schema`.
"""

from __future__ import annotations

import hashlib
import inspect
import json
from collections.abc import Callable
from dataclasses import field, is_dataclass, make_dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

from hydra.core.config_store import ConfigStore
from hydra.utils import get_object
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from nuwa.files import fingerprint, local_path
from nuwa.models import axes_of
from nuwa.schema import BlockingConfig, Config

PROTOCOL = 1
"""Raised when prompts, scoring or counting change, so that older results are not taken for finished ones."""

BASELINE = {"_target_": "nuwa.pruners.none.KeepAll"}
BUILT = ("model", "pruner", "dataset")
PROVIDED = {"pruner": ("budget", "seed"), "model": (), "dataset": ()}
CHECKPOINT = (".json", ".safetensors")
READ = (
    ("model", "path", CHECKPOINT),
    ("pruner", "clip", CHECKPOINT),
    ("dataset", "path", ("",)),
    ("dataset", "judge_prompt", ("",)),
)
"""Options that name local files, and which of these make the result."""
UNSCIENTIFIC = {
    "model": ("name", "device", "device_map"),
    "pruner": (),
    "dataset": ("streaming", "judge_key_variable"),
}
SAMPLING = ("temperature", "top_p")
"""Options of decoding that matter where tokens are drawn."""


class ConfigError(ValueError):
    """A value that cannot work; the message starts with its config key."""


def register() -> None:
    """Make the schema and the ``${run_key:}`` resolver known to Hydra; safe to call again."""
    ConfigStore.instance().store(name="base_config", node=Config)
    OmegaConf.register_new_resolver("run_key", lambda *, _root_: run_key(_root_), replace=True)


def typed(cfg: DictConfig, group: str) -> dict[str, Any]:
    """The options of a group that builds an object, converted to the types of its ``_target_``, defaults filled in.

    Raises:
        ConfigError: an unknown target, an unknown option or a value of the wrong type.
    """
    node = cfg[group]
    target = node.get("_target_")
    try:
        schema, choices = _schema(get_object(target), PROVIDED[group])
    except Exception as error:
        raise ConfigError(f"{group}._target_={target}: cannot be imported ({error})") from error
    values = {str(key): value for key, value in OmegaConf.to_container(node, resolve=True).items() if key != "_target_"}
    for key, value in values.items():
        known = schema.__dataclass_fields__
        if key not in known:
            raise ConfigError(f"{group}.{key}: unknown option of {target}; it has {', '.join(known)}")
        if key in choices and value not in choices[key]:
            raise ConfigError(f"{group}.{key}={value}: expected one of {', '.join(map(str, choices[key]))}")
    try:
        merged = OmegaConf.merge(OmegaConf.structured(schema), values)
    except OmegaConfBaseException as error:
        key = error.full_key or "?"
        reason = str(error).splitlines()[0]
        raise ConfigError(f"{group}.{key}={values.get(key)}: {reason}") from error
    missing = sorted(OmegaConf.missing_keys(merged))
    if missing:
        raise ConfigError(f"{group}.{missing[0]}: needs a value")
    return {"_target_": target, **OmegaConf.to_container(merged, resolve=True, enum_to_str=True)}


def build(options: dict[str, Any], **provided: Any) -> Any:
    """Call the ``_target_`` of typed options. Hydra's instantiate would turn dataclass arguments into dicts."""
    return get_object(options["_target_"])(**{k: v for k, v in options.items() if k != "_target_"}, **provided)


@cache
def _schema(target: Callable, provided: tuple[str, ...]) -> tuple[type, dict[str, tuple]]:
    """A dataclass with the parameters of a class or function, and the choices of its Literal parameters."""
    plain_class = inspect.isclass(target) and not is_dataclass(target)
    hints = get_type_hints(target.__init__ if plain_class else target)
    fields, choices = [], {}
    for name, parameter in inspect.signature(target).parameters.items():
        if name in provided or parameter.kind in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL):
            continue
        hint = hints.get(name, Any)
        if get_origin(hint) is Literal:
            choices[name] = get_args(hint)
        fields.append((name, _supported(hint), _default(parameter)))
    return make_dataclass("Options", fields), choices


def _supported(hint: Any) -> Any:
    """``hint`` if OmegaConf can check it, otherwise Any."""
    try:
        OmegaConf.structured(make_dataclass("One", [("value", hint, field(default="???"))]))
    except Exception:
        return Any
    return hint


def _default(parameter: inspect.Parameter) -> Any:
    default = parameter.default
    if default is parameter.empty:
        return field(default="???")
    if repr(default) == "<factory>" or isinstance(default, list | dict | tuple):
        return field(default_factory=list if repr(default) == "<factory>" else lambda: list(default))
    return field(default=default)


def choices(cfg: DictConfig) -> dict[str, Any]:
    """The choices that change a result, spelled the same way whoever spells them.

    Without pruning, budget and position do not matter; ``native`` is the position strategy it stands for; what is not
    blocked is not named. Where things lie and run (paths, devices, loggers) is left out: a local file or folder counts
    by what it holds.
    """
    cfg = OmegaConf.create(OmegaConf.to_container(cfg, resolve=False, enum_to_str=True))
    written = {Path(path).resolve() for path in OmegaConf.to_container(cfg.paths, resolve=True).values()}
    cfg.paths = {key: f"<{key}>" for key in cfg.paths}
    built = {group: _typed_or_raw(cfg, group) for group in BUILT}
    for group, options in UNSCIENTIFIC.items():
        built[group] = {key: value for key, value in built[group].items() if key not in options}
    for group, key, suffixes in READ:
        content = fingerprint(local_path(built[group][key]), suffixes, written) if built[group].get(key) else None
        if content is not None:
            built[group][key] = f"<{content}>"
    position = cfg.position.strategy
    if is_baseline(cfg):
        budget, position = {}, "native"
    else:
        budget = OmegaConf.to_container(cfg.budget)
        if position == "native":
            position = _native(built["pruner"]["_target_"], built["model"].get("family"))
    return {
        **built,
        "budget": budget,
        "position": position,
        **({} if cfg.blocking.source is None else {"blocking": OmegaConf.to_container(cfg.blocking)}),
        "generation": _decoding(cfg),
        "seed": cfg.seed,
        "limit": cfg.limit,
        "protocol": PROTOCOL,
    }


def _native(target: str, family: str | None) -> str:
    """The position strategy that ``native`` stands for; itself where the method cannot be found."""
    try:
        method = get_object(target)
    except Exception:  # refused, with its reason, when its job is checked
        return "native"
    return method.native_on(axes_of(family)) if hasattr(method, "native_on") else "native"


def _decoding(cfg: DictConfig) -> dict[str, Any]:
    """How an answer is decoded; which tokens are drawn depends on which samples share a batch."""
    if cfg.generation.do_sample:
        return {**cfg.generation, "batch_size": cfg.trainer.batch_size}
    return {key: value for key, value in cfg.generation.items() if key not in SAMPLING}


def _typed_or_raw(cfg: DictConfig, group: str) -> dict[str, Any]:
    try:
        return typed(cfg, group)
    except ConfigError:  # a run that will be refused needs a folder all the same, to leave its reason in
        return OmegaConf.to_container(cfg[group], resolve=True)


def run_key(cfg: DictConfig) -> str:
    """Twelve characters that name a run by its scientific choices, the same in every process."""
    text = json.dumps(choices(cfg), sort_keys=True, default=str)
    return hashlib.blake2b(text.encode(), digest_size=6).hexdigest()


def is_baseline(cfg: DictConfig) -> bool:
    """Whether a job runs without pruning, and without blocking."""
    return cfg.pruner.get("_target_") == BASELINE["_target_"] and cfg.blocking.source is None


def baseline_of(cfg: DictConfig) -> DictConfig:
    """The same job without pruning or blocking, where budget and position have no meaning."""
    cfg = cfg.copy()
    OmegaConf.set_struct(cfg, False)
    cfg.pruner = dict(BASELINE)
    cfg.budget.average = cfg.budget.ratio = None
    cfg.position.strategy = "native"
    cfg.blocking = BlockingConfig()
    return cfg
