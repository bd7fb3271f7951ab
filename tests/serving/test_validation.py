"""Validation: a run against its simulation, and how a system is written."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import ROOT
from helpers.engine_logs import CLOCK, REQUESTS, SYSTEM, engine_run, recorder, run_directory, vllm_log
from helpers.figure_texts import unreadable

import llmsched as ls
from llmsched.errors import InputError
from llmsched.serving import logs, systems
from llmsched.serving.records import Log, Requests

pytest.importorskip("scipy", reason="calibration from requests needs SciPy (extra serving)")


@pytest.fixture(scope="module")
def result() -> ls.Result:
    return engine_run()


@pytest.mark.parametrize("format", REQUESTS)
def test_with_the_clock_that_made_it_a_run_has_no_error(tmp_path: Path, format: str, result: ls.Result) -> None:
    found = ls.serving.validate(REQUESTS[format](tmp_path / "log", result), SYSTEM, clock=CLOCK)
    for of in (*found.errors.values(), *found.per_request.values()):
        assert all(abs(error) < 1e-3 for error in of.values())
    assert "are right to within 5%" in found.verdict


def test_settings_that_are_left_out_are_those_of_the_log(tmp_path: Path, result: ls.Result) -> None:
    path = run_directory(tmp_path / "run", result)
    said, read = (ls.serving.validate(path, system, clock=CLOCK) for system in (SYSTEM, "vllm"))
    assert said.errors == read.errors
    assert read.system.settings == {
        "num_gpu_blocks": 700, "block_size": 16, "max_num_seqs": 24, "max_num_batched_tokens": 512,
    }  # fmt: skip


def test_errors_are_signed_shares_of_what_was_measured(tmp_path: Path, result: ls.Result) -> None:
    log = logs.read(run_directory(tmp_path / "run", result))
    requests = log.requests
    assert requests is not None
    longer = dataclasses.replace(
        requests,
        first_token=requests.arrival + 2 * requests.ttft,
        completion=requests.arrival + 2 * requests.latency,
    )
    found = ls.serving.validate(Log("x", "run", None, longer, log.settings), clock=CLOCK)
    for name in ("latency", "ttft", "tpot"):
        assert found.errors[name]["mean"] == pytest.approx(-0.5, abs=1e-3)
        assert found.per_request[name]["p50"] == pytest.approx(0.5, abs=1e-3)
    assert "off" in found.verdict
    assert "short" in found.verdict


def test_a_fit_to_the_first_half_is_judged_on_the_other_alone(tmp_path: Path, result: ls.Result) -> None:
    log = logs.read(run_directory(tmp_path / "run", result))
    found = ls.serving.validate(log, fit_fraction=0.5)
    assert (found.fitted, len(found.measured)) == (60, 60)
    assert log.requests is not None
    np.testing.assert_array_equal(found.measured.arrival, log.requests.arrival[60:])
    for name in ("latency", "ttft", "tpot"):
        assert abs(found.errors[name]["mean"]) < 0.03

    # Times of the second half are never seen: the clock is the same whatever they are.
    late = np.arange(120) >= 60
    other = dataclasses.replace(log.requests, completion=log.requests.completion + 100 * late)
    again = ls.serving.validate(Log("x", "run", None, other, log.settings), fit_fraction=0.5)
    assert again.clock == found.clock
    assert again.errors["latency"]["mean"] < -0.5


def test_without_first_tokens_only_latency_is_compared(tmp_path: Path, result: ls.Result) -> None:
    log = logs.read(run_directory(tmp_path / "run", result))
    assert log.requests is not None
    blind = dataclasses.replace(log.requests, first_token=np.full(120, np.nan))
    found = ls.serving.validate(Log("x", "run", None, blind, log.settings), clock=CLOCK)
    assert list(found.errors) == ["latency"]
    fitted = ls.serving.validate(Log("x", "run", None, blind, log.settings), fit_fraction=0.5)
    assert abs(fitted.errors["latency"]["mean"]) < 0.05


@pytest.mark.parametrize("fit", [{"clock": CLOCK}, {"fit_fraction": 0.5}])
def test_no_two_texts_of_the_figure_overlap(tmp_path: Path, result: ls.Result, fit: dict[str, Any]) -> None:
    pytest.importorskip("matplotlib")
    found = ls.serving.validate(run_directory(tmp_path / "run", result), **fit)
    assert unreadable(found.plot()) == []


def test_requests_go_to_several_engines_in_turn(tmp_path: Path, result: ls.Result) -> None:
    log = logs.read(run_directory(tmp_path / "run", result))
    requests = log.requests
    assert requests is not None
    one = systems.of_log(SYSTEM, log)
    two = systems.of_log(SYSTEM + ",data-parallel-size=2", log)
    assert two.engines == 2
    assert "in turn" in two.notes[0]
    first, completion = two.replay(requests)(CLOCK)
    for engine in (0, 1):
        own = np.arange(120) % 2 == engine
        alone = Requests(**{f.name: getattr(requests, f.name)[own] for f in dataclasses.fields(requests)})
        np.testing.assert_array_equal(one.replay(alone)(CLOCK)[0], first[own])
        np.testing.assert_array_equal(one.replay(alone)(CLOCK)[1], completion[own])


def test_a_cache_that_nobody_knows_is_never_full(tmp_path: Path, result: ls.Result) -> None:
    log = logs.read(REQUESTS["guidellm"](tmp_path / "log", result))
    system = systems.of_log("vllm", log)
    assert "taken never to be full" in system.notes[0]
    assert log.requests is not None
    assert system.settings["num_gpu_blocks"] * 16 >= (log.requests.prompt + log.requests.output).sum()


REFUSED: list[tuple[str, dict[str, Any], str]] = [
    ("vlm", {}, "there is no system 'vlm'; did you mean 'vllm'"),
    ("vllm:max-num-seq=3", {}, "system vllm has no setting 'max-num-seq'; did you mean 'max-num-seqs'"),
    ("vllm:max-num-seqs", {}, "'max-num-seqs' is no setting, expected NAME=VALUE"),
    ("vllm:max-num-seqs=many", {}, "max-num-seqs='many' is not a whole number"),
    ("vllm:watermark=much", {}, "watermark='much' is not a number"),
    ("vllm:scheduling-policy=lifo", {}, "scheduling_policy='lifo' is unknown"),
    (
        "vllm",
        {"pipeline_parallel_size": 2},
        "recorded with pipeline_parallel_size=2, which a simulation cannot express",
    ),
    ("vllm", {"speculative_config": "eagle"}, "recorded with speculative_config='eagle'"),
    ("vllm", {"speculative_config": {"method": "ngram"}}, "recorded with speculative_config={'method': 'ngram'}"),
    ("vllm", {"num_speculative_tokens": 3}, "recorded with num_speculative_tokens=3"),
    ("vllm", {"kv_transfer_config": {"kv_role": "kv_both"}}, "recorded with kv_transfer_config"),
    ("vllm", {"enable_lora": True}, "recorded with enable_lora=True"),
]


def test_meta_json_hides_no_setting(tmp_path: Path, result: ls.Result) -> None:
    folder = run_directory(tmp_path / "run", result)
    meta = json.loads((folder / "meta.json").read_text(encoding="utf-8"))
    for where in (meta, meta.setdefault("engine_kwargs", {})):
        where["speculative_config"] = {"method": "ngram", "num_speculative_tokens": 3}
        (folder / "meta.json").write_text(json.dumps(meta), encoding="utf-8")
        with pytest.raises(InputError, match="speculative_config"):
            ls.serving.validate(logs.read(folder), clock=CLOCK)
        where["speculative_config"] = None
    (folder / "meta.json").write_text(json.dumps(meta | {"vllm_version": "0.45.1"}), encoding="utf-8")
    assert "recorded with vLLM 0.45.1" in "; ".join(ls.serving.validate(logs.read(folder), clock=CLOCK).notes)


def test_cached_prefixes_of_a_log_are_simulated(tmp_path: Path, result: ls.Result) -> None:
    """A request that is preempted finds a part of its own blocks again, so that less is processed."""
    log = logs.read(run_directory(tmp_path / "run", result))
    assert log.requests is not None
    tight = {**log.settings, "num_gpu_blocks": 80, "enable_prefix_caching": True}
    on = ls.serving.validate(dataclasses.replace(log, settings=tight), clock=CLOCK)
    off = ls.serving.validate(log, "vllm:num-gpu-blocks=80,enable-prefix-caching=false", clock=CLOCK)
    assert on.system.settings["enable_prefix_caching"] is True
    assert "no two prompts are taken to begin alike" in on.notes[-1]
    assert on.simulated.latency.mean() != off.simulated.latency.mean()


def test_the_verdict_names_percentiles_that_are_further_off(tmp_path: Path, result: ls.Result) -> None:
    log = logs.read(run_directory(tmp_path / "run", result))
    assert log.requests is not None
    first = log.requests.first_token.copy()
    slow = np.argsort(log.requests.ttft)[-len(first) // 10 :]  # of a few the first token came much earlier
    first[slow] = log.requests.arrival[slow] + log.requests.ttft[slow] * 0.8
    changed = dataclasses.replace(log, requests=dataclasses.replace(log.requests, first_token=first))
    found = ls.serving.validate(changed, clock=CLOCK)
    worst = max(abs(error) for of in found.errors.values() for error in of.values())
    assert worst > 0.05
    assert "off" in found.verdict or "other percentiles" in found.verdict or f"{worst:.1%}" in found.verdict


def test_a_validation_shows_its_table_and_the_verdict_in_lines_that_wrap(tmp_path: Path, result: ls.Result) -> None:
    found = ls.serving.validate(run_directory(tmp_path / "run", result), clock=CLOCK)
    shown = found._repr_html_()
    caption = shown.partition("</caption>")[0]  # does not wrap, and would push the columns out of sight
    assert "120 requests of vllm, measured and simulated" in caption
    assert found.verdict not in caption
    assert found.verdict in shown.partition("</table>")[2]


@pytest.mark.parametrize(("text", "settings", "message"), REFUSED)
def test_systems_that_are_not_known_are_refused(
    tmp_path: Path, result: ls.Result, text: str, settings: dict[str, Any], message: str
) -> None:
    log = logs.read(run_directory(tmp_path / "run", result))
    log = dataclasses.replace(log, settings={**log.settings, **settings})
    with pytest.raises(InputError, match=message):
        ls.serving.validate(log, text, clock=CLOCK)


def test_what_cannot_be_compared_is_refused(tmp_path: Path, result: ls.Result) -> None:
    path = run_directory(tmp_path / "run", result)
    for options, message in (
        ({}, "give either a clock or a share"),
        ({"clock": CLOCK, "fit_fraction": 0.5}, "give either a clock or a share"),
        ({"fit_fraction": 1.5}, "fit_fraction is 1.5, expected a share"),
        ({"fit_fraction": 0.05}, "6 requests are too few"),
        ({"clock": "qwen3-32b-4xh100-vlm"}, "did you mean 'qwen3-32b-4xh100-vllm'"),
    ):
        with pytest.raises(InputError, match=message):
            ls.serving.validate(path, **options)
    with pytest.raises(InputError, match="times of steps and not those of requests"):
        ls.serving.validate(vllm_log(tmp_path / "log", result), clock=CLOCK)


def test_the_recorder_of_a_run_says_its_settings(tmp_path: Path, result: ls.Result) -> None:
    found = ls.serving.validate(recorder(tmp_path / "r.jsonl", result), clock=CLOCK)
    assert found.system.settings["num_gpu_blocks"] == 700


PAGE = (ROOT / "docs" / "background" / "fidelity.md").read_text(encoding="utf-8")
SHOWN = [("latency", "mean"), ("latency", "p50"), ("latency", "p99"), ("ttft", "mean"), ("tpot", "mean")]
RUNS = {"rtx4090_llama31_8b": "RTX 4090", "rtxpro6000_llama31_8b": "RTX PRO 6000"}


@pytest.mark.parametrize("run", RUNS)
def test_real_runs_are_right_and_the_page_says_how_right(data_file: Callable[[str], Path], run: str) -> None:
    found = ls.serving.validate(data_file(f"engines/{run}"), fit_fraction=0.5)
    assert abs(found.errors["latency"]["mean"]) < 0.02
    for name, which in SHOWN:
        assert abs(found.errors[name][which]) < 0.05

    (row,) = re.findall(rf"^\| {RUNS[run]} \| from the first half.*$", PAGE, re.MULTILINE)
    shown = [float(cell.replace("−", "-")) for cell in re.findall(r"([+−][\d.]+) %", row)]
    measured = [found.errors[name][which] for name, which in SHOWN]
    np.testing.assert_allclose(shown, np.multiply(measured, 100), atol=1.5)
