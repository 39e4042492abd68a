"""The schema refuses what cannot be meant, and the run key names exactly the scientific choices."""

import json

import pytest
from helpers.jobs import CONF, compose
from hydra.errors import HydraException
from omegaconf import OmegaConf

import nuwa
from nuwa.config import BUILT, ConfigError, run_key, typed

OPTIONS = {
    group.name: sorted(file.stem for file in group.glob("*.yaml"))
    for group in sorted(CONF.iterdir())
    if group.is_dir() and group.name not in ("hydra", "experiment", "asked")  # follows dataset and model
}
EXPERIMENTS = sorted(file.stem for file in (CONF / "experiment").glob("*.yaml"))


def changed(override):
    """The default config with one choice made differently; composing anew takes a second, so only groups do."""
    key, _, value = override.partition("=")
    if (CONF / key).is_dir():
        return compose(override)
    cfg = compose()
    OmegaConf.update(cfg, key, OmegaConf.create({"value": value}).value if value[0] != "[" else ["a"])
    return cfg


@pytest.mark.parametrize("number", range(max(map(len, OPTIONS.values()))))
def test_every_option_composes_and_fits_its_types(number):
    """The n-th option of every group at once, because composing takes long."""
    cfg = compose(*(f"{group}={names[number % len(names)]}" for group, names in OPTIONS.items()))
    for group in BUILT:
        typed(cfg, group)
    assert len(run_key(cfg)) == 12


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_experiment_composes(name):
    text = (CONF / "experiment" / f"{name}.yaml").read_text()
    assert f"python launch.py experiment={name}" in text
    cfg = compose(f"experiment={name}")
    assert cfg.name == name
    sweep = OmegaConf.load(CONF / "experiment" / f"{name}.yaml").hydra.sweeper.params
    last = [f"{key}={str(values).split(',')[-1]}" for key, values in sweep.items()]
    assert compose(f"experiment={name}", *last)


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
        ("pruner", "pruner.d_thresh=true", "pruner.d_thresh"),
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
    ("options", "message"),
    [
        (
            {"thresh": 3},
            r"pruner\.thresh: unknown option of nuwa\.pruners\.nuwa\.Nuwa; it has d_thresh, region, .*, seed$",
        ),
        ({"d_thresh": "abc"}, r"pruner\.d_thresh=abc: must be a valid number"),
    ],
)
def test_a_pruner_made_in_python_has_the_same_checks(options, message):
    with pytest.raises(ConfigError, match=message):
        nuwa.load_pruner("nuwa", **options)
    assert repr(nuwa.load_pruner("nuwa", d_thresh="18").d_thresh) == "18.0"


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
        "generation.temperature=0.3",  # nothing is drawn
        "frames=uniform8",  # there is no video
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
        "position=median",
        "calibration=size",
        "coordinates=ivc",
        "dataset.samples=7",
        "seed=1",
        "limit=3",
        "generation=beam",
        "model.dtype=bfloat16",
    ],
)
def test_key_follows_scientific_choices(override):
    assert run_key(changed(override)) != run_key(compose())


@pytest.mark.parametrize(
    ("model", "pruner", "meant"), [("llava_1_5_random", "divprune", "perc"), ("qwen2_5_vl_random", "divprune", "pesp")]
)
def test_native_is_the_strategy_that_it_stands_for(model, pruner, meant):
    """Under M-RoPE it is PESP for every method."""
    keys = [run_key(compose(f"model={model}", f"pruner={pruner}", f"position={p}")) for p in ("native", "perc", "pesp")]
    assert keys[0] == keys[1 + ("perc", "pesp").index(meant)] and keys[1] != keys[2]


def test_key_follows_the_content_of_local_data(tmp_path):
    rows = tmp_path / "data.jsonl"
    keys = []
    for answer in ("yes", "no!"):
        rows.write_text(f'{{"image": [], "question": "?", "answer": "{answer}"}}')
        keys.append(run_key(compose("dataset=local", f"dataset.path={tmp_path}")))
    assert keys[0] != keys[1]
    (tmp_path / "picture.png").write_bytes(b"new")
    assert run_key(compose("dataset=local", f"dataset.path={tmp_path}")) not in keys


