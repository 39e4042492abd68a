"""Made-up results of runs, as result.json has them and as reports read them."""

from nuwa.evaluation.result import write_result
from nuwa.evaluation.runs import Run
from nuwa.pruners.catalogue import find_method


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
        "run_key": extra.pop("run_key", f"{method}{average}{dataset}{sorted(options.items())}"),
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
