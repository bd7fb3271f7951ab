"""Joules: by hand, added up round by round, and the figure of latency against energy."""

from __future__ import annotations

import dataclasses
import json
import math
from typing import Any

import numpy as np
import pytest
from helpers import strategies
from helpers.examples import examples
from hypothesis import given
from hypothesis import strategies as st

import llmsched as ls
from llmsched import errors
from llmsched.metrics import energy, service
from llmsched.simulation import reference
from llmsched.simulation.problem import problem_of

CLOCK = ls.Clock(base=1.0, per_prompt_token=0.5)
POWER = energy.Power(idle=10, busy=100, per_request=5, per_token=1)


class Metered(reference.ReferenceEngine):
    """The readable engine, writing down what every round did."""

    def __init__(self, problem: Any) -> None:
        super().__init__(problem, ())
        self.log: list[tuple[float, float, int, int]] = []  # begin, end, batch, tokens processed

    def generation(self) -> None:
        begin, running = self.now, [(r, r.generated) for r in self.running]
        super().generation()
        generated = sum(r.generated - before for r, before in running)
        self.log.append((begin, self.now, len(running), generated + self.prefilled))


@given(problem=strategies.problems(), machine=strategies.machines(), data=st.data())
@examples(150)
def test_joules_of_requests_and_idling_add_up_to_those_of_rounds(
    problem: Any, machine: Any, data: st.DataObject
) -> None:
    workload, memory = problem
    policy = data.draw(strategies.compositions(len(workload)))
    machine = {"clock": CLOCK, **machine}
    power = energy.Power(idle=7, busy=50, per_request=3, per_token=2, limit=data.draw(st.sampled_from([80, math.inf])))
    try:
        result = ls.simulate(workload, policy, memory=memory, record="tokens", **machine)
    except (errors.NotFinishedError, errors.MemoryTooSmallError):
        return
    engine = Metered(problem_of(workload, policy, memory, 0, **machine))
    while engine.unfinished:
        engine.run_round()
    watts = [min(50 + 3 * b + 2 * tokens, power.limit) for _, _, b, tokens in engine.log]
    spent = sum(w * (end - begin) for w, (begin, end, *_) in zip(watts, engine.log, strict=True))
    ran = sum(end - begin for begin, end, *_ in engine.log)
    found = energy.metrics(result, power)
    assert found.watts.tolist() == watts
    assert found.idle == pytest.approx(7 * (found.seconds - ran), abs=1e-6)
    assert found.per_request.sum() == pytest.approx(spent, rel=1e-9)
    assert found.total == pytest.approx(spent + found.idle, rel=1e-9)
    assert (found.per_request > 0).all()
    assert (found.wasted_per_request >= 0).all()
    assert (found.wasted_per_request <= found.per_request * (1 + 1e-9)).all()
    assert ((found.wasted_per_request == 0) | (result.evictions > 0)).all()
    if policy.resume == "restart":
        assert ((found.wasted_per_request > 0) == (result.evictions > 0)).all()


def test_one_request_by_hand() -> None:
    result = ls.simulate(ls.Workload([4], [3], arrival=[2.0]), "fcfs", memory=10, clock=CLOCK, record="tokens")
    found = energy.metrics(result, POWER)
    assert found.watts.tolist() == [110, 106, 106]  # the first round processes 1 + 4 tokens and takes 3 s
    assert found.per_request.tolist() == [110 * 3 + 106 * 2]
    assert (found.idle, found.wasted, found.seconds) == (0, 0, 5)
    assert found.joules_per_token == found.total / 3
    assert found.mean_watts == found.total / 5


def test_a_restart_wastes_the_whole_attempt() -> None:
    workload = ls.Workload(prompt=0, output=[6, 6], lower=4, upper=8)  # model.md, example 6
    result = ls.simulate(workload, "amin", memory=6, seed=None, clock=ls.Clock(base=1.0), record="tokens")
    found = energy.metrics(result, energy.Power(idle=0, busy=1))
    assert found.total == result.makespan == 25
    running = [0] * 25  # a joule a round, shared equally by those that run
    log = list(zip(result.tokens.request, result.tokens.first_round, result.tokens.generated, strict=True))
    for _, first, tokens in log:
        for k in range(first, first + tokens):
            running[k] += 1
    wasted = [0.0, 0.0]
    for request, first, tokens in log:
        if tokens < 6:
            wasted[request] += sum(1 / running[k] for k in range(first, first + tokens))
    assert found.wasted_per_request == pytest.approx(wasted)
    assert min(wasted) > 0


