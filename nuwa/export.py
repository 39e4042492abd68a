"""A finished run as a config of its own and as lines of Python; both find the same answers.

nuwa export outputs/main/<run>                  # both, on the terminal
nuwa export outputs/main/<run> --out again      # again/<run>.yaml and again/<run>.py
"""

from __future__ import annotations

import sys
from argparse import Namespace
from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from nuwa import list_pruners, load_pruner
from nuwa.command import argument, command
from nuwa.config import ConfigError, decoding, plain, typed
from nuwa.evaluation.check import pruning_options
from nuwa.evaluation.recorded import config_of_run, pruner_of_run
from nuwa.overrides import compose_job
from nuwa.pruners.base import Pruner
from nuwa.pruning.budget import Budget
from nuwa.schema import Engine
from nuwa.targets import find_target

YAML = """\
# nuwa run --config-dir=. --config-name={key}    (this file is {key}.yaml in the folder where that is typed)
defaults:
  - base_config
  - hydra: default
  - _self_

{config}"""

PYTHON = """\
import nuwa
{imports}
loaded = nuwa.load_model({model})
pruner = nuwa.load_pruner({pruner})
benchmark = {benchmark}
with nuwa.prune({session}) as session{blocking}:
    for index in range({count}):
        sample = benchmark[index]
        inputs = loaded.encode([sample])
        with session.about({names}, loaded.questions([sample])):
            ids = loaded.model.generate(**inputs, {generation})
        print(sample.id, *loaded.decode(ids, inputs["input_ids"].shape[1]))
"""


def as_yaml(cfg: DictConfig, key: str) -> str:
    """A config file that composes to ``cfg`` whatever ``conf/`` says one day."""
    return YAML.format(key=key, config=OmegaConf.to_yaml(OmegaConf.create(plain(cfg))))


def as_python(cfg: DictConfig, pruner: Pruner) -> str:
    """The lines that answer the samples of a job one by one; what is as ``conf/`` says is left out."""
    dataset = typed(cfg, "dataset")
    benchmark = find_target(dataset.pop("_target_"), "dataset")
    imports = {f"from {benchmark.__module__} import {benchmark.__name__}"}
    session = {name: value for name, value in pruning_options(cfg).items() if value not in ("native", "merged", None)}
    records = [type(value) for value in (*session.values(), *dataset.values()) if is_dataclass(value)]
    imports |= {f"from {kind.__module__} import {kind.__name__}" for kind in records}
    blocked = cfg.blocking.source is not None
    if blocked:
        imports.add("from nuwa.engine.blocking import configured_block")
    return PYTHON.format(
        imports="\n".join(sorted(imports)) + "\n",
        model=_model(cfg),
        pruner=_pruner(pruner),
        benchmark=f"{benchmark.__name__}({_keywords(_changed(dataset, _defaults(benchmark)))})",
        session=", ".join(["loaded.model", "pruner", *filter(None, [_keywords(session)])]),
        blocking=f", configured_block(session, {_keywords(plain(cfg.blocking))})" if blocked else "",
        count=f"benchmark.take({cfg.limit})",
        names="None" if cfg.trainer.engine == Engine.vllm else "sample.image_ids or None",  # vLLM knows no names
        generation=_generation(cfg),
    )


def _model(cfg: DictConfig) -> str:
    """Arguments of `nuwa.load_model`."""
    name, ours = cfg.model.get("name"), typed(cfg, "model")
    try:
        theirs = typed(compose_job([f"model={name}"]), "model")
    except ConfigError as error:
        raise ConfigError(f"model.name={name}: conf/model has no such file, which load_model would need") from error
    return ", ".join([repr(name), *filter(None, [_keywords(_changed(ours, theirs))])])


def _pruner(pruner: Pruner) -> str:
    """Arguments of `nuwa.load_pruner`."""
    options = {option.name: getattr(pruner, option.name) for option in fields(pruner) if option.init}
    budget = options.pop("budget")
    name = next((name for name in list_pruners() if type(load_pruner(name)) is type(pruner)), None)
    if name is None:
        raise ConfigError(f"pruner {pruner.name}: conf/pruner has no file of its class, which load_pruner would need")
    given = {} if budget.full else {"budget": budget if budget.average is None else budget.average}
    changed = _changed(options, vars(load_pruner(name)))
    return ", ".join([repr(name), *filter(None, [_keywords(given | changed)])])


def _generation(cfg: DictConfig) -> str:
    """Arguments of ``generate``."""
    given = decoding(cfg)
    if given["max_new_tokens"] is None:
        del given["max_new_tokens"]
        return f"{_keywords(given)}, max_new_tokens=benchmark.max_new_tokens(sample.task)"
    return _keywords(given)


def _defaults(kind: type) -> dict[str, Any]:
    """The default values of a dataclass's fields; of another class nothing is known."""
    return {one.name: one.default for one in fields(kind) if one.default is not MISSING} if is_dataclass(kind) else {}


def _changed(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> dict[str, Any]:
    """What is not as it would be."""
    return {key: value for key, value in ours.items() if key not in theirs or theirs[key] != value}


def _keywords(arguments: Mapping[str, Any]) -> str:
    return ", ".join(f"{key}={_spelt(value)}" for key, value in arguments.items())


def _spelt(value: Any) -> str:
    return f"nuwa.{value!r}" if isinstance(value, Budget) else repr(value)


@command(
    "A finished run as a config file and as lines of Python that find the same answers.",
    argument("run", type=Path, help="a run's folder, outputs/<name>/<run>"),
    argument("--out", type=Path, help="folder for <run>.yaml and <run>.py, instead of printing them"),
)
def main(options: Namespace) -> None:
    """Print both, or write them and print where they are."""
    cfg, run = config_of_run(options.run)
    written = {"yaml": as_yaml(cfg, run.run_key), "py": as_python(cfg, pruner_of_run(options.run))}
    if cfg.generation.do_sample:
        written["py"] = f"# tokens are drawn at random here: answers differ from call to call\n{written['py']}"
    if options.out is None:
        print("\n".join(written.values()), end="")
        return
    options.out.mkdir(parents=True, exist_ok=True)
    for ending, text in written.items():
        path = options.out / f"{run.run_key}.{ending}"
        path.write_text(text, encoding="utf-8")
        print(path)


if __name__ == "__main__":
    sys.exit(main())
