"""Attaches a pruner to a model and keeps masks, cache and positions in step. The only place that sets hooks.

The vision stage keeps the shape of the image features, so the processor, the placeholder checks and ``generate`` work
on the original prompt. Tokens really leave in a pre-hook of the language model, before layer 0, and in pre-hooks of
decoder layers. What was kept travels with the cache; what a call needs belongs to the call, so that threads can share a
session. Unmodified transformers 5.19 and later.
"""

from __future__ import annotations

import functools
import inspect
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import replace
from typing import Any

import torch
import transformers
from torch import nn

from nuwa.engine import guards
from nuwa.engine.arguments import arguments_of, cache_of
from nuwa.engine.calibration import check_calibration, check_position
from nuwa.engine.call import Call, EncodedImages, Rules, current_call, prompt_of
from nuwa.engine.conversation import conversation_of
from nuwa.engine.coordinates import check_coordinates
from nuwa.engine.copies import copy_without
from nuwa.engine.decision_cache import DecisionCache
from nuwa.engine.feature_cache import FeatureCache
from nuwa.engine.llm import enter_layer, leave_block
from nuwa.engine.passes import end_pass, in_whole_frame, read_images, read_text_behind
from nuwa.engine.report import Report
from nuwa.engine.tower import run_tower
from nuwa.engine.vision import content_ids, plan_images
from nuwa.models import adapter_for
from nuwa.models.base import DEEPSTACK, Family, remove_hooks
from nuwa.pruners.base import Pruner
from nuwa.pruning.coordinates import Coordinates
from nuwa.pruning.positions import STRATEGIES

_ATTACHED, _ENCODED, _COPY = "_nuwa_session", "_nuwa_encoded", "__deepcopy__"
_about: ContextVar[tuple[Any, Sequence[str] | None, Sequence[str] | None] | None] = ContextVar("about", default=None)
_drafts: ContextVar[int] = ContextVar("drafts", default=0)
_encodes: ContextVar[bool] = ContextVar("encodes", default=False)


