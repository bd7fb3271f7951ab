"""What each router does, by hand. With ``seed=None`` the first of equal replicas takes a request."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

import llmsched as ls
from llmsched.fleet.reference import below
from llmsched.fleet.router import DESCRIPTIONS, named
from llmsched.simulation.reference import splitmix64

ENGINES = ("compiled", "reference")


def taken_by(workload, router, replicas=2, *, seed=None, memory=1000, policy="fcfs", **options):
    """Who takes each request, if both engines say the same."""
    one, other = (
        ls.simulate_fleet(
            workload, policy, replicas=replicas, router=router, memory=memory, seed=seed, engine=engine, **options
        ).replica.tolist()
        for engine in ENGINES
    )
    assert one == other
    return one


def requests(output, arrival, prompt=1, **columns):
    return ls.Workload(np.broadcast_to(prompt, np.shape(output)), output, arrival=arrival, **columns)


def test_round_robin_takes_turns():
    assert taken_by(requests([3] * 7, range(7)), "round-robin", 3) == [0, 1, 2, 0, 1, 2, 0]


def test_round_robin_goes_by_arrival_and_then_by_place():
    w = requests([3] * 4, [5, 0, 0, 2])
    assert taken_by(w, "round-robin") == [1, 0, 1, 0]


def test_round_robin_passes_over_a_replica_that_cannot_hold_the_request():
    w = requests([3] * 3, range(3), prompt=[90, 90, 1])
    replicas = [ls.Replica(memory=50), ls.Replica(memory=100)]
    assert taken_by(w, "round-robin", replicas) == [1, 1, 0]


def test_random_draws_of_splitmix64():
    stream = splitmix64(7)
    drawn = [below(stream, 3) for _ in range(50)]
    assert taken_by(requests([1] * 50, range(50)), "random", 3, seed=7) == drawn
    assert set(drawn) == {0, 1, 2}


def test_least_requests_counts_who_has_not_completed():
    w = requests([10, 1, 1, 1], [0, 1, 2.5, 2.6])
    # 0 is on the first until 10; 1 goes to the second, is done at 2; 2 goes there; then both have one.
    assert taken_by(w, "least-requests") == [0, 1, 1, 0]


def test_a_request_that_completes_as_another_arrives_is_gone():
    assert taken_by(requests([9, 2, 5], [0, 0, 2]), "least-requests") == [0, 1, 1]


def test_of_equals_one_is_drawn_unless_the_seed_is_none():
    w = requests([1] * 40, range(0, 80, 2))  # every replica is empty as each arrives
    assert taken_by(w, "least-requests", 4) == [0] * 40
    stream = splitmix64(3)
    assert taken_by(w, "least-requests", 4, seed=3) == [below(stream, 4) for _ in range(40)]


def test_least_tokens_looks_at_the_cache_of_running_requests():
    w = requests([20, 20, 20], [0, 0.5, 1.5], prompt=[50, 1, 1])
    assert taken_by(w, "least-tokens") == [0, 1, 1]
    assert taken_by(w, "least-requests") == [0, 1, 0]


def test_least_waiting_looks_at_who_does_not_run():
    # One at a time: the first has one who runs; the second none who waits, until it took two.
    w = requests([20] * 4, [0, 0.5, 1.5, 2.5])
    assert taken_by(w, "least-waiting", max_batch=1) == [0, 0, 1, 1]


def test_least_work_looks_at_the_prediction_that_it_is_told():
    w = requests([10, 2, 2], [0, 0.5, 0.6], lower=[1, 5, 2], upper=[20, 30, 9], point=[10, 2, 2])
    assert taken_by(w, "least-work") == [0, 1, 1]
    assert taken_by(w, "least-work,work=lower") == [0, 1, 0]
    assert taken_by(w, "least-work,work=upper") == [0, 1, 0]
    assert taken_by(w, "least-work,work=30 - point") == [0, 1, 0]


def test_generated_tokens_are_work_no_longer():
    w = requests([10, 7, 3], [0, 0.5, 5.5], point=[10, 7, 3])
    # At 5.5, the first has generated 5 of 10, the second (which began at 0.5) 5 of 7.
    assert taken_by(w, "least-work") == [0, 1, 1]


def test_two_choices_of_two_replicas_are_all_of_them():
    w = requests([5, 1, 4, 2, 2, 9, 1], [0, 0, 1, 1.5, 2, 4, 4])
    assert taken_by(w, "power-of-two") == taken_by(w, "least-requests")


def test_power_of_two_never_takes_the_one_with_the_most_requests():
    # All of the first thirty fit the first replica alone; of any two of three it is the one with more.
    prompt = [80] * 30 + [1] * 30
    w = requests([200] * 30 + [1] * 30, np.arange(60) * 3.0, prompt=prompt)
    replicas = [ls.Replica(memory=10_000), ls.Replica(memory=50), ls.Replica(memory=50)]
    replica = taken_by(w, "power-of-two", replicas, seed=1)
    assert set(replica[:30]) == {0}
    assert set(replica[30:]) == {1, 2}


def test_one_choice_is_random():
    w = requests([5] * 30, range(30))
    assert taken_by(w, "least-requests,choices=1", 4, seed=5) == taken_by(w, "random", 4, seed=5)


def test_join_idle_queue_takes_an_idle_one_or_any():
    w = requests([50, 1, 1, 50, 1], [0, 1, 5, 5.5, 5.6])
    # The second is idle at 1 and at 5; from 5.5 nobody is.
    assert taken_by(w, "join-idle-queue") == [0, 1, 1, 0, 0]
    drawn = taken_by(requests([500] * 40, range(40)), "join-idle-queue", 2, seed=2)
    assert set(drawn[:2]) == set(drawn[2:]) == {0, 1}


def test_short_and_long_requests_have_replicas_of_their_own():
    # Token-rounds, s o + o(o+1)/2 with s = 1: the ten of 3 tokens take 9 each, 90 together; that of 12 takes 90.
    point = [3] * 5 + [12] + [3] * 5
    w = requests([2] * 11, np.arange(11.0), point=point)
    replica = taken_by(w, "length-classes", 4)
    assert [k >= 2 for k in replica] == [p == 12 for p in point]


def test_classes_share_the_believed_work_as_replicas_are_shared():
    rng = np.random.default_rng(1)
    point = rng.integers(1, 1000, 5000)
    w = ls.Workload(0, point, point=point, arrival=np.arange(5000.0))
    fleet = ls.simulate_fleet(w, "fcfs", replicas=5, router="length-classes", memory=100_000)
    work = point * (point + 1) / 2
    short = fleet.replica < 2  # two replicas of five
    assert work[short].sum() / work.sum() == pytest.approx(2 / 5, abs=0.01)
    assert point[short].max() < point[~short].min()


def test_a_session_stays_where_it_was():
    w = requests([50, 1, 1, 1], [0, 1, 5, 6], session=[7, 8, 7, 8])
    assert taken_by(w, "session") == [0, 1, 0, 1]
    assert taken_by(w, "least-requests") == [0, 1, 1, 1]


def test_a_session_moves_if_its_next_turn_does_not_fit():
    w = requests([1, 1, 1], [0, 5, 9], prompt=[1, 90, 1], session=[4, 4, 4])
    replicas = [ls.Replica(memory=50), ls.Replica(memory=100)]
    assert taken_by(w, "session", replicas) == [0, 1, 1]


def test_an_old_view_herds():
    """Until 10, nobody has been seen anywhere: all go to the first. Then one is seen there, and all avoid it."""
    w = requests([50] * 12, range(12))
    assert taken_by(w, "least-requests", 4) == [0, 1, 2, 3] * 3
    assert taken_by(w, "least-requests,delay=10", 4) == [0] * 10 + [1, 1]


def test_a_formula_weighs_what_the_router_sees():
    w = requests([20, 20, 20], [0, 0.5, 1.5], prompt=[50, 1, 1])
    for router, other in (("used", "least-tokens"), ("requests", "least-requests")):
        assert taken_by(w, ls.Router(score=f"{router} + 0")) == taken_by(w, other)
    assert taken_by(w, ls.Router(score="-requests")) == [0, 0, 0]


def test_a_formula_knows_the_speed_of_replicas_that_differ():
    slow, fast = ls.Clock(base=1.0), ls.Clock(base=0.25)
    replicas = [ls.Replica(clock=slow), ls.Replica(clock=fast)]
    w = requests([100] * 5, np.arange(5) / 100)
    # The fast one gets four times as many: (requests + 1) / speed is 1 against 0.25, 0.5, 0.75, 1.
    assert taken_by(w, ls.Router(score="(requests + 1) / speed"), replicas) == [1, 1, 1, 0, 1]


def test_a_central_queue_gives_to_whoever_can_admit_first():
    # Each needs the cache for itself. The first replica is busy until 4, the second, from 0.5, until 2.5.
    w = requests([4, 2, 5, 1], [0, 0.5, 0.6, 0.7], prompt=94)
    assert taken_by(w, "central-queue", memory=100) == [0, 1, 1, 0]
    result = ls.simulate_fleet(w, "fcfs", replicas=2, router="central-queue", memory=100)
    assert result.start.tolist() == [0, 0.5, 2.5, 4]


def test_a_central_queue_is_in_the_order_of_the_policy():
    w = requests([3, 3, 9, 1], [0, 0, 1, 1], prompt=90, point=[3, 3, 9, 1])
    assert taken_by(w, "central-queue", policy="mcsf", memory=100) == [0, 1, 1, 0]
    assert taken_by(w, "central-queue", policy="fcfs", memory=100) == [0, 1, 0, 1]


def test_of_replicas_that_begin_together_the_emptier_asks_first():
    # One at a time and replica: at 1 the second is done, while the first has one that runs, and room for one more.
    w = requests([9, 1, 1], [0, 0, 1])
    assert taken_by(w, "central-queue", max_batch=1) == [0, 1, 1]
    assert taken_by(requests([9, 1], [0, 1]), "central-queue", max_batch=2) == [0, 1]


def test_a_replica_that_cannot_hold_the_first_takes_nobody():
    w = requests([2, 9, 1], [0, 0, 0], prompt=[1, 90, 1])
    replicas = [ls.Replica(memory=50), ls.Replica(memory=101, max_batch=1)]
    # The first goes to the first replica; the second only to the other, and the third comes after it.
    assert taken_by(w, "central-queue", replicas, max_batch=1) == [0, 1, 0]
    assert ls.simulate_fleet(w, "fcfs", replicas=replicas, router="central-queue").start.tolist() == [0, 0, 1]


def test_what_a_replica_evicted_stays_with_it_and_goes_first():
    # Both run in 10 tokens, until the newest is evicted; it comes back before the one that is in the queue.
    w = requests([6, 6, 1], [0, 0, 2], prompt=[1, 1, 4])
    alone = [ls.Replica(memory=10), ls.Replica(memory=1)]
    fleet = ls.simulate_fleet(w, "fcfs", replicas=alone, router="central-queue")
    assert fleet.replica.tolist() == [0, 0, 0]
    assert fleet.evictions.tolist() == [0, 1, 0]
    assert fleet.completion[1] <= fleet.start[2] + 1


def test_a_name_with_fields_is_the_router_with_them():
    assert named("least-work,work=upper,delay=0.5") == ls.routers["least-work"].replace(work="upper", delay=0.5)
    assert named("power-of-two,choices=3").choices == 3
    assert named("session,sessions=false") == ls.routers["least-requests"]
    assert named("least-work,name=mine").name == "mine"
    assert named("least-requests,score=min(used, free)").formula is not None


@pytest.mark.parametrize("name", ls.routers)
def test_named_routers_know_their_name_and_their_fields(name):
    router = ls.routers[name]
    assert router.name == name
    assert ls.Router(**router.fields()) == router
    assert eval(repr(router), {"Router": ls.Router}) == router
    assert DESCRIPTIONS.keys() == ls.routers.keys()
    assert router.fields().keys() == {f.name for f in dataclasses.fields(ls.Router)} - {"name"}
