"""Attaches a pruner to a model and keeps masks, cache and positions in step.

The vision stage keeps the shape of the image features, so the processor, the placeholder checks and ``generate`` work
on the original prompt. Tokens really leave in a pre-hook of the language model, before layer 0, and in pre-hooks of
decoder layers. What was kept travels with the cache; what a call needs belongs to the call, so that threads can share a
session. Unmodified transformers 5.19 and later.
"""

from __future__ import annotations

import functools
import threading
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager
from contextvars import ContextVar
from dataclasses import replace
from typing import Any

import torch
import transformers
from torch import nn
from torch.utils.hooks import RemovableHandle

from nuwa.engine import guards
from nuwa.engine.about import About
from nuwa.engine.arguments import arguments_of, cache_of
from nuwa.engine.attachment import Attachment, session_on
from nuwa.engine.calibration import check_calibration, check_position
from nuwa.engine.call import Call, Rules, busy, current_call, prompt_of
from nuwa.engine.conversation import conversation_of
from nuwa.engine.coordinates import check_coordinates
from nuwa.engine.encoder import encoded_in, pruning_encoder
from nuwa.engine.feature_cache import FeatureCache
from nuwa.engine.llm import enter_layer, leave_block
from nuwa.engine.passes import end_pass, in_whole_frame, read_images, read_text_behind
from nuwa.engine.report import Report
from nuwa.models import adapter_for
from nuwa.models.base import DEEPSTACK
from nuwa.pruners.base import Pruner
from nuwa.pruning.coordinates import Coordinates
from nuwa.pruning.positions import STRATEGIES

_drafts: ContextVar[int] = ContextVar("drafts", default=0)


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
        self.adapter = adapter_for(model)
        self.adapter.check_deepstack(deepstack)
        self.pruner, self.share = pruner, share
        self.strategy = pruner.position_on(self.adapter.axes, position)
        if self.strategy not in STRATEGIES:
            raise ValueError(f"position={position!r} is unknown; choose native, {', '.join(STRATEGIES)}")
        pruner.check_tower(self.adapter.tower)
        shape, config = self.adapter.shape, self.adapter.language_model.config
        kernel, calibration = getattr(config, "_attn_implementation", None), pruner.calibration_of(calibration)
        pruner.check_llm(shape)
        check_position(self.strategy, pruner)
        check_calibration(calibration, pruner, kernel, shape.attention is not None)
        check_coordinates(coordinates, pruner, self.adapter.grid, shape.layers)
        if coordinates is not None and coordinates.kind == "ivc":
            coordinates = replace(coordinates, frequencies=self.adapter.frequencies)
        if shape.image_tokens is not None:
            pruner.schedule_on(shape.image_tokens, shape)
        self._rules = Rules(
            family=self.adapter,
            kinds=self.adapter.kinds,
            pruner=pruner,
            strategy=self.strategy,
            share=share,
            cache=cache,
            calibration=calibration,
            coordinates=coordinates,
            merges_planes=deepstack == DEEPSTACK[0],
        )
        self._report, self._embedded = Report(pruner.name, self.strategy, shape), False
        self._about = About()
        self._attachment: Attachment | None = None
        self._running: set[threading.Thread] = set()

    def about(
        self, ids: Sequence[str] | None = None, questions: Sequence[str] | None = None
    ) -> AbstractContextManager[None]:
        """Inside it, the calls of this thread are about images named ``ids``: pictures in batch order, then videos.

        Names seed methods that draw at random; unnamed images are named by their pixels. ``questions`` are what is
        asked about each image; few methods read it, and these refuse to do without.
        """
        return self._about.telling(ids, questions)

    def report(self) -> Report:
        """Tokens per layer over every image so far, and details of the last call with images."""
        return self._report

    def __enter__(self) -> PruningSession:
        guards.warn_of_version(transformers.__version__)
        rules, encoding = self._rules, threading.Lock()
        encoders = {each.encoder: pruning_encoder(rules, self._about, each, encoding) for each in rules.kinds.values()}
        self._attachment = Attachment(self, self.adapter.model, self.adapter.multimodal, encoders)
        self._attachment.handles = self._set_hooks()
        return self

    def _set_hooks(self) -> list[RemovableHandle]:
        model, owner, language_model = self.adapter.model, self.adapter.multimodal, self.adapter.language_model
        eager = torch.compiler.disable  # what surrounds the hooks of a compiled model is compiled, they are not
        leave_text = eager(self._leave_language_model)
        handles = [
            model.register_forward_pre_hook(eager(self._enter_model), with_kwargs=True),
            owner.register_forward_pre_hook(eager(self._enter_multimodal), with_kwargs=True),
            owner.register_forward_hook(eager(self._leave_multimodal), always_call=True),
            language_model.register_forward_pre_hook(eager(self._enter_language_model), with_kwargs=True),
            language_model.register_forward_hook(leave_text, with_kwargs=True, always_call=True),
        ]
        for index, layer in enumerate(self.adapter.layers):
            hook = eager(functools.partial(self._enter_layer, index))
            handles.append(layer.register_forward_pre_hook(hook, with_kwargs=True))
            for block in ("self_attn", "mlp") if "transitions" in self.pruner.needs else ():
                leave = functools.partial(self._leave_block, index)
                handles.append(layer.get_submodule(block).register_forward_hook(leave, with_kwargs=True))
        return handles

    def __exit__(self, *exception: object) -> None:
        if self._attachment is None:
            return  # detached before
        while any(thread.is_alive() for thread in self._running - {threading.current_thread()}):
            time.sleep(0.001)
        self._running.clear()
        self._attachment.remove()
        self._attachment = None
        guards.warn_of_embeddings(self._embedded, self._report.images_seen)

    def _enter_model(self, module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
        """Note how many of a prompt's tokens are drafts: assisted decoding asks for the logits of one more."""
        keep, encoded = kwargs.get("logits_to_keep"), kwargs.get("mm_encoder_outputs")
        _drafts.set(keep - 1 if encoded and isinstance(keep, int) and keep > 1 else 0)

    def _enter_multimodal(self, module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
        """Open a call; with images if some come with it (generated image tokens are not images)."""
        guards.check_not_deciding(self.adapter.language_model, busy.get())
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
        images = {kind: encoded_in(outputs[kind]) for kind in self._rules.kinds if outputs.get(kind) is not None}
        if images or any(given.get(family.pixels_at) is not None for family in self._rules.kinds.values()):
            guards.check_images(given, ours=None not in images.values())
            call.images = {kind: one for kind, one in images.items() if one is not None}
            call.input_ids, call.drafts = given["input_ids"], drafts
        else:
            least = 1 if conversation is None else conversation.smallest_image
            ids = [family.placeholder_id for family in self._rules.kinds.values()]
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
            guards.check_not_deciding(module, busy.get())
            call = Call(module, kwargs.get("attention_mask"))
            current_call.set(call)
        cache = cache_of(kwargs)
        conversation = conversation_of(cache)
        if conversation is not None:
            conversation.check()
        if call.images:
            self._about.check(sum(len(one.plans) for one in call.images.values()))
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
    session = session_on(adapter_for(model).multimodal)
    if session is not None:
        session.__exit__()
