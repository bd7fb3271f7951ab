"""`compare --result` and `--fail-if`: others' results as rows, and the exit codes that a CI job sees."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("typer", reason="the command line needs typer (extra cli)")
pytest.importorskip("rich", reason="the command line needs rich (extra cli)")

from helpers.command_line import CLOCK, Refused, compared, run, served
from typer.testing import CliRunner

import llmsched as ls
from llmsched.cli.main import app, main
from llmsched.simulation.result import Result

ROWS = ["--policy", "hsf", "--policy", "fcfs"]
TIMED = ["--clock", CLOCK]
ARGS = ["--limit", "80", "--memory", "2000", *ROWS]


def workload() -> ls.Workload:
    return ls.generate.lmsys(80).with_intervals(ls.intervals.buckets(100))


def written(path: Path, result: Result, columns: tuple[str, ...] = ("start", "completion", "evictions")) -> Path:
    rows = np.column_stack([getattr(result, name) for name in columns])
    np.savetxt(path, rows, fmt="%.17g", delimiter=",", header=",".join(columns), comments="")
    return path


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    """What `amax` did with `workload`, as somebody else's result."""
    return written(tmp_path / "mine.csv", ls.simulate(workload(), "amax", memory=2000))


def test_a_result_is_a_row_beside_the_policies(mine: Path) -> None:
    out = compared(*ARGS, "--result", str(mine), "--result", f"theirs={mine}")
    rows = {row["policy"]: row for row in out["policies"]}
    assert set(rows) == {"hsf", "fcfs", "mine", "theirs"}
    own = ls.compare(workload(), ["amax"], memory=2000).records()[0]
    for name in ("mean_latency", "p99_latency", "ratio", "makespan", "evictions"):
        assert rows["mine"][name] == own[name]
    assert {**rows["theirs"], "policy": "mine"} == rows["mine"]


def test_what_a_result_does_not_say_is_a_dash(tmp_path: Path) -> None:
    run_of_amin = ls.simulate(workload(), "amin", memory=2000)
    path = written(tmp_path / "short.csv", run_of_amin, ("start", "completion"))
    (line,) = (line for line in run("compare", *ARGS, "--result", str(path)).splitlines() if line.startswith("short"))
    assert line.split()[-3:] == ["-", "-", "-"]  # evicted, wasted, peak


def test_with_a_clock_its_unknown_times_are_said_to_be_unknown(tmp_path: Path) -> None:
    result = ls.simulate(served(2, 80), "amin", memory=6000, clock=CLOCK)
    path = written(tmp_path / "mine.csv", result)
    args = ["--limit", "80", "--memory", "6000", "--policy", "fcfs", "--clock", CLOCK, "--rate", "2", "--slo", "ttft=1"]
    out = run("compare", *args, "--result", str(path), "--power", "example-2xa100")
    (line,) = (line for line in out.splitlines() if line.startswith("mine"))
    assert line.split()[1] == f"{result.mean_latency:,.2f}"
    assert "note: mine: mean and p99 are over all requests; when tokens came is not known" in out
    record = next(row for row in compared(*args, "--result", str(path))["policies"] if row["policy"] == "mine")
    assert record["mean_latency"] == result.mean_latency
    assert record["ttft_p99"] is None


def test_a_figure_shows_the_result_too(mine: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="figures need matplotlib (extra plot)")
    run("compare", *ARGS, "--result", str(mine), "--plot", str(tmp_path / "figure.svg"))
    assert "<!-- mine -->" in (tmp_path / "figure.svg").read_text()


def test_an_impossible_result_is_refused(mine: Path, refused: Refused) -> None:
    said = refused("compare", "--limit", "80", "--memory", "1500", "--policy", "fcfs", "--result", str(mine))
    assert "hold at least" in said
    assert "mine.csv" in said


def test_a_result_needs_a_name_of_its_own(mine: Path, refused: Refused) -> None:
    assert "name it: --result NAME=" in refused("compare", *ARGS, "--result", f"hsf={mine}")
    assert "expected a file, or NAME=FILE" in refused("compare", *ARGS, "--result", "=mine.csv")
    assert "No such file" in refused("compare", *ARGS, "--result", "absent.csv")


