"""`llmsched study`: what a user sees of it, and the studies and pages that come with it."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import os
import pty
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import ROOT
from helpers.study_results import replace_results
from rich.console import Console
from typer.testing import CliRunner

import llmsched as ls
from llmsched.cli import study_display
from llmsched.cli.main import app, main
from llmsched.study import Study, failures, results, runner
from llmsched.study.time_estimate import estimate

EXAMPLES = sorted((ROOT / "examples" / "studies").glob("*.toml"))


@pytest.fixture
def llmsched(monkeypatch, tmp_path):
    """A function that runs a command in an empty directory and returns what it prints."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "120")

    def run(*words, code=0):
        result = CliRunner().invoke(app, list(words))
        assert result.exit_code == code, result.output
        return result.stdout

    return run


@pytest.fixture
def fails(capsys, monkeypatch, tmp_path):
    """A function that runs a command that does not work, and returns what it complains about."""
    monkeypatch.chdir(tmp_path)

    def run(*words):
        assert main(words) == 2
        said = capsys.readouterr()
        assert said.out == ""
        return said.err

    return run


SMALL = """
policies = ["hsf", "amin"]
memories = [1500, 3000]
replications = 6
metrics = ["mean_latency", "evictions"]
[[workloads]]
generator = "lmsys"
requests = 60
"""


def test_new_check_run_results(llmsched):
    assert llmsched("study", "new") == "Wrote study.toml. Next: llmsched study check study.toml\n"
    Path("study.toml").write_text(SMALL)
    said = llmsched("study", "check", "study.toml")
    assert (
        "1 workload × 1 interval setting × 2 policies × 2 memories: 4 cells\n6 replications: 24 simulations\n" in said
    )
    assert re.search(r"On the \d+ processors? here: .*; on one: .* \(from timing \d+ simulations\)\n$", said)
    assert re.fullmatch(
        r"24 simulations in out \(all in [\d.]+ s\)\.\n", llmsched("study", "run", "study.toml", "--out", "out")
    )
    assert llmsched("study", "run", "study.toml", "--out", "out") == "24 simulations in out (0 new).\n"
    table = llmsched("study", "results", "out").splitlines()
    assert table[0].split() == [
        "workload",
        "intervals",
        "policy",
        "memory",
        "replications",
        "mean_latency",
        "±",
        "95",
        "%",
    ]
    assert [line.split()[2:5] for line in table[2:]] == [
        [p, m, "6"] for p in ("hsf", "amin") for m in ("1,500", "3,000")
    ]
    records = json.loads(llmsched("study", "results", "out", "--json", "--metric", "evictions"))
    mean = {(r["policy"], r["memory"]): r["mean"] for r in records}
    rows = results("out").to_pylist()
    assert mean["amin", 1500] == pytest.approx(
        sum(r["evictions"] for r in rows if (r["policy"], r["memory"]) == ("amin", 1500)) / 6
    )
    llmsched("study", "results", "out", "--csv", "rows.csv")
    with open("rows.csv") as file:
        assert [float(row["mean_latency"]) for row in csv.DictReader(file)] == [row["mean_latency"] for row in rows]
    repeated = json.loads(
        llmsched("study", "repeat", "study.toml", "--replication", "4", "--policy", "amin", "--memory", "1500")
    )
    assert repeated["mean_latency"] == next(
        r["mean_latency"] for r in rows if (r["policy"], r["memory"], r["replication"]) == ("amin", 1500, 4)
    )
    assert llmsched("study", "results", "out", "--failures") == "Nothing failed.\n"


def test_set_quick_extend_and_precision(llmsched):
    Path("study.toml").write_text(SMALL)
    llmsched("study", "run", "study.toml", "--out", "out", "--set", "replications=3", "--set", 'policies=["hsf"]')
    assert len(results("out")) == 6
    assert "24 simulations in out (18 new in" in llmsched("study", "run", "study.toml", "--out", "out", "--extend")
    llmsched("study", "run", "study.toml", "--out", "quick", "--quick")
    assert len(results("quick")) == 20
    setting = ("--set", "precision={relative=0.2, first=16, most=40}")
    said = llmsched("study", "check", "study.toml", *setting)
    assert (
        "at first 16, up to 40, until mean_latency is known within ±0.2 of the mean (0.95 confidence): 64 simulations"
        in said
    )
    llmsched("study", "run", "study.toml", "--out", "precise", *setting)
    counts = [int(line.split()[4]) for line in llmsched("study", "results", "precise").splitlines()[2:]]
    assert 16 <= min(counts) <= max(counts) <= 40


