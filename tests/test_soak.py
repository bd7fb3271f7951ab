"""The soak of benchmarks/soak.py, for a moment: a live scheduler and fleets under faults."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "soak.py"


@pytest.fixture(scope="module")
def soak():
    spec = importlib.util.spec_from_file_location("soak", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules["soak"] = module  # where dataclasses look for it
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("day", range(12))
def test_a_server_loses_nobody_though_it_aborts_and_crashes(day, soak):
    number = soak.Counter()
    server = soak.Server(np.random.default_rng([7, day]), number)
    server.run(150, float("inf"))
    server.crash()
    assert number["requests"] == number["completed"] + number["aborted"] == 150


@pytest.mark.parametrize("number", range(3))
def test_a_fleet_whose_replicas_fail_loses_nobody(number, soak, monkeypatch):
    monkeypatch.setattr(soak, "FLEET", 800)
    done = soak.Counter()
    soak.fleet(np.random.default_rng([7, number]), done)
    assert done["fleets"] == 1
