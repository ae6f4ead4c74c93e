import os
import signal
import time
from pathlib import Path

import pytest

from schnorb_t.errors import UserError
from schnorb_t.reference.pool import (
    RETRIES,
    THREAD_VARIABLES,
    failure_log,
    guarded,
    log_traceback,
    run_dask,
    run_processes,
)
from schnorb_t.reference.pyscf import LabelError


def work(task):
    """What workers do here; the task says how to misbehave."""
    kind, value, folder = task
    if kind == "refuse":
        raise LabelError("not converged")
    if kind == "break":
        return 1 / 0
    if kind == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    if kind == "die once":
        mark = Path(folder) / str(value)
        if not mark.exists():
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
    if kind == "slow":
        time.sleep(0.3)
    if kind == "environment":
        return {name: os.environ.get(name) for name in THREAD_VARIABLES}
    return value * value


def test_results_and_reasons(tmp_path):
    tasks = [("square", i, "") for i in range(12)] + [("refuse", 0, ""), ("break", 0, "")]
    out = {task: (ok, value) for task, ok, value in run_processes(work, tasks, 2)}
    assert {out[("square", i, "")] for i in range(12)} == {(True, i * i) for i in range(12)}
    assert out[("refuse", 0, "")] == (False, "not converged")
    assert out[("break", 0, "")] == (False, "ZeroDivisionError: division by zero")


def test_a_fault_keeps_its_traceback_and_is_logged(tmp_path):
    """The reason stays one line; where the program broke goes to a file beside the store."""
    out = {task[0]: value for task, _, value in run_processes(work, [("refuse", 0, ""), ("break", 0, "")], 1)}
    assert out["refuse"].traceback == "" and "return 1 / 0" in out["break"].traceback
    log = failure_log(tmp_path / "labels.h5")
    assert log == tmp_path / "labels.failures.log"
    for name, reason in out.items():
        log_traceback(log, name, reason)
    text = log.read_text()
    assert text.startswith("break: ZeroDivisionError: division by zero\nTraceback") and "refuse" not in text


def test_a_reason_is_one_line():
    def several(_):
        raise RuntimeError("first\nsecond")

    ok, reason = guarded(several, None)
    assert not ok and reason == "RuntimeError: first second" and "second" in reason.traceback


def test_a_killed_workers_task_is_tried_again_twice_at_most(tmp_path):
    tasks = [("square", 1, ""), ("die once", 5, str(tmp_path)), ("die", 0, ""), ("square", 2, "")]
    out = {task[0] + str(task[1]): (ok, value) for task, ok, value in run_processes(work, tasks, 2)}
    assert out["die once5"] == (True, 25)
    assert out["die0"] == (False, f"its worker process died {RETRIES + 1} times (killed, or out of memory)")
    assert out["square1"] == (True, 1) and out["square2"] == (True, 4)


def test_workers_run_one_thread_and_the_parent_keeps_its_own(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    monkeypatch.delenv("MKL_NUM_THREADS", raising=False)
    [(_, ok, variables)] = run_processes(work, [("environment", 0, "")], 1)
    assert ok and set(variables.values()) == {"1"}
    assert os.environ["OMP_NUM_THREADS"] == "3" and "MKL_NUM_THREADS" not in os.environ


def test_no_tasks_no_workers():
    assert list(run_processes(work, [], 4)) == []


def test_leaving_early_stops_the_workers():
    outcomes = run_processes(work, [("slow", i, "") for i in range(50)], 2)
    next(outcomes)
    start = time.monotonic()
    outcomes.close()
    assert time.monotonic() - start < 5


def test_no_scheduler_is_named():
    pytest.importorskip("distributed")
    with pytest.raises(UserError, match="no dask scheduler answers at tcp://127.0.0.1:1"):
        list(run_dask(work, [("square", 1, "")], "tcp://127.0.0.1:1", timeout=1))


@pytest.mark.slow
def test_dask_cluster_of_two_workers_one_killed(tmp_path):
    distributed = pytest.importorskip("distributed")
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None, local_directory=str(tmp_path)
    ) as cluster:
        tasks = [("slow", i, "") for i in range(20)] + [("refuse", 0, ""), ("die once", 7, str(tmp_path))]
        pids = [worker.pid for worker in cluster.workers.values()]
        out = {}
        for task, ok, value in run_dask(work, tasks, cluster.scheduler_address):
            out[task] = ok, value
            if len(out) == 3:
                os.kill(pids[0], signal.SIGKILL)
    assert {out[("slow", i, "")] for i in range(20)} == {(True, i * i) for i in range(20)}
    assert out[("refuse", 0, "")] == (False, "not converged")
    assert out[("die once", 7, str(tmp_path))] == (True, 49)
