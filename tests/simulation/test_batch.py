"""simulate_batch: the same numbers as one by one, for any number of threads; one bad job does not lose the others."""

from __future__ import annotations

import os
import signal
import threading
import time
import types

import numpy as np
import pytest
from helpers.examples import examples
from helpers.strategies import compositions, machines, problems
from hypothesis import given
from hypothesis import strategies as st

import llmsched as ls
from llmsched.errors import InputError, MemoryTooSmallError, NotFinishedError, PolicyError
from llmsched.predict import intervals


def workloads(count: int, n: int = 60) -> list[ls.Workload]:
    return [ls.generate.lmsys(n, seed=s).with_intervals(intervals.buckets(100)) for s in range(count)]


def one_by_one(batch: ls.Batch, given_workloads, given_policies, machine=types.MappingProxyType({})) -> None:
    """Every row equals `simulate` on its own, or failed with the same kind of error."""
    for row, job in enumerate(batch.jobs):
        workload, policy = given_workloads[job.workload], given_policies[job.policy]
        failed = batch.errors.get(row)
        if failed is not None:
            with pytest.raises(type(failed)) as alone:
                ls.simulate(workload, policy, memory=job.memory, seed=job.seed, **machine)
            assert str(failed).startswith(f"simulation {row} ")
            assert str(failed).endswith(str(alone.value))
            continue
        summary = ls.simulate(workload, policy, memory=job.memory, seed=job.seed, **machine).summary()
        for name, column in batch.totals.items():
            np.testing.assert_equal(column[row], summary[name], err_msg=name)


@examples(60)
@given(data=st.data())
def test_a_batch_equals_its_simulations_one_by_one(data):
    drawn = data.draw(st.lists(problems(most=6), min_size=1, max_size=3))
    given_workloads = [workload for workload, _ in drawn]
    memory = [m for _, m in drawn]
    given_policies = [data.draw(st.sampled_from(sorted(ls.policies))), data.draw(compositions(len(given_workloads[0])))]
    machine = data.draw(machines())
    batch = ls.simulate_batch(
        given_workloads, given_policies, memory=memory, seeds=[0, None, 7], threads=2, percentiles=(50, 99), **machine
    )
    assert len(batch) == len(drawn) * 2 * len(memory) * 3
    one_by_one(batch, given_workloads, given_policies, machine)


@pytest.mark.parametrize("threads", [1, 2, 3, 7, 64])
def test_any_number_of_threads_gives_the_same_bits(threads):
    ws = workloads(40)
    alone = ls.simulate_batch(ws, ["amin", "clearing"], memory=3000, seeds=range(3), threads=1)
    many = ls.simulate_batch(ws, ["amin", "clearing"], memory=3000, seeds=range(3), threads=threads)
    assert alone.jobs == many.jobs
    for name, column in alone.totals.items():
        assert column.tobytes() == many.totals[name].tobytes()


def test_zip_pairs_the_kth_of_each_and_repeats_single_values():
    ws = workloads(3)
    batch = ls.simulate_batch(ws, ["amin", "hsf", "amax"], memory=3000, seeds=[5, 6, 7], pair="zip")
    assert [tuple(job) for job in batch.jobs] == [(0, 0, 3000, 5), (1, 1, 3000, 6), (2, 2, 3000, 7)]
    one_by_one(batch, ws, ["amin", "hsf", "amax"])


def test_cross_varies_seeds_fastest():
    batch = ls.simulate_batch(workloads(2), ["amin", "hsf"], memory=[3000, 4000], seeds=[1, 2])
    assert [tuple(job) for job in batch.jobs[:4]] == [
        (0, 0, 3000, 1),
        (0, 0, 3000, 2),
        (0, 0, 4000, 1),
        (0, 0, 4000, 2),
    ]
    assert len(batch) == 16


def test_kept_results_are_those_of_simulate():
    ws = workloads(5)
    batch = ls.simulate_batch(ws, "amin", memory=2000, seeds=[3], keep=True)
    for w, r in zip(ws, batch.results, strict=True):
        alone = ls.simulate(w, "amin", memory=2000, seed=3)
        assert r.summary() == alone.summary()
        assert r.provenance == alone.provenance
        assert r.completion.tobytes() == alone.completion.tobytes()
        assert r.evictions.tobytes() == alone.evictions.tobytes()


