"""model.md, example by example and round by round: small instances whose every number was worked out by hand.

Its sections 4 and 5 are in test_model_feasibility.py and test_model_orders.py.
"""

from __future__ import annotations

import dataclasses

import pytest
from helpers.byhand import ENGINES, GREEDY, rows

import llmsched as ls

# Section 7: worked examples -------------------------------------------------------------------------------------------

PAPER_EXAMPLE_1 = ls.Workload(1, [1] * 5, lower=1, upper=4)
EC1 = ls.Workload(1, [1, 2, 3, 4])
#: Algorithm 6 to the letter: who is stopped goes to the end of the queue.
QUEUED_AELL = ls.Policy(order="queue", cap="bound")
FIVE = ls.Workload([2, 1, 3, 1, 2], [3, 6, 2, 5, 4], lower=[2, 2, 1, 2, 2], upper=[5, 8, 4, 8, 6])
TWO = ls.Workload(0, [6, 6], lower=4, upper=8)
NINE = ls.Workload(
    [8, 3, 19, 21, 2, 11, 11, 22, 4],
    [4, 11, 28, 31, 9, 11, 18, 11, 20],
    lower=[1, 9, 25, 25, 9, 9, 17, 9, 17],
    upper=[8, 16, 32, 32, 16, 16, 24, 16, 24],
)


def test_example_1_hsf_runs_all_five_at_once(run):
    r = run(PAPER_EXAMPLE_1, "hsf", 10)
    assert r.total_latency == 5
    assert r.completion.tolist() == [1] * 5


@pytest.mark.parametrize("seed", [None, 0, 1])
def test_example_1_amax_reserves_so_much_that_only_two_fit(run, seed):
    r = run(PAPER_EXAMPLE_1, "amax", 10, seed)
    assert sorted(r.completion) == [1, 1, 2, 2, 3]
    assert r.total_latency == 9
    assert r.peak_memory == 4


def test_example_2_hsf_on_the_papers_ec1(run):
    r = run(EC1, "hsf", 7)
    assert r.start.tolist() == [0, 0, 0, 2]
    assert r.completion.tolist() == [1, 2, 3, 6]
    assert r.total_latency == 12
    # rounds: 2+2+2, 3+3, 4+2 (request 3 has joined), 3, 4, 5
    assert rows(r, "memory") == [[6, 6, 6, 3, 4, 5]]


@pytest.mark.parametrize("seed", [None, 0])
@pytest.mark.parametrize("engine", ENGINES)
def test_example_3_synchronous_waves_use_half_the_memory(engine, seed):
    w = ls.Workload(0, [10] * 1000)
    r = ls.simulate(w, "hsf", memory=100, seed=seed, engine=engine, record="timeline")
    assert r.total_latency == 505_000
    assert r.makespan == 1000
    assert r.peak_memory == 100
    assert rows(r, "memory")[0] == list(range(10, 101, 10)) * 100


@pytest.mark.parametrize(
    ("policy", "start", "completion", "total", "evictions", "wasted", "peak"),
    [
        ("hsf", [0, 1, 0, 0, 0], [3, 7, 2, 5, 4], 21, [0, 0, 0, 0, 0], 0, 18),
        ("amax", [0, 2, 0, 4, 1], [3, 8, 2, 9, 5], 27, [0, 0, 0, 0, 0], 0, 12),
        ("amin", [0, 0, 0, 0, 0], [3, 6, 6, 5, 4], 24, [0, 0, 1, 0, 0], 1, 18),
        ("aell", [0, 0, 0, 0, 0], [5, 10, 3, 10, 6], 34, [1, 1, 1, 1, 1], 9, 18),
        (QUEUED_AELL, [0, 0, 0, 0, 0], [5, 8, 3, 8, 12], 36, [1, 1, 1, 1, 1], 9, 18),
        ("auto", [0, 0, 0, 0, 0], [3, 8, 3, 11, 6], 31, [0, 1, 1, 1, 1], 7, 18),
        ("fcfs", [0, 0, 0, 0, 0], [3, 6, 2, 5, 5], 21, [0, 0, 0, 0, 1], 0, 18),
    ],
)
def test_example_4(run, policy, start, completion, total, evictions, wasted, peak):
    r = run(FIVE, policy, 18)
    assert r.start.tolist() == start
    assert r.completion.tolist() == completion
    assert r.total_latency == total
    assert r.evictions.tolist() == evictions
    assert r.wasted_tokens == wasted
    assert r.peak_memory == peak


