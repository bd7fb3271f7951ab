"""Progress: every long call says how far it is, and shows a bar where one is asked for and can be seen."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from helpers.terminal import on_a_terminal

import llmsched as ls
from llmsched import progress
from llmsched.errors import MissingExtraError

W = ls.generate.lmsys(400).with_intervals(ls.intervals.buckets(100))
FEW = ls.generate.uniform(100, 1, 20)
SMALL = ls.Workload([3, 5, 2, 6, 4, 3, 5, 2], [6, 4, 8, 3, 7, 5, 9, 4])
#: A call that takes a second and a half, whatever the machine: the planner never gets to the bound.
SLOW = "ls.best_known(ls.generate.uniform(100, 1, 20), memory=60, time_limit=1.8)"
SETUP = "import llmsched as ls\n"
#: Another call as long, which leaves the processor to others.
WAITING = "import time, llmsched.progress; llmsched.progress.with_seconds('waiting')(time.sleep)(1.5)"


# Callbacks ------------------------------------------------------------------------------------------------------------

CALLS: dict[str, Callable[..., Any]] = {
    "lower_bound": lambda tell: ls.lower_bound(W, memory=3000, iterations=20, progress=tell),
    "best_known": lambda tell: ls.best_known(FEW, memory=60, time_limit=0.5, progress=tell),
    "optimal": lambda tell: ls.optimal(SMALL, memory=22, time_limit=20, progress=tell),
    "disaggregated": lambda tell: ls.simulate_disaggregated(
        ls.generate.poisson(ls.generate.lmsys(60_000), 3), prefill=1, decode=6, memory=3000, progress=tell
    ),
}


@pytest.mark.parametrize("call", CALLS)
def test_progress_is_reported_and_never_goes_back(call: str) -> None:
    if call == "optimal":
        pytest.importorskip("highspy", reason="exact optima are the extra `optimum`")
    told: list[tuple[float, float]] = []
    CALLS[call](lambda done, total: told.append((done, total)))
    assert len(told) > 1
    assert len({total for _, total in told}) == 1
    done = [done for done, _ in told]
    assert done == sorted(done)
    assert 0 <= done[0] <= done[-1] <= told[0][1]


@pytest.mark.parametrize("call", ["lower_bound", "best_known", "optimal"])
def test_progress_changes_no_answer(call: str) -> None:
    if call == "optimal":
        pytest.importorskip("highspy", reason="exact optima are the extra `optimum`")
    calls: dict[str, Callable[[Any], float]] = {
        "lower_bound": lambda tell: ls.lower_bound(W, memory=3000, iterations=20, progress=tell).value,
        "best_known": lambda tell: (
            ls.best_known(FEW, memory=60, time_limit=None, iterations=700, progress=tell).total_latency
        ),
        "optimal": lambda tell: ls.optimal(SMALL, memory=22, time_limit=20, progress=tell).total_latency,
    }
    assert calls[call](None) == calls[call](lambda *_: None)


@pytest.mark.parametrize("suffix", [".csv", ".csv.gz", ".parquet"])
def test_reading_and_writing_count_requests(tmp_path: Path, suffix: str) -> None:
    if suffix == ".parquet":
        pytest.importorskip("pyarrow", reason="Parquet is the extra `parquet`")
    w = ls.generate.poisson(ls.generate.lmsys(150_000), 5)
    written: list[Any] = []
    read: list[Any] = []
    ls.traces.write(w, tmp_path / f"t{suffix}", progress=lambda *told: written.append(told))
    ls.traces.load(tmp_path / f"t{suffix}", progress=lambda *told: read.append(told))
    assert read[-1] == (len(w), None)
    assert len(read) > 1
    assert [done for done, _ in read] == sorted(done for done, _ in read)
    if suffix != ".parquet":
        assert written[-1] == (len(w), len(w))
        assert len(written) > 2


# Bars -----------------------------------------------------------------------------------------------------------------


class Made:
    """The bars that were made: what they are of, and what was reported to each."""

    def __init__(self) -> None:
        self.bars: list[tuple[str, str, list[tuple[Any, ...]]]] = []

    @contextmanager
    def __call__(self, verb: str, unit: str) -> Iterator[progress.Report]:
        told: list[tuple[Any, ...]] = []
        self.bars.append((verb, unit, told))
        yield lambda *what: told.append(what)


@pytest.fixture
def made() -> Iterator[Made]:
    """Bars of our own, for one test."""
    bars = Made()
    before = progress.set_bars(bars)
    yield bars
    progress.set_bars(before)


def test_there_is_one_bar_and_what_runs_inside_has_none(made: Made, tmp_path: Path) -> None:
    ls.compare(W, ["amin", "fcfs"], memory=3000)
    ls.sweep(W, ["amin"], rates=[0.1], memory=3000, replications=2, requests=100, threads=2)
    ls.capacity.highest_rate(W, "amin", slo={"e2e": 300.0}, memory=3000, replications=2, tolerance=0.5)
    assert [(verb, unit) for verb, unit, _ in made.bars] == [
        ("comparing", "requests"), ("sweeping", "simulations"), ("searching", "simulations"),
    ]  # fmt: skip
    assert made.bars[0][2][-1] == ("hsf", 3 * len(W), 3 * len(W))
    assert made.bars[1][2] == [(1, 2), (2, 2)]


def test_a_call_with_a_callback_of_its_own_has_no_bar(made: Made) -> None:
    told: list[Any] = []
    ls.compare(W, ["amin", "fcfs"], memory=3000, progress=lambda *what: told.append(what))
    assert told
    assert made.bars == []


def test_the_bar_is_there_again_after_an_error(made: Made) -> None:
    with pytest.raises(ls.errors.LlmschedError):
        ls.simulate(W, "amin", memory=1)
    ls.simulate(W, "amin", memory=3000)
    assert [verb for verb, _, _ in made.bars] == ["simulating", "simulating"]


def test_studies_and_streams_report_in_their_own_words(made: Made, tmp_path: Path) -> None:
    pytest.importorskip("pydantic", reason="studies are the extra `study`")
    asked = {"workloads": [{"generator": "lmsys", "requests": 30}], "policies": ["amin"], "memories": [3000]}
    ls.study.Study(**asked, replications=5).run(tmp_path)
    ls.stream(ls.generate.chunks(W, 2000, 0.5, size=500), "fcfs", memory=3000)
    study, stream = (told for verb, _, told in made.bars if verb == "simulating")
    assert study[-1] == (5, 5)
    assert {total for _, total in stream} == {None}
    assert 0 < stream[-1][0] <= 2000


def test_what_cannot_say_how_far_it_is_tells_the_seconds(made: Made) -> None:
    slow = progress.with_seconds("waiting")(time.sleep)
    slow(0.6)
    ((verb, unit, told),) = made.bars
    assert (verb, unit) == ("waiting", "seconds")
    assert {total for _, total in told} == {None}
    assert len(told) == 2
    assert not [thread for thread in threading.enumerate() if "tick" in thread.name]


def test_no_bar_begins_beside_something_that_it_would_disturb(made: Made) -> None:
    with progress.no_other(), progress.no_other():
        ls.simulate(W, "amin", memory=3000)
    assert made.bars == []
    ls.simulate(W, "amin", memory=3000)
    assert len(made.bars) == 1


def test_decorated_functions_keep_their_signatures() -> None:
    import inspect

    assert "progress" in inspect.signature(ls.simulate).parameters
    assert ls.simulate.__doc__ is not None
    assert list(inspect.signature(ls.service.metrics).parameters)[:2] == ["result", "slo"]


LONG = [
    ls.simulate, ls.simulate_batch, ls.simulate_fleet, ls.simulate_disaggregated, ls.stream, ls.compare, ls.sweep,
    ls.size, ls.cheapest_mix, ls.capacity.highest_rate, ls.capacity.smallest_memory, ls.capacity.fewest_replicas,
    ls.lower_bound, ls.best_known, ls.optimal, ls.adversarial_search, ls.predictor_value, ls.traces.load,
    ls.traces.write, ls.service.metrics, ls.energy.metrics, ls.perfetto.write, ls.generate.lmsys,
]  # fmt: skip


@pytest.mark.parametrize("function", LONG, ids=lambda function: f"{function.__module__}.{function.__name__}")
def test_every_long_function_has_a_bar(function: Any) -> None:
    assert hasattr(function, "__wrapped__")


# tqdm, where a bar can be seen ----------------------------------------------------------------------------------------


def seen_on_a_terminal(code: str) -> tuple[str, str]:
    """What a program prints on stdout, a pipe, and what it shows on a terminal that is its stderr."""
    return on_a_terminal([sys.executable, "-c", code])


def test_a_terminal_shows_a_bar_once_a_second_is_over() -> None:
    pytest.importorskip("tqdm", reason="bars are the extra `notebook`")
    printed, shown = seen_on_a_terminal(f"{SETUP}ls.show_progress()\n{SLOW}\n")
    assert printed == ""
    assert "planning" in shown
    assert "%|" in shown
    assert "waiting" in seen_on_a_terminal(f"{SETUP}ls.show_progress()\n{WAITING}\n")[1]
    quick = "ls.simulate(ls.generate.lmsys(50), 'fcfs', memory=3000)\n"
    off = "ls.show_progress()\nls.show_progress(False)\n"
    for code in (f"{WAITING}\n", f"ls.show_progress()\n{quick}", f"{off}{WAITING}\n"):
        assert seen_on_a_terminal(SETUP + code) == ("", "")


def test_a_pipe_shows_no_bar() -> None:
    pytest.importorskip("tqdm", reason="bars are the extra `notebook`")
    code = f"{SETUP}ls.show_progress()\n{WAITING}\n"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == done.stderr == ""


def test_with_with_there_are_bars_inside_alone() -> None:
    pytest.importorskip("tqdm", reason="bars are the extra `notebook`")
    assert progress._bars is None
    with ls.show_progress():
        assert progress._bars is not None
        with ls.show_progress(False):
            assert progress._bars is None
        assert progress._bars is not None
    assert progress._bars is None


def test_without_tqdm_it_is_said_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tqdm.auto", None)
    with pytest.raises(MissingExtraError, match=r"llmsched\[notebook\]"):
        ls.show_progress()


def executed(*sources: str) -> Any:
    """A notebook with these cells, after it ran."""
    nbclient = pytest.importorskip("nbclient", reason="notebooks are run by nbclient, of the extra `test`")
    pytest.importorskip("ipykernel", reason="notebooks need a kernel")
    import nbformat

    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source) for source in sources])
    nbclient.NotebookClient(notebook, timeout=120).execute()
    return notebook


def test_a_notebook_shows_a_bar() -> None:
    for name in ("tqdm", "ipywidgets"):
        pytest.importorskip(name, reason="bars are the extra `notebook`")
    notebook = executed(f"{SETUP}{WAITING}", "ls.show_progress();", f"plan = {SLOW}")
    quiet, begin, shown = (cell.outputs for cell in notebook.cells)
    assert quiet == begin == []
    (output,) = shown
    assert "application/vnd.jupyter.widget-view+json" in output["data"]
    assert output["data"]["text/plain"].startswith("planning:")
    models = notebook.metadata.widgets["application/vnd.jupyter.widget-state+json"]["state"].values()
    texts = [str(model["state"].get("value")).replace("\u2007", " ") for model in models]
    assert "planning: 100%" in texts


def test_a_bar_ends_full_though_its_total_was_a_guess(capsys: pytest.CaptureFixture[str]) -> None:
    """And stays where it was if the call fails."""
    tqdm = pytest.importorskip("tqdm.auto", reason="bars are the extra `notebook`").tqdm

    def bar(*told: tuple[Any, ...], fails: bool = False) -> str:
        made = progress._Bar(tqdm, "searching", "simulations")
        made.began -= 2
        try:
            with made as report:
                for what in told:
                    report(*what)
                    made.drawn = 0.0
                if fails:
                    raise KeyboardInterrupt
        except KeyboardInterrupt:
            pass
        return capsys.readouterr().err.rpartition("\r")[2]

    assert bar((5, 25), ("amin", 6, 30)).startswith("amin: 100%")
    assert bar((5, 25), fails=True).startswith("searching:  20%")
    assert "7.00 simulations" in bar((7, None))
    seconds = progress._Bar(tqdm, "fitting", "seconds")
    seconds.began -= 3
    with seconds as report:
        report(3, None)
    assert "fitting: 00:03" in capsys.readouterr().err
