"""Bad input: never a hang, never a wrong number, and every error says what, where and what would do."""

from __future__ import annotations

import dataclasses
import pickle
import signal
import subprocess
import sys

import numpy as np
import pytest

import llmsched as ls
from llmsched import errors

ENGINES = ("reference", "compiled")
W = ls.Workload([1, 2, 3], [3, 2, 1], lower=1, upper=5, point=2)


def said(error, **options):
    """The message, the same from both engines."""
    messages = []
    for engine in ENGINES:
        with pytest.raises(error) as caught:
            ls.simulate(**{"workload": W, "policy": "amin", "memory": 10, "engine": engine} | options)
        messages.append(str(caught.value))
    assert messages[0] == messages[1]
    return caught.value


# The whole input ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("workload", [None, [1, 2], {"prompt": [1]}, "lmsys", ([1], [2])])
def test_what_is_no_workload(workload):
    with pytest.raises(errors.InputError, match=f"needs a llmsched.Workload, not {type(workload).__name__}"):
        ls.simulate(workload, "amin", memory=10)


def test_memory_must_be_given_by_name():
    with pytest.raises(TypeError, match="memory"):
        ls.simulate(W, "amin")
    with pytest.raises(TypeError):
        ls.simulate(W, "amin", 10)


@pytest.mark.parametrize(
    "memory", [0, -5, 2.5, np.nan, np.inf, -np.inf, None, "100", True, 2**53 + 1, 1e300, 10**400, [10], 1j]
)
def test_memory_that_is_no_number_of_tokens(memory):
    error = said(errors.InputError, memory=memory)
    assert str(error).startswith("memory ")
    assert "whole number from 1 to 9007199254740992" in str(error)
    assert repr(memory) in str(error)


@pytest.mark.parametrize("memory", [10, 10.0, np.int32(10), np.uint8(10), np.float64(10)])
def test_memory_in_any_whole_type(memory):
    r = ls.simulate(W, "amin", memory=memory)
    assert r.memory == 10
    assert type(r.memory) is int


def test_the_largest_memory_works():
    for engine in ENGINES:
        r = ls.simulate(W, "amax", memory=2**53, engine=engine)
        assert r.completion.tolist() == [3, 2, 1]


@pytest.mark.parametrize("seed", [-1, 2**64, 1.5, "1", True, np.nan, [1], (1, 2)])
def test_bad_seeds(seed):
    assert "seed must be a whole number from 0 to 18446744073709551615" in str(said(errors.InputError, seed=seed))


@pytest.mark.parametrize("max_rounds", [-1, 1.5, "1", np.inf, True])
def test_bad_max_rounds(max_rounds):
    assert "max_rounds must be a whole number from 0" in str(said(errors.InputError, max_rounds=max_rounds))


@pytest.mark.parametrize(
    ("engine", "hint"),
    [
        ("compild", "did you mean 'compiled'"),
        ("Reference", "did you mean 'reference'"),
        ("c", "known: compiled, reference"),
        (None, "known: compiled, reference"),
        (["compiled"], "known"),
    ],
)
def test_unknown_engines(engine, hint):
    with pytest.raises(errors.InputError, match=hint):
        ls.simulate(W, "amin", memory=10, engine=engine)


@pytest.mark.parametrize("record", [True, 5])
def test_records_that_are_no_words(record):
    assert "timeline" in str(said(errors.InputError, record=record))


@pytest.mark.parametrize("record", ["timelines", "all", ["timeline", "tokns"]])
def test_unknown_records(record):
    assert "timeline" in str(said(errors.InputError, record=record))


def test_unknown_policies_suggest_the_nearest():
    assert "there is no policy 'amim'; did you mean 'amin'?" in str(said(errors.PolicyError, policy="amim"))
    assert "not NoneType" in str(said(errors.PolicyError, policy=None))


# Workload against policy and memory -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("policy", "column", "how"),
    [
        ("amin", "lower", "with_intervals"),
        ("amin-doubling", "lower", "with_intervals"),
        ("aell", "lower", "with_intervals"),
        ("amax", "upper", "with_intervals"),
        ("mcsf", "point", "replace(point=...)"),
        ("mc-benchmark", "point", "replace(point=...)"),
    ],
)
def test_a_missing_prediction_says_which_and_how_to_add_it(policy, column, how):
    error = said(errors.MissingPredictionError, workload=ls.Workload([1], [1]), policy=policy)
    assert error.column == column
    assert f"policy {policy} needs the prediction column {column!r}" in str(error)
    assert how in str(error)
    assert isinstance(error, errors.WorkloadError)