def test_example_4_amin_round_by_round(run):
    memory, batch, waiting, evictions = rows(run(FIVE, "amin", 18), "memory", "batch", "waiting", "evictions")
    assert memory == [14, 14, 18, 16, 16, 12]
    assert batch == [5, 4, 4, 3, 3, 2]
    assert waiting == [0, 1, 1, 1, 0, 0]
    assert evictions == [0, 1, 0, 0, 0, 0]


def test_example_5_with_arrivals(run):
    r = run(FIVE.replace(arrival=[0, 0, 1, 2, 3]), "amin", 18)
    assert r.start.tolist() == [0, 0, 1, 2, 3]
    assert r.completion.tolist() == [3, 6, 3, 7, 7]
    # model.md prints a total latency of 21, but its own completions minus arrivals, 3+6+2+5+4, are 20: nobody waited
    # and nobody was evicted, so every latency is the request's output.
    assert r.total_latency == 20 == FIVE.output.sum()
    assert r.evictions.tolist() == [0] * 5
    assert r.peak_memory == 17


def test_example_6_two_requests_evict_each_other_until_a_bound_wins(run):
    r = run(TWO, "amin", 6)
    assert r.start.tolist() == [0, 2]
    assert r.completion.tolist() == [19, 25]
    assert r.evictions.tolist() == [2, 2]
    assert r.wasted_tokens == 18
    assert r.rounds == 25


def test_example_7(run):
    r = run(NINE, "amin", 69)
    assert r.start.tolist() == [0, 0, 27, 48, 0, 0, 11, 5, 11]
    assert r.completion.tolist() == [4, 11, 193, 223, 9, 11, 47, 16, 31]
    assert r.evictions.tolist() == [0, 0, 3, 3, 0, 0, 1, 0, 0]
    assert r.wasted_tokens == 173
    assert r.peak_memory == 69


# Section 2: rounds and memory -----------------------------------------------------------------------------------------


def test_a_lone_request_holds_prompt_plus_one_token_more_every_round(run):
    r = run(ls.Workload(3, [4], lower=1), "amin", 7)
    assert rows(r, "memory", "time") == [[4, 5, 6, 7], [0, 1, 2, 3]]
    assert r.completion.tolist() == [4]
    assert r.peak_memory == 7


def test_idle_jumps_are_no_rounds(run):
    r = run(ls.Workload(0, [2, 3], arrival=[0, 100]), "hsf", 3)
    assert r.completion.tolist() == [2, 103]
    assert r.rounds == 5
    assert r.makespan == 103


# Section 3: one round, in this order ----------------------------------------------------------------------------------


def test_an_idle_worker_jumps_to_a_fractional_arrival_and_keeps_its_phase(run):
    # 0 runs in [0.5, 3.5); 1 arrives at 1.25 and joins at the next round, 1.5; the worker is idle from 3.5 to 10.25
    r = run(ls.Workload(0, [3, 1, 2], arrival=[0.5, 1.25, 10.25]), "hsf", 10)
    assert r.start.tolist() == [0.5, 1.5, 10.25]
    assert r.completion.tolist() == [3.5, 2.5, 12.25]
    assert r.latency.tolist() == [3, 1.25, 2]
    assert r.rounds == 5
    assert rows(r, "time") == [[0.5, 1.5, 2.5, 10.25, 11.25]]


def test_a_request_that_arrives_as_the_last_one_completes_starts_at_once(run):
    r = run(ls.Workload(0, [2, 2], arrival=[0, 2]), "hsf", 2)
    assert r.completion.tolist() == [2, 4]


def test_arrivals_come_before_admission_in_the_same_round(run):
    r = run(ls.Workload(0, [3, 1], arrival=[0, 1]), "hsf", 4)
    assert r.start.tolist() == [0, 1]


def test_caps_come_before_overflow(run):
    # M=4, both õ=2. Round 2 would need 3+3 > 4, but both have reached their cap: they leave by the cap (õ becomes u),
    # not by the overflow (õ would become 3). Promoted, u=4, they run one after the other: 2+4, then 6+4.
    w = ls.Workload(0, [4, 4], lower=2, upper=4)
    r = run(w, "aell", 4)
    assert r.evictions.tolist() == [1, 1]
    assert r.completion.tolist() == [6, 10]
    assert r.wasted_tokens == 4


def test_a_capped_request_may_come_back_in_the_same_round(run):
    r = run(ls.Workload(0, [3], lower=2, upper=5), "aell", 5)
    assert r.completion.tolist() == [5]  # two rounds lost, then three
    assert rows(r, "evictions", "batch") == [[0, 0, 1, 0, 0], [1] * 5]


