"""The plugin for vLLM: the entry point of ``vllm.general_plugins``. Tells vLLM of one more architecture.

vLLM calls it in every one of its processes, maybe more than once, whatever model it is about to serve.
"""

from __future__ import annotations

import functools
import logging

from packaging.specifiers import SpecifierSet

from nuwa.serve.settings import ARCHITECTURE

VERSIONS = SpecifierSet(">=0.32,<0.34")
"""The versions of vLLM whose interfaces this was written for."""
LLAMA, QWEN3 = "NuwaLlamaForCausalLM", "NuwaQwen3ForCausalLM"
"""Decoders that take the place of vLLM's own (`nuwa.serve.vllm.decoders`)."""

log = logging.getLogger(__name__)


def register_models() -> None:
    """Make the architecture known, unless this vLLM is of another version: a warning says so."""
    import vllm
    from vllm import ModelRegistry
    from vllm.platforms import current_platform

    if not VERSIONS.contains(vllm.__version__, prereleases=True):
        log.warning(
            "nuwa serves with vllm%s, and this is %s: %s is not there", VERSIONS, vllm.__version__, ARCHITECTURE
        )
        return
    ModelRegistry.register_model(ARCHITECTURE, f"nuwa.serve.vllm.model:{ARCHITECTURE}")
    for decoder in (LLAMA, QWEN3):
        ModelRegistry.register_model(decoder, f"nuwa.serve.vllm.decoders:{decoder}")
    if current_platform.is_cpu():
        _switch_placing_on()


def _switch_placing_on() -> None:
    """On a CPU, vLLM 0.32 leaves out what asks the model for the ids of pruned pictures; as on a GPU, it is asked."""
    from vllm.model_executor.models.interfaces import supports_multimodal_pruning
    from vllm.v1.worker.cpu_model_runner import CPUModelRunner

    load = CPUModelRunner.load_model
    if hasattr(load, "__wrapped__") and load.__module__ == __name__:
        return

    @functools.wraps(load, assigned=())
    def load_model(self, *args, **kwargs) -> None:
        load(self, *args, **kwargs)
        pictures = self.model_config.multimodal_config
        asked = pictures is not None and pictures.is_multimodal_pruning_enabled()
        self.is_multimodal_pruning_enabled = asked and supports_multimodal_pruning(self.get_model())

    CPUModelRunner.load_model = load_model
