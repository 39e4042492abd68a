"""The schema refuses what cannot be meant, and the run key names exactly the scientific choices."""

import pytest
from hydra.errors import HydraException
from jobs import CONF, compose
from omegaconf import OmegaConf

from nuwa.config import ConfigError, run_key, typed

GROUPS = sorted(file for file in CONF.glob("*/*.yaml") if file.parent.name not in ("hydra", "experiment"))
EXPERIMENTS = sorted(file.stem for file in (CONF / "experiment").glob("*.yaml"))


def changed(override):
    """The default config with one choice made differently; composing anew takes a second, so only groups do."""
    key, _, value = override.partition("=")
    if (CONF / key).is_dir():
        return compose(override)
    cfg = compose()
    OmegaConf.update(cfg, key, OmegaConf.create({"value": value}).value if value[0] != "[" else ["a"])
    return cfg


@pytest.mark.parametrize("file", GROUPS, ids=lambda file: f"{file.parent.name}={file.stem}")
def test_every_option_composes_and_fits_its_types(file):
    group = file.parent.name
    cfg = compose(f"{group}={file.stem}")
    if group in ("pruner", "model"):
        typed(cfg, group)
    assert len(run_key(cfg)) == 12


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_experiment_composes(name):
    text = (CONF / "experiment" / f"{name}.yaml").read_text()
    assert f"python launch.py experiment={name}" in text
    cfg = compose(f"experiment={name}")
    assert cfg.name == name
    sweep = OmegaConf.load(CONF / "experiment" / f"{name}.yaml").hydra.sweeper.params
    for key, values in sweep.items():
        assert compose(f"experiment={name}", f"{key}={str(values).split(',')[-1]}")


@pytest.mark.parametrize(
    ("override", "named"),
    [
        ("seed=abc", "seed"),
        ("budget.average=many", "budget.average"),
        ("baseline=maybe", "baseline"),
        ("logger.kind=paper", "logger.kind"),
        ("trainer.batch_size=2.5", "trainer.batch_size"),
        ("trainer.size=2", "trainer.size"),
        ("pruner.d_tresh=3", "pruner.d_tresh"),
        ("pruner=magic", "magic"),
        ("nonsense=1", "nonsense"),
    ],
)
def test_hydra_refuses_and_names_the_key(override, named):
    with pytest.raises(HydraException) as caught:
        compose(override)
    assert named in f"{caught.value} {caught.value.__cause__}"


@pytest.mark.parametrize(
    ("group", "override", "named"),
    [
        ("pruner", "pruner.d_thresh=abc", "pruner.d_thresh"),
        ("pruner", "pruner.region=perhaps", "pruner.region"),
        ("pruner", "+pruner.speed=3", "pruner.speed"),
        ("pruner", "pruner._target_=nuwa.pruners.none.Nothing", "pruner._target_"),
        ("model", "model.dtype=float8", "model.dtype"),
        ("dataset", "dataset.samples=few", "dataset.samples"),
    ],
)
def test_types_come_from_the_target(group, override, named):
    with pytest.raises(ConfigError, match=named):
        typed(compose(override), group)


@pytest.mark.parametrize(
    "override",
    [
        "model.device=cuda",
        "logger=csv",
        "paths.outputs=/elsewhere",
        "trainer.batch_size=3",
        "trainer=gpu",
        "name=other",
        "tags=[a]",
        "callbacks=none",
        "probe=memory",
        "resume=false",
        "position=pesp",  # what native means for this pruner
        "pruner.d_thresh=280",
    ],
)
def test_key_ignores_what_does_not_change_a_result(override):
    assert run_key(changed(override)) == run_key(compose())


@pytest.mark.parametrize(
    "override",
    [
        "pruner.d_thresh=18",
        "pruner=fastv",
        "budget=avg128",
        "position=rpme",
        "dataset.samples=7",
        "seed=1",
        "limit=3",
        "generation=beam",
        "model.dtype=bfloat16",
    ],
)
def test_key_follows_scientific_choices(override):
    assert run_key(changed(override)) != run_key(compose())


def test_key_follows_the_content_of_local_data(tmp_path):
    rows = tmp_path / "data.jsonl"
    keys = []
    for answer in ("yes", "no!"):
        rows.write_text(f'{{"image": [], "question": "?", "answer": "{answer}"}}')
        keys.append(run_key(compose("dataset=local", f"dataset.path={tmp_path}")))
    assert keys[0] != keys[1]
    (tmp_path / "picture.png").write_bytes(b"new")
    assert run_key(compose("dataset=local", f"dataset.path={tmp_path}")) not in keys


def test_key_follows_the_weights_of_a_local_model(tmp_path):
    keys = []
    for weights in (b"one", b"two"):
        (tmp_path / "model.safetensors").write_bytes(weights)
        keys.append(run_key(changed(f"model.path={tmp_path}")))
    assert keys[0] != keys[1]


def test_unpruned_runs_share_one_key():
    keys = {
        run_key(compose("pruner=none", f"budget={budget}", f"position={position}"))
        for budget, position in (("full", "native"), ("avg64", "native"), ("avg128", "rpme"))
    }
    assert len(keys) == 1
