"""A sweep of 12 jobs, ended at random moments and started again, finds what an undisturbed one finds, byte by byte."""

import random
import signal
import time

import pytest
from helpers.faults import rows_below
from test_sweeps import TOY, found, sweep

pytestmark = [pytest.mark.faults, pytest.mark.timeout(3600)]
JOBS = ("pruner=nuwa,visionzip,random", "position=perc,pesp", "budget.average=16,24", "baseline=skip")
TWELVE = [part for part in TOY if not part.startswith(("pruner.", "budget."))] + list(JOBS)
JOBLIB = ("hydra/launcher=joblib", "hydra.launcher.n_jobs=2")
STATUS = {signal.SIGKILL: -signal.SIGKILL, signal.SIGTERM: 128 + signal.SIGTERM}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """What an undisturbed sweep finds."""
    outputs = tmp_path_factory.mktemp("whole") / "outputs"
    assert sweep(outputs, *TWELVE).wait() == 0
    return found(outputs)


@pytest.mark.parametrize("launcher", [(), JOBLIB], ids=["basic", "joblib"])
@pytest.mark.parametrize(("number", "times"), [(signal.SIGKILL, 10), (signal.SIGTERM, 5)], ids=["killed", "terminated"])
def test_a_sweep_that_is_ended_again_and_again(number, times, launcher, whole, tmp_path):
    if launcher:
        pytest.importorskip("hydra_plugins.hydra_joblib_launcher", reason="the extra launchers")
    outputs, seed = tmp_path / "outputs", random.SystemRandom().randrange(10**6)
    draw, before, ended = random.Random(seed), 0, 0
    print(f"seed {seed}")
    for _ in range(times):
        process = sweep(outputs, *TWELVE, *launcher)
        while rows_below(outputs) <= before and process.poll() is None:
            time.sleep(0.01)
        time.sleep(draw.uniform(0, 0.5))
        ended += process.poll() is None
        process.send_signal(number)
        assert process.wait() in (STATUS[number], 0)
        before = rows_below(outputs)
    assert ended >= times // 2, "finished before it could be ended"
    assert sweep(outputs, *TWELVE, *launcher).wait() == 0
    assert len(whole) == 12 and found(outputs) == whole
