"""`llmsched calibrate` and `llmsched validate` on the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

pytest.importorskip("typer", reason="the command line needs typer (extra cli)")
pytest.importorskip("rich", reason="the command line needs rich (extra cli)")
pytest.importorskip("scipy", reason="calibration needs SciPy (extra serving)")

from helpers.command_line import Refused, run
from helpers.engine_logs import CLOCK, SYSTEM, engine_run, recorder, run_directory

import llmsched as ls


@pytest.fixture(scope="module")
def result() -> ls.Result:
    return engine_run()


def test_calibrate_writes_a_clock_that_validate_takes(tmp_path: Path, result: ls.Result) -> None:
    log = recorder(tmp_path / "run.jsonl", result)
    clock = tmp_path / "clock.toml"
    printed = run("calibrate", str(log), "-o", str(clock))
    assert "clock from" in printed
    assert "12 ms" in printed
    assert ls.Clock.read(clock).base == pytest.approx(CLOCK.base)
    found = json.loads(run("validate", str(log), "--clock", str(clock), "--json"))
    assert set(found["errors"]) == {"latency", "ttft", "tpot"}
    assert set(found["errors"]["latency"]) == {"mean", "p50", "p90", "p99"}
    assert abs(found["errors"]["latency"]["mean"]) < 1e-3


def test_calibrate_writes_a_machine_that_other_commands_take(tmp_path: Path, result: ls.Result, capsys) -> None:
    log = run_directory(tmp_path / "run", result)
    file = tmp_path / "mine.toml"
    assert f"wrote {file}" in run("calibrate", str(log), "--machine", str(file))
    machine = ls.Machine.read(file)
    assert (machine.memory, machine.block, machine.max_batch, machine.prefill_budget) == (700 * 16, 16, 24, 512)
    assert machine.clock.base == pytest.approx(CLOCK.base, rel=0.2)
    assert "num-gpu-blocks=700" in machine.source
    out = json.loads(run("compare", str(log / "requests.jsonl"), "--machine", str(file), "--policy", "vllm", "--json"))
    (found,) = [row for row in out["policies"] if row["policy"] == "vllm"]
    assert found["mean_latency"] == pytest.approx(result.mean_latency, rel=0.02)
    steps = tmp_path / "steps.jsonl"
    steps.write_text(
        "\n".join(line for line in recorder(steps, result).read_text().splitlines() if "engine" not in line)
    )
    said = Refused(capsys)("calibrate", str(steps), "--machine", str(file))
    assert "does not say how large the cache is: give the blocks that requests can use" in said


def test_a_clock_file_and_the_cache_of_a_system_are_a_machine(tmp_path: Path, result: ls.Result) -> None:
    log, clock = run_directory(tmp_path / "run", result), tmp_path / "clock.toml"
    CLOCK.write(clock)
    trace = str(log / "requests.jsonl")
    out = json.loads(run("compare", trace, "--clock", str(clock), "--system", SYSTEM, "--policy", "fcfs", "--json"))
    assert out["memory"] == 700 * 16
    (found,) = [row for row in out["policies"] if row["policy"] == "system vllm"]
    assert found["mean_latency"] == pytest.approx(result.mean_latency, rel=1e-5)


def test_calibrate_prints_as_json_what_the_library_finds(tmp_path: Path, result: ls.Result) -> None:
    log = recorder(tmp_path / "run.jsonl", result)
    found = json.loads(run("calibrate", str(log), "--json"))
    assert found["clock"] == json.loads(json.dumps(ls.serving.calibrate(log).clock.fields()))
    assert found["method"] == "steps"


def test_validate_judges_and_draws(tmp_path: Path, result: ls.Result) -> None:
    pytest.importorskip("matplotlib")
    figure = tmp_path / "figure.svg"
    log = run_directory(tmp_path / "run", result)
    printed = run("validate", str(log), "--system", "vllm", "--fit-fraction", "0.5", "--plot", str(figure))
    assert "60 requests, clock fitted to the 60 that came before" in printed
    assert "latency, mean" in printed
    assert "right to within 5%" in printed
    assert "measured latency (s)" in figure.read_text()


def test_mistakes_are_told_in_a_line(tmp_path: Path, result: ls.Result, capsys: pytest.CaptureFixture[str]) -> None:
    refused = Refused(capsys)
    log = str(run_directory(tmp_path / "run", result))
    assert "give either a clock" in refused("validate", log)
    assert "nowhere: No such file" in refused("validate", "nowhere", "--fit-fraction", "0.5")
    assert "--only is for published points" in refused("calibrate", log, "--only", "x")
    assert "there is no directory" in refused("calibrate", log, "-o", str(tmp_path / "no" / "c.toml"))
