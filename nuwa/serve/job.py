"""From a job's config to a served model: what an engine cannot give is refused by the key that asks for it."""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from importlib.metadata import packages_distributions, version
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from nuwa.config import baseline_of, build, is_baseline, typed
from nuwa.models import family_of
from nuwa.models.base import Family
from nuwa.models.checkpoint import check_folder, find_folder
from nuwa.models.loading import Checkpoint, load_model
from nuwa.models.processors import PictureOptions
from nuwa.options import ConfigError
from nuwa.pruners.base import Pruner
from nuwa.pruning.budget import Budget
from nuwa.serve.settings import FAMILIES, Served, check_calibration_served, check_served, engine_arguments
from nuwa.serve.vllm import VERSIONS
from nuwa.targets import find_target

FIXED = ("model", "hf_overrides", "video_pruning_rate", "model_impl", "media_io_kwargs", "mm_processor_kwargs")
"""Arguments of a server that say what is served; the others are free."""
FREE = (
    *("max_model_len", "max_num_seqs", "max_num_batched_tokens", "enable_chunked_prefill", "async_scheduling"),
    *("gpu_memory_utilization", "kv_cache_memory_bytes", "num_gpu_blocks_override", "block_size", "cpu_offload_gb"),
    *("enable_prefix_caching", "mm_processor_cache_gb", "tensor_parallel_size", "distributed_executor_backend"),
    *("enforce_eager", "compilation_config", "disable_log_stats"),
)
"""Arguments of an engine that are no part of a run's key: they are about memory and time, not about answers."""


@dataclass(frozen=True)
class ServedJob:
    """What is served: a checkpoint in ``folder`` with the options of ``conf/model``, under a pruner."""

    options: Checkpoint
    folder: Path
    family: Family
    served: Served

    def arguments(self) -> dict[str, Any]:
        """Arguments of ``vllm.LLM``."""
        _, dtype, _ = self.options.resolved()
        named = "auto" if dtype is None else str(dtype).removeprefix("torch.")
        return engine_arguments(self.served, self.family, str(self.folder), named)

    def flags(self) -> list[str]:
        """The same for the command line, behind the model; with a name, and a chat template where there is none."""
        given = {key: value for key, value in self.arguments().items() if key != "model"}
        given |= {"served_model_name": self.options.name} if self.options.name else {}
        if not has_chat_template(self.folder):
            given["chat_template"] = chat_template(self.options, self.folder)
        flags = []
        for key, value in given.items():
            flags += [f"--{key.replace('_', '-')}", json.dumps(value) if isinstance(value, dict) else str(value)]
        return flags

    def line(self, *more: str) -> str:
        """The ``vllm serve`` line, with further arguments of vLLM."""
        return shlex.join(["vllm", "serve", str(self.folder), *self.flags(), *more])


def served_job(cfg: DictConfig) -> ServedJob:
    """Check that a job can be served.

    Raises:
        ConfigError: an option that an engine cannot give.
        nuwa.pruners.base.MisfitError: a method that it cannot run.
        nuwa.pruning.budget.BudgetError: the method cannot reach its budget.
        nuwa.models.checkpoint.ModelError: a model that cannot be loaded as asked.
    """
    cfg = baseline_of(cfg) if is_baseline(cfg) else cfg
    _refuse(cfg)
    chosen = typed(cfg, "model")
    if find_target(chosen.pop("_target_")) is not load_model:
        raise ConfigError(
            f"model={cfg.model.get('name')}: an engine serves checkpoints, and this one is made at random"
        )
    if chosen["family"] not in FAMILIES:
        raise ConfigError(f"model.family={chosen['family']}: vLLM is told of {', '.join(FAMILIES)} only")
    options = Checkpoint(**chosen)
    folder = find_folder(options.path, options.revision)
    check_folder(folder, FAMILIES, options.family)
    pruner = build(typed(cfg, "pruner"), budget=Budget(cfg.budget.average, cfg.budget.ratio), seed=cfg.seed)
    check_calibration_served(cfg.calibration.kind, pruner)
    family = _family(folder)
    served = _settings(pruner, cfg.position.strategy, options, family)
    check_served(served, family)
    return ServedJob(options, folder, family, served)


