"""Attaches a pruner to a model and keeps masks, cache and positions in step. The only place that sets hooks.

The vision stage keeps the shape of the image features, so the processor, the placeholder checks and ``generate`` work
on the original prompt. Tokens really leave in a pre-hook of the language model, before layer 0, and in pre-hooks of
decoder layers. What was kept travels with the cache. Unmodified transformers 5.19 and later.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache

from nuwa.engine import guards
from nuwa.engine.calibration import check_calibration
from nuwa.engine.feature_cache import FeatureCache
from nuwa.engine.llm import context_at, prune_at
from nuwa.engine.prefix import layers_to_watch, run_prefixes, split_prefixes
from nuwa.engine.report import Report, image_reports
from nuwa.engine.state import EncodedImages, PrefillState, Step, cached_length, forget_cleared, state_of
from nuwa.engine.tower import run_tower
from nuwa.engine.vision import content_id, plan_images
from nuwa.models import adapter_for
from nuwa.models.base import DEEPSTACK, remove_hooks
from nuwa.pruners.base import Pruner
from nuwa.pruning.masks import gather_tokens
from nuwa.pruning.positions import STRATEGIES
from nuwa.pruning.segments import first_segment, model_ids, read_prompt

_ATTACHED, _ENCODED, _ENCODER = "_nuwa_session", "_nuwa_encoded", "get_image_features"


class PruningSession:
    """Context manager: inside it the model prunes, afterwards it is as it was.

    ``image_ids`` may be set to the names of the images of the next call, in batch order; they seed methods that draw at
    random. Unnamed images are named by their pixels. ``questions`` may be set to what is asked about each of them; few
    methods read it, and these refuse to do without.

    Made by `nuwa.prune`, which describes the arguments.

    Raises:
        ValueError: an unsupported model, an unknown position strategy, or a choice that the model does not have.
        nuwa.pruning.budget.BudgetError: the method cannot reach its budget on this model.
        nuwa.pruners.base.MisfitError: the model lacks what the method needs.
        nuwa.engine.guards.SessionError: on entering, if the model already has a session.
    """

    def __init__(
        self,
        model: nn.Module,
        pruner: Pruner,
        position: str = "native",
        share: bool = False,
        cache: FeatureCache | None = None,
        calibration: str = "none",
        deepstack: str = DEEPSTACK[0],
    ) -> None:
        self.share, self.cache, self.merges_planes = share, cache, deepstack == DEEPSTACK[0]
        self.adapter = adapter_for(model)
        self.adapter.check_deepstack(deepstack)
        self.pruner = pruner
        self.strategy = pruner.position_on(self.adapter.axes, position)
        if self.strategy not in STRATEGIES:
            raise ValueError(f"position={position!r} is unknown; choose native, {', '.join(STRATEGIES)}")
        pruner.check_tower(self.adapter.tower)
        shape, config = self.adapter.shape, self.adapter.language_model.config
        check_calibration(
            calibration, pruner, getattr(config, "_attn_implementation", None), shape.attention is not None
        )
        self.calibration = calibration
        if shape.image_tokens is not None:
            pruner.schedule_on(shape.image_tokens, shape)
        self.image_ids: Sequence[str] | None = None
        self.questions: Sequence[str] | None = None
        self._report = Report()
        self._totals = [0] * shape.layers
        self._handles: list[Any] = []
        self._replaced: dict[str, Any] = {}
        self._images: EncodedImages | None = None
        self._input_ids: Tensor | None = None
        self._mask: Any = None
        self._step: Step | None = None
        self._prefix_step: Step | None = None

    def report(self) -> Report:
        """Tokens per layer over every image so far, and details of the last call with images."""
        seen = self._report.images_seen
        self._report.tokens_per_layer = [total / seen for total in self._totals] if seen else []
        return self._report

    def __enter__(self) -> PruningSession:
        owner, language_model = self.adapter.multimodal, self.adapter.language_model
        if _ATTACHED in owner.__dict__:
            raise guards.SessionError("this model already has a pruning session; leave it before entering another")
        self._replaced = {name: own for name, own in owner.__dict__.items() if name == _ENCODER}
        owner.__dict__.update({_ATTACHED: self, _ENCODER: self._wrap_encoder(owner.get_image_features)})
        self._handles = [
            owner.register_forward_pre_hook(self._enter_multimodal, with_kwargs=True),
            language_model.register_forward_pre_hook(self._enter_language_model, with_kwargs=True),
            language_model.register_forward_hook(self._leave_language_model),
        ]
        for index, layer in enumerate(self.adapter.layers):
            hook = functools.partial(self._enter_layer, index)
            self._handles.append(layer.register_forward_pre_hook(hook, with_kwargs=True))
        return self

    def __exit__(self, *exception: object) -> None:
        remove_hooks(self._handles)
        owner = self.adapter.multimodal
        del owner.__dict__[_ENCODER], owner.__dict__[_ATTACHED]
        owner.__dict__.update(self._replaced)
        self._handles = []
        self._images = self._input_ids = self._step = self._prefix_step = None

    # Vision stage

    def _wrap_encoder(self, original: Any) -> Any:
        # generate() reads the signature of this function to know which inputs belong to the images
        signature = inspect.signature(original)

        @functools.wraps(original)
        def get_image_features(*args: Any, **kwargs: Any) -> Any:
            arguments = self.adapter.prepare(signature.bind(*args, **kwargs).arguments)
            smaller = self.pruner.image_grid(self.adapter.grid, self.adapter.shape.layers)
            taps = list(self.pruner.taps.values())
            seen = run_tower(self.adapter, original, arguments, taps, smaller, self.share, self.cache)
            images, output, planes = seen.images, seen.output, seen.planes
            layouts = self.adapter.layouts(images, arguments)
            names, questions = self._image_metadata(arguments, len(images))
            merging = planes if self.merges_planes else []
            parts = layouts, names, seen.recording, smaller, questions, merging
            plans = plan_images(self.pruner, self.adapter, images, *parts)
            self._images = EncodedImages(plans)
            output.pooler_output = self.adapter.join(images, output.pooler_output)
            if planes:
                output[self.adapter.planes_at] = planes
            output[_ENCODED] = self._images  # an entry, no attribute: what moves outputs to a device makes new ones
            return output

        return get_image_features

    def _image_metadata(self, arguments: dict[str, Any], count: int) -> tuple[Sequence[str], Sequence[str] | None]:
        """The names of the images of this call, and what is asked about them. They are about this call only."""
        names, questions = self.image_ids, self.questions
        self.image_ids = self.questions = None
        guards.check_count("image_ids", names, count)
        guards.check_count("questions", questions, count)
        if names is None:
            names = [content_id(image) for image in self.adapter.pixels(arguments)]
        return names, questions

    # Hooks

    def _enter_multimodal(self, module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
        """Remember the prompt's ids and whether images come with it (generated image tokens are not images)."""
        given = inspect.signature(type(module).forward).bind(module, *args, **kwargs).arguments
        given.update(given.pop("kwargs", {}))
        encoded = (given.get("mm_encoder_outputs") or {}).get("image")
        self._images = None if encoded is None else encoded.get(_ENCODED)
        self._input_ids = self._prefix_step = None
        self._mask = given.get("attention_mask")
        forget_cleared(given.get("past_key_values"))
        guards.check_no_videos(given)
        if encoded is None and given.get("pixel_values") is None:
            guards.check_no_placeholders(given, self.adapter.image_token_id)
            return
        guards.check_images(given, ours=encoded is None or self._images is not None)
        self._input_ids = given["input_ids"]

    def _enter_language_model(self, module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> tuple | None:
        """Prune a prompt or continue one. The prefixes that rows share are a call within the call, left as it is."""
        self._step, self._prefix_step = self._prefix_step, None
        if self._step is not None:
            return None
        cache, (input_ids, self._input_ids) = kwargs.get("past_key_values"), (self._input_ids, None)
        forget_cleared(cache)
        state = state_of(cache)
        if state is not None:
            return args, self._decode(state, kwargs)
        if input_ids is None:
            return None
        assert self._images is not None  # this call has encoded them
        return args, self._prefill(module, input_ids, self._images, kwargs)

    def _prefill(
        self, module: nn.Module, input_ids: Tensor, images: EncodedImages, kwargs: dict[str, Any]
    ) -> dict[str, Any]:
        """The arguments with the tokens that are left: of rows that share prefixes, which run first, the suffixes."""
        embeddings, mask, cache = kwargs["inputs_embeds"], self._mask, kwargs.get("past_key_values")
        batch, length = embeddings.shape[:2]
        config: Any = self.adapter.language_model.config
        guards.check_prefill(mask, cache, batch, length, self.adapter)
        device = embeddings.device
        valid = torch.ones(batch, length, dtype=torch.bool, device=device) if mask is None else mask.to(device).bool()
        ids = self.adapter.position_ids(kwargs.get("position_ids"), batch, length, device)
        placeholders = input_ids.to(device) == self.adapter.image_token_id
        self.adapter.check_prompt(placeholders, [plan.layout.n_tokens for plan in images.plans])
        prompt = read_prompt(placeholders, valid, ids, images.plans)
        segment = first_segment(prompt, self.strategy)
        inputs, stages = gather_tokens(embeddings, segment.index), prompt.stages()
        guards.check_checkpointing(self.adapter.layers if stages else ())
        use_cache = kwargs.get("use_cache")
        if cache is None and (config.use_cache if use_cache is None else use_cache):
            cache = DynamicCache(config=config)
        # a model that trains may checkpoint its layers, which then ignore the cache; a recurrent state cannot be split
        companions, recurrent = self.adapter.companions(kwargs), self.adapter.shape.attention is not None
        plain = not companions and not recurrent and self.calibration == "none"
        shared = self.share and not module.training and 0 not in stages and plain
        split = split_prefixes(segment, inputs) if shared and cache is not None else None
        if split is not None and cache is not None:
            split.watch = layers_to_watch(stages, "previous" in self.pruner.needs)
            prefixes = PrefillState(prompt, [split.prefixes])
            self._prefix_step = Step(prefixes, False, split.length, split.prefixes.valid[:, :0], split=split)
            run_prefixes(module, split, inputs, cache)
            segment, inputs = split.segment, split.suffix_inputs(inputs)
        state = PrefillState(prompt, [segment], self.adapter.shape.attention_layers[0])
        queries = inputs.shape[1]
        self._step = step = Step(state, True, queries, segment.valid[:, :0], stages, images, input_ids, split=split)
        step.calibration, step.merges_companions = self.calibration, self.merges_planes
        step.companions = {name: gather_tokens(x, segment.index.to(x.device)) for name, x in companions.items()}
        if cache is not None:
            state.attach(cache)
        return self.adapter.with_companions(kwargs, step.companions) | {
            "inputs_embeds": inputs,
            # always a mask: without one, Llama reads a jump in the position ids as packed sequences
            "attention_mask": segment.valid.long(),
            "position_ids": model_ids(segment.ids[..., -queries:]),
            "past_key_values": cache,
        }

    def _decode(self, state: PrefillState, kwargs: dict[str, Any]) -> dict[str, Any]:
        """The arguments with the mask and ids of the pruned prompt; padding behind it is what the mask says it is."""
        segment, mask = state.cached, kwargs.get("attention_mask")
        batch, queries = kwargs["inputs_embeds"].shape[:2]
        generated = cached_length(kwargs["past_key_values"]) - segment.length
        guards.check_decode(mask, state, batch, generated, queries)
        new = segment.valid.new_ones(batch, generated + queries)
        if mask is not None:
            new = mask[:, state.prompt.whole.length :].to(new)
            guards.check_recurrent(new, queries, self.adapter.shape.attention is not None)
        self._step = step = Step(state, False, queries, new, calibration=self.calibration)
        return kwargs | {
            "attention_mask": step.keys(segment).valid.long(),
            "position_ids": model_ids(step.position_ids(segment)),
        }

    def _enter_layer(self, index: int, module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> tuple | None:
        step = self._step
        if step is None:
            return None
        hidden = args[0]
        segment = step.state.at(index)
        # FlashAttention would read gaps in position ids as packed sequences; the rotation is already computed
        kwargs = kwargs | {"position_ids": None}
        if not step.prefill and step.split is not None:
            step.split.note(index, hidden)
            return args, kwargs
        if step.companions:
            hidden, kwargs = self.adapter.enter_layer(index, hidden, kwargs, step.companions)
        if segment is not step.called_with or self.adapter.own_masks or self.calibration != "none":
            kwargs |= step.override(segment, self.adapter, index, hidden)
        if index == 0 and step.stages and "first" in self.pruner.needs:
            step.first = context_at(self.adapter, step, index, hidden, segment, kwargs["position_embeddings"])
        if index in step.stages:
            context = context_at(self.adapter, step, index, hidden, segment, kwargs["position_embeddings"])
            segment, hidden = prune_at(self.pruner, step, context, segment, self.strategy)
            kwargs |= step.override(segment, self.adapter, index, hidden)
        step.previous = None
        if "previous" in self.pruner.needs and index + 1 in step.stages:
            step.previous = context_at(self.adapter, step, index, hidden, segment, kwargs["position_embeddings"])
        return (hidden, *args[1:]), kwargs

    def _leave_language_model(self, module: nn.Module, args: tuple, output: Any) -> Any:
        """Put hidden states back into the frame of the original prompt: logits and losses keep its shape."""
        step, self._step = self._step, None
        if step is None or not step.prefill:
            return output
        self._count(step)
        self._report.mask_bytes = max(self._report.mask_bytes, step.mask_bytes)
        last, prompt, hidden = step.state.segments[-1], step.state.prompt, output.last_hidden_state
        if hidden.shape[1] < last.length or not prompt.is_whole_prompt(last):
            output.last_hidden_state = prompt.restore(last, hidden.to(last.index.device))
        return output

    def _count(self, step: Step) -> None:
        self._report.images = image_reports(step.state.prompt, step.state.segments, len(self._totals))
        for image in self._report.images:
            self._totals = [total + count for total, count in zip(self._totals, image.per_layer, strict=True)]
        self._report.images_seen += len(self._report.images)