def test_a_quick_run_of_the_example_tells_policies_apart(llmsched):
    llmsched("study", "new")
    said = llmsched("study", "run", "study.toml", "--out", "quick", "--quick")
    assert "equal" not in said
    means = {row["mean"] for row in json.loads(llmsched("study", "results", "quick", "--json"))}
    assert len(means) > 16


def test_quick_takes_the_requests_that_fill_the_cache(tmp_path):
    ls.traces.write(ls.generate.lmsys(3000, seed=1), tmp_path / "t.csv")
    axes = {"policies": ["hsf", "amin"], "memories": [2000, 4000]}
    study = Study(workloads=[{"name": "g", "generator": "lmsys", "requests": 2000}, {"trace": "t.csv"}], **axes)
    small = study.quick(tmp_path)
    for w, entry in enumerate(small.workloads):
        assert 200 <= entry.requests < 2000
        drawn = small.simulate(0, workload=entry.name, policy="hsf", memory=4000, traces=tmp_path).workload
        assert (drawn.prompt + drawn.output).sum() > 3 * 4000, w
    few = Study(workloads=[{"generator": "lmsys", "requests": 30}], **axes)
    assert few.quick().workloads[0].requests == 30
    huge = Study(workloads=[{"generator": "lmsys", "requests": 20_000}], policies=["amin"], memories=[10**8])
    assert huge.quick().workloads[0].requests == 5000


def test_it_is_said_when_no_policy_differs(llmsched):
    Path("study.toml").write_text(SMALL)
    said = llmsched("study", "run", "study.toml", "--out", "out", "--set", "memories=[90000]")
    assert "note: all policies are equal in mean_latency (exactly): the cache is never short" in said
    assert "note: all policies are equal in mean_latency (exactly)" in llmsched("study", "results", "out")


MANY = """
policies = ["amin"]
machines = ["llama2-70b-2xa100", "llama2-70b-8xh100"]
max_batch = [8, "none"]
prefill_budget = [64, 512]
replications = 2
[[workloads]]
generator = "lmsys"
requests = 30
rate = [2, 60.5]
"""


def test_every_factor_can_be_checked_shown_and_repeated(llmsched):
    Path("study.toml").write_text(MANY)
    said = llmsched("study", "check", "study.toml")
    assert "1 policy × 2 machines × 2 rates × 2 batch limits × 2 prefill budgets: 16 cells\n" in said
    llmsched("study", "run", "study.toml", "--out", "out")
    table = llmsched("study", "results", "out").splitlines()
    assert table[0].split()[3:8] == ["machine", "rate", "max_batch", "prefill_budget", "replications"]
    assert table[-1].split()[3:8] == ["llama2-70b-8xh100", "60.5", "none", "512", "2"]
    cell = {"machine": "llama2-70b-2xa100", "rate": "60.5", "max-batch": "none", "prefill-budget": "64"}
    options = [word for key, value in cell.items() for word in (f"--{key}", value)]
    again = json.loads(llmsched("study", "repeat", "study.toml", "--replication", "1", *options))
    row = next(
        row
        for row in results("out").to_pylist()
        if [row[k] for k in ("machine", "rate", "max_batch", "prefill_budget", "replication")]
        == ["llama2-70b-2xa100", 60.5, None, 64, 1]
    )
    assert again["mean_latency"] == row["mean_latency"]
    llmsched("study", "report", "out", "-o", "r.html")
    assert "none" in Path("r.html").read_text()


def test_failures_are_told_with_what_repeats_them(llmsched, fails, monkeypatch):
    monkeypatch.setenv("COLUMNS", "1000")  # one message, one line
    Path("study.toml").write_text(SMALL.replace("[1500, 3000]", "[100]"))
    said = llmsched("study", "check", "study.toml", code=1).splitlines()
    assert said[1] == "note: all 12 simulations that were tried fail, such as"
    assert said[2].startswith("   replication 0 of workload lmsys, intervals buckets:100, policy hsf, memory 100: ")
    assert said[3].startswith("1 workload ×")  # the other policy fails for the same reason
    said = llmsched("study", "check", "study.toml", "--set", "memories=[100, 9000]")
    assert re.search(r"\nnote: \d+ of the \d+ simulations that were tried fail, such as\n   replication 0 of", said)
    said = llmsched("study", "run", "study.toml", "--out", "out", code=1)
    assert "12 failed:\n6 × workload lmsys, intervals buckets:100, policy hsf, memory 100: request" in said
    again = re.search(r"again: llmsched (.*)\n", said)[1]
    assert "it can never finish" in fails(*again.split())
    *failed, last = said.split("failed:\n", 1)[1].splitlines()
    assert failed == llmsched("study", "results", "out", "--failures").splitlines()
    assert last == "All 12 simulations failed: exit code 1."
    said = llmsched("study", "run", "study.toml", "--out", "some", "--set", "memories=[100, 9000]", code=3)
    assert said.splitlines()[-1] == "12 of 24 simulations failed: exit code 3."
    assert "3 some failed" in " ".join(llmsched("study", "run", "--help").split())
    for command in ("results", "report"):
        assert fails("study", command, "out") == (
            "error: all 12 simulations failed: to see why, llmsched study results out --failures\n"
        )