def _refuse(cfg: DictConfig) -> None:
    """Refuse what a session does and an engine does not, by key."""
    wishes = {
        f"coordinates.kind={cfg.coordinates.kind}": cfg.coordinates.kind != "none",
        f"position.deepstack={cfg.position.deepstack}": cfg.position.deepstack != "merged",
        f"blocking.source={cfg.blocking.source}": cfg.blocking.source is not None,
        f"model.device={cfg.model.get('device')}": cfg.model.get("device", "auto") != "auto",
        f"model.device_map={cfg.model.get('device_map')}": cfg.model.get("device_map") is not None,
    }
    for wish, asked in wishes.items():
        if asked:
            raise ConfigError(f"{wish}: an engine cannot give this; leave it out, or run without vLLM")


def _family(folder: Path) -> Family:
    from transformers import AutoConfig  # takes seconds to import

    return family_of(AutoConfig.from_pretrained(folder, local_files_only=True))


def _settings(pruner: Pruner, position: str, options: Checkpoint, family: Family) -> Served:
    """The settings of the plugin."""
    pictures = {option.name: getattr(options, option.name) for option in fields(PictureOptions)}
    own = {key: value for key, value in pictures.items() if value != getattr(PictureOptions(), key)}
    return Served.of(pruner, pruner.position_on(family.axes, position), own, options.attention)


def has_chat_template(folder: Path) -> bool:
    """Whether a checkpoint says how a chat becomes a prompt."""
    if any((folder / name).is_file() for name in ("chat_template.jinja", "chat_template.json")):
        return True
    file = folder / "tokenizer_config.json"
    return file.is_file() and "chat_template" in json.loads(file.read_text(encoding="utf-8"))


def chat_template(options: Checkpoint, folder: Path) -> str:
    """The prompt of ``conf/model`` as a template of a chat's first turn: its pictures, then its text.

    It writes the beginning of the sequence, too, as vLLM adds none to a chat.
    """
    head, tail = options.prompt.split("{images}{text}")
    file = folder / "tokenizer_config.json"
    bos = json.loads(file.read_text(encoding="utf-8")).get("bos_token") if file.is_file() else None
    between, behind = _said(options.image_joiner, "not loop.first"), _said(options.image_end, "loop.last")
    picture = f"{between}{_said(options.image)}{behind}"
    parts = "{%% for part in message['content'] if part['type'] == '%s' %%}%s{%% endfor %%}"
    turn = parts % ("image", picture) + parts % ("text", "{{ part['text'] }}")
    one = "{% if messages | length > 1 %}{{ raise_exception('one turn only: send one message') }}{% endif %}"
    return f"{one}{_said((bos or '') + head)}{{% for message in messages %}}{turn}{{% endfor %}}{_said(tail)}"


def _said(text: str, when: str = "true") -> str:
    """A text in a template, which would lose line breaks of its own."""
    return f"{{{{ {json.dumps(text, ensure_ascii=False)} if {when} }}}}"


def check_vllm() -> None:
    """Refuse to begin without a vLLM of the right version that loads the plugin.

    Raises:
        ConfigError: there is none, one of another version, or one that was told to leave the plugin out.
    """
    found = packages_distributions().get("vllm", [])
    if not found:
        raise ConfigError("vllm is not installed here; docs/serving.md says how")
    if not VERSIONS.contains(version(found[0]), prereleases=True):
        raise ConfigError(f"{found[0]} {version(found[0])} is installed, and this serves with {VERSIONS}")
    chosen = os.environ.get("VLLM_PLUGINS")
    if chosen is not None and "nuwa" not in chosen.split(","):
        raise ConfigError(f"VLLM_PLUGINS={chosen} leaves this plugin out; add nuwa, or unset it")


def check_free(flags: Sequence[str]) -> None:
    """Refuse what would take back what is served, among further arguments of the server.

    Raises:
        ConfigError: one of them, or the beginning of its name, is in `FIXED`.
    """
    for flag in flags:
        name = flag.partition("=")[0].partition(".")[0].replace("_", "-").removeprefix("--")
        if flag.startswith("--") and any(taken.replace("_", "-").startswith(name) for taken in FIXED):
            raise ConfigError(f"--vllm {flag}: is said by model, pruner, budget and position")


def check_wishes(wishes: Iterable[str]) -> None:
    """Refuse further arguments of an evaluation's engine that answers may depend on.

    Raises:
        ConfigError: one of them is not in `FREE`.
    """
    others = [name for name in wishes if name not in FREE]
    if others:
        raise ConfigError(f"trainer.vllm.{others[0]}: answers may depend on it; what is free: {', '.join(FREE)}")
