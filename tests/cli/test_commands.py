"""The command line: through its own runner, through `main`, and as a process of its own."""

from __future__ import annotations

import csv
import gzip
import io
import json
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

pytest.importorskip("typer", reason="the command line needs typer (extra cli)")
pytest.importorskip("rich", reason="the command line needs rich (extra cli)")

from typer.testing import CliRunner

import llmsched as ls
from llmsched.cli import console
from llmsched.cli.main import app, main
from llmsched.experiments import paper
from llmsched.metrics.compare import COLUMNS, DEFAULT_POLICIES, compare
from llmsched.predict.intervals import with_midpoints

COMMAND = [sys.executable, "-m", "llmsched"]
PLAIN = "prompt_tokens,output_tokens\n"


def run(*args: str) -> str:
    """What a command prints, if it ends well."""
    result = CliRunner().invoke(app, list(args), catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


def as_json(*args: str) -> dict[str, object]:
    value = json.loads(run("compare", "--json", *args))
    assert isinstance(value, dict)
    return value


def spawn(*args: str, **how: object) -> subprocess.CompletedProcess[str]:
    how = {"capture_output": True, "text": True, "timeout": 60, **how}
    return subprocess.run([*COMMAND, *args], **how)  # type: ignore[call-overload, no-any-return]


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    path = tmp_path / "trace.csv"
    path.write_text("arrival_s,prompt_tokens,output_tokens\n0,5,20\n1,3,8\n3,2,30\n9,1,1\n")
    return path


@pytest.fixture
def complaint(capsys: pytest.CaptureFixture[str]) -> Complaint:
    return Complaint(capsys)


class Complaint:
    """Runs `main` on something it must refuse, and returns what it said on stderr: a line or two, and no more."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self.capsys = capsys

    def __call__(self, *args: str, code: int = 2) -> str:
        assert main(args) == code
        said = self.capsys.readouterr()
        assert said.out == ""
        assert said.err.startswith("error: ")
        assert said.err.count("\n") in (1, 2)
        return said.err


# compare: the numbers -------------------------------------------------------------------------------------------------


def test_without_arguments_it_compares_on_the_built_in_workload() -> None:
    out = run("compare")
    assert out.startswith("2,000 requests from the lmsys generator")
    assert "KV cache 16,492 tokens; intervals buckets:100; seed 0" in out
    rows = {line.split()[0]: line.split() for line in out.splitlines() if line.split()}
    workload = with_midpoints(ls.generate.lmsys(2000).with_intervals(ls.intervals.buckets(100)))
    for name in DEFAULT_POLICIES:
        result = ls.simulate(workload, name, memory=16492)
        assert rows[name][1] == f"{result.mean_latency:,.1f}"
        gap = 100 * (result.total_latency / ls.lower_bound(workload, 16492, iterations=0).of(name) - 1)
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
    out = as_json(*args, "--intervals", "relative:0.5", "--csv", str(file))
    assert out["policies"] == expected.records()
    assert (out["memory"], out["seed"], out["intervals"], out["llmsched"]) == (2000, 4, "relative:0.5", ls.__version__)
    assert out["baseline"] == {"policy": "hsf", "mean_latency": expected.baseline_latency}
    with file.open(newline="") as lines:
        written = list(csv.DictReader(lines))
    assert [tuple(row) for row in written] == [COLUMNS] * 2
    assert [float(row["mean_latency"]) for row in written] == [r["mean_latency"] for r in expected.records()]
    assert [row["completed"] for row in written] == ["80", "80"]
    assert run("compare", *args, "--intervals", "relative:0.5", "--csv", "-") == file.read_text()


def test_the_seed_and_the_engine() -> None:
    args = ["--limit", "150", "--memory", "1500", "--policy", "amin"]
    one, again, other = (as_json(*args, "--seed", seed)["policies"] for seed in "112")
    assert one == again
    assert one != other
    assert as_json(*args, "--seed", "1", "--engine", "reference")["policies"] == one


def test_a_generated_workload_with_its_own_intervals() -> None:
    out = as_json("--generate", "two_point:10,40", "--limit", "50", "--memory", "500", "--policy", "amax")
    assert out["intervals"] == "as given"
    expected = compare(ls.generate.two_point(50, 10, 40), ["amax"], memory=500)
    assert out["policies"] == expected.records()


def test_a_trace_and_its_arrivals(trace: Path) -> None:
    workload = ls.traces.load(trace).with_intervals(ls.intervals.buckets(100))
    args = [str(trace), "--memory", "60", "--policy", "amin"]
    assert as_json(*args)["policies"] == compare(workload, ["amin"], memory=60).records()
    faster = ls.generate.speed_up(workload, 0.5)
    assert as_json(*args, "--round-seconds", "0.5")["policies"] == compare(faster, ["amin"], memory=60).records()
    out = run("compare", *args, "--round-seconds", "0.5")
    assert out.startswith(f"4 requests from {trace}: 11 prompt + 59 output tokens, arriving over 18 rounds of 0.5 s\n")
    assert as_json(*args, "--limit", "2")["workload"]["requests"] == 2  # type: ignore[index]


def test_a_traces_own_predictions_are_used_unless_intervals_are_given(tmp_path: Path) -> None:
    file = tmp_path / "t.csv"
    file.write_text("prompt_tokens,output_tokens,lower,upper,point\n0,10,2,20,9\n0,10,1,20,10\n0,3,1,3,2\n")
    args = [str(file), "--memory", "20", "--policy", "mcsf", "--policy", "amax"]
    own = as_json(*args)
    assert own["intervals"] == "as given"
    assert own["notes"] == []
    assert own["policies"] == compare(ls.traces.load(file), ["mcsf", "amax"], memory=20).records()
    exact = as_json(*args, "--intervals", "exact")
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
    assert [line.split()[0] for line in lines[5:8]] == ["fcfs", "hsf", "protection"]
    assert "does not finish: 0 of 4 completed" in lines[7]
    assert "note: policy protection stopped at round" in out
    alone = CliRunner().invoke(app, args)
    assert alone.exit_code == 1
    assert "does not finish" in alone.stdout


def test_max_rounds_stops_a_policy() -> None:
    result = CliRunner().invoke(app, ["compare", "--policy", "amin", "--limit", "50", "--max-rounds", "9"])
    assert result.exit_code == 1
    assert "stopped by --max-rounds" in result.stdout
    assert "note: policy" not in result.stdout


@pytest.mark.parametrize("content", ["", PLAIN, "arrival_s,prompt_tokens,output_tokens\n"])
def test_an_empty_trace_gives_an_empty_table(tmp_path: Path, content: str) -> None:
    file = tmp_path / "t.csv"
    file.write_text(content)
    out = run("compare", str(file), "--plot", str(tmp_path / "t.png"))
    assert out.startswith("0 requests")
    assert all(name in out for name in DEFAULT_POLICIES)
    assert run("compare", "--limit", "0").startswith("0 requests")
    assert as_json("--limit", "0")["policies"][0]["mean_latency"] is None  # type: ignore[index]


def test_skipped_rows_are_counted(tmp_path: Path, complaint: Complaint) -> None:
    file = tmp_path / "t.csv"
    file.write_text(PLAIN + "1,2\nx,2\n3,4\n")
    assert "line 3" in complaint("compare", str(file))
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
    out = as_json(path, *args)
    n = len(ls.traces.load(path))
    rows = out["policies"]
    assert isinstance(rows, list)
    assert {row["policy"] for row in rows} == set(DEFAULT_POLICIES)
    assert {row["completed"] for row in rows if row["finished"]} == {n}
    assert all(0 < row["peak_share"] <= 1 for row in rows if row["finished"])
    assert {row["ratio"] for row in rows if row["policy"] == "hsf"} == {1.0}
    table = run("compare", path, *args)
    assert f"{n:,} requests from {path}" in table


# compare: how it looks ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("columns", ["40", "80", "120"])
def test_the_table_is_never_cut_and_fits_80_columns(monkeypatch: pytest.MonkeyPatch, columns: str) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    lines = run("compare").splitlines()
    table = lines[lines.index("") + 1 : lines.index("", lines.index("") + 1)]
    assert len(table) == 2 + len(DEFAULT_POLICIES)
    assert max(map(len, table)) <= max(80, int(columns))
    assert not any("…" in line or "\x1b" in line for line in lines)
    ends = {len(line) for line in table}
    assert len(ends) == 1  # all end where the last column, aligned right, ends


@pytest.mark.parametrize("columns", ["80", "120"])
def test_large_numbers_fit_80_columns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, columns: str) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    file = tmp_path / "t.csv"
    file.write_text(PLAIN + "1,90000\n" * 30)
    lines = run("compare", str(file), "--memory", "100000", "--policy", "amin-doubling").splitlines()
    assert max(len(line) for line in lines[3:6]) <= int(columns)
    assert "1,395,000" in lines[5] or "," in lines[5]
    assert ("peak" in lines[3]) == (columns == "120")  # what does not fit is left to --json


def test_a_console_without_unicode_gets_plain_letters() -> None:
    env = {**os.environ, "PYTHONIOENCODING": "ascii"}
    done = spawn("compare", "--limit", "5", env=env)
    assert done.returncode == 0
    assert "\\u" not in done.stdout
    assert "\x1b" not in done.stdout  # nor are there colours in a pipe


def test_plot_draws_a_figure(tmp_path: Path) -> None:
    for name in ("a.png", "a.svg"):
        run("compare", "--limit", "30", "--plot", str(tmp_path / name))
        assert (tmp_path / name).stat().st_size > 10_000


def test_nothing_is_written_unless_asked(tmp_path: Path) -> None:
    assert spawn("compare", "--limit", "5", cwd=tmp_path).returncode == 0
    assert list(tmp_path.iterdir()) == []


def test_a_progress_bar_shows_on_a_terminal_after_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    screen = console.Console(file=io.StringIO(), force_terminal=True, width=100)
    monkeypatch.setattr(console, "Console", lambda **_: screen)
    monkeypatch.setattr(console.time, "monotonic", lambda: now[0])
    with console.ProgressBar("requests") as bar:
        bar.update("amin", 1000, 20000)
        assert screen.file.getvalue() == ""  # type: ignore[attr-defined]
        now[0] = 1.5
        bar.update("amin", 5000, 20000)
    assert "5,000 of 20,000 requests" in screen.file.getvalue()  # type: ignore[attr-defined]


# policies, version, help ----------------------------------------------------------------------------------------------


def test_policies_lists_all_of_them_in_80_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    lines = run("policies").splitlines()
    assert max(map(len, lines)) <= 80
    for name in ls.policies:
        assert sum(line.split()[:1] == [name] for line in lines) == 2
    assert "random 0.2" in "\n".join(lines)


def test_policies_as_json_make_the_same_policies_again() -> None:
    for entry in json.loads(run("policies", "--json")):
        fields = {key: entry[key] for key in ls.Policy().fields()}
        assert ls.Policy(**fields) == ls.policies[entry["policy"]]
        assert entry["description"]
        assert tuple(entry["needs"]) == ls.policies[entry["policy"]].needs


def test_version_and_help() -> None:
    assert run("--version") == f"llmsched {ls.__version__}\n"
    assert run("--help") == run()
    for command in ("compare", "paper", "policies"):
        assert command in run("--help")
        assert "Usage" in run(command, "--help")


# paper ----------------------------------------------------------------------------------------------------------------


def test_paper_writes_figures_and_numbers_and_says_what_it_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    out = run("paper", "--subsets", "2", "--seed", "3")
    assert {file.name for file in (tmp_path / "paper").iterdir()} == {
        "average_latency.png",
        "average_latency.svg",
        "average_latency.csv",
    }
    rows = paper.reproduce(subsets=2, seed=3)
    flat = " ".join(out.split())
    for finding in paper.findings(rows):
        assert " ".join(finding.split()) in flat
    with (tmp_path / "paper" / "average_latency.csv").open(newline="") as lines:
        written = list(csv.DictReader(lines))
    assert [float(row["mean_latency"]) for row in written] == [row.mean_latency for row in rows]
    shown = out.partition("(a proven bound):")[2].splitlines()[4:9]
    last = [row.gap for row in rows if row.requests == max(row.requests for row in rows)]
    assert [cell for line in shown for cell in line.split()[-3:]] == [f"{math.ceil(100 * gap):,}%" for gap in last]
    assert f"Wrote {Path('paper') / 'average_latency.png'}" in out
    assert max(len(line) for line in out.splitlines() if not line.startswith(("note", "Wrote"))) <= 80


def test_paper_on_a_real_trace(tmp_path: Path, data_file: Callable[[str], Path]) -> None:
    out = run("paper", str(data_file("lmsys_lengths.csv")), "--subsets", "2", "--out", str(tmp_path / "deep" / "er"))
    assert "from the 1,024 requests of" in out
    assert (tmp_path / "deep" / "er" / "average_latency.svg").exists()


# Bad input ------------------------------------------------------------------------------------------------------------


def test_too_small_a_memory_names_the_request_and_the_option(trace: Path, complaint: Complaint, tmp_path: Path) -> None:
    for args in (["compare", str(trace)], ["paper", str(trace), "--out", str(tmp_path / "out")]):
        said = complaint(*args, "--memory", "24")
        assert "request 0 " in said
        assert said.endswith("\ntry --memory 32\n")


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        ("compare --policy amni", "did you mean 'amin'"),
        ("compare --intervals bucket:100", "did you mean 'buckets'"),
        ("compare --intervals buckets", "buckets:WIDTH"),
        ("compare --generate lmsis", "did you mean 'lmsys'"),
        ("compare --engine fast", "compiled, reference"),
        ("compare --memory 0", "memory"),
        ("compare --memory -5", "-5"),
        ("compare --memory 1.5", "--memory"),
        ("compare --memory 99999999999999999999", "99999999999999999999"),
        ("compare --seed -1", "seed"),
        ("compare --limit -1", "-1"),
        ("compare --limit 9007199254740992", "memory"),
        ("compare --max-rounds -1", "max_rounds"),
        ("compare --round-seconds 0", "--round-seconds"),
        ("compare --round-seconds nan", "--round-seconds"),
        ("compare no-such-file.csv", "no-such-file.csv"),
        ("compare - --format azur", "did you mean 'azure'"),
        ("compare - --on-error ignore", "'raise' or 'skip'"),
        ("compare --json --csv -", "--csv -"),
        ("compare --plot a.jpg", ".png, .svg, .pdf"),
        ("compare --plot no-such-folder/a.png", "no-such-folder"),
        ("compare --csv no-such-folder/a.csv", "no-such-folder"),
        ("compare --csv .", "directory"),
        ("compare --polcy amin", "--polcy"),
        ("compare one two", "two"),
        ("compair", "compare"),
        ("paper --subsets 0", "subsets"),
        ("paper no-such-file.csv", "no-such-file.csv"),
    ],
)
def test_bad_input_is_told_in_a_line_or_two(
    args: str, expected: str, complaint: Complaint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert expected in complaint(*args.split())


def test_paper_needs_requests_and_a_folder_it_can_make(tmp_path: Path, complaint: Complaint) -> None:
    file = tmp_path / "empty.csv"
    file.write_text(PLAIN)
    assert "requests" in complaint("paper", str(file), "--out", str(tmp_path / "out"))
    assert "cannot make the directory" in complaint("paper", "--out", str(file))


def test_outputs_are_checked_before_the_simulation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, complaint: Complaint
) -> None:
    monkeypatch.setattr("llmsched.cli.compare.compare_policies", lambda *_, **__: pytest.fail("it simulated first"))
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert "llmsched[plot]" in complaint("compare", "--plot", str(tmp_path / "a.png"))
    assert "llmsched[plot]" in complaint("paper", "--out", str(tmp_path))


def test_a_full_disk_is_told() -> None:
    if not Path("/dev/full").exists():
        pytest.skip("needs /dev/full")
    for args in (["compare", "--limit", "5"], ["compare", "--limit", "5", "--csv", "/dev/full"]):
        with open("/dev/full", "w") as full:
            done = spawn(*args, capture_output=False, stdout=full, stderr=subprocess.PIPE)
        assert done.returncode == 2
        assert done.stderr.count("\n") == 1
        assert "No space left" in done.stderr


def test_an_error_of_ones_own_making_is_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llmsched.cli.compare.compare_policies", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        main(["compare"])


# As a process ---------------------------------------------------------------------------------------------------------


def test_exit_codes_and_streams_of_a_process(trace: Path) -> None:
    good = spawn("compare", str(trace), "--memory", "60")
    assert (good.returncode, good.stderr) == (0, "")
    assert good.stdout.startswith("4 requests")
    bad = spawn("compare", str(trace), "--memory", "1")
    assert (bad.returncode, bad.stdout) == (2, "")
    assert bad.stderr.startswith("error: request 0 ")


def test_a_trace_from_standard_input(trace: Path) -> None:
    expected = run("compare", str(trace), "--memory", "60", "--csv", "-")
    for content in (trace.read_bytes(), gzip.compress(trace.read_bytes())):
        done = spawn("compare", "-", "--memory", "60", "--csv", "-", input=content, text=False)
        assert done.returncode == 0
        assert done.stdout == expected.encode()  # type: ignore[comparison-overlap]


@pytest.mark.skipif(os.name != "posix", reason="needs POSIX signals")
def test_ctrl_c_ends_it_with_a_word_and_130(tmp_path: Path) -> None:
    commands = ["compare --engine reference --limit 200000", "paper --subsets 100000", "compare -"]
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    processes = [subprocess.Popen([*COMMAND, *c.split()], cwd=tmp_path, text=True, **pipes) for c in commands]
    time.sleep(2.5)  # past the imports, with much left to do
    try:
        for process in processes:
            process.send_signal(signal.SIGINT)
        for process in processes:
            out, err = process.communicate(timeout=60)
            assert (process.returncode, out, err) == (130, "", "interrupted\n")
    finally:
        for process in processes:
            process.kill()


@pytest.mark.skipif(os.name != "posix", reason="needs POSIX signals")
def test_ctrl_c_during_an_import_is_the_end(tmp_path: Path) -> None:
    """Of modules half made come errors of all kinds, and crashes as the interpreter ends."""
    interrupt = "import os, signal; os.kill(os.getpid(), signal.SIGINT)\n"
    (tmp_path / "heavy.py").write_text(f"try:\n    {interrupt}except BaseException:\n    print('half made')\n")
    begin = "import signal; from llmsched.__main__ import _interrupt; signal.signal(signal.SIGINT, _interrupt)\n"
    for code, status, said in (
        ("import heavy", 130, "interrupted\n"),
        (interrupt, -signal.SIGINT, "KeyboardInterrupt"),
    ):
        done = subprocess.run([sys.executable, "-c", begin + code], cwd=tmp_path, text=True, capture_output=True)
        assert (done.returncode, done.stdout) == (status, "")
        assert said in done.stderr


@pytest.mark.skipif(os.name != "posix", reason="needs a POSIX pipe")
@pytest.mark.parametrize(
    ("args", "unbuffered"),
    [("compare --limit 5", ""), ("compare --limit 5", "1"), ("compare --limit 5 --json", ""), ("--help", "")],
)
def test_nobody_reading_is_no_reason_to_complain(args: str, unbuffered: str) -> None:
    read, write = os.pipe()
    os.close(read)
    env = {**os.environ, "PYTHONUNBUFFERED": unbuffered}
    done = spawn(*args.split(), capture_output=False, stdout=write, stderr=subprocess.PIPE, env=env)
    os.close(write)
    assert (done.returncode, done.stderr) == (1, "")


@pytest.mark.parametrize("missing", ["typer", "rich"])
def test_without_the_extra_one_line_says_what_to_install(missing: str) -> None:
    code = f"import sys; sys.modules[{missing!r}] = None; from llmsched.__main__ import main; sys.exit(main())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert "pip install 'llmsched[cli]'" in done.stderr


def test_the_library_does_not_import_the_command_line() -> None:
    code = "import sys, llmsched; assert not {'typer', 'rich', 'matplotlib', 'llmsched.cli.main'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_one_is_singular(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    trace = tmp_path / "one.csv"
    trace.write_text(f"{PLAIN}5,3\n")
    out = run("timeline", str(trace), "--policy", "fcfs", "--memory", "100", "--out", str(tmp_path / "t.png"))
    assert out.startswith(f"1 request from {trace}: 5 prompt + 3 output tokens, all arriving at 0\n")
    trace.write_text(f"{PLAIN}5,3\n5,10\n7,4\n")
    again = run("timeline", str(trace), "--policy", "fcfs", "--memory", "100", "--out", str(tmp_path / "t.png"))
    assert "fcfs: mean latency 5.67, makespan 10, 0 evictions\n" in again
    assert [console.number_of(n, "query") for n in (0, 1, 2000)] == ["0 queries", "1 query", "2,000 queries"]