def test_a_missing_prediction_is_found_with_one_bound_only():
    assert said(errors.MissingPredictionError, workload=ls.Workload([1], [1], lower=1), policy="aell").column == "upper"


def test_a_missing_prediction_is_told_even_for_no_requests():
    assert said(errors.MissingPredictionError, workload=ls.Workload([], [])).column == "lower"


def test_a_missing_priority_is_told_with_what_would_do():
    error = said(errors.MissingPredictionError, policy="vllm-priority")
    assert error.column == "priority"
    assert str(error) == (
        "policy vllm-priority needs the column 'priority', which the workload does not have: "
        "add it with workload.replace(priority=...)"
    )


@pytest.mark.parametrize("priority", [[0, 1.5, 0], [0, float("nan"), 0], [0, 2**60, 0], [0, -(2**60), 0]])
def test_a_priority_is_a_whole_number(priority):
    with pytest.raises(errors.WorkloadError, match=r"request 1: priority is .*, expected a whole number from -9007"):
        W.replace(priority=priority)


@pytest.mark.parametrize("policy", sorted(ls.policies))
def test_a_cache_too_small_names_the_request_and_what_would_do(policy):
    w = ls.Workload([1, 5, 90], [3, 6, 10], 1, 9, 2, priority=0).with_lengths(ls.LengthTable.from_outputs([4]))
    error = said(errors.MemoryTooSmallError, workload=w, policy=policy, memory=10)
    assert error.request == 1  # the first that does not fit
    assert error.needed == 100
    assert str(error) == (
        "request 1 needs prompt 5 + output 6 = 11 tokens of cache, but memory is 10: it can never finish. "
        "memory=100 is enough for every request"
    )
    assert len(ls.simulate(w, policy, memory=error.needed)) == 3


def test_a_request_of_exactly_the_cache_fits():
    for engine in ENGINES:
        r = ls.simulate(ls.Workload([4, 0], [6, 10], 1, 9, 2), "amin", memory=10, engine=engine)
        assert r.peak_memory == 10


def test_sums_beyond_64_bits_are_detected():
    error = said(errors.WorkloadError, workload=ls.Workload([2**52] * 3, 1), policy="hsf", memory=2**53)
    assert "together" in str(error)
    assert "9007199254740992" in str(error)
    said(errors.WorkloadError, workload=ls.Workload([2**53] * 5000, 2**53), policy="hsf", memory=2**53)


@pytest.mark.parametrize("length", [0, 2, 4])
def test_a_custom_order_of_the_wrong_length(length):
    error = said(errors.WorkloadError, policy=ls.Policy(order=[1.0] * length))
    assert str(error) == f"the policy's order has {length} numbers for 3 requests"


@pytest.mark.parametrize("engine", ENGINES)
def test_a_latency_is_right_or_refused_however_late_the_arrival(engine):
    late = ls.Workload([0], [5], arrival=[2**52])
    assert ls.simulate(late, "hsf", memory=10, engine=engine).latency.tolist() == [5]
    with pytest.raises(errors.WorkloadError, match="request 0: arrival is"):
        late.replace(arrival=[2**53])


@pytest.mark.parametrize("engine", ENGINES)
def test_negative_zero_is_zero(engine):
    w = ls.Workload(0, [2, 2, 2], 1, 2, arrival=[0.0, -0.0, 0.0])
    plus = ls.simulate(w.replace(arrival=None), "fcfs", memory=2, engine=engine)
    assert ls.simulate(w, "fcfs", memory=2, engine=engine).completion.tolist() == plus.completion.tolist()
    orders = [ls.Policy(order=order, reserve="output") for order in ([0.0, -0.0, 0.0], [0, 0, 0])]
    ends = [ls.simulate(w, policy, memory=2, engine=engine).completion.tolist() for policy in orders]
    assert ends[0] == ends[1]


