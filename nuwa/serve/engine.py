"""vLLM in this program: answers to samples, for an evaluation."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import torch
import transformers
from transformers import AutoConfig, GenerationConfig, PreTrainedTokenizerFast

from nuwa.models.loaded import LoadedModel
from nuwa.samples import Sample, SampleError
from nuwa.serve.job import ServedJob

if TYPE_CHECKING:
    from vllm import LLM

_open: dict[str, Engine] = {}


def without_weights(job: ServedJob) -> LoadedModel:
    """All of a model but its weights: prompts, pictures and sizes."""
    folder, kind = job.folder, getattr(transformers, job.options.kind.architecture)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder, local_files_only=True)
    with torch.device("meta"):
        model = kind(AutoConfig.from_pretrained(folder, local_files_only=True))
    with suppress(OSError):  # few checkpoints have none
        model.generation_config = GenerationConfig.from_pretrained(folder, local_files_only=True)
    return job.options.completed(model, tokenizer, folder)


class Engine:
    """A served job; ``wishes`` are further arguments of ``vllm.LLM``."""

    def __init__(self, job: ServedJob, wishes: Mapping[str, Any]) -> None:
        from vllm import LLM

        self.loaded = without_weights(job)
        self.llm: LLM = LLM(**job.arguments() | dict(wishes))

    def prompts(self, samples: Sequence[Sample]) -> list[dict[str, Any]]:
        """What vLLM is asked: token ids with one placeholder for each picture, and the pictures.

        Raises:
            PromptError, SampleError: a sample cannot be put; the message names it.
        """
        for sample in samples:
            if sample.videos:
                raise SampleError(f"sample {sample.id}: trainer=vllm shows pictures only, and this is about a video")
        return [
            {"prompt_token_ids": self.loaded.prompt_ids(sample).tolist()}
            | ({"multi_modal_data": {"image": list(sample.images)}} if sample.images else {})
            for sample in samples
        ]

    def answer(self, prompts: Sequence[dict[str, Any]], max_new_tokens: int) -> list[str]:
        """Greedy answers, with what else the checkpoint says of decoding (a repetition penalty).

        Raises:
            ValueError: vLLM refuses a prompt.
            RuntimeError: it gives one up.
        """
        params = self.llm.get_default_sampling_params()
        params.temperature, params.max_tokens = 0.0, max_new_tokens
        found = self.llm.generate(list(prompts), params, use_tqdm=False)
        lost = [number for number, answer in enumerate(found) if answer.outputs[0].finish_reason == "error"]
        if lost:  # a refused prompt's picture was taken for known
            again = self.llm.generate([prompts[number] for number in lost], params, use_tqdm=False)
            if any(answer.outputs[0].finish_reason == "error" for answer in again):
                raise RuntimeError("vLLM gave up a prompt twice; its log says why")
            for number, answer in zip(lost, again, strict=True):
                found[number] = answer
        ids = [answer.outputs[0].token_ids for answer in found]
        texts = self.loaded.tokenizer.batch_decode([list(row) for row in ids], skip_special_tokens=True)
        return [text.strip() for text in texts]

    @property
    def environment(self) -> dict[str, Any]:
        """What answers in place of transformers, and where."""
        import vllm
        from vllm.platforms import current_platform as place

        dtype = str(self.llm.llm_engine.model_config.dtype).removeprefix("torch.")
        device = f"{place.device_type}: {place.get_device_name()}"
        return {"engine": f"vllm {vllm.__version__}", "device": device, "dtype": dtype, "attention": None}

    def close(self) -> None:
        """Give its memory back."""
        self.llm.llm_engine.engine_core.shutdown()


def engine_once(job: ServedJob, wishes: Mapping[str, Any]) -> Engine:
    """The engine of the last call; another job's is started after the old one was closed."""
    key = json.dumps([job.arguments(), dict(wishes)], sort_keys=True)
    if key not in _open:
        for engine in _open.values():
            engine.close()
        _open.clear()
        _open[key] = Engine(job, wishes)
    return _open[key]