def test_key_of_local_data_does_not_depend_on_how_its_path_is_written(tmp_path, monkeypatch):
    """Nor on what runs write into it."""
    folder = tmp_path / "photos"
    folder.mkdir()
    (folder / "data.jsonl").write_text('{"image": "a.png", "question": "?", "answer": "yes"}')
    monkeypatch.chdir(tmp_path)
    key = run_key(compose("dataset=local", "dataset.path=photos"))
    assert {run_key(compose("dataset=local", f"dataset.path={p}")) for p in ("photos/", "./photos", folder)} == {key}
    monkeypatch.chdir(folder)
    for written in ("outputs/main/abc/predictions.jsonl", "features/a.safetensors", ".cache/file.json"):
        (folder / written).parent.mkdir(parents=True)
        (folder / written).write_text("{}")
    here = compose("dataset=local", "dataset.path=.", "paths.features=features")
    assert run_key(here) == key


def test_key_follows_the_pictures_that_a_file_names(tmp_path):
    rows = ['{"image": ["sub/a.png"], "question": "?", "answer": "yes"}', "no row", "[1, 2]"]
    rows += [json.dumps({"question": text, "answer": ""}) for text in ("哪" * 200, "x/" * 9000, "a\0b", "\ud83d")]
    (tmp_path / "data.jsonl").write_text("\n".join(rows))
    (tmp_path / "sub").mkdir()
    keys = set()
    for content in (b"one", b"three"):
        (tmp_path / "sub/a.png").write_bytes(content)
        (tmp_path / "b.png").write_bytes(content)
        keys.add(run_key(compose("dataset=local", f"dataset.path={tmp_path / 'data.jsonl'}")))
    assert len(keys) == 2
    (tmp_path / "b.png").write_bytes(b"nobody names it")
    assert run_key(compose("dataset=local", f"dataset.path={tmp_path / 'data.jsonl'}")) in keys


def test_key_follows_the_frames_of_videos(tmp_path):
    """The usual ones are not named: keys of pictures stay what they were. A folder of frames counts as its files do."""
    rows = tmp_path / "data.jsonl"
    rows.write_text('{"video": "clip", "question": "?", "answer": "yes"}')
    (tmp_path / "clip").mkdir()

    def key(*overrides):
        return run_key(compose("dataset=local", f"dataset.path={rows}", *overrides))

    plain = key()
    assert key("frames.count=32") == plain == key("frames=fps2_max32", "frames.fps=null")
    others = [key(one) for one in ("frames=uniform8", "frames=fps2_max32", "frames.time=constant")]
    (tmp_path / "clip/1.png").write_bytes(b"one")
    with_frame = key()
    (tmp_path / "clip/1.png").write_bytes(b"two!")
    assert len({plain, *others, with_frame, key()}) == 6
    assert len(key("frames.count=0")) == 12  # refused later, with its reason in a folder of its own


def test_key_follows_the_words_that_a_judge_is_asked_with(tmp_path):
    words, keys = tmp_path / "prompt.txt", set()
    for text in ("{question} a", "{question} b"):
        words.write_text(text)
        keys.add(run_key(compose("dataset=mmvet", f"dataset.judge_prompt={words}")))
    keys.add(run_key(compose("dataset=mmvet", f"dataset.judge_prompt={words}", "dataset.judge_key_variable=MINE")))
    assert len(keys) == 2


def test_what_is_drawn_depends_on_the_batches():
    one, two = (compose("generation=sample", f"trainer.batch_size={size}") for size in (1, 2))
    assert run_key(one) != run_key(two) != run_key(compose("generation=sample", "generation.temperature=0.3"))


def test_a_method_that_does_not_exist_has_a_key():
    assert len(run_key(compose("pruner._target_=nuwa.nope.X"))) == 12


def test_key_follows_the_weights_of_a_local_model(tmp_path):
    keys = []
    for weights in (b"one", b"two"):
        (tmp_path / "model.safetensors").write_bytes(weights)
        keys.append(run_key(changed(f"model.path={tmp_path}")))
    assert keys[0] != keys[1]


def test_unpruned_runs_share_one_key():
    keys = {
        run_key(compose("pruner=none", f"budget={budget}", f"position={position}", f"calibration={calibration}"))
        for budget, position, calibration in (
            ("full", "native", "none"),
            ("avg64", "native", "none"),
            ("avg128", "rpme", "size"),
        )
    }
    assert len(keys) == 1