@pytest.mark.parametrize("precise", [False, True])
def test_what_is_missing_of_a_study_is_said(llmsched, precise):
    rule = "precision = {relative = 0.2, first = 16, most = 40}"
    text = SMALL.replace("replications = 6", rule) if precise else SMALL
    text = text.replace("[1500, 3000]", "[250, 1500]")  # the smaller one fails now and then
    Path("study.toml").write_text(text)
    llmsched("study", "run", "study.toml", "--out", "out", code=3)
    rows, lost = results("out"), failures("out")
    total = len(rows) + len(lost)
    assert "not finished" not in llmsched("study", "results", "out") + llmsched("study", "report", "out")
    assert len(lost) > 0
    replace_results(Path("out"), rows.slice(0, len(rows) - 3))  # as if it had been interrupted before the last three
    least = total - 3 + 1 if precise else total
    for command in ("results", "report"):
        said = re.search(
            rf"note: {total - 3} of (\d+) simulations: the study is not finished; run it again to go on\n",
            llmsched("study", command, "out"),
        )
        assert least <= int(said[1]) <= total
    assert f"{total - 3} of {said[1]} simulations: the study is not finished" in Path("out/report.html").read_text()
    assert json.loads(llmsched("study", "results", "out", "--json"))  # the note is not among the data


def test_mistakes_are_told_in_a_line_each(fails, tmp_path):
    Path("study.toml").write_text(SMALL)
    known, keys = ", ".join(ls.policies), ", ".join(f.name for f in dataclasses.fields(Study))
    Path("wrong.toml").write_text(SMALL.replace("memories", "memory").replace('"amin"', '"amni"'))
    assert fails("study", "check", "wrong.toml").splitlines()[:2] == [
        f"error: wrong.toml, line 2: policies[1]: there is no policy 'amni'; did you mean 'amin'? known: {known}",
        f"wrong.toml, line 3: memory: there is no such key; did you mean 'memories'? known: {keys}",
    ]
    assert fails("study", "check", "none.toml") == "error: none.toml: No such file or directory\n"
    assert "exists already" in fails("study", "new", "study.toml")
    assert "expected a key and a TOML value" in fails("study", "check", "study.toml", "--set", "memories=[1,")
    assert "seed: seed must be a whole number" in fails("study", "check", "study.toml", "--set", "seed=-1")
    assert "there is no such key; did you mean 'seed'" in fails("study", "check", "study.toml", "--set", "sede=1")
    assert "give one of them" in fails(
        "study", "run", "study.toml", "--out", "o", "--workers", "2", "--cluster", "tcp://x:1"
    )
    assert "holds no study" in fails("study", "results", str(tmp_path))
    Path("trace.toml").write_text(SMALL.replace('generator = "lmsys"', 'trace = "t.csv"'))
    said = fails("study", "check", "trace.toml")
    assert said.startswith(
        "error: trace.toml, line 7: workloads[0].trace: there is no file t.csv. Traces are looked for"
    )
    assert "error: workloads[0].trace: there is no file" in fails("study", "check", "trace.toml", "--set", "seed=1")
    ls.traces.write(ls.generate.lmsys(60, 1), "t.csv")
    Path("trace.toml").write_text('intervals = [{predictions = "p.csv"}]\n' + Path("trace.toml").read_text())
    said = fails("study", "check", "trace.toml")
    assert said.startswith("error: trace.toml, line 1: intervals[0].predictions: there is no file p.csv")
    Study.load("study.toml").run("out")
    assert "did you mean 'evictions'" in fails("study", "results", "out", "--metric", "eviction")
    assert fails("study", "report", "nope") == fails("study", "results", "nope")
    assert "workers must be" in fails("study", "run", "study.toml", "--out", "out", "--workers", "0")
    Path("names.toml").write_text(SMALL.replace('"amin"', '"amin", {name = "amin, margin 5 %", base = "amin"}'))
    Study.load("names.toml").run("named")
    said = fails("study", "report", "named", "--against", "amni")
    assert "did you mean 'amin'? known: 'hsf', 'amin', 'amin, margin 5 %'\n" in said


