"""How processes meet, speak and start, without starting any."""

import sys
from datetime import timedelta
from types import SimpleNamespace

import pytest
import torch
from helpers.jobs import small

from nuwa.config import ConfigError
from nuwa.evaluation import processes
from nuwa.evaluation.processes import ProcessError, Processes, check_processes, check_sweep, is_shared, meet, start

DDP = ("trainer=ddp", "trainer.accelerator=cpu")


@pytest.fixture
def torchrun(monkeypatch):
    """Sets what torchrun tells the processes that it starts."""

    def launched(*numbers):
        names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
        for name, number in zip(names, numbers, strict=True):
            monkeypatch.setenv(name, str(number))
        monkeypatch.setenv("TORCHELASTIC_RUN_ID", "test")

    monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)
    return launched


def test_processes_meet_once_over_gloo(tmp_path, monkeypatch, torchrun):
    met, known = [], [False]
    monkeypatch.setattr("torch.distributed.is_initialized", lambda: known[0])
    monkeypatch.setattr("torch.distributed.init_process_group", lambda *given, **named: met.append((given, named)))
    assert meet(small(tmp_path, *DDP)) == Processes() and not met
    torchrun(1, 2, 1, 2)
    assert meet(small(tmp_path)) == Processes() and not met
    cfg = small(tmp_path, *DDP, "trainer.devices=2")
    assert meet(cfg) == Processes(1, 2, 1, 2)
    assert met == [(("gloo",), {"rank": 1, "world_size": 2, "timeout": timedelta(days=7)})]
    known[0] = True
    meet(cfg)
    torchrun(0, 1, 0, 1)
    known[0] = False
    meet(cfg)
    assert len(met) == 1


def gathering(monkeypatch, others, first=None):
    """Gives what other processes say, after ``first`` or what this one says."""

    def gather(values, value):
        assert len(values) == 1 + len(others)
        values[:] = [first or value, *others]

    monkeypatch.setattr("torch.distributed.all_gather_object", gather)


def test_what_they_say_to_each_other(monkeypatch):
    alone, two = Processes(), Processes(1, 3, 1, 3)
    monkeypatch.setattr("torch.distributed.all_gather_object", lambda *_: pytest.fail("one alone has nobody to ask"))
    assert alone.lead and not two.lead and alone.share("mine") == "mine" and alone.wait() is None
    with alone.together():
        pass
    monkeypatch.setattr(
        "torch.distributed.all_gather_object",
        lambda values, value: values.__setitem__(slice(None), ["lead's", value, 0]),
    )
    assert two.share("mine") == "lead's"
    gathering(monkeypatch, [None, "KeyError: 'x'"])
    with pytest.raises(ProcessError, match="process 2 of 3: KeyError: 'x'"), two.together():
        pass
    gathering(monkeypatch, [None, None])
    with two.together():
        pass
    with pytest.raises(KeyError), two.together():
        raise KeyError("mine")
    told = []
    monkeypatch.setattr("torch.distributed.all_gather_object", lambda values, value: told.append(value))
    with pytest.raises(ValueError, match="mine"), two.together():
        raise ValueError("mine")
    with two.together():
        pass
    assert told == ["ValueError: mine", None]


def test_the_loss_of_one_ends_the_others(monkeypatch):
    def lost(values, value):
        raise RuntimeError("Connection closed by peer")

    monkeypatch.setattr("torch.distributed.all_gather_object", lost)
    with pytest.raises(ProcessError, match="another process was lost"):
        Processes(0, 2, 0, 2).share(1)
    with pytest.raises(SystemExit) as left:
        Processes(0, 2, 0, 2).wait()
    assert left.value.code == 1


@pytest.mark.parametrize(
    ("overrides", "shared"),
    [((), False), (("trainer=ddp",), True), (("trainer.devices=2",), True), (("trainer.num_nodes=2",), True)],
)
def test_who_shares_a_run(tmp_path, overrides, shared):
    assert is_shared(small(tmp_path, *overrides)) == shared