# Machines -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("block", [0, -16, 1.5, "16", True, 1025])
def test_blocks_that_are_none(block):
    assert "block must be a whole number from 1 to 1024" in str(said(errors.InputError, block=block))


@pytest.mark.parametrize("max_batch", [0, -1, 1.5, "8", True])
def test_caps_on_the_batch_that_are_none(max_batch):
    assert "max_batch must be a whole number from 1 to " in str(said(errors.InputError, max_batch=max_batch))


def test_blocks_that_do_not_fit_the_cache():
    error = said(errors.MemoryTooSmallError, block=16)  # not even one of them
    assert (error.request, error.needed) == (0, 16)
    assert "= 4 tokens of cache, in whole blocks of 16, but memory is 10: it can never finish. memory=16 is" in str(
        error
    )
    error = said(errors.MemoryTooSmallError, workload=ls.Workload([1, 5], [3, 5], lower=1), block=4, memory=11)
    assert (error.request, error.needed) == (1, 12)  # 10 tokens would fit, three blocks do not
    for engine in ENGINES:  # what is left of the last block is of no use
        r = ls.simulate(W, "amin", memory=11, block=4, engine=engine)
        assert r.memory == 8
        assert r.peak_memory <= 8


def test_arrivals_so_late_that_a_round_would_not_move_the_time():
    w = W.replace(arrival=[0, 1.7e15, 5])  # microseconds since 1970
    error = said(errors.WorkloadError, workload=w, clock="llama2-70b-2xa100")
    assert error.request == 1
    assert "request 1 arrives at 1.7e+15 s" in str(error)
    assert "check that they are in seconds" in str(error)
    for engine in ENGINES:  # seconds since 1970 will do
        late = ls.simulate(W.replace(arrival=1.7e9), "amin", memory=10, clock="llama2-70b-2xa100", engine=engine)
        now = ls.simulate(W, "amin", memory=10, clock="llama2-70b-2xa100", engine=engine)
        assert late.latency == pytest.approx(now.latency, rel=1e-4)


@pytest.mark.parametrize("policy", ["hsf", "amin", "vllm", "s3", "aell"])
@pytest.mark.parametrize("engine", ENGINES)
def test_arrivals_need_not_be_sorted(policy, engine):
    w = ls.generate.poisson(ls.generate.lmsys(40, seed=1), rate=0.7, seed=1).with_intervals(ls.intervals.buckets(100))
    # no two are equal in anything, so that ties do not depend on the order
    w = w.replace(output=np.arange(40) * 7 % 41 + 60, lower=np.arange(40) + 20, upper=np.arange(40) * 7 % 41 + 70)
    shuffled = np.random.default_rng(0).permutation(40)
    options = {"memory": 700, "clock": "llama2-70b-2xa100", "seed": None, "engine": engine}
    one, other = (ls.simulate(x, policy, **options) for x in (w, w.take(shuffled)))
    assert other.completion.tolist() == one.completion[shuffled].tolist()


# Policies that never finish -------------------------------------------------------------------------------------------

#: Two requests that grow in step until both must restart.
IN_STEP = ls.Workload(0, [8, 8], lower=1, upper=8, point=1)


@pytest.mark.parametrize(
    "policy",
    [
        "protection",
        dataclasses.replace(ls.policies["protection"], margin=0),
        dataclasses.replace(ls.policies["clearing"], beta=1),
        ls.Policy(reserve="none", evict="all", refine="none"),
        ls.Policy(reserve="none", evict="all", refine="double"),
        ls.Policy(reserve="point", order="point", evict="all", refine="none", fill="skip"),
        ls.Policy(reserve="none", evict="all", cap="bound", cap_refine="double"),
    ],
    ids=str,
)
def test_policies_that_cycle_end_in_the_same_error_on_both_engines(policy):
    found = []
    for engine in ENGINES:
        with pytest.raises(errors.NotFinishedError) as caught:
            ls.simulate(IN_STEP, policy, memory=10, engine=engine)
        error = caught.value
        found.append((str(error), error.policy, error.round, error.remaining))
    assert found[0] == found[1]
    message, name, rounds, remaining = found[0]
    assert remaining == 2
    begins = f"policy {name} stopped at round {rounds} with 2 "
    if policy == ls.Policy(reserve="none", evict="all", refine="double"):  # sooner than by the count of admissions
        assert message.startswith(begins + "requests left: the bound of request 0 would pass 2**62")
    else:
        assert message.startswith(begins + "of 2 requests left: requests keep evicting each other")
    assert isinstance(error, (errors.LlmschedError, RuntimeError))