def test_a_request_that_completes_at_its_cap_is_not_stopped(run):
    r = run(ls.Workload(0, [2], lower=2, upper=5), "aell", 5)
    assert r.completion.tolist() == [2]
    assert r.total_evictions == 0


def test_a_request_evicted_for_overflow_does_not_return_at_once(run):
    # Round 1: 0 and 1 would hold 5+2 > 6; 1, the newest, leaves with one token. It would fit again (5+1), but not in
    # this round. In round 2 (need 6) it does not fit; 0 completes after round 2.
    r = run(ls.Workload([3, 0], [3, 2]), GREEDY, 6)
    assert r.completion.tolist() == [3, 5]
    assert r.evictions.tolist() == [0, 1]
    assert rows(r, "memory", "batch", "waiting", "evictions") == [
        [5, 5, 6, 1, 2], [2, 1, 1, 1, 1], [0, 1, 1, 0, 0], [0, 1, 0, 0, 0],
    ]  # fmt: skip


def test_a_newcomer_may_take_the_room_of_the_evicted(run):
    # As above, but request 2 arrives in the round of the eviction and fits beside 0: 5 + 1.
    r = run(ls.Workload([3, 0, 0], [3, 2, 1], arrival=[0, 0, 1]), GREEDY, 6)
    assert r.start.tolist() == [0, 0, 1]
    assert r.completion.tolist() == [3, 5, 2]


def test_no_round_is_idle_while_something_waits(run):
    # Round 2 would need 3+3 > 4: both leave, nothing runs, so both are considered in that very round. Each now believes
    # in 3 tokens, so only the first starts; the second may join when the first has one token to go: 3+1 <= 4.
    w = ls.Workload(0, [3, 3], lower=1)
    r = run(w, dataclasses.replace(ls.policies["amin"], evict="all"), 4)
    assert r.completion.tolist() == [5, 7]
    assert rows(r, "batch", "evictions") == [[2, 2, 1, 1, 2, 1, 1], [0, 0, 2, 0, 0, 0, 0]]


def test_break_stops_at_the_first_that_does_not_fit_and_skip_goes_on(run):
    w = ls.Workload([0, 4, 0], [2, 2, 2])  # 1 fits beside nobody; 2 fits beside 0
    policy = ls.Policy(order=[0.0, 1.0, 2.0], reserve="output", evict="progress", refine="none")
    assert run(w, policy, 6).start.tolist() == [0, 2, 4]
    assert run(w, dataclasses.replace(policy, fill="skip"), 6).start.tolist() == [0, 2, 0]


# Section 3: leaving ---------------------------------------------------------------------------------------------------

#: Two equal requests that overflow M=6 in round 3, after three tokens each.
PAIR = ls.Workload(0, [5, 5], lower=1)


def test_restart_loses_the_tokens_of_this_attempt(run):
    # Ties by index: 0 leaves in round 3 and comes back in round 4 beside 1, which then has its last token to go: 5+1.
    r = run(PAIR, "amin", 6)
    assert r.evictions.tolist() == [1, 0]
    assert r.wasted_tokens == 3
    assert r.start.tolist() == [0, 0]
    assert r.completion.tolist() == [9, 5]


@pytest.mark.parametrize("prompt", [0, 2])
def test_recompute_keeps_the_tokens_and_occupies_them_at_once(run, prompt):
    # 1, the newest, leaves in round 3 with 3 tokens. When 0 has completed, it holds s+3+1 in its first round.
    w = PAIR.replace(prompt=[prompt, prompt])
    r = run(w, dataclasses.replace(GREEDY, resume="recompute"), 6 + 2 * prompt)
    assert r.evictions.tolist() == [0, 1]
    assert r.wasted_tokens == 0
    assert r.completion.tolist() == [5, 7]
    assert rows(r, "memory") == [[2 * (prompt + g) for g in (1, 2, 3)] + [prompt + g for g in (4, 5, 4, 5)]]