def test_one_bad_workload_among_many_is_named_and_the_others_stand():
    ws = workloads(200, n=10)
    ws[137] = ls.Workload(prompt=[5, 9000], output=[1, 1], lower=1, upper=1)
    batch = ls.simulate_batch(ws, "amin", memory=2000)
    assert list(batch.errors) == [137]
    assert isinstance(batch.errors[137], MemoryTooSmallError)
    assert "simulation 137 (workload 137," in str(batch.errors[137])
    assert np.isnan(batch.totals["mean_latency"][137])
    assert batch.totals["rounds"][137] == -1
    assert np.isfinite(np.delete(batch.totals["mean_latency"], 137)).all()
    with pytest.raises(MemoryTooSmallError, match="request 1 needs"):
        batch.raise_errors()


def test_every_kind_of_bad_job_is_an_error_of_its_row():
    endless = ls.Workload(prompt=0, output=[6, 6], lower=1, upper=6)
    batch = ls.simulate_batch(
        [endless, "no workload"], ["protection", "amni", "conditional"], memory=[6, 0], seeds=[0, -1], threads=2
    )
    kinds = {row: type(error) for row, error in batch.errors.items()}
    assert kinds[0] is NotFinishedError
    assert kinds[1] is InputError  # the seed
    assert kinds[2] is InputError  # memory 0
    assert issubclass(kinds[4], PolicyError)
    assert "did you mean 'amin'?" in str(batch.errors[4])
    assert len(kinds) == len(batch)


@pytest.mark.parametrize("threads", [0, -1, 1025, 1.5, "two", True])
def test_absurd_thread_counts_are_refused(threads):
    with pytest.raises(InputError, match="threads"):
        ls.simulate_batch(workloads(1), memory=3000, threads=threads)


def test_sequences_of_different_lengths_are_refused_for_zip():
    with pytest.raises(InputError, match="3 workloads, 2 policies"):
        ls.simulate_batch(workloads(3), ["amin", "hsf"], memory=3000, pair="zip")
    with pytest.raises(InputError, match="did you mean 'zip'"):
        ls.simulate_batch(workloads(3), memory=3000, pair="zap")


def test_percentiles_out_of_range_are_refused():
    with pytest.raises(InputError, match="percentile 101"):
        ls.simulate_batch(workloads(1), memory=3000, percentiles=(50, 101))


def test_empty_batches_and_empty_workloads():
    assert len(ls.simulate_batch([], memory=3000)) == 0
    empty = ls.Workload(prompt=[], output=[], lower=[], upper=[])
    batch = ls.simulate_batch([empty, *workloads(1)], memory=3000, percentiles=(50,), keep=True)
    assert not batch.errors
    assert batch.totals["total_latency"][0] == 0
    assert np.isnan(batch.totals["mean_latency"][0])
    assert len(batch.results[0]) == 0


def test_progress_rises_to_the_number_of_jobs():
    seen = []
    ls.simulate_batch(workloads(30), "amin", memory=3000, seeds=range(4), progress=lambda *a: seen.append(a))
    assert seen[-1] == (120, 120)
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)


def test_ctrl_c_stops_all_threads():
    ws = workloads(1, n=2000)
    started = threading.Event()

    def interrupt() -> None:
        started.wait()
        time.sleep(0.1)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt).start()
    with pytest.raises(KeyboardInterrupt):
        ls.simulate_batch(ws, "amin", memory=3000, seeds=range(200_000), threads=2, progress=lambda *_: started.set())
    assert not [t for t in threading.enumerate() if t.name.startswith("llmsched")]


def test_batches_run_in_threads_of_the_caller_too():
    ws = workloads(20)
    expected = ls.simulate_batch(ws, "amin", memory=3000, threads=1).totals["total_latency"].tobytes()
    found = {}

    def run(k: int) -> None:
        found[k] = ls.simulate_batch(ws, "amin", memory=3000, threads=3).totals["total_latency"].tobytes()

    callers = [threading.Thread(target=run, args=(k,)) for k in range(4)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert set(found.values()) == {expected}


def test_the_table_goes_to_dataframes():
    pandas = pytest.importorskip("pandas")
    frame = ls.simulate_batch(workloads(2), ["amin", "hsf"], memory=3000).to_pandas()
    assert isinstance(frame, pandas.DataFrame)
    assert list(frame.columns[:6]) == ["workload", "policy", "memory", "seed", "total_latency", "mean_latency"]
    assert frame.policy.tolist() == ["amin", "hsf", "amin", "hsf"]