def test_some_complete_before_the_rest_cycles():
    w = ls.Workload(0, [1, 8, 8], arrival=[0, 1, 1])
    with pytest.raises(errors.NotFinishedError, match="with 2 of 3 requests left") as caught:
        ls.simulate(w, "protection", memory=10)
    assert caught.value.remaining == 2


@pytest.mark.parametrize("seed", [None, 0, 1, 2])
def test_clearing_finishes_or_says_that_it_does_not(seed):
    w = ls.generate.lmsys(150, seed=2)
    ends = []
    for engine in ENGINES:
        try:
            ends.append(ls.simulate(w, "clearing", memory=900, seed=seed, engine=engine, max_rounds=20_000).summary())
        except errors.NotFinishedError as error:
            ends.append(str(error))
    assert ends[0] == ends[1]


@pytest.mark.parametrize("max_rounds", [0, 1, 5, 7])
def test_max_rounds_says_so(max_rounds):
    error = said(errors.NotFinishedError, workload=IN_STEP, policy="hsf", max_rounds=max_rounds)
    assert (error.round, error.remaining) == (max_rounds, 2)
    assert str(error) == (
        f"policy hsf stopped at round {max_rounds} with 2 of 2 requests left: max_rounds={max_rounds} is reached"
    )


def test_a_run_that_ends_with_the_last_round_allowed_is_finished():
    for engine in ENGINES:
        assert ls.simulate(IN_STEP, "hsf", memory=10, engine=engine, max_rounds=14).rounds == 14
        with pytest.raises(errors.NotFinishedError):
            ls.simulate(IN_STEP, "hsf", memory=10, engine=engine, max_rounds=13)


def test_a_cycle_that_a_later_arrival_breaks_is_not_for_ever():
    """Requests 0 and 1 restart each other until 2 arrives, comes first, and puts them out of step."""
    policy = ls.Policy(order="output", reserve="none", evict="all", refine="none")
    w = ls.Workload([0, 8, 6], [6, 8, 5], arrival=[0, 0, 500])
    assert len(ls.simulate(w, policy, memory=16, seed=None)) == 3
    late = w.replace(arrival=[0, 0, 5000])
    try:
        said = f"{len(ls.simulate(late, policy, memory=16, seed=None))} completed"
    except errors.NotFinishedError as error:
        said = str(error)
    assert "for ever" not in said


# Errors travel --------------------------------------------------------------------------------------------------------

EVERY_ERROR = [
    errors.LlmschedError("m"),
    errors.InputError("m"),
    errors.WorkloadError("m", 3),
    errors.PolicyError("m"),
    errors.UnknownNameError("m"),
    errors.UnknownPolicyError("m"),
    errors.FormulaError("m", "order", "prompt + x", 10),
    errors.FormulaValueError("m", "order", "1 / prompt", 3, 7),
    errors.TraceError("m", "a.csv", 7),
    errors.InputLimitError("m", "a.csv", 7),
    errors.MissingPredictionError("m", "lower"),
    errors.MemoryTooSmallError("m", 3, 100),
    errors.StudyError("m", "study.toml"),
    errors.DamagedResultsError("part.parquet", "m"),
    errors.NotFinishedError("m", "amin", 5, 2),
    errors.NotFinishedError("m", "amin", 5, 2, request=1),
    errors.SchedulerError("m", 5, 2),
    errors.MissingExtraError("pandas", "dataframe", "exporting"),
]


def test_every_error_is_one_of_ours():
    ours = {e for e in vars(errors).values() if isinstance(e, type) and issubclass(e, errors.LlmschedError)}
    assert ours == {type(e) for e in EVERY_ERROR}


@pytest.mark.parametrize("error", EVERY_ERROR, ids=lambda error: type(error).__name__)
def test_errors_survive_pickling(error):
    """Or a pool of processes breaks down instead of reporting them."""
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is type(error)
    assert str(again) == str(error)
    assert vars(again) == vars(error)


