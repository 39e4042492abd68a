"""What a person may change, checked; and the key that names a run by the choices that change its result.

The groups that build an object (pruner, dataset, model) get their types from the signature of their ``_target_``, so
that an option is declared once, where it is used. The other groups are the dataclasses of `nuwa.schema`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import TypeAdapter, ValidationError

from nuwa.files import fingerprint, local_path
from nuwa.models import axes_of
from nuwa.options import ConfigError, check_options, complaint
from nuwa.pruning.positions import STRATEGIES
from nuwa.schema import BlockingConfig, Config, Engine, FramesConfig, PathsConfig, PositionConfig
from nuwa.targets import BUILT, find_target

PROTOCOL = 1
"""Raised when prompts, scoring or counting change, so that older results are not taken for finished ones."""

KEEP_ALL = "nuwa.pruners.none.KeepAll"
CHECKPOINT = (".json", ".safetensors")
READ: dict[str, tuple[str, ...]] = {"model.path": CHECKPOINT, "pruner.clip": CHECKPOINT}
READ |= {"pruner.tokenizer": CHECKPOINT, "pruner.register": (".json",)}
READ |= {f"dataset.{key}": ("",) for key in ("path", "images_folder", "videos_folder", "judge_prompt")}
"""Options that name local files, and which of these make the result."""
UNSCIENTIFIC = {"model": ("name", "device", "device_map", "turn"), "dataset": ("streaming", "judge_key_variable")}
SAMPLING = ("temperature", "top_p")
"""Options of decoding that matter where tokens are drawn."""
_RANGES = TypeAdapter(Config)


def register() -> None:
    """Make the schema and the ``${run_key:}`` resolver known to Hydra; safe to call again."""
    ConfigStore.instance().store(name="base_config", node=Config)
    OmegaConf.register_new_resolver("run_key", lambda *, _root_: run_key(_root_), replace=True)


def typed(cfg: DictConfig, group: str) -> dict[str, Any]:
    """The options of a group that builds an object, converted to the types of its ``_target_``, defaults filled in.

    Raises:
        ConfigError: an unknown target, an unknown option or a value of the wrong type.
    """
    values = plain(cfg[group])
    target = values.pop("_target_", None)
    provided = ("budget", "seed") if group == "pruner" else ()
    return {"_target_": target, **check_options(find_target(target, group), values, group, provided)}


VIDEO_DEFAULTS = {"video_min_pixels": None, "video_max_pixels": None, "text_after_video": "transformers"}
VIDEO_DEFAULTS |= {"video_pool": "bilinear", "video_newline": "one"}
"""Options of models that are about videos only; where they are these, a run's key does not name them."""


def plain(cfg: DictConfig) -> dict[str, Any]:
    """A config as nested dicts and lists, with interpolations resolved and enums by name."""
    container = OmegaConf.to_container(cfg, resolve=True, enum_to_str=True)
    assert isinstance(container, dict)
    return {str(key): value for key, value in container.items()}


def build(options: dict[str, Any], **provided: Any) -> Any:
    """Call the ``_target_`` of typed options. Hydra's instantiate would turn dataclass arguments into dicts."""
    return find_target(options["_target_"])(**{k: v for k, v in options.items() if k != "_target_"}, **provided)


def check_ranges(cfg: DictConfig) -> None:
    """Check the groups that are dataclasses of `nuwa.schema`.

    Raises:
        ConfigError: a value is out of its range, or no choice, or a key (``+key=value``) is none.
    """
    ours = OmegaConf.masked_copy(cfg, [str(key) for key in cfg if key != "hydra"])
    values = OmegaConf.to_container(ours, resolve=True)
    try:
        OmegaConf.merge(OmegaConf.structured(Config), values)
    except OmegaConfBaseException as error:
        raise ConfigError(f"{error.full_key}: there is no such choice; nuwa run --cfg job shows all") from error
    try:
        _RANGES.validate_python(values)
    except ValidationError as error:
        raise ConfigError(complaint(error)) from error
    known = ("native", *STRATEGIES)
    if cfg.position.strategy not in known:
        raise ConfigError(f"position.strategy={cfg.position.strategy}: expected one of {', '.join(known)}")


def check_model(options: dict[str, Any]) -> None:
    """Check the typed options of a model without loading it.

    Raises:
        ValueError: a choice is unknown, or impossible on this machine.
    """
    checked_by = find_target(options["_target_"], "model").__wrapped__
    checked_by(**{key: value for key, value in options.items() if key != "_target_"})


