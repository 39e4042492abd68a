"""A bridge to lmms-eval, so that its tasks run with a pruner.

    python -m lmms_eval --model nuwa --model_args pretrained=tiny_llava,pruner=nuwa,budget=64 --tasks gqa --batch_size 8

lmms-eval finds this through the entry point ``lmms_eval.models``. Its tasks make the prompts and score the answers;
prompt format, padding and pruning are those of ``conf/``. Tested with lmms-eval 0.7.3, which runs image tasks without
torchvision although it asks for it.
"""

from __future__ import annotations

from typing import Any

from lmms_eval.api.model import lmms
from lmms_eval.models.registry_v2 import ModelManifest
from omegaconf import DictConfig
from PIL import Image
from tqdm import tqdm

import nuwa
from nuwa.config import SAMPLING, build
from nuwa.evaluation.check import check, check_fitted
from nuwa.overrides import compose_job
from nuwa.pruners.catalogue import conf_folder
from nuwa.samples import Sample, visual_ids

MANIFEST = ModelManifest("nuwa", simple_class_path="nuwa.lmms.NuwaModel")
DEFAULT_TOKENS = 1024  # lmms-eval's own for LLaVA, where a task says nothing
LIKE = "llava_1_5_7b"


def compose(
    pretrained: str, pruner: str, budget: float | str | None, position: str, options: dict[str, Any], like: str = LIKE
) -> DictConfig:
    """The config of a launch.py job on a model of ``conf/model``, or on a checkpoint of the form of ``like``.

    Raises:
        ConfigError: a choice that is impossible, or a pruner without a budget.
    """
    known = (conf_folder() / "model" / f"{pretrained}.yaml").is_file()
    model = [f"model={pretrained}"] if known else [f"model={like}", f"model.path={pretrained}"]
    given = [f"pruner={pruner}", f"position.strategy={position}", f"budget={'full' if pruner == 'none' else budget}"]
    return compose_job([*model, *given, *(f"pruner.{key}={value}" for key, value in options.items())])


class NuwaModel(lmms):
    """A model of ``conf/model`` under a pruning session.

    Args:
        pretrained: a name in ``conf/model``, or a folder or hub id of the family and prompt of ``like``, such a name.
        pruner: a name in ``conf/pruner``; all but ``none`` need a ``budget``: mean visual tokens per LLM layer, a share
            of them below 1, or a name in ``conf/budget``. ``position`` as in ``conf``.
        batch_size, device, max_batch_size: as lmms-eval passes them; the first is a number.
        options: fields of the pruner, e.g. ``d_thresh=280``.
    """

    def __init__(
        self,
        pretrained: str,
        pruner: str = "nuwa",
        budget: float | str | None = None,
        position: str = "native",
        batch_size: int | str = 1,
        device: str | None = None,
        max_batch_size: int | None = None,
        like: str = LIKE,
        **options: Any,
    ) -> None:
        super().__init__()
        if not str(batch_size).isdecimal():
            raise ValueError(f"batch_size={batch_size}: the nuwa model needs a number")
        parts = check(compose(pretrained, pruner, budget, position, options, like))
        check_fitted(parts.pruner)
        self.loaded = build(parts.model | ({"device": device} if device else {}))
        self.session = nuwa.prune(self.loaded.model, parts.pruner, position=position)
        self.batch_size = int(batch_size)

    def generate_until(self, requests: list) -> list[str]:
        """Answers in the order of the requests; those with the same settings share batches."""
        groups: dict[str, list[int]] = {}
        for number, request in enumerate(requests):
            groups.setdefault(repr(sorted(request.args[1].items(), key=str)), []).append(number)
        answers: dict[int, str] = {}
        with self.session, tqdm(total=len(requests), desc="nuwa") as bar:
            for numbers in groups.values():
                for start in range(0, len(numbers), self.batch_size):
                    batch = numbers[start : start + self.batch_size]
                    answers |= zip(batch, self._answer([requests[number] for number in batch]), strict=True)
                    bar.update(len(batch))
        return [answers[number] for number in range(len(requests))]

    def _answer(self, requests: list) -> list[str]:
        """One batch; a stop string ends an answer."""
        samples = [self._sample(*request.args) for request in requests]
        settings = dict(requests[0].args[1])
        inputs = self.loaded.encode(samples)
        names = visual_ids(samples)
        with self.session.about(names, self.loaded.questions(samples)):
            ids = self.loaded.model.generate(**inputs, **generation(settings))
        stops = settings.get("until") or []
        stops = [stops] if isinstance(stops, str) else stops
        texts = self.loaded.decode(ids, inputs["input_ids"].shape[1])
        return [min((text.split(stop)[0] for stop in stops if stop), key=len, default=text) for text in texts]

    def _sample(self, context: str, settings: dict, pictures: Any, number: Any, task: str, split: str) -> Sample:
        images = pictures(self.task_dict[task][split][number]) or []
        for image in images:
            if not isinstance(image, Image.Image):
                raise ValueError(f"task {task} shows a {type(image).__name__}: the nuwa model is shown pictures only")
        return Sample(f"{task}-{number}", task, tuple(images), context, None)

    def loglikelihood(self, requests: list) -> list:
        """Not offered: pruning is defined for generation, and a session sees one prompt."""
        raise NotImplementedError("nuwa answers generate_until tasks only")

    generate_until_multi_round = loglikelihood


def generation(settings: dict[str, Any]) -> dict[str, Any]:
    """A task's settings as ``generate`` takes them: it samples only at a temperature above 0, as for LLaVA there."""
    warm = (settings.get("temperature") or 0.0) > 0
    chosen = {"max_new_tokens": settings.get("max_new_tokens", DEFAULT_TOKENS), "do_sample": warm}
    chosen["num_beams"] = settings.get("num_beams") or 1
    return chosen | ({key: settings[key] for key in SAMPLING if settings.get(key)} if warm else {})