# Ctrl-C ---------------------------------------------------------------------------------------------------------------

#: Runs that take minutes at least if nobody stops them: rounds without end under a clock, requests that evict each
#: other hundreds of times, and a waiting set of a million that every round looks through.
FEW = """
    w = ls.Workload([0], [10**12])
    ls.simulate(w, "hsf", memory=10**12, engine=engine, clock=ls.Clock(1.0, per_context_token=1e-9))
"""
CROWDED = """
    w = ls.generate.linear_geometric(1_000_000, 0.98, 400, prompt=1, seed=0)
    ls.simulate(w, "amin", memory=1000, engine=engine)
"""
SKIPPING = """
    w = ls.generate.linear_geometric(1_000_000, 0.9, 60, seed=0)
    ls.simulate(w, dataclasses.replace(ls.policies["amin"], fill="skip"), memory=2000, engine=engine)
"""


@pytest.mark.parametrize(
    ("engine", "run"),
    [
        pytest.param("reference", FEW, id="reference"),
        pytest.param("compiled", FEW, id="few requests"),
        pytest.param("compiled", CROWDED, id="many evictions"),
        pytest.param("compiled", SKIPPING, id="skipping a long queue"),
    ],
)  # fmt: skip
def test_ctrl_c_stops_a_long_run(engine, run):
    code = ["import dataclasses, numpy as np, llmsched as ls", f"engine = {engine!r}", "print('running', flush=True)"]
    code += [line.strip() for line in run.strip().splitlines()]
    with subprocess.Popen(
        [sys.executable, "-c", "\n".join(code)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as child:
        try:
            assert child.stdout.readline() == "running\n"
            try:
                child.wait(0.5)
            except subprocess.TimeoutExpired:
                child.send_signal(signal.SIGINT)
            else:
                pytest.fail("the run was over before it could be stopped")
            _, err = child.communicate(timeout=6)
        finally:
            child.kill()
    assert child.returncode in (-signal.SIGINT, 1)
    assert err.rstrip().endswith("KeyboardInterrupt")


def test_the_nearest_number_is_the_one_least_far_away():
    from llmsched.errors import nearest

    assert nearest("16000", ["1600", "16492", "61000"]) == "did you mean '16492'? known: 1600, 16492, 61000"
    assert nearest("9999", ["10000", "99990"]).startswith("did you mean '10000'?")
    assert nearest("amni", ["amin", "10"]).startswith("did you mean 'amin'?")
    assert nearest("3", []) == "known: "


@pytest.mark.parametrize("digits", [400, 5000])
def test_integers_of_hundreds_of_digits_are_told_in_a_line(tmp_path, digits):
    huge = 10**digits
    written = tmp_path / "clock.toml"
    written.write_text(f'unit = "s"\nbase = 1{"0" * digits}\n')
    for use in (
        lambda: ls.simulate(W, "amin", memory=huge),
        lambda: ls.Workload([huge], [1]),
        lambda: ls.Clock(base=huge),
        lambda: ls.Clock.read(written),
        lambda: ls.generate.lmsys(huge),
        lambda: ls.service.metrics(ls.simulate(W, "amin", memory=10), slo={"ttft": huge}),
    ):
        with pytest.raises(errors.InputError) as caught:
            use()
        assert len(str(caught.value)) < 700


def test_whoever_needs_arrivals_beforehand_refuses_think_times() -> None:
    thinking = ls.Workload([5, 5], [3, 3], session=[0, 0], think=[0.0, 1.0])
    for refuses in (
        lambda w: ls.best_known(w, memory=20),
        lambda w: ls.optimal(w, memory=20),
        lambda w: ls.foreign_result.from_arrays(w, [0, 4], [3, 7], memory=20),
        lambda w: ls.testing.run(lambda state: ls.testing.Decision((), ()), w, memory=20),
    ):
        with pytest.raises(errors.WorkloadError, match=r"depend on the schedule: .*replace\(think=None\)"):
            refuses(thinking)
    arrived = ls.simulate(thinking, "fcfs", memory=20).workload.replace(think=None)
    assert ls.best_known(arrived, memory=20, time_limit=None, iterations=1).total_latency == 6
