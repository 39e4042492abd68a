"""A stand-in of the two names that nuwa.lmms takes from lmms-eval; no network, no lmms-eval."""

import importlib
import sys
from types import ModuleType


def imported(monkeypatch):
    """nuwa.lmms, importable without lmms-eval."""
    base = type("lmms", (), {"__init__": lambda self: setattr(self, "task_dict", {})})
    names = {
        "lmms_eval.api.model": {"lmms": base},
        "lmms_eval.models.registry_v2": {"ModelManifest": lambda name, **paths: (name, paths)},
    }
    for path in ("lmms_eval", "lmms_eval.api", "lmms_eval.models", *names):
        monkeypatch.setitem(sys.modules, path, ModuleType(path))
    for path, content in names.items():
        vars(sys.modules[path]).update(content)
    monkeypatch.delitem(sys.modules, "nuwa.lmms", raising=False)
    yield importlib.import_module("nuwa.lmms")
    sys.modules.pop("nuwa.lmms", None)