def test_on_a_terminal_it_shows_how_far_it_is(tmp_path):
    (tmp_path / "study.toml").write_text(SMALL.replace("replications = 6", "replications = 1500"))
    command = [sys.executable, "-m", "llmsched", "study", "run", "study.toml", "--out", "out"]
    ours, theirs = pty.openpty()
    environment = {**os.environ, "TERM": "xterm-256color", "COLUMNS": "100", "LINES": "30"}
    process = subprocess.Popen(command, cwd=tmp_path, stdout=theirs, stderr=theirs, env=environment)
    os.close(theirs)
    shown = b""
    while True:
        try:
            shown += os.read(ours, 65536)
        except OSError:  # how a terminal ends
            break
    assert process.wait() == 0
    os.close(ours)
    text = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", shown.decode())
    assert re.search(r"[\d,]+ of 6,000 simulations, [\d,]+/s, .* left", text)
    assert re.search(r"amin +1,500 +[\d,]+ +[\d.]+ +[\d.]+", text)
    assert text.endswith("s).\r\n")


def test_the_display_of_many_cells_shows_those_known_least(tmp_path):
    study = Study(
        workloads=[{"generator": "lmsys", "requests": 40}],
        policies=["amin", "hsf"],
        memories=list(range(1000, 3000, 50)),
        replications=3,
    )
    status = study.run(tmp_path / "out")
    console = Console(width=100, height=20, force_terminal=True, record=True, file=io.StringIO())
    with study_display.Display(console) as shown:
        shown.update(status)
    text = console.export_text()
    assert "240 of 240 simulations" in text
    assert "the 13 least known of 80 cells" in text
    assert isinstance(status, runner.Status)


@pytest.mark.parametrize("width", [60, 80, 120])
def test_the_display_fits_the_terminal(tmp_path, width):
    study = Study(
        workloads=[{"name": "a workload with a long name", "generator": "lmsys", "requests": 20}, "uniform:1,50"],
        intervals=["buckets:100", "relative:0.5"],
        policies=["amin-recompute", "hsf"],
        memories=[3000, 4000],
        replications=2,
    )
    status = study.run(tmp_path / "out")
    console = Console(width=width, record=True, file=io.StringIO())
    console.print(study_display._bar(status, width), study_display._means(status, 40, width), sep="\n")
    text = console.export_text()
    assert max(map(len, text.splitlines())) <= width
    assert "…" not in text
    assert text.count("amin-recompute") >= 4
    assert "a workload with a long name" in text
    assert ("replications" in text) == (width == 120)


def test_an_estimate_times_every_workload_and_no_more_than_there_is():
    study = Study(workloads=["lmsys", "uniform:1,50"], policies=["amin"], memories=[2000], replications=2)
    found = estimate(study, study.plan())
    assert (found.cells, found.simulations, found.tried) == (2, 4, 4)
    assert found.seconds > 0


@pytest.mark.parametrize("file", EXAMPLES, ids=lambda path: path.stem)
def test_the_example_studies_run(llmsched, data_file, file):
    more = ()
    if "trace =" in file.read_text():
        more = ("--traces", str(data_file("AzureLLMInferenceTrace_conv.csv").parent))
    said = llmsched("study", "run", str(file), "--out", "out", "--quick", *more)
    assert "failed" not in said
    assert Path("out/study.json").exists()


def test_the_reference_of_the_study_file_is_current():
    page = runpy.run_path(str(ROOT / "tools" / "study-reference"))
    assert page["PAGE"].read_text(encoding="utf-8") == page["page"](), "run tools/study-reference"


def test_a_study_of_an_empty_trace_is_refused(fails):
    Path("e.csv").write_text("prompt_tokens,output_tokens\n")
    Path("s.toml").write_text(
        'name = "x"\nreplications = 2\npolicies = ["amin"]\nmemories = [4000]\nintervals = ["buckets:100"]\n'
        'metrics = ["mean_latency"]\n[[workloads]]\nname = "e"\ntrace = "e.csv"\n'
    )
    for words in (["check", "s.toml"], ["run", "s.toml", "--out", "o"]):
        assert "e.csv: there are no requests in it" in fails("study", *words)
