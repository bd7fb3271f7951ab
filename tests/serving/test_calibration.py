"""Calibration: the clock that made a log is found again, and what a log cannot say is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from helpers.engine_logs import CLOCK, REQUESTS, STEPS, SYSTEM, engine_run, run_directory

import llmsched as ls
from llmsched.errors import InputError, TraceError
from llmsched.serving import calibration, logs, search
from llmsched.serving.records import Log, Steps

pytest.importorskip("scipy", reason="calibration from requests needs SciPy (extra serving)")

COEFFICIENTS = ("base", "per_request", "per_context_token", "per_prompt_token")


@pytest.fixture(scope="module")
def result() -> ls.Result:
    return engine_run()


def values(clock: ls.Clock) -> list[float]:
    return [getattr(clock, name) for name in COEFFICIENTS]


@pytest.mark.parametrize("format", ["recorder", "dynamo"])
def test_steps_give_back_the_clock_that_made_them(tmp_path: Path, format: str, result: ls.Result) -> None:
    found = ls.serving.calibrate(STEPS[format](tmp_path / "log", result))
    assert found.method == "steps"
    np.testing.assert_allclose(values(found.clock), values(CLOCK), rtol=1e-6)
    assert found.error < 1e-6
    assert found.held_out["error"] < 1e-6
    assert all(known.determined for known in found.profile.values())


def test_without_contexts_the_clock_has_no_term_for_them(tmp_path: Path, result: ls.Result) -> None:
    found = ls.serving.calibrate(STEPS["vllm-log"](tmp_path / "log", result))
    assert found.clock.per_context_token == 0
    assert any("does not say how long contexts were" in note for note in found.notes)
    assert any("asynchronous" in note for note in found.notes)
    assert found.error < 0.02


def test_noise_widens_the_ranges_and_they_hold_the_truth(tmp_path: Path, result: ls.Result) -> None:
    steps = logs.read(STEPS["recorder"](tmp_path / "log", result)).steps
    assert steps is not None
    rng = np.random.default_rng(3)
    found = calibration.of_steps(
        Steps(steps.seconds * np.exp(rng.normal(0, 0.05, len(steps))), steps.batch, steps.prefilled, steps.context)
    )
    for name, true in zip(COEFFICIENTS, values(CLOCK), strict=True):
        known = found.profile[name]
        assert known.low < known.high
        assert known.low * 0.98 <= true <= known.high * 1.02
    assert 0.03 < found.error < 0.06


def test_steps_that_stalled_do_not_move_the_clock(tmp_path: Path, result: ls.Result) -> None:
    steps = logs.read(STEPS["recorder"](tmp_path / "log", result)).steps
    assert steps is not None
    seconds = steps.seconds * np.exp(np.random.default_rng(3).normal(0, 0.01, len(steps)))
    seconds[::97] *= 40
    found = calibration.of_steps(Steps(seconds, steps.batch, steps.prefilled, steps.context))
    assert found.left_out >= len(seconds[::97])
    np.testing.assert_allclose(values(found.clock), values(CLOCK), rtol=0.1)


def test_steps_that_cannot_tell_terms_apart_are_refused() -> None:
    same = Steps(np.full(50, 0.02), np.full(50, 8), np.zeros(50, np.int64), np.full(50, 900))
    with pytest.raises(InputError, match="cannot tell apart the costs of constant, batch, context"):
        calibration.of_steps(same)
    with pytest.raises(InputError, match="5 steps are too few"):
        calibration.of_steps(Steps(*(np.ones(5, np.int64),) * 4))


def test_times_of_requests_alone_give_back_what_the_clock_predicts(tmp_path: Path, result: ls.Result) -> None:
    log = logs.read(REQUESTS["guidellm"](tmp_path / "log", result))
    found = ls.serving.calibrate(log, system=SYSTEM)
    assert found.method == "requests"
    assert found.error < 0.02
    assert all(abs(error) < 0.04 for error in found.held_out.values())
    # The term per request may hide in the base: a step of the usual batch lasts what it lasted.
    usual = (12, 6000)
    assert found.clock.duration(*usual) == pytest.approx(CLOCK.duration(*usual), rel=0.03)
    assert found.clock.per_prompt_token == pytest.approx(CLOCK.per_prompt_token, rel=0.1)


def test_a_run_of_lone_requests_cannot_tell_the_batch_from_the_base(tmp_path: Path) -> None:
    log = logs.read(REQUESTS["guidellm"](tmp_path / "log", engine_run(40, rate=0.005)))
    found = ls.serving.calibrate(log, system=SYSTEM)
    assert found.clock.per_request == 0
    assert any("per_request is 0: with it the times are met no better" in note for note in found.notes)


def test_requests_that_were_served_otherwise_are_refused(tmp_path: Path, result: ls.Result) -> None:
    log = logs.read(REQUESTS["guidellm"](tmp_path / "log", result))
    with pytest.raises(InputError, match=r"no clock gives these times.*--system"):
        ls.serving.calibrate(log, system="vllm:num-gpu-blocks=70,max-num-seqs=1")


def test_too_few_requests_are_refused(tmp_path: Path) -> None:
    log = logs.read(run_directory(tmp_path / "run", engine_run(19)))
    with pytest.raises(InputError, match="too few to calibrate a clock from, expected 20 at least"):
        ls.serving.calibrate(log)


def test_a_coefficient_is_determined_if_known_within_a_factor_of_two() -> None:
    assert search.Coefficient(1.0, 0.9, 1.1).determined
    assert not search.Coefficient(1.0, 0.5, 1.1).determined
    assert not search.Coefficient(0.0, 0.0, 0.0).determined


def test_tables_need_layers_and_only_they_take_communication(tmp_path: Path, result: ls.Result) -> None:
    (tmp_path / "attention.csv").write_text("prefill_chunk,kv_prefill,n_decode,kv_decode,time_us\n")
    with pytest.raises(InputError, match="how many layers"):
        ls.serving.calibrate(tmp_path)
    with pytest.raises(TraceError, match="there are no rows in it"):
        ls.serving.calibrate(tmp_path, layers=2)
    with pytest.raises(InputError, match="communication is for tables"):
        ls.serving.calibrate(Log("x", "run"), communication=1e-6)


def test_real_runs_are_met_on_the_third_that_was_held_out(data_file: Callable[[str], Path]) -> None:
    found = ls.serving.calibrate(data_file("engines/rtxpro6000_llama31_8b"))
    assert all(abs(error) < 0.02 for error in found.held_out.values())
    assert found.profile["base"].determined


def test_a_run_with_a_full_cache_cannot_tell_base_and_context_apart(data_file: Callable[[str], Path]) -> None:
    found = ls.serving.calibrate(data_file("engines/rtx4090_llama31_8b"))
    assert not found.profile["base"].determined
    assert not found.profile["per_context_token"].determined
    assert any("the run cannot tell base and per_context_token" in note for note in found.notes)


def test_a_calibration_shows_between_what_each_coefficient_can_be(tmp_path: Path, result: ls.Result) -> None:
    found = ls.serving.calibrate(STEPS["recorder"](tmp_path / "log", result))
    shown = found._repr_html_()
    base = found.profile["base"]
    for column in ("value", "at least", "at most", "known"):
        assert f"<th>{column}</th>" in shown
    for value in (found.clock.base, base.low, base.high):
        assert f"<td>{calibration.in_seconds(value)}</td>" in shown
    assert [calibration.in_seconds(x) for x in (0, 0.0123, 2e-7, 3.5, float("inf"))] == [
        "0",
        "12.3 ms",
        "200 ns",
        "3.5 s",
        "any",
    ]