class PruningSession:
    """Context manager: inside it the model prunes, afterwards it is as it was.

    Made by `nuwa.prune`, which describes the arguments. Several threads may call the model inside it. Leaving it waits
    for calls that are running; a generation that goes on with its cache afterwards is refused.

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
        calibration: str = "native",
        coordinates: Coordinates | None = None,
        deepstack: str = DEEPSTACK[0],
    ) -> None:
        self.share, self.cache, self.merges_planes = share, cache, deepstack == DEEPSTACK[0]
        self.adapter = adapter_for(model)
        self.adapter.check_deepstack(deepstack)
        self._kinds = self.adapter.kinds
        self.pruner = pruner
        self.strategy = pruner.position_on(self.adapter.axes, position)
        if self.strategy not in STRATEGIES:
            raise ValueError(f"position={position!r} is unknown; choose native, {', '.join(STRATEGIES)}")
        pruner.check_tower(self.adapter.tower)
        shape, config = self.adapter.shape, self.adapter.language_model.config
        kernel, self.calibration = getattr(config, "_attn_implementation", None), pruner.calibration_of(calibration)
        pruner.check_llm(shape)
        check_position(self.strategy, pruner)
        check_calibration(self.calibration, pruner, kernel, shape.attention is not None)
        check_coordinates(coordinates, pruner, self.adapter.grid, shape.layers)
        if coordinates is not None and coordinates.kind == "ivc":
            coordinates = replace(coordinates, frequencies=self.adapter.frequencies)
        self.coordinates = coordinates
        if shape.image_tokens is not None:
            pruner.schedule_on(shape.image_tokens, shape)
        self._report, self._embedded = Report(pruner.name, self.strategy, shape), False
        self._handles: list[Any] = []
        self._replaced: dict[str, Any] = {}
        self._running: set[threading.Thread] = set()
        self._encoding = threading.Lock()

    @contextmanager
    def about(self, ids: Sequence[str] | None = None, questions: Sequence[str] | None = None) -> Iterator[None]:
        """Inside it, the calls of this thread are about images named ``ids``: pictures in batch order, then videos.

        Names seed methods that draw at random; unnamed images are named by their pixels. ``questions`` are what is
        asked about each image; few methods read it, and these refuse to do without.
        """
        token = _about.set((self, ids, questions))
        try:
            yield
        finally:
            _about.reset(token)

    def report(self) -> Report:
        """Tokens per layer over every image so far, and details of the last call with images."""
        return self._report

    @property
    def _rules(self) -> Rules:
        rules = self.pruner, self.strategy, self.share, self.calibration, self.merges_planes
        return Rules(self.adapter, self._kinds, *rules)

    def __enter__(self) -> PruningSession:
        model, owner, language_model = self.adapter.model, self.adapter.multimodal, self.adapter.language_model
        if _ATTACHED in owner.__dict__:
            raise guards.SessionError(
                "this model already has a pruning session; leave it before entering another (one that is lost, with "
                "nuwa.detach(model))"
            )
        guards.warn_of_version(transformers.__version__)
        encoders = {family.encoder: self._wrap_encoder(family) for family in self._kinds.values()}
        self._replaced = {name: own for name, own in owner.__dict__.items() if name in encoders}
        owner.__dict__.update({_ATTACHED: self, **encoders})
        model.__dict__[_COPY] = self._copy_model
        eager = torch.compiler.disable  # what surrounds the hooks of a compiled model is compiled, they are not
        leave_text = eager(self._leave_language_model)
        self._handles = [
            model.register_forward_pre_hook(eager(self._enter_model), with_kwargs=True),
            owner.register_forward_pre_hook(eager(self._enter_multimodal), with_kwargs=True),
            owner.register_forward_hook(eager(self._leave_multimodal), always_call=True),
            language_model.register_forward_pre_hook(eager(self._enter_language_model), with_kwargs=True),
            language_model.register_forward_hook(leave_text, with_kwargs=True, always_call=True),
        ]
        for index, layer in enumerate(self.adapter.layers):
            hook = eager(functools.partial(self._enter_layer, index))
            self._handles.append(layer.register_forward_pre_hook(hook, with_kwargs=True))
            for block in ("self_attn", "mlp") if "transitions" in self.pruner.needs else ():
                leave = functools.partial(self._leave_block, index)
                self._handles.append(layer.get_submodule(block).register_forward_hook(leave, with_kwargs=True))
        return self

    def __exit__(self, *exception: object) -> None:
        while any(thread.is_alive() for thread in self._running - {threading.current_thread()}):
            time.sleep(0.001)
        self._running.clear()
        remove_hooks(self._handles)
        self._detach(self.adapter.model, self.adapter.multimodal)
        self._handles = []
        guards.warn_of_embeddings(self._embedded, self._report.images_seen)

    def _detach(self, model: nn.Module, owner: nn.Module) -> None:
        del model.__dict__[_COPY], owner.__dict__[_ATTACHED]
        for family in self._kinds.values():
            del owner.__dict__[family.encoder]
        owner.__dict__.update(self._replaced)

    def _copy_model(self, memo: dict[int, Any]) -> nn.Module:
        """A deep copy of the model without this session."""
        twin = copy_without(self.adapter.model, self._handles, self, memo)
        self._detach(twin, twin.get_submodule("model"))
        return twin

    # Vision stage

    def _wrap_encoder(self, family: Family) -> Any:
        original = family.encode_images
        # generate() reads the signature of this function to know which inputs belong to the images
        signature = inspect.signature(original)

        @functools.wraps(original)
        def get_features(*args: Any, **kwargs: Any) -> Any:
            if _encodes.get():  # Qwen3-VL encodes videos by its method for pictures
                return original(*args, **kwargs)
            token = _encodes.set(True)
            try:
                with self._encoding:  # what is read off tower and projector has to be this call's
                    output, encoded = self._encode(family, original, signature.bind(*args, **kwargs).arguments)
            finally:
                _encodes.reset(token)
            call = current_call.get()
            if call is not None:
                call.images[family.kind] = encoded
            output[_ENCODED] = encoded  # an entry, no attribute: what moves outputs to a device makes new ones
            return output

        return get_features

    def _encode(self, family: Family, original: Any, arguments: dict[str, Any]) -> tuple[Any, EncodedImages]:
        """The output of the original encoder with the features that a method made, and what it decided."""
        arguments = family.prepare(arguments)
        smaller = self.pruner.image_grid(family.grid, family.shape.layers)
        taps = list(self.pruner.taps.values())
        seen = run_tower(family, original, arguments, taps, smaller, self.share, self.cache)
        images, output, planes = seen.images, seen.output, seen.planes
        layouts = family.layouts(images, arguments)
        names, questions = self._image_metadata(family, arguments, len(images))
        seeing = seen.recording, smaller, questions, self.coordinates, planes if self.merges_planes else ()
        decisions = DecisionCache(self.cache, seen.key)
        plans = plan_images(self.pruner, family, images, layouts, names, *seeing, decisions=decisions)
        output.pooler_output = family.join(images, output.pooler_output)
        if planes:
            output[family.planes_at] = planes
        return output, EncodedImages(plans)

    def _image_metadata(
        self, family: Family, arguments: dict[str, Any], count: int
    ) -> tuple[Sequence[str], Sequence[str] | None]:
        """The names of the images of this call, and what is asked about them."""
        self._check_about(count, exact=len(self._kinds) == 1)
        last = family.kind == "video"  # of a call's images these come last
        names, questions = (given and (given[-count:] if last else given[:count]) for given in self._told())
        return content_ids(family.pixels(arguments)) if names is None else names, questions

    def _told(self) -> tuple[Sequence[str] | None, Sequence[str] | None]:
        """What `about` said of this call: names and questions."""
        about = _about.get()
        return about[1:] if about is not None and about[0] is self else (None, None)

    def _check_about(self, count: int, exact: bool = True) -> None:
        for name, given in zip(("ids", "questions"), self._told(), strict=True):
            guards.check_count(name, given, count, exact)

    # Hooks

    def _enter_model(self, module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
        """Note how many of a prompt's tokens are drafts: assisted decoding asks for the logits of one more."""
        keep, encoded = kwargs.get("logits_to_keep"), kwargs.get("mm_encoder_outputs")
        _drafts.set(keep - 1 if encoded and isinstance(keep, int) and keep > 1 else 0)

    def _enter_multimodal(self, module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
        """Open a call; with images if some come with it (generated image tokens are not images)."""
        given, drafts = arguments_of(module, args, kwargs), _drafts.get()
        _drafts.set(0)
        call = Call(module, given.get("attention_mask"), given.get("position_ids") is not None)
        conversation = conversation_of(cache_of(given))
        if conversation is not None:
            conversation.check()
        guards.check_no_replica(module)
        guards.check_no_videos(given, self.adapter)
        self._embedded |= given.get("input_ids") is None
        outputs = given.get("mm_encoder_outputs") or {}
        encoded = {kind: outputs[kind] for kind in self._kinds if outputs.get(kind) is not None}
        if encoded or any(given.get(family.pixels_at) is not None for family in self._kinds.values()):
            call.images = {kind: output.get(_ENCODED) for kind, output in encoded.items()}
            guards.check_images(given, ours=None not in call.images.values())
            call.input_ids, call.drafts = given["input_ids"], drafts
        else:
            least = 1 if conversation is None else conversation.smallest_image
            ids = [family.placeholder_id for family in self._kinds.values()]
            guards.check_no_placeholders(given.get("input_ids"), ids, least)
        self._running.add(threading.current_thread())
        current_call.set(call)

    def _leave_multimodal(self, module: nn.Module, args: tuple, output: Any) -> None:
        current_call.set(None)
        self._running.discard(threading.current_thread())

    def _enter_language_model(self, module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> tuple | None:
        """Prune a prompt or continue one. The prefixes that rows share are a call within the call, left as it is."""
        call = current_call.get()
        if call is not None and call.step is not None and call.step.prefixes:
            return None
        if call is None or call.step is not None:  # called alone, or a call was interrupted
            call = Call(module, kwargs.get("attention_mask"))
            current_call.set(call)
        cache = cache_of(kwargs)
        conversation = conversation_of(cache)
        if conversation is not None:
            conversation.check()
        if call.images:
            self._check_about(sum(len(one.plans) for one in call.images.values()))
            return args, read_images(self._rules, call, kwargs)
        if conversation is None or cache is None:
            return None
        return args, read_text_behind(self._rules, conversation, cache, call, kwargs)

    def _enter_layer(self, index: int, module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> tuple | None:
        call = current_call.get()
        step = None if call is None else call.step
        if step is None:
            return None
        # FlashAttention would read gaps in position ids as packed sequences; the rotation is already computed
        hidden, kwargs = enter_layer(self._rules, step, index, args[0], kwargs | {"position_ids": None})
        return (hidden, *args[1:]), kwargs

    def _leave_block(self, index: int, module: nn.Module, args: tuple, kwargs: dict[str, Any], output: Any) -> None:
        call = current_call.get()
        if call is not None and call.step is not None:
            entered = args[0] if args else kwargs["hidden_states"]
            leave_block(call.step, index, entered, output[0] if isinstance(output, tuple) else output)

    def _leave_language_model(self, module: nn.Module, args: tuple, kwargs: dict[str, Any], output: Any) -> Any:
        """Put hidden states back into the frame of the original prompt. ``output`` is None if the pass has failed."""
        call = current_call.get()
        step = None if call is None else call.step
        if call is None or (step is not None and step.prefixes):
            return output
        call.step = None
        if call.owner is module:
            current_call.set(None)
        if step is None:
            return output
        end_pass(step, cache_of(kwargs), failed=output is None)
        if output is not None and step.segments:
            self._report.note(prompt_of(step), step.segments, step.mask_bytes)
            output.last_hidden_state = in_whole_frame(step, output.last_hidden_state)
        return output


def end_session(model: nn.Module) -> None:
    """Close the session that is open on a model, if there is one."""
    session = adapter_for(model).multimodal.__dict__.get(_ATTACHED)
    if session is not None:
        session.__exit__()
