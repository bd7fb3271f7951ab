"""logging.getLogger("llmsched"): what long calls decide, nothing unless somebody listens, nothing in the hot loops."""

from __future__ import annotations

import asyncio
import logging
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import llmsched as ls

W = ls.generate.lmsys(80).with_intervals(ls.intervals.buckets(100))
LATER = ls.generate.poisson(W, 0.2)
SLO = {"e2e": 300.0}

Told = Callable[[Callable[[], Any]], list[str]]


@pytest.fixture
def told(caplog: pytest.LogCaptureFixture) -> Told:
    """What is logged while something runs, as texts; all from loggers below ``llmsched``."""

    def of(call: Callable[[], Any], level: int = logging.INFO) -> list[str]:
        caplog.clear()
        with caplog.at_level(level, logger="llmsched"):
            call()
        assert all(record.name.startswith("llmsched.") for record in caplog.records)
        return [record.getMessage() for record in caplog.records]

    return of


def one(texts: list[str], *parts: str) -> str:
    """The one text that has all of these parts."""
    (found,) = [text for text in texts if all(part in text for part in parts)]
    return found


# Nothing unless somebody listens --------------------------------------------------------------------------------------


def test_nothing_is_printed_unless_somebody_listens(tmp_path: Path) -> None:
    """Not even warnings, which Python prints where a logger has no handler."""
    code = (
        "import llmsched as ls, logging\n"
        "w = ls.generate.lmsys(50).with_intervals(ls.intervals.buckets(100))\n"
        "ls.capacity.highest_rate(w, 'amin', slo={'e2e': 300.0}, memory=3000, replications=2)\n"
        "ls.compare(w, memory=3000)\n"
        "logging.getLogger('llmsched.study.runner').warning('told to nobody')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == done.stderr == ""


def test_importing_the_package_does_not_import_logging() -> None:
    code = "import sys; sys.modules.pop('logging', None); import llmsched; print('logging' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_a_simulation_logs_nothing(told: Told) -> None:
    """The hot loops: not a record, whatever the level."""
    assert told(lambda: ls.simulate(W, "amin", memory=3000), logging.DEBUG) == []
    assert told(lambda: ls.simulate_batch(W, ["amin", "hsf"], memory=3000, seeds=range(5)), logging.DEBUG) == []


# Searches and comparisons ---------------------------------------------------------------------------------------------


def test_a_search_logs_every_rate_that_it_tries_and_the_answer(told: Told) -> None:
    found: list[Any] = []
    texts = told(
        lambda: found.append(ls.capacity.highest_rate(W, "amin", slo=SLO, memory=3000, replications=2, tolerance=0.2))
    )
    answer = found[0]
    assert sum(text.startswith("rate ") and "meet the targets" in text for text in texts) == len(answer.probes)
    assert one(texts, "rate for amin:").startswith(f"rate for amin: {answer.value:g}")


def test_sizing_logs_the_memories_and_the_gpus(told: Told) -> None:
    asked: dict[str, Any] = {"machine": "llama2-70b-4xh100", "slo": {"e2e": 60.0}, "rate": 2.0, "replications": 2}
    texts = told(lambda: ls.size(W, "fcfs", model="llama-2-70b", tolerance=0.5, **asked))
    assert any(text.startswith("memory ") and "meet the targets" in text for text in texts)
    assert "80" in one(texts, "GPUs for") or "none" in one(texts, "GPUs for")
    assert not [text for text in told(lambda: ls.size(W, "fcfs", tolerance=0.5, **asked)) if "GPU" in text]


def test_a_mix_logs_every_mix_that_it_tries(told: Told) -> None:
    kinds = {"small": ls.Replica(memory=2000, price=1.0), "large": ls.Replica(memory=4000, price=2.5)}
    found: list[Any] = []
    texts = told(
        lambda: found.append(
            ls.cheapest_mix(W, "fcfs", kinds=kinds, slo=SLO, rate=0.3, replications=2, most=4, router="random")
        )
    )
    assert sum("x small" in text and "meet the targets" in text for text in texts) == len(found[0].probes)


def test_a_sweep_logs_every_run_and_a_comparison_every_row(told: Told) -> None:
    texts = told(lambda: ls.sweep(W, ["amin", "fcfs"], rates=[0.1, 0.2], memory=3000, replications=2, requests=100))
    assert len(texts) == 8
    assert "mean latency" in one(texts, "amin at rate 0.2, replication 1:")
    texts = told(lambda: ls.compare(W, ["amin", "fcfs"], memory=3000, baseline=None))
    assert [text.partition(":")[0] for text in texts] == ["amin", "fcfs"]
    (text,) = told(lambda: ls.compare(W, ["fcfs"], memory=3000, baseline=None, max_rounds=3))
    assert "no result" in text
    assert "max_rounds=3" in text


def test_planner_and_exact_search_log_their_steps(told: Told) -> None:
    pytest.importorskip("highspy", reason="exact optima are the extra `optimum`")
    text = one(told(lambda: ls.best_known(W, memory=3000, time_limit=None, iterations=600)), "plan:")
    assert "after 600 iterations" in text
    small = ls.Workload([3, 5, 2, 6, 4, 3, 5, 2], [6, 4, 8, 3, 7, 5, 9, 4])
    texts = told(lambda: ls.optimal(small, memory=22, time_limit=20))
    assert "the sum of starts is from" in one(texts, "optimal: pass 1 ")
    details = told(lambda: ls.lower_bound(W, memory=3000), logging.DEBUG)
    assert "is the largest of" in one(details, "bound:")


def test_an_adversary_logs_every_step_of_its_history(told: Told) -> None:
    found: list[Any] = []
    texts = told(
        lambda: found.append(ls.adversarial_search("amax", interval=(1, 8), memory=40, budget=60, seed=1, most=20))
    )
    assert len([text for text in texts if "the largest so far" in text]) == len(found[0].history) > 0


# Predictors -----------------------------------------------------------------------------------------------------------


def test_training_logs_the_split_the_models_and_the_corrections(told: Told) -> None:
    pytest.importorskip("sklearn", reason="predictors are the extra `predict`")
    from sklearn.linear_model import QuantileRegressor

    g = np.random.default_rng(3)
    X = np.column_stack([g.integers(1, 60, 400), g.integers(0, 2, 400)]).astype(float)
    y = np.ceil(np.exp(2 + X[:, 0] / 40 + g.normal(0, 0.5, 400)))
    model = ls.predict.IntervalRegressor(0.8, regressor=QuantileRegressor(solver="highs", alpha=0), group_by=1)
    texts = told(lambda: model.fit(X, y))
    held = sum(-(-int((X[:, 1] == group).sum()) // 4) for group in (0, 1))
    assert one(texts, "learns from").endswith(f"learns from {400 - held} rows, calibrates with {held}")
    assert one(texts, "quantiles") == "quantiles 0.1 and 0.9 and the median"
    moved = one(texts, "moved apart")
    assert f"{np.exp(model.correction_):.4g}" in moved
    assert "by 1: 0.0 " in moved
    scores: list[dict[str, float]] = []
    (text,) = told(lambda: scores.append(ls.predict.evaluate(model, X, y)))
    assert f"coverage {scores[0]['coverage']:.4g}" in text
    (text, *_) = [t for t in told(lambda: ls.predict.IntervalClassifier(width=10).fit(X, y)) if "buckets" in t]
    assert text.startswith("buckets of up to 10, 20")


# Fleets ---------------------------------------------------------------------------------------------------------------


def test_a_fleet_logs_failures_and_what_is_sent_again(told: Told) -> None:
    w = ls.Workload(0, [10, 10, 10], arrival=[0.0, 0.0, 6.0])
    replicas = [ls.Replica(fails_at=4.5, returns_at=6.0), ls.Replica()]
    asked: dict[str, Any] = {"replicas": replicas, "router": "round-robin", "memory": 30, "seed": None}
    (text,) = told(lambda: ls.simulate_fleet(w, "fcfs", **asked))
    assert text == "replica failed at 4.5: 1 request, sent again"
    details = told(lambda: ls.simulate_fleet(w, "fcfs", replicas=2, memory=30), logging.DEBUG)
    assert details == ["3 requests to 2 replicas behind least-requests, compiled engine"]
    texts = told(lambda: ls.simulate_disaggregated(LATER, prefill=2, decode=2, memory=3000))
    assert "80 requests have their first token" in one(texts, "prefill:")
    assert one(texts, "decode:")


# Studies --------------------------------------------------------------------------------------------------------------


def study(**changes: Any) -> Any:
    pytest.importorskip("pydantic", reason="studies are the extra `study`")
    fields = {"name": "tiny", "workloads": [{"generator": "lmsys", "requests": 30}], "policies": ["hsf", "amin"]}
    return ls.study.Study(**{**fields, "memories": [3000], "replications": 4} | changes)


def test_a_study_logs_executor_parts_and_what_it_resumes(told: Told, tmp_path: Path) -> None:
    texts = told(lambda: study().run(tmp_path, workers=2))
    assert one(texts, "to do") == f"study tiny in {tmp_path}: 2 cells, 8 simulations to do"
    assert one(texts, "executor:") == "executor: 2 threads"
    assert one(texts, "written:").startswith(f"written: {tmp_path / 'results' / 'part-'}")
    assert one(texts, "8 simulations on disk, 0 failed")
    again = told(lambda: study().run(tmp_path))
    assert one(again, "resumed:") == "resumed: 8 simulations on disk, 0 of them failed"
    assert one(again, ", 0 simulations to do")
    assert not [text for text in again if "executor:" in text]
    more = told(lambda: study(replications=6).run(tmp_path, extend=True))
    assert "replications were 4 and are 6" in one(more, "extended:")
    assert one(more, "compacted: 2 parts")
    assert one(more, "4 simulations to do")


def test_a_study_logs_what_it_repairs_retries_and_removes(
    told: Told, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    stuck = study(max_rounds=3)
    told(lambda: stuck.run(tmp_path / "stuck"))
    assert one(told(lambda: stuck.run(tmp_path / "stuck", retry=True)), "retried:") == "retried: 8 failures"
    told(lambda: study().run(tmp_path / "out"))
    (part,) = (tmp_path / "out" / "results").glob("part-*.parquet")
    part.write_bytes(part.read_bytes()[:-9])
    (part.parent / "part-000777.parquet.part").write_bytes(b"half")
    texts = told(lambda: study().run(tmp_path / "out", repair=True))
    assert one(texts, "repaired:") == f"repaired: {part} put aside, what was in it is simulated again"
    assert {r.levelname for r in caplog.records if "repaired:" in r.getMessage()} == {"WARNING"}
    assert one(texts, "removed:", "part-000777")
    (tmp_path / "out" / "manifest.json").write_text("{")
    assert one(told(lambda: study().run(tmp_path / "out", repair=True)), "repaired:", "manifest.json")


def test_a_study_logs_that_it_asks_for_more_replications(told: Told, tmp_path: Path) -> None:
    precision = {"metric": "mean_latency", "relative": 0.02, "first": 16, "most": 40}
    texts = told(lambda: study(replications=None, precision=precision).run(tmp_path))
    asked = [int(text.split()[1].replace(",", "")) for text in texts if text.startswith("precision: ")]
    done = sum(ls.study.results(tmp_path)["replication"].to_numpy() >= 16)
    assert sum(asked) == done > 0


def test_a_study_logs_workers_that_are_lost(told: Told, tmp_path: Path) -> None:
    """A unit whose workers die is halved until the one simulation is found that kills them."""
    from llmsched.study import plan, runner, store, worker

    asked = study()
    made = plan.make(asked, tmp_path)

    def run() -> None:
        directory = store.Directory(tmp_path / "out", made, asked.to_toml(), runner.about(asked))
        running = runner._StudyRun(asked, made, directory, False, False)
        for size in (2, 1):
            which, all_of_them = np.arange(size), np.ones((size, size), bool)
            running._halve(worker.WorkUnit(made, 0, which, which, all_of_them), RuntimeError("killed"))
        directory.close()

    texts = told(run)
    assert one(texts, "halved") == "workers lost (killed): their 4 simulations halved, and handed out again"
    assert one(texts, "given up") == "workers lost (killed): their 1 simulation given up"


# Others ---------------------------------------------------------------------------------------------------------------


def test_a_calibration_logs_what_it_is_fitted_to(told: Told, tmp_path: Path) -> None:
    pytest.importorskip("scipy", reason="calibration is the extra `serving`")
    from helpers.engine_logs import STEPS, engine_run

    result = engine_run()
    log = STEPS["recorder"](tmp_path / "log", result)
    texts = told(lambda: ls.serving.calibrate(log))
    assert one(texts, "clock of the steps in").endswith(str(log))
    assert f"fitted to {result.rounds} steps, 0 left out" in one(texts, "terms batch, prefilled, context")


def test_a_scheduler_inside_an_engine_logs_whom_it_hastens(told: Told) -> None:
    from llmsched.serving.inside import Patience, recomputing

    core = ls.live.Scheduler("fcfs", memory=100)
    core.submit("late", 5, lower=1, upper=9, arrival=0.0)
    patience = Patience(3.0)
    patience.came("late", 0.0)
    assert told(lambda: patience.hasten(core, 2.0)) == []
    assert told(lambda: patience.hasten(core, 4.5)) == ["request late goes first: it was there for 4.5 s"]
    (text,) = told(lambda: recomputing(ls.policies["amin"], "vLLM", lambda _: None))
    assert text == "amin: resume='restart' becomes 'recompute' inside vLLM"


def test_the_explorer_logs_answers_and_refusals_but_no_token(told: Told) -> None:
    pytest.importorskip("uvicorn", reason="the extra explore is not installed")
    from llmsched.cli.explorer import server

    app = server.application({}, {"gap": lambda body, _: {"n": body}}, "secret", 80, threading.Event())

    def post(path: str) -> int:
        """The status of the answer."""
        sent: list[dict[str, Any]] = []

        async def receive() -> dict[str, Any]:
            return {"type": "http.request", "body": b"3", "more_body": False}

        async def send(message: dict[str, Any]) -> None:
            sent.append(message)

        headers = [(b"host", f"{server.HOST}:80".encode())]
        scope = {"type": "http", "method": "POST", "path": path, "headers": headers, "query_string": b""}
        asyncio.run(app(scope, receive, send))
        return int(sent[0]["status"])

    texts = told(lambda: [post("/secret/gap"), post("/guess/gap")])
    assert one(texts, "explorer: gap answered in")
    assert one(texts, "was refused")
    assert not [text for text in texts if "secret" in text]