def test_a_wrong_number_is_named_with_the_command(tmp_path):
    cfg = small(tmp_path, "trainer=ddp", "trainer.num_nodes=3")
    with pytest.raises(ConfigError, match=r"are 2 on each of 2 nodes; .*--nnodes=3 --nproc-per-node=<GPUs>"):
        check_processes(cfg, Processes(0, 4, 0, 2))


@pytest.fixture
def started(monkeypatch, torchrun):
    """The arguments of torchrun's calls."""
    calls = []
    monkeypatch.setattr("torch.distributed.run.run", lambda arguments: calls.append(arguments))
    monkeypatch.setattr("logging.disable", lambda: calls.append("silent"))
    monkeypatch.setattr(sys, "argv", ["launch.py", "seed=1"])
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    return calls


@pytest.mark.parametrize(
    ("overrides", "gpus", "count"),
    [
        ((), 4, None),
        (("trainer=ddp",), 4, 4),
        (("trainer=ddp",), 1, None),
        (("trainer=ddp", "trainer.devices=2"), 4, 2),
        (DDP, 4, None),
    ],
)
def test_as_many_start_as_there_are_gpus(overrides, gpus, count, tmp_path, monkeypatch, started):
    monkeypatch.setattr("torch.cuda.device_count", lambda: gpus)
    cfg = small(tmp_path, *overrides)
    if count is None:
        assert start(cfg) is None and not started
        return
    with pytest.raises(SystemExit) as left:
        start(cfg)
    silent, arguments = started
    assert left.value.code == 0 and silent == "silent"
    assert (arguments.nproc_per_node, arguments.standalone) == (str(count), True)


@pytest.mark.parametrize(("spec", "program", "module"), [(None, "launch.py", False), ("nuwa.x", "nuwa.x", True)])
def test_they_run_the_same_command_line(spec, program, module, tmp_path, monkeypatch, started):
    main = SimpleNamespace(__spec__=spec and SimpleNamespace(name=spec))
    monkeypatch.setitem(sys.modules, "__main__", main)
    monkeypatch.delenv("OMP_NUM_THREADS")
    monkeypatch.setattr("torch.get_num_threads", lambda: 9)
    with pytest.raises(SystemExit):
        start(small(tmp_path, *DDP, "trainer.devices=4"))
    arguments = started[1]
    assert (arguments.training_script, arguments.module) == (program, module)
    assert arguments.training_script_args == ["seed=1"] and processes.os.environ["OMP_NUM_THREADS"] == "2"
    monkeypatch.delenv("OMP_NUM_THREADS")
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    with pytest.raises(SystemExit):
        start(small(tmp_path, *DDP, "trainer.devices=4"))
    assert processes.os.environ["OMP_NUM_THREADS"] == "1"


def test_all_but_the_lead_fall_silent(tmp_path, monkeypatch, torchrun, started):
    moved = []
    monkeypatch.setattr("os.dup2", lambda *descriptors: moved.append(descriptors))
    cfg = small(tmp_path, *DDP, "trainer.devices=2", "trainer.num_nodes=2")
    torchrun(0, 4, 0, 2)
    assert start(cfg) is None and not moved and not started
    torchrun(1, 4, 1, 2)
    assert start(cfg) is None and started == ["silent"] and [target for _, target in moved] == [sys.stdout.fileno()]


def test_a_basic_launcher_may_share_its_jobs(tmp_path):
    basic = {"launcher": {"_target_": "hydra._internal.core_plugins.basic_launcher.BasicLauncher"}}
    joblib = {"launcher": {"_target_": "hydra_plugins.joblib_launcher.JoblibLauncher"}}
    for hydra, overrides in ((basic, DDP), (joblib, ())):
        cfg = small(tmp_path, *overrides)
        check_sweep(SimpleNamespace(trainer=cfg.trainer, hydra=processes.DictConfig(hydra)))
