"""`llmsched compare`: numbers, looks, and service metrics with a clock."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

pytest.importorskip("typer", reason="the command line needs typer (extra cli)")
pytest.importorskip("rich", reason="the command line needs rich (extra cli)")

from helpers.command_line import CLOCK, PLAIN, Refused, compared, run, served, spawn
from typer.testing import CliRunner

import llmsched as ls
from llmsched.cli.main import app
from llmsched.metrics import service
from llmsched.metrics.compare import COLUMNS, DEFAULT_POLICIES, compare
from llmsched.predict.intervals import with_midpoints


def test_without_arguments_it_compares_on_the_built_in_workload() -> None:
    out = run("compare")
    assert out.startswith("2,000 requests from the lmsys generator")
    assert "\nKV cache 16,492 tokens; seed 0; times in rounds\n" in out
    assert (
        "\nintervals buckets:100, made from the true lengths: a perfect classifier into buckets of 100 tokens\n" in out
    )
    rows = {line.split()[0]: line.split() for line in out.splitlines() if line.split()}
    workload = with_midpoints(ls.generate.lmsys(2000).with_intervals(ls.intervals.buckets(100)))
    for name in DEFAULT_POLICIES:
        result = ls.simulate(workload, name, memory=16492)
        assert rows[name][1] == f"{result.mean_latency:,.1f}"
        gap = 100 * (result.total_latency / ls.lower_bound(workload, memory=16492, iterations=0).of(name) - 1)
        assert rows[name][5] == f"{math.ceil(gap):,}%"
        assert rows[name][6] == f"{result.makespan:,.0f}"
        assert rows[name][7] == f"{result.total_evictions:,}"
    assert "mcsf and mc-benchmark: no point predictions given, so the middle" in out


def test_json_and_csv_hold_what_the_library_says(tmp_path: Path) -> None:
    expected = compare(
        ls.generate.lmsys(80, 4).with_intervals(ls.intervals.relative("0.5")), ["hsf", "amin"], memory=2000, seed=4
    )
    args = ["--limit", "80", "--seed", "4", "--memory", "2000", "--policy", "hsf", "--policy", "amin"]
    file = tmp_path / "numbers.csv"
    out = compared(*args, "--intervals", "relative:0.5", "--csv", str(file))
    assert out["policies"] == expected.records()
    assert (out["memory"], out["seed"], out["intervals"], out["llmsched"]) == (2000, 4, "relative:0.5", ls.__version__)
    assert out["baseline"] == {"policy": "hsf", "mean_latency": expected.baseline_latency}
    with file.open(newline="") as lines:
        written = list(csv.DictReader(lines))
    assert all(tuple(row) == ("policy", "told", *COLUMNS[1:]) for row in written)
    asked = [row for row in written if row["told"] == "relative:0.5"]
    assert [float(row["mean_latency"]) for row in asked] == [r["mean_latency"] for r in expected.records()]
    assert [row["completed"] for row in asked] == ["80", "80"]
    told = [
        (level["name"], one["policy"], one["mean_latency"]) for level in out["knowledge"] for one in level["policies"]
    ]
    assert [(r["told"], r["policy"], float(r["mean_latency"])) for r in written if r not in asked] == told
    assert len(told) == 3  # amin, told nothing, by a predictor and the truth
    assert run("compare", *args, "--intervals", "relative:0.5", "--csv", "-") == file.read_text()


def test_the_seed_and_the_engine() -> None:
    args = ["--limit", "150", "--memory", "1500", "--policy", "amin"]
    one, again, other = (compared(*args, "--seed", seed)["policies"] for seed in "112")
    assert one == again
    assert one != other
    assert compared(*args, "--seed", "1", "--engine", "reference")["policies"] == one


def test_a_generated_workload_with_its_own_intervals() -> None:
    out = compared("--generate", "two_point:10,40", "--limit", "50", "--memory", "500", "--policy", "amax")
    assert out["intervals"] == "as given"
    expected = compare(ls.generate.two_point(50, 10, 40), ["amax"], memory=500)
    assert out["policies"] == expected.records()


def test_a_trace_and_its_arrivals(trace: Path) -> None:
    workload = ls.traces.load(trace).with_intervals(ls.intervals.buckets(100))
    args = [str(trace), "--memory", "60", "--policy", "amin"]
    assert compared(*args, "--rounds")["policies"] == compare(workload, ["amin"], memory=60).records()
    faster = ls.generate.speed_up(workload, 0.5)
    assert compared(*args, "--round-seconds", "0.5")["policies"] == compare(faster, ["amin"], memory=60).records()
    out = run("compare", *args, "--round-seconds", "0.5")
    assert out.startswith(f"4 requests from {trace}: 11 prompt + 59 output tokens, arriving over 18 rounds of 0.5 s\n")
    assert compared(*args, "--limit", "2")["workload"]["requests"] == 2


def test_own_predictions_are_used_unless_intervals_are_given(tmp_path: Path) -> None:
    file = tmp_path / "t.csv"
    file.write_text("prompt_tokens,output_tokens,lower,upper,point\n0,10,2,20,9\n0,10,1,20,10\n0,3,1,3,2\n")
    args = [str(file), "--memory", "20", "--policy", "mcsf", "--policy", "amax"]
    own = compared(*args)
    assert own["intervals"] == "as given"
    assert own["notes"] == []
    assert own["policies"] == compare(ls.traces.load(file), ["mcsf", "amax"], memory=20).records()
    exact = compared(*args, "--intervals", "exact")
    assert exact["notes"] != []
    assert exact["policies"] != own["policies"]


def test_a_trace_with_half_an_interval_runs_what_can_run(tmp_path: Path) -> None:
    file = tmp_path / "t.csv"
    file.write_text("prompt_tokens,output_tokens,lower\n0,10,2\n0,10,10\n")
    out = run("compare", str(file), "--memory", "20", "--policy", "amin", "--policy", "amax")
    assert "amax    cannot run: a column is missing" in out
    assert "amax needs 'upper'" in out
    assert "--intervals" in out


def test_no_interval_replaces_a_priority(tmp_path: Path) -> None:
    file = tmp_path / "t.csv"
    file.write_text("prompt_tokens,output_tokens\n0,10\n")
    out = run("compare", str(file), "--memory", "20", "--policy", "vllm-priority", "--policy", "amax")
    assert "vllm-priority needs 'priority', which the trace lacks: add it\n" in out


def test_a_policy_that_does_not_finish_says_so_and_the_others_stand(tmp_path: Path) -> None:
    file = tmp_path / "t.csv"
    file.write_text(PLAIN + "0,10\n" * 4)
    args = ["compare", str(file), "--memory", "20", "--policy", "protection"]
    out = run(*args, "--policy", "hsf", "--policy", "fcfs")
    lines = out.splitlines()
    assert [line.split()[0] for line in lines[6:9]] == ["fcfs", "hsf", "protection"]
    assert "does not finish: 0 of 4 completed" in lines[8]
    assert "note: policy protection stopped at round" in out
    alone = CliRunner().invoke(app, args)
    assert alone.exit_code == 1
    assert "does not finish" in alone.stdout


def test_max_rounds_stops_a_policy() -> None:
    result = CliRunner().invoke(app, ["compare", "--policy", "amin", "--limit", "50", "--max-rounds", "9"])
    assert result.exit_code == 1
    assert "stopped by --max-rounds" in result.stdout
    assert "note: policy" not in result.stdout


def test_bytes_are_no_tokens_and_a_stray_word_is_named(refused: Refused) -> None:
    assert "'40GB' is not a whole number such as 16492, 16k, 1.5M or 1e6: a count, and no bytes" in refused(
        "compare", "--memory", "40GB"
    )
    said = refused("bound", "30", "--generate", "uniform:1,100", "--exact")
    assert "TRACE (30) and --generate both say what the requests are" in said


def test_a_bad_row_is_told_how_to_leave_it_out(tmp_path: Path, refused: Refused) -> None:
    file = tmp_path / "t.csv"
    file.write_text("input_len,output_len\n1,2\n3,0\n")
    bad = f"{file}, line 3: output_len is 0, expected a whole number from 1 to 9007199254740992"
    assert refused("compare", str(file)) == f"error: {bad} (--on-error skip leaves such rows out)\n"
    file.write_text("input_len,output_len\n\n3,0\n")
    said = refused("compare", str(file), "--on-error", "skip")
    assert said == f"error: {file}: there are no requests in it: 1 left out, the first as {bad}\n"


@pytest.mark.parametrize("content", ["", PLAIN, "arrival_s,prompt_tokens,output_tokens\n"])
def test_an_empty_trace_is_refused_by_every_command(tmp_path: Path, content: str, refused: Refused) -> None:
    file = tmp_path / "t.csv"
    file.write_text(content)
    out = str(tmp_path / "out.png")
    for command in (
        "compare", "bound", "paper --out", "predictors --out", "timeline --out", "capacity --slo ttft=1"
    ):  # fmt: skip
        words = command.split()
        words += [out] if words[-1] == "--out" else []
        assert refused(*words, str(file)) == f"error: {file}: there are no requests in it\n"
    for command in ("compare", "bound", "timeline"):
        assert "--limit 0 leaves no requests" in refused(command, "--limit", "0")
    assert not Path(out).exists()


def test_a_trace_of_bad_rows_alone_is_empty(tmp_path: Path, refused: Refused) -> None:
    file = tmp_path / "t.csv"
    file.write_text(PLAIN + "x,2\n")
    assert "no requests in it: 1 left out" in refused("compare", str(file), "--on-error", "skip")


def test_skipped_rows_are_counted(tmp_path: Path, refused: Refused) -> None:
    file = tmp_path / "t.csv"
    file.write_text(PLAIN + "1,2\nx,2\n3,4\n")
    assert "line 3" in refused("compare", str(file))
    out = run("compare", str(file), "--on-error", "skip", "--policy", "hsf")
    assert out.startswith("2 requests")
    assert "note: bad rows skipped: 1, the first:" in out


@pytest.mark.parametrize(
    ("name", "args"),
    [
        ("AzureLLMInferenceTrace_conv.csv", []),
        ("lmsys_lengths.csv", ["--memory", "16492"]),
        ("mooncake_conversation_head.jsonl", ["--memory", "200000"]),
    ],
)
def test_real_traces_give_tables(name: str, args: Sequence[str], data_file: Callable[[str], Path]) -> None:
    path = str(data_file(name))
    out = compared(path, *args)
    n = len(ls.traces.load(path))
    rows = out["policies"]
    assert isinstance(rows, list)
    assert {row["policy"] for row in rows} == set(DEFAULT_POLICIES)
    assert {row["completed"] for row in rows if row["finished"]} == {n}
    assert all(0 < row["peak_share"] <= 1 for row in rows if row["finished"])
    assert {row["ratio"] for row in rows if row["policy"] == "hsf"} == {1.0}
    table = run("compare", path, *args)
    assert f"{n:,} requests from {path}" in table


@pytest.mark.parametrize("columns", ["40", "60", "80", "120"])
def test_the_table_is_never_cut_and_fits_the_terminal(monkeypatch: pytest.MonkeyPatch, columns: str) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    lines = run("compare").splitlines()
    table = lines[lines.index("") + 1 : lines.index("", lines.index("") + 1)]
    if int(columns) < 80:
        end = next(k for k, line in enumerate(table) if line.startswith("(no room for peak, p50"))
        table = table[:end]
    assert len(table) == 2 + len(DEFAULT_POLICIES)
    assert max(map(len, lines)) <= int(columns)
    assert not any("…" in line or "\x1b" in line for line in lines)
    ends = {len(line) for line in table}
    assert len(ends) == 1  # all end where the last column, aligned right, ends


@pytest.mark.parametrize("columns", ["80", "120"])
def test_large_numbers_fit_the_terminal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, columns: str) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    monkeypatch.chdir(tmp_path)  # no name of the file is wider than the terminal
    Path("t.csv").write_text(PLAIN + "1,90000\n" * 30)
    lines = run("compare", "t.csv", "--memory", "100000", "--policy", "amin-doubling").splitlines()
    heading = next(k for k, line in enumerate(lines) if line.startswith("policy "))
    assert max(map(len, lines)) <= int(columns)
    assert "1,395,000" in lines[heading + 2] or "," in lines[heading + 2]
    assert ("peak" in lines[heading]) == (columns == "120")  # what does not fit is left to --json


def test_plot_draws_a_figure(tmp_path: Path) -> None:
    for name in ("a.png", "a.svg"):
        run("compare", "--limit", "30", "--plot", str(tmp_path / name))
        assert (tmp_path / name).stat().st_size > 10_000


def test_nothing_is_written_unless_asked(tmp_path: Path) -> None:
    assert spawn("compare", "--limit", "5", cwd=tmp_path).returncode == 0
    assert list(tmp_path.iterdir()) == []


def test_with_a_clock_the_table_says_what_users_feel() -> None:
    out = run("compare", "--limit", "200", "--clock", CLOCK, "--rate", "5", "--slo", "ttft=1,tpot=0.1",
              "--policy", "fcfs", "--policy", "hsf", "--memory", "4000")  # fmt: skip
    assert "Poisson arrivals, 5 per second" in out
    assert f"\nmachine {CLOCK} with --memory 4,000; KV cache 4,000 tokens; seed 0; times in seconds\n" in out
    assert "good: share of requests with ttft <= 1, tpot <= 0.1; good/s: such requests per second" in out
    rows = {line.split()[0]: line.split() for line in out.splitlines() if line.split()}
    for policy in ("fcfs", "hsf"):
        result = ls.simulate(served(5), policy, memory=4000, clock=CLOCK, record="tokens")
        seen = service.metrics(result, {"ttft": 1, "tpot": 0.1})
        _, mean, p99, _, gap, first50, first99, per50, per99, good, rate, tokens, evicted, _ = rows[policy]
        assert float(mean) == pytest.approx(result.mean_latency, abs=0.06)
        assert float(p99) == pytest.approx(seen.percentile("e2e", 99), abs=0.06)
        bound = ls.lower_bound(served(5), memory=4000, clock=CLOCK)
        assert float(gap.rstrip("%")) >= 100 * bound.gap(result.total_latency)
        assert float(first50) == pytest.approx(seen.percentile("ttft", 50), abs=0.06)
        assert float(first99) == pytest.approx(seen.percentile("ttft", 99), abs=0.06)
        assert float(per50) == pytest.approx(seen.percentile("tpot", 50), abs=6e-4)
        assert float(per99) == pytest.approx(seen.percentile("tpot", 99), abs=6e-4)
        assert float(good.rstrip("%")) == pytest.approx(100 * seen.goodput, abs=0.06)
        assert float(rate) == pytest.approx(seen.goodput_rate, abs=0.006)
        assert float(tokens) == pytest.approx(seen.tokens_rate, abs=0.06)
        assert int(evicted) == result.total_evictions


def test_json_and_csv_hold_the_service_metrics(tmp_path: Path) -> None:
    file = tmp_path / "numbers.csv"
    args = ["compare", "--json", "--limit", "100", "--clock", CLOCK, "--rate", "4", "--slo", "e2e=20",
            "--policy", "amin", "--max-batch", "8", "--block", "16", "--prefill-budget", "64",
            "--warmup", "2", "--drain", "3", "--csv", str(file)]  # fmt: skip
    out = json.loads(run(*args))
    machine = {"clock": CLOCK, "max_batch": 8, "block": 16, "prefill_budget": 64}
    result = ls.simulate(served(4, 100), "amin", memory=16492, record=("tokens", "timeline"), **machine)
    expected = service.metrics(result, {"e2e": 20}, warmup=2, drain=3).summary()
    (record,) = out["policies"]
    assert {name: record[name] for name in expected if name != "stable_rate"} == {
        name: value for name, value in expected.items() if name != "stable_rate"
    }
    assert record["stable_rate"] is None
    assert record["mean_latency"] == result.mean_latency
    assert (out["rate"], out["slo"]) == (4, {"e2e": 20})
    assert (out["max_batch"], out["block"], out["prefill_budget"]) == (8, 16, 64)
    assert out["clock"]["name"] == CLOCK
    assert out["clock"]["base"] == 0.0446
    with file.open(newline="") as lines:
        row = next(csv.DictReader(lines))
    assert float(row["ttft_p99"]) == expected["ttft_p99"]
    assert row["mean_latency"] == str(result.mean_latency)


def test_with_a_power_model_the_table_has_joules(refused: Refused) -> None:
    args = ["compare", "--limit", "150", "--clock", CLOCK, "--rate", "20", "--memory", "2500", "--power",
            "example-2xa100", "--policy", "amin", "--policy", "hsf"]  # fmt: skip
    rows = {line.split()[0]: line.split() for line in run(*args).splitlines() if line.split()}
    records = {record["policy"]: record for record in json.loads(run(*args, "--json"))["policies"]}
    for policy in ("amin", "hsf"):
        result = ls.simulate(served(20, 150), policy, memory=2500, clock=CLOCK, record="tokens")
        spent = ls.energy.metrics(result, "example-2xa100")
        assert rows[policy][-2:] == [f"{spent.joules_per_token:.2f}", f"{spent.wasted_share * 100:.1f}%"]
        assert {k: records[policy][f"energy_{k}"] for k in spent.summary()} == spent.summary()
    assert "--power needs --machine or --clock" in refused("compare", "--power", "example-2xa100")
    assert "did you mean 'example-2xa100'" in refused("compare", "--clock", CLOCK, "--power", "2xa100")


def test_a_clock_from_a_file_and_a_load_above_capacity(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text('unit = "ms"\nbase = 50\n')
    out = run("compare", "--limit", "400", "--clock", str(file), "--rate", "100", "--memory", "3000",
              "--policy", "fcfs", "--policy", "hsf")  # fmt: skip
    assert f"clock {file}" in out
    assert "note: load above capacity: 1" in out
    assert "about: hsf" in out or "about: fcfs" in out
    assert "good" not in out


def test_without_a_clock_times_are_in_rounds_and_targets_too() -> None:
    out = run("compare", "--limit", "50", "--slo", "ttft=30", "--policy", "fcfs", "--memory", "3000")
    assert "times in rounds" in out
    assert "good/r: such requests per round" in out
    machine = ["--max-batch", "4", "--block", "16", "--prefill-budget", "2048"]
    plain = run("compare", "--limit", "50", *machine, "--policy", "fcfs")
    assert (
        "KV cache 16,492 tokens in blocks of 16 (12 tokens left over); at most 4 at once; at most 2,048 tokens a round;"
        in plain
    )
    assert "wasted: share of generated tokens" in plain


def test_priorities_come_from_the_trace_or_are_missed(tmp_path: Path) -> None:
    file = tmp_path / "urgent.csv"
    file.write_text("prompt_tokens,output_tokens,priority\n8,5,1\n8,2,0\n")
    args = ("compare", "--json", "--policy", "vllm-priority", "--memory", "13", str(file))
    (row,) = json.loads(run(*args))["policies"]
    assert row["total_latency"] == 2 + 7  # request 1 first, and only one at a time
    file.write_text("prompt_tokens,output_tokens\n8,5\n8,2\n")
    result = CliRunner().invoke(app, list(args))
    assert result.exit_code == 1
    assert "needs the column 'priority'" in json.loads(result.stdout)["policies"][0]["error"]


def test_a_figure_of_a_comparison_in_seconds(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="figures need matplotlib (extra plot)")
    file = tmp_path / "compared.svg"
    run("compare", "--limit", "50", "--clock", CLOCK, "--policy", "fcfs", "--plot", str(file))
    assert file.stat().st_size > 1000


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["--clock", "llama2-70b"], "did you mean"),
        (["--clock", "none.toml"], "none.toml: No such file"),
        (["--clock", CLOCK, "--round-seconds", "2"], "--round-seconds and --clock"),
        (["--clock", CLOCK, "--slo", "tfft=1"], "did you mean 'ttft'"),
        (["--clock", CLOCK, "--slo", "ttft"], "does not have the form ttft=1,tpot=0.1"),
        (["--clock", CLOCK, "--rate", "0"], "rate must be greater than 0"),
        (["--clock", CLOCK, "--warmup", "1e9"], "leave nothing of a run"),
        (["--max-batch", "0"], "max_batch must be"),
        (["--block", "2000"], "block must be"),
        (["--prefill-budget", "0"], "prefill_budget must be"),
    ],
)
def test_bad_input_with_a_clock_or_limits(refused: Refused, args: list[str], said: str) -> None:
    assert said in refused("compare", "--limit", "10", "--policy", "fcfs", *args)