@pytest.mark.parametrize(
    ("refine", "bound", "refined"),
    [
        ("progress", 1, 4),  # three tokens certify a fourth
        ("progress", 5, 5),  # a bound never falls
        ("double", 1, 4),  # twice 1 is less than is certain
        ("double", 3, 6),
        ("none", 3, 3),
    ],
)
def test_refine_on_overflow(run, refine, bound, refined):
    # M=12. Request 0 (prompt 6, believed to end at once) and 1 run until round 3 would need 10+4: 1 leaves after three
    # tokens. At 4 request 0 is done, 1 starts again, and 2 (prompt 6, 6 tokens, order last) arrives. With g tokens of 1
    # generated, 2 fits once refined + 6 + (refined - g) <= 12: its start tells what is believed of 1.
    w = ls.Workload([6, 0, 6], [4, 6, 6], lower=[1, bound, 6], arrival=[0, 0, 4])
    r = run(w, ls.Policy(order=[0.0, 1.0, 2.0], evict="newest", refine=refine), 12)
    assert r.evictions[:2].tolist() == [0, 1]
    assert r.start[2] == 4 + max(0, 2 * refined - 6)


@pytest.mark.parametrize(
    ("rule", "lower", "upper", "attempts"),
    [
        ("upper", 3, 7, [3, 7, 14]),  # the truth, 20, lies above u: beyond it the bound doubles
        ("upper", 3, 3, [3, 6, 12]),
        ("upper", 3, 20, [3]),
        ("upper", 3, 25, [3]),
        ("double", 3, 7, [3, 6, 12]),
        ("double", 20, 20, []),
    ],
)
def test_refine_on_a_cap(run, rule, lower, upper, attempts):
    """Alone, a capped request of 20 tokens runs for its bound, again and again, until the bound is large enough."""
    policy = dataclasses.replace(ls.policies["aell"], cap_refine=rule)
    r = run(ls.Workload(0, [20], lower=lower, upper=upper), policy, 20)
    assert r.evictions.tolist() == [len(attempts)]
    assert r.wasted_tokens == sum(attempts)
    assert r.completion.tolist() == [sum(attempts) + 20]


def test_a_cap_under_recompute_costs_nothing_to_a_lone_request(run):
    policy = dataclasses.replace(ls.policies["aell"], resume="recompute", cap_refine="double")
    r = run(ls.Workload(2, [20], lower=3, upper=7), policy, 22)
    assert r.evictions.tolist() == [3]  # after 3, 6 and 12 tokens
    assert r.completion.tolist() == [20]
    assert rows(r, "memory") == [list(range(3, 23))]


@pytest.mark.parametrize(
    "fields", [{"refine": "double"}, {"cap": "bound", "cap_refine": "double"}, {"cap": "bound", "cap_refine": "upper"}]
)
def test_a_bound_may_double_more_often_than_64_bits_hold(fields):
    """Two requests in step stop each other for ever: each bound doubles hundreds of times, and must not wrap round."""
    w = ls.Workload(0, [4, 4], lower=1, upper=1)
    ends = []
    for engine in ENGINES:
        with pytest.raises(ls.errors.NotFinishedError) as caught:
            ls.simulate(w, ls.Policy(reserve="none", evict="all", **fields), memory=5, engine=engine, max_rounds=50_000)
        ends.append((caught.value.round, caught.value.remaining))
    assert ends[0] == ends[1] < (2000, 2)


# Section 6: the policies ----------------------------------------------------------------------------------------------

TABLE = """
hsf           | output  | output | 0    | progress | none     | -              | restart
amax          | upper   | upper  | 0    | progress | none     | -              | restart
amin          | bound   | bound  | 0    | bound    | progress | -              | restart
amin-doubling | bound   | bound  | 0    | bound    | double   | -              | restart
aell          | bound   | bound  | 0    | bound    | progress | bound -> upper | restart
mcsf          | point   | point  | 0    | progress | none     | -              | restart
mc-benchmark  | arrival | point  | 0    | progress | none     | -              | restart
fcfs          | arrival | none   | 0.01 | newest   | none     | -              | recompute
protection    | arrival | none   | 0.25 | all      | none     | -              | restart
clearing      | arrival | none   | 0.2  | random   | none     | -              | restart
svf           | volume  | output | 0    | progress | none     | -              | restart
"""


def test_the_table_of_policies():
    table = [[cell.strip() for cell in line.split("|")] for line in TABLE.strip().splitlines()]
    assert [row[0] for row in table] == list(ls.policies)[: len(table)]
    for name, order, reserve, margin, evict, refine, cap, resume in table:
        caps = {} if cap == "-" else dict(zip(("cap", "cap_refine"), cap.split(" -> "), strict=True))
        expected = ls.Policy(order, reserve, float(margin), "break", evict, 0.2, refine, **caps, resume=resume)
        assert ls.policies[name] == expected, name
        assert ls.policies[name].fields()["beta"] == 0.2
