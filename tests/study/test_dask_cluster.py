"""A study on a real Dask cluster: a scheduler and worker processes on loopback, of which one is killed."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import time

import pytest
from distributed import Client
from helpers.study_results import wait_for, written

import llmsched as ls
from llmsched.errors import StudyError
from llmsched.study import Study, dask_cluster, results, runner

STUDY = Study(
    workloads=[{"generator": "lmsys", "requests": 60}, {"trace": "t.csv", "requests": 50, "rate": 0.5}],
    policies=["hsf", "amin", "mcsf"],
    intervals=["buckets:100", "noisy:0.9,0.5"],
    memories=[1500, 3000],
    metrics=["mean_latency", "p90_latency", "evictions"],
    replications=150,
    seed=5,
)


def start(*arguments):
    environment = {**os.environ, "DASK_DISTRIBUTED__WORKER__DAEMON": "False"}
    return subprocess.Popen(
        [sys.executable, "-m", "distributed.cli.dask_" + arguments[0], *arguments[1:]],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


@contextlib.contextmanager
def running(*arguments):
    process = start(*arguments)
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="module")
def scheduler():
    """The address of a scheduler without workers."""
    port = free_port()
    with running("scheduler", "--host", "127.0.0.1", "--port", str(port), "--no-dashboard", "--no-show") as process:

        def answers():
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 0.2):
                return True
            assert process.poll() is None
            return False

        wait_for(answers)
        yield f"tcp://127.0.0.1:{port}"


def worker(scheduler, tmp_path, *more):
    options = ("--nthreads", "1", "--no-nanny", "--no-dashboard", "--host", "127.0.0.1")
    return running("worker", scheduler, *options, "--local-directory", str(tmp_path), *more)


@pytest.fixture
def many_reports(monkeypatch):
    """Small units, each of which is told at once: even a small study is told of before it is over."""
    monkeypatch.setattr(runner, "_TOLD_EVERY", 0)
    monkeypatch.setattr(runner, "_UNIT_SECONDS", 0.05)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A directory with the trace, and the results of a local run."""
    folder = tmp_path_factory.mktemp("study")
    ls.traces.write(ls.generate.lmsys(300, 3), folder / "t.csv")
    STUDY.run(folder / "local", traces=folder)
    return folder


@pytest.mark.usefixtures("many_reports")
def test_a_cluster_of_which_a_worker_dies_gives_the_table_of_a_local_run(scheduler, folder, tmp_path):
    killed = []
    with worker(scheduler, tmp_path), worker(scheduler, tmp_path) as second:

        def kill(status):
            if not killed and status.count.sum() > 0 and status.workers == 2:
                second.kill()
                killed.append(status.count.sum())

        with Client(scheduler, set_as_default=False) as client:  # the run may be over before a slow one is there
            client.wait_for_workers(2, timeout=60)
        status = STUDY.run(tmp_path / "out", cluster=scheduler, traces=folder, progress=kill)
    assert killed
    assert killed[0] < status.done == 2 * 3 * 2 * 2 * 150
    assert status.failed == 0
    assert written(results(tmp_path / "out")) == written(results(folder / "local"))


def test_workers_of_another_version_are_refused_by_name(scheduler, folder, tmp_path):
    preload = tmp_path / "older.py"
    preload.write_text("import llmsched._version\nllmsched.__version__ = llmsched._version.version = '0.0.1'\n")
    with worker(scheduler, tmp_path, "--preload", str(preload)):
        here = re.escape(ls.__version__)
        with pytest.raises(StudyError, match=rf"worker tcp://127\S+ has llmsched 0\.0\.1, and this is {here}: install"):
            STUDY.run(tmp_path / "out", cluster=scheduler, traces=folder)
        # One that comes later is asked by each unit.
        from distributed import Client

        from llmsched.study.worker import WorkUnit

        with Client(scheduler, set_as_default=False) as client:
            plan = STUDY.plan(folder)
            future = client.submit(dask_cluster._on_worker, WorkUnit(plan, 0, None, None, None), None)
            with pytest.raises(StudyError, match=r"worker tcp://127\S+ has llmsched 0\.0\.1, the study is run by"):
                future.result()


def test_a_scheduler_without_workers_is_told_after_a_bounded_wait(scheduler, folder, tmp_path, monkeypatch):
    monkeypatch.setattr(dask_cluster, "PATIENCE", 0.5)
    with pytest.raises(StudyError, match=r"has had no worker for 0\.5 s: start some with 'dask worker"):
        STUDY.run(tmp_path / "out", cluster=scheduler, traces=folder)


def test_a_scheduler_that_is_not_there_is_told_after_a_bounded_wait(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(dask_cluster, "PATIENCE", 0.5)
    address = f"tcp://127.0.0.1:{free_port()}"
    begin = time.monotonic()
    with pytest.raises(StudyError, match=re.escape(f"no Dask scheduler answers at {address} within 0.5 s")):
        STUDY.run(tmp_path / "out", cluster=address, traces=folder)
    assert time.monotonic() - begin < 30  # not a timing: it must end
    with pytest.raises(StudyError, match="is no address of a Dask scheduler, such as tcp://"):
        STUDY.run(tmp_path / "out", cluster="nowhere://x", traces=folder)
    assert STUDY.replace(replications=1).run(tmp_path / "out2", traces=folder).done == 24  # the rest is not harmed


@pytest.mark.usefixtures("many_reports")
def test_a_scheduler_that_dies_is_told_and_the_study_goes_on_elsewhere(folder, tmp_path):
    port = free_port()
    arguments = ("--host", "127.0.0.1", "--port", str(port), "--no-dashboard", "--no-show")
    with running("scheduler", *arguments) as process, worker(f"tcp://127.0.0.1:{port}", tmp_path):

        def kill(status):
            if status.count.sum() and process.poll() is None:
                process.kill()
                process.wait()

        with pytest.raises(StudyError, match="does not answer any more"):
            STUDY.run(tmp_path / "out", cluster=f"tcp://127.0.0.1:{port}", traces=folder, progress=kill)
    STUDY.run(tmp_path / "out", traces=folder)
    assert written(results(tmp_path / "out")) == written(results(folder / "local"))
