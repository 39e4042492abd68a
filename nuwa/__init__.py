"""Nüwa: a workbench for pruning vision tokens in vision-language models.

loaded = nuwa.load_model("tiny_llava")
inputs = loaded.encode([nuwa.Sample.ask("is there a red circle ?", image)])
with nuwa.prune(loaded.model, nuwa.load_pruner("nuwa", budget=64)) as session:
    ids = loaded.model.generate(**inputs, max_new_tokens=32)
print(loaded.decode(ids, inputs["input_ids"].shape[1]), session.report())

`load_model` and `load_pruner` read ``conf/``; `prune` takes any supported model of Hugging Face, and any `Pruner`.
Nothing heavy is imported before it is asked for: ``nuwa --help`` needs no torch.
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn

    from nuwa import pruners
    from nuwa.engine.feature_cache import FeatureCache
    from nuwa.engine.session import PruningSession
    from nuwa.models.loaded import LoadedModel
    from nuwa.pruners.base import Pruner
    from nuwa.pruning.budget import Budget
    from nuwa.pruning.coordinates import Coordinates
    from nuwa.samples import Sample

__version__ = "0.1.0"
__all__ = [
    "Budget",
    "Pruner",
    "Sample",
    "__version__",
    "detach",
    "list_pruners",
    "load_model",
    "load_pruner",
    "prune",
    "pruners",
]
_HOMES = {"Budget": "nuwa.pruning.budget", "Pruner": "nuwa.pruners.base", "Sample": "nuwa.samples"}


def __getattr__(name: str) -> Any:
    if name == "pruners":
        return import_module("nuwa.pruners")
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def load_model(name: str, **options: Any) -> LoadedModel:
    """Load a model of ``conf/model``, with its tokenizer, its prompt and its way to prepare pictures.

    Args:
        name: e.g. ``tiny_llava`` or ``qwen2_5_vl_7b``.
        options: keys of its file, e.g. ``dtype="bfloat16"``; ``path`` is another checkpoint of the same form.

    Returns:
        ``.model`` is transformers' own, ``.encode`` makes its inputs of samples, ``.decode`` makes text of its output.

    Raises:
        ValueError: an unknown model or option, or a checkpoint that cannot be used; the message says which.
    """
    from nuwa.config import build, check_model, typed
    from nuwa.overrides import compose_job

    cfg = compose_job([f"model={name}"])
    cfg.model = {**cfg.model, **options}
    chosen = typed(cfg, "model")
    check_model(chosen)
    return build(chosen)


def list_pruners() -> list[str]:
    """The names that `load_pruner` knows: the files of ``conf/pruner``."""
    from nuwa.pruners.catalogue import method_names

    return method_names()


def load_pruner(
    name: str | Path | None = None,
    budget: float | Budget | None = None,
    run: str | Path | None = None,
    **options: Any,
) -> Pruner:
    """Make a pruning method by its name, from a file, or as a run used it.

    >>> load_pruner("nuwa", budget=64, d_thresh=18)
    Nuwa(budget=Budget(average=64, ratio=None), seed=0, d_thresh=18.0, ...)

    Args:
        name: one of `list_pruners`, e.g. ``nuwa``, or a YAML file that ``pruner.save`` wrote.
        budget: average visual tokens per LLM layer, or a `Budget`; None for the full image.
        run: the folder of a finished run, e.g. ``outputs/main/3f8a0c11d2e4``, instead of a name. A method whose
            budget the run fitted has the value that it found.
        options: fields of the method.

    Raises:
        ValueError: an unknown method, an unknown option or an impossible value; the message names what there is.
        OSError: a file cannot be read.
    """
    if (name is None) == (run is None):
        raise ValueError("load_pruner needs the name of a method or a file, or run=<folder>: one of them")
    from nuwa.options import check_options
    from nuwa.pruners.catalogue import find_method
    from nuwa.pruning.budget import Budget

    saved = run is not None or str(name).endswith(".yaml")
    if not saved:
        kind, defaults = find_method(str(name))
        spent = budget if isinstance(budget, Budget) else Budget(average=budget)
        return kind(budget=spent, **check_options(kind, defaults | options, "pruner", provided=("budget",)))
    if options or budget is not None:
        raise ValueError("a saved method has its own budget and options; dataclasses.replace(pruner, ...) changes them")
    from nuwa.evaluation.recorded import pruner_of_file, pruner_of_run

    return pruner_of_file(Path(str(name))) if run is None else pruner_of_run(Path(run))


def prune(
    model: nn.Module,
    pruner: Pruner,
    position: str = "native",
    share: bool = False,
    cache: FeatureCache | None = None,
    calibration: str = "native",
    coordinates: Coordinates | None = None,
    deepstack: str = "merged",
) -> PruningSession:
    """A session inside which ``model`` prunes its vision tokens; after it the model is as it was.

    ```python
    with nuwa.prune(model, nuwa.load_pruner("nuwa", budget=64)) as session:
        ids = model.generate(**inputs, max_new_tokens=32)
    print(session.report())  # tokens per layer, measured
    ```

    Args:
        model: an unmodified transformers model of a supported family (`nuwa.models`).
        pruner: a method, from `load_pruner` or of your own.
        position: the strategy for position ids: ``perc`` renumbers, ``pesp`` keeps the original ids, ``rpme``
            stretches them over the image's span, ``median`` puts a merged token at the median of its members' ids,
            ``native`` does what the method's authors do.
        share: run what neighbouring rows have in common once: the vision pass of equal images and the prompt up to the
            end of its images, as far as the first LLM stage. Only the logits behind the images are then computed. A
            model in training mode shares the vision pass alone.
        cache: a folder of vision features that calls and processes share, of a tower whose weights do not change.
        calibration: ``size`` lets a merged token weigh in attention as many tokens as it stands for, ``restore`` gives
            distant tokens back what rotary embeddings take, too. Both take sdpa or eager attention, and let ``share``
            share the vision pass alone. ``native`` is none, but for RESTORE.
        coordinates: a share of what every stage keeps goes to tokens that stay because of where they stand.
        deepstack: what tokens that a method makes of several have of Qwen3-VL's deepstack planes: their rows ``merged``
            alike, or the ``kept`` rows' own.

    Raises:
        ValueError: an unsupported model, an unknown choice, or a method that does not fit the model.
    """
    from nuwa.engine.session import PruningSession

    return PruningSession(model, pruner, position, share, cache, calibration, coordinates, deepstack)


def detach(model: nn.Module) -> None:
    """End the session that is open on a model, as leaving its block does: for a session that is lost.

    Without a session nothing happens.
    """
    from nuwa.engine.session import end_session

    end_session(model)
