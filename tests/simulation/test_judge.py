"""Every engine before a third judge, who knows docs/background/model.md alone."""

from __future__ import annotations

import pytest
from helpers.judge import judge
from helpers.strategies import simulations
from hypothesis import HealthCheck, assume, given, settings

import llmsched as ls
from llmsched.errors import LlmschedError

RECORD = ("timeline", "tokens")
UNHURRIED = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much]


@settings(max_examples=800, deadline=None, suppress_health_check=UNHURRIED)
@given(drawn=simulations())
def test_every_round_is_as_the_model_says(drawn):
    workload, policy, memory, seed, machine = drawn
    assume(policy.slots == "ahead")
    try:
        result = ls.simulate(workload, policy, memory=memory, seed=seed, record=RECORD, max_rounds=3000, **machine)
    except LlmschedError:
        assume(False)
    judge(result)
