"""Made-up results of runs, as result.json has them and as reports read them."""

import json

from helpers.jobs import compose

from nuwa.config import typed
from nuwa.evaluation.journal import JOURNAL
from nuwa.evaluation.result import write_result
from nuwa.evaluation.runs import Run
from nuwa.pruners.catalogue import find_method

PLACE = {"device": "cpu: x", "threads": 2, "dtype": "float32", "attention": "sdpa"}


def result(method, metrics, dataset="gqa", model="llava_1_5_7b", average=None, ratio=None, **extra):
    """A finished run of a method with the options of its config file, ``options`` changed."""
    kind, options = find_method(method)
    options = {**options, **extra.pop("options", {})}
    target = f"{kind.__module__}.{kind.__name__}"
    config = {
        "pruner": {"_target_": target, **options},
        "budget": {"average": average, "ratio": ratio},
        "position": {"strategy": extra.pop("position", "native")},
        "model": {"name": model},
        "dataset": {"name": dataset, "split": extra.pop("split", "test")},
        "limit": extra.pop("limit", None),
        "seed": extra.pop("seed", 0),
    }
    return {
        "run_key": extra.pop("run_key", f"{method} {config}"),
        "status": "done",
        "method": method,
        "config": config,
        "n": 100,
        "n_failed": 0,
        "metrics": metrics,
        "standard_errors": dict.fromkeys(metrics, 0.01),
        "tokens_per_image": 576.0,
        "tokens_entering": average or 576.0,
        "llm_tflops": 0.01 * (average or 576.0),
        **extra,
    }


def runs_of(results):
    """The runs that results are read as."""
    return [Run.of(content) for content in results]


def write(folder, results):
    """Each result in a folder of its own below ``folder``."""
    for number, content in enumerate(results):
        place = folder / f"run{number}"
        place.mkdir(parents=True)
        write_result(place, content)
    return folder


def row(name, **more):
    """A row of a journal: an answer."""
    return {"id": name, "task": "vqa", "status": "ok", "scores": {}, "prediction": "", "target": None, **more}


def write_run(folder, method, average, wrong, speed, device=None, samples=200):
    """A run of GQA with its journal, all right but the ``wrong`` samples.

    ``speed`` is its time relative to the unpruned model. Its unpruned run is that in the folder ``none``.
    """
    metric, ms = "gqa/exact_match", {"ttft_ms": 60.0, "prefill_ms": 40.0, "decode_ms_per_token": 8.0}
    rows = [{"id": f"g{i}", "task": "gqa", "target": {"answer": "yes"}, "prediction": "", "status": "ok",
             "scores": {metric: float(i not in wrong)}, "run_key": folder.name} for i in range(samples)]  # fmt: skip
    score = sum(row["scores"][metric] for row in rows) / samples
    content = result(method, {metric: score}, run_key=folder.name, average=average, kv_cache_bytes=9.0)
    content["config"]["dataset"] = typed(compose("dataset=gqa", "dataset.path=/data"), "dataset")
    content |= {"dataset": "gqa", "model": "llava_1_5_7b", "baseline": "none", "position": "pesp", "n": samples}
    content["environment"] = PLACE | ({} if device is None else {"device": device})
    if speed is not None:
        whole = {name: {"median": value} for name, value in (ms | {"encode_ms": 20.0}).items()}
        pruned = {name: {"median": speed * value["median"]} for name, value in whole.items()}
        ratio = {"median": 1 / speed, "q1": 1 / speed, "q3": 1 / speed}
        speedup = {"ttft_ms": ratio, "prefill_ms": ratio}
        content["speed"] = [{"batch": 1, "variants": {"vanilla": whole, "pruned": pruned}, "speedup": speedup}]
    folder.mkdir(parents=True)
    write_result(folder, content)
    (folder / JOURNAL).write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