def choices(cfg: DictConfig) -> dict[str, Any]:
    """The choices that change a result, spelled the same way whoever spells them.

    Without pruning, budget, position, calibration and coordinates do not matter; ``native`` is what it stands for; what
    is not blocked, calibrated or kept in any case is not named, nor are the usual frames of videos. Where things lie
    and run (paths, devices, loggers) is left out: a local file or folder counts by what it holds.
    """
    cfg = cfg.copy()
    written = {Path(path).resolve() for path in plain(cfg.paths).values()}
    cfg.paths = PathsConfig("<outputs>", "<features>")
    built = {}
    for group in BUILT:
        try:
            options = typed(cfg, group)
        except ConfigError:  # a run that will be refused needs a folder all the same, to leave its reason in
            options = plain(cfg[group])
        built[group] = {key: value for key, value in options.items() if key not in UNSCIENTIFIC.get(group, ())}
    built["model"] = {key: value for key, value in built["model"].items() if VIDEO_DEFAULTS.get(key, built) != value}
    for name, path in _local(built).items():
        group, key = name.split(".")
        built[group][key] = f"<{fingerprint(path, READ[name], written)}>"
    pruned, frames = not is_baseline(cfg), _frames(built["dataset"])
    return {
        **built,
        "budget": _budget(cfg, built["pruner"]) if pruned else {},
        "position": _position(cfg, built["model"].get("family")) if pruned else "native",
        **({} if (kind := _calibration(cfg)) == "none" or not pruned else {"calibration": {"kind": kind}}),
        **({} if cfg.coordinates.kind == "none" or not pruned else {"coordinates": plain(cfg.coordinates)}),
        **({} if cfg.blocking.source is None else {"blocking": plain(cfg.blocking)}),
        **({} if frames == vars(FramesConfig()) else {"frames": frames}),
        **({"deepstack": cfg.position.deepstack} if pruned and cfg.position.deepstack != "merged" else {}),
        **({} if cfg.trainer.engine == Engine.transformers else {"engine": cfg.trainer.engine.name}),
        # which tokens are drawn depends on which samples share a batch
        "generation": decoding(cfg) | ({"batch_size": cfg.trainer.batch_size} if cfg.generation.do_sample else {}),
        "seed": cfg.seed,
        "limit": cfg.limit,
        "protocol": PROTOCOL,
    }


def _budget(cfg: DictConfig, pruner: Mapping[str, Any]) -> dict[str, Any]:
    """The budget of a job; on how many samples it is fitted matters where images decide."""
    fitted = bool(pruner.get("adaptive"))
    return {key: value for key, value in plain(cfg.budget).items() if key != "samples" or fitted}


def _frames(dataset: dict[str, Any]) -> dict[str, Any]:
    """The options of a data set's frames, taken out of its own; the usual ones where it has no videos."""
    frames = dataset.pop("frames", FramesConfig())
    return vars(frames) if isinstance(frames, FramesConfig) else frames


def _local(groups: Mapping[str, Any]) -> dict[str, Path]:
    """The local files and folders that options name, by key."""
    values = {name: groups[name.partition(".")[0]].get(name.partition(".")[2]) for name in READ}
    paths = {name: local_path(value) for name, value in values.items() if value and isinstance(value, str)}
    return {name: path for name, path in paths.items() if path.exists()}


def recognised_by(cfg: DictConfig) -> str:
    """In words, what a run with the same key as this job has in common with it."""
    named = [f"{name}={OmegaConf.select(cfg, name)}" for name in _local(plain(cfg))]
    return "the same choices" + (f" and the same content of {', '.join(named)}" if named else "")


def _position(cfg: DictConfig, family: str | None) -> str:
    """The position strategy of a job; the one asked for where the method cannot be found."""
    try:
        return find_target(cfg.pruner._target_, "pruner").position_on(axes_of(family), cfg.position.strategy)
    except ConfigError:  # refused, with its reason, when its job is checked
        return cfg.position.strategy


def _calibration(cfg: DictConfig) -> str:
    """The calibration of a job; the one asked for where the method cannot be found."""
    asked = cfg.calibration.kind
    try:
        return find_target(cfg.pruner._target_, "pruner").native_calibration if asked == "native" else asked
    except ConfigError:  # refused, with its reason, when its job is checked
        return asked


def decoding(cfg: DictConfig) -> dict[str, Any]:
    """The options of ``generation`` that matter for how this job decodes."""
    return {key: value for key, value in cfg.generation.items() if cfg.generation.do_sample or key not in SAMPLING}


def run_key(cfg: DictConfig) -> str:
    """Twelve characters that name a run by its scientific choices, the same in every process."""
    text = json.dumps(choices(cfg), sort_keys=True, default=str)
    return hashlib.blake2b(text.encode(), digest_size=6).hexdigest()


def is_baseline(cfg: DictConfig) -> bool:
    """Whether a job runs without pruning, and without blocking."""
    return cfg.pruner.get("_target_") == KEEP_ALL and cfg.blocking.source is None


def baseline_of(cfg: DictConfig) -> DictConfig:
    """The same job without pruning or blocking, where nothing that is about survivors has a meaning."""
    cfg = cfg.copy()
    OmegaConf.set_struct(cfg, False)
    cfg.pruner = {"_target_": KEEP_ALL}
    cfg.budget.average = cfg.budget.ratio = None
    cfg.position, cfg.calibration.kind, cfg.coordinates.kind = PositionConfig(), "none", "none"
    cfg.blocking = BlockingConfig()
    return cfg


def normalised(cfg: DictConfig) -> DictConfig:
    """The config as it is run: without pruning, budget, position and calibration are reset."""
    return baseline_of(cfg) if is_baseline(cfg) else cfg


def completed(content: Mapping[str, Any], origin: Path) -> DictConfig:
    """A config that was read from ``origin``, with what it does not say.

    Raises:
        ConfigError: it is none of this version.
    """
    try:
        cfg = OmegaConf.merge(OmegaConf.structured(Config), content)
    except OmegaConfBaseException as error:
        raise ConfigError(f"{origin} holds no config of this version ({error})") from error
    assert isinstance(cfg, DictConfig)
    return cfg