def test_recompute_wastes_the_prefill_it_repeats_and_swap_the_moves() -> None:
    workload = ls.Workload(prompt=[0, 0], output=[3, 3])
    options: dict[str, Any] = {"memory": 4, "seed": None, "record": "tokens"}
    flat = energy.Power(idle=0, busy=1)
    result = ls.simulate(workload, "fcfs", clock=CLOCK, **options)
    found = energy.metrics(result, flat)
    # Rounds of 1, 1, 1, 2 s: the last one recomputes the two tokens that the second request had, in 1 s
    assert found.total == result.makespan == 5
    assert found.wasted_per_request.tolist() == [0, 1]
    assert found.per_request.tolist() == [2, 3]
    swap = dataclasses.replace(ls.policies["fcfs"], resume="swap")
    clock = ls.Clock(base=1.0, per_swapped_token=0.25)
    found = energy.metrics(ls.simulate(workload, swap, clock=clock, **options), flat)
    assert found.wasted_per_request.tolist() == [0, 1]  # two tokens out, two tokens in
    assert found.total == 5
    assert found.per_request.tolist() == [2, 3]


def test_idle_time_draws_idle_power() -> None:
    workload = ls.Workload([0, 0], [2, 2], arrival=[1.0, 11.0])
    found = energy.metrics(ls.simulate(workload, "fcfs", memory=9, clock=CLOCK, record="tokens"), POWER)
    assert found.idle == 10 * 8
    assert found.seconds == 12


def test_summary_columns_and_an_empty_run() -> None:
    result = ls.simulate(ls.generate.lmsys(30), "fcfs", memory=3000, clock=CLOCK, record="tokens")
    found = energy.metrics(result, "example-2xa100")
    json.dumps(found.summary())
    assert found.summary()["total"] == found.total
    assert found.to_pandas()["joules"].sum() == pytest.approx(found.per_request.sum())
    assert "J per output token" in repr(found)
    empty = energy.metrics(ls.simulate(ls.Workload([], []), "fcfs", memory=9, clock=CLOCK, record="tokens"), POWER)
    assert empty.total == 0
    assert math.isnan(empty.joules_per_token)
    assert empty.wasted_share == 0


def test_bad_power_is_refused() -> None:
    for bad in ({"idle": -1}, {"idle": math.nan}, {"idle": True}, {"idle": "1"}, {"idle": 1, "per_token": math.inf}):
        with pytest.raises(errors.InputError, match="must be a number of watts"):
            energy.Power(**bad)
    with pytest.raises(errors.InputError, match="limit=5 is below idle=1 or busy=9"):
        energy.Power(idle=1, busy=9, limit=5)
    assert energy.Power(idle=3).busy_watts == 3
    result = ls.simulate(ls.Workload([1], [1]), "fcfs", memory=9, record="tokens")
    with pytest.raises(errors.InputError, match="had no clock"):
        energy.metrics(result, POWER)
    with pytest.raises(errors.InputError, match="did you mean 'example-2xa100'"):
        energy.metrics(result, "example-2xa10")
    with pytest.raises(errors.InputError, match='record="tokens"'):
        energy.metrics(ls.simulate(ls.Workload([1], [1]), "fcfs", memory=9, clock=CLOCK), POWER)


def test_named_power_models_are_examples_or_name_their_source() -> None:
    for name, model in energy.powers.items():
        assert model.source
        assert name.startswith("example") == ("an example" in model.source)
        assert model.fields()["limit"] == model.limit


def test_latency_against_energy_is_drawn() -> None:
    pytest.importorskip("matplotlib", reason="figures need matplotlib (extra plot)")
    from llmsched.metrics import figures

    workload = ls.generate.poisson(ls.generate.lmsys(60), 3)
    by_memory = [ls.simulate(workload, "fcfs", memory=m, clock=CLOCK, record="tokens") for m in (1000, 2000)]
    by_batch = [ls.simulate(workload, "hsf", memory=2000, max_batch=m, clock=CLOCK, record="tokens") for m in (4, None)]
    axes = figures.tradeoff({"fcfs": by_memory, "hsf": by_batch, "own": by_memory[0]}, POWER, metric="ttft", q=50)
    # The points are drawn once more above the labels of others, without a label of their own.
    lines = {str(line.get_label()): line for line in axes.get_lines() if not str(line.get_label()).startswith("_")}
    assert list(lines) == ["fcfs", "hsf", "own"]
    assert lines["fcfs"].get_xdata()[1] == energy.metrics(by_memory[1], POWER).joules_per_token
    assert lines["hsf"].get_ydata()[0] == service.metrics(by_batch[0]).percentile("ttft", 50)
    assert {text.get_text() for text in axes.texts} >= {"1,000", "2,000", "4", "none"}
    assert "joules" in axes.get_xlabel()
    assert axes.get_ylabel() == "time to first token, p50 (seconds)"
    assert figures.tradeoff({}, POWER).has_data() is False
    near = [ls.simulate(workload, "fcfs", memory=m, clock=CLOCK, record="tokens") for m in (90_000, 100_000)]
    first, second = figures.tradeoff({"fcfs": near}, POWER).texts
    assert first.get_position()[1] > second.get_position()[1]  # two texts in one place are below each other
    twice = figures.tradeoff(
        {"a": by_memory, "b": by_memory}, POWER
    )  # a text that is there already is not written again
    assert sorted(text.get_text() for text in twice.texts) == ["1,000", "2,000"]
    assert np.isfinite(axes.get_ylim()).all()