@pytest.mark.parametrize(
    ("condition", "code"),
    [("fcfs.mean > hsf.mean", 1), ("fcfs.mean < hsf.mean", 0), ("fcfs.mean <", 2), ("amin.mean < 1", 2)],
)
def test_the_exit_code_says_whether_a_condition_holds(condition: str, code: int, capsys) -> None:
    assert main(["compare", *ARGS, "--fail-if", condition]) == code
    said = capsys.readouterr()
    if code == 2:
        assert said.out == ""
    else:
        word = ["passed", "FAILED"][code]
        assert f"{word}: {condition} (fcfs.mean_latency = " in said.out


@pytest.mark.parametrize(
    ("condition", "options", "said"),
    [
        ("hsf.men > 1", [], "character 1: there is no column 'men'; did you mean 'mean'?"),
        ("hsf.mean > fcfs.ttft_p99", [], "ttft_p99 is measured with --machine, --clock or --slo"),
        ("hsf.energy_seconds > 1", ["--clock", "llama2-70b-2xa100"], "energy_seconds is measured with --power"),
        ("hsf.ttft_p98 > 1", ["--slo", "ttft=5"], "did you mean 'ttft_p99'"),
    ],
)
def test_an_unknown_column_is_told_before_anything_runs(
    condition: str, options: list[str], said: str, refused: Refused
) -> None:
    """The cache is too small for any request, which the first run would say."""
    found = refused("compare", "--limit", "80", "--memory", "2", *ROWS, *options, "--fail-if", condition)
    assert said in found


def test_every_column_that_the_csv_has_can_be_in_a_condition() -> None:
    ran_on = ["--clock", "llama2-70b-2xa100", "--power", "example-2xa100", *ROWS, "--limit", "80"]
    columns = run("compare", *ran_on, "--csv", "-").splitlines()[0].split(",")
    for column in set(columns) - {"policy", "error", "unit"}:
        code = main(["compare", *ran_on, "--csv", "/dev/null", "--fail-if", f"hsf.{column} != hsf.{column}"])
        assert code in (0, 2), column  # 2: no number in it


def test_one_condition_that_holds_is_enough(mine: Path) -> None:
    conditions = ["--fail-if", "mine.mean < 0", "--fail-if", "mine.mean > 0"]
    done = CliRunner().invoke(app, ["compare", "--json", *ARGS, "--result", str(mine), *conditions])
    assert done.exit_code == 1
    assert [gate["holds"] for gate in json.loads(done.stdout)["gates"]] == [False, True]
    assert "FAILED: mine.mean > 0" in done.stderr


def test_a_condition_on_what_does_not_finish_fails_closed() -> None:
    args = ["compare", *ARGS, "--max-rounds", "200", "--fail-if", "fcfs.mean > 1e9"]
    done = CliRunner().invoke(app, args)
    assert done.exit_code == 1
    stopped = [*args[:1], "--limit", "80", "--memory", "2000", "--policy", "hsf", "--fail-if", "hsf.mean > 1e9"]
    assert CliRunner().invoke(app, stopped).exit_code == 0
    assert "FAILED: gate 'fcfs.mean > 1e9'" in done.stdout
    assert "fcfs has no mean_latency: policy fcfs stopped" in done.stdout


@pytest.mark.parametrize(
    ("condition", "options"),
    [
        ("mine.evicted > 3", []),
        ("mine.ttft_p99 > 1", ["--slo", "ttft=9"]),
        ("mine.wasted > 0", []),
        ("mine.gap > 0", TIMED),
    ],
)
def test_what_is_not_known_of_a_result_is_told_before_anything_runs(
    condition: str, options: list[str], tmp_path: Path, refused: Refused, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = written(tmp_path / "mine.csv", ls.simulate(workload(), "amax", memory=2000), ("start", "completion"))
    monkeypatch.setattr("llmsched.cli.compare.compare_policies", lambda *_, **__: pytest.fail("it simulated first"))
    said = refused("compare", *ARGS, *options, "--result", str(path), "--fail-if", condition)
    assert "character 1" in said
    assert "is not known of mine" in said
