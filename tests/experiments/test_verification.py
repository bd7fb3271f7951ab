"""The quick subset of `python -m verification`: exact statements hold, and what is known about limits stays known."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.figure_texts import unreadable
from helpers.workers import made_once

pytest.importorskip("verification", reason="verification/ is not beside the tests")

from helpers import ROOT

import llmsched as ls
from llmsched.metrics import figure_style
from verification import __main__ as command
from verification import competitive, queueing
from verification.checks import Check, Report


class Reports(dict[str, Report]):
    """Made when they are asked for, once for all workers of pytest-xdist."""

    def __init__(self, folders: pytest.TempPathFactory) -> None:
        self.folders = folders

    def __missing__(self, name: str) -> Report:
        def make(place: Path) -> None:
            place.mkdir(exist_ok=True)
            (place / "report").write_bytes(pickle.dumps(command.TOPICS[name].run(quick=True)))

        self[name] = pickle.loads((made_once(self.folders, f"verification-{name}", make) / "report").read_bytes())
        return self[name]


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory) -> Reports:
    return Reports(tmp_path_factory)


@pytest.mark.parametrize("name", command.TOPICS)
def test_no_exact_statement_fails(reports: Reports, name: str) -> None:
    assert [check.sentence() for check in reports[name].failed] == []
    assert len(reports[name].checks) >= 9


def test_littles_law_is_checked_on_every_policy_that_finishes(reports: Reports) -> None:
    report = reports["little"]
    assert len(report.checks) + 2 * len(report.remarks) == 2 * 3 * sum(
        policy.slots == "ahead" for policy in ls.policies.values()
    )
    assert {check.verdict for check in report.checks} == {"pass"}
    assert all("protection" in remark or "clearing" in remark for remark in report.remarks)


def test_queueing_intervals_are_narrow_enough_to_mean_something(reports: Reports) -> None:
    checks = reports["queueing"].checks
    assert {check.source for check in checks} == {"Pollaczek-Khinchine", "shortest job first", "Cobham's priorities"}
    relative = sorted(check.half / check.theory for check in checks)
    assert relative[len(relative) // 2] < 0.15
    # First come first served is far outside the intervals of the shortest job first, and the other way round.
    by_name = {check.name: check for check in checks}
    fcfs, shortest = (by_name[f"two-point 2/30, load 0.8: {policy}"] for policy in ("fcfs", "hsf, all"))
    assert abs(fcfs.measured - shortest.theory) > 2 * fcfs.half


def test_theorem_7_agrees_and_the_formulas_of_queueing_are_the_textbooks(reports: Reports) -> None:
    last = {check.name: check for check in reports["competitive"].checks if check.source == "Theorem 7"}
    for name in ("two-point 10/40, 4/5 short: aell / hsf", "two-point 10/20, 2/3 short: aell / hsf"):
        assert last[name].verdict == "pass", last[name].sentence()
    (deterministic, *_) = queueing.services()
    assert queueing.pollaczek_khinchine(0.05, deterministic) == pytest.approx(5)  # M/D/1: load * S / (2 (1 - load))
    assert queueing.cobham(0.05, deterministic, deterministic.lengths) == {10: pytest.approx(5)}


def test_the_disagreements_with_lemma_2_are_still_there(reports: Reports) -> None:
    """If these change, either the model changed or docs/background/theory.md has to."""
    last = {(check.name, check.source): check for check in reports["competitive"].checks}
    above = last["geometric q=0.8: amin / hsf", "Lemma 2"]
    assert above.verdict == "differs"
    assert above.measured > 1.85
    assert abs(last["geometric q=0.8: amin / hsf", "full cache, random order"].gap) < 0.05
    below = last["linear-geometric q=0.8: amin / hsf", "Theorem 8"]
    assert below.verdict == "differs"
    assert below.measured < 1.45
    worst = [check for check in reports["bounds"].checks if check.source == "Corollary 1"]
    assert all(check.measured > 1.3 * check.theory for check in worst if check.name.startswith("amin /"))
    # The rule that the proofs are about comes near, even at these sizes.
    lottery = [check for check in worst if check.name.startswith("amin-lottery /")]
    assert lottery
    assert all(abs(check.gap) < 0.1 for check in lottery)


def test_theorem_1_holds_on_everything_tried(reports: Reports) -> None:
    checks = [check for name in ("bounds", "adversarial") for check in reports[name].checks]
    bounded = [check for check in checks if check.source == "Theorem 1"]
    assert len(bounded) == 11
    assert all(check.verdict == "pass" for check in bounded)


def test_the_staggered_pipeline_is_exact(reports: Reports) -> None:
    exact = [check for check in reports["bounds"].checks if check.name.startswith("equal lengths")]
    assert [check.measured for check in exact] == [505000, 98, 303353]


def test_figures_are_drawn(reports: Reports, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="figures need matplotlib (extra plot)")

    for topic in command.TOPICS:
        for name, draw in reports[topic].figures.items():
            figure = draw()
            assert unreadable(figure) == []
            figure_style.save(figure, tmp_path / f"{name}.png")
    assert {file.stem for file in tmp_path.iterdir()} == {"competitive", "queueing", "worst"}


# The machinery --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("measured", "half", "how", "verdict"),
    [
        (1.0, 0.0, {}, "pass"),
        (1.05, 0.1, {}, "pass"),
        (1.2, 0.1, {}, "FAIL"),
        (0.8, 0.1, {}, "FAIL"),
        (1.2, 0.1, {"limit": True}, "differs"),
        (0.2, 0.0, {"one_sided": True}, "pass"),
        (1.2, 0.1, {"one_sided": True}, "FAIL"),
        (float("nan"), 0.1, {}, "FAIL"),
    ],
)
def test_verdicts(measured: float, half: float, how: dict[str, bool], verdict: str) -> None:
    assert Check("a", "b", 1.0, measured, half, 1, 1, **how).verdict == verdict


def test_every_distribution_has_a_claim() -> None:
    for distribution in competitive.distributions():
        assert distribution.claims
        assert sum(distribution.shares) == pytest.approx(1)


def test_the_command_lists_and_refuses(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["--list"]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == list(command.TOPICS)
    assert command.main(["-t", "litle"]) == 2
    assert "did you mean 'little'" in capsys.readouterr().err


def test_the_command_runs_a_topic_and_writes_it(tmp_path: Path) -> None:
    args = [sys.executable, "-m", "verification", "--quick", "-t", "little", "--out", str(tmp_path / "new" / "out")]
    done = subprocess.run(args, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")
    assert "0 FAIL" in done.stdout
    written = json.loads((tmp_path / "new" / "out" / "checks.json").read_text())
    assert all(check["verdict"] == "pass" for check in written["checks"]["little"])


def test_a_failure_is_told_and_is_the_exit_code(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Broken:
        TITLE = "a statement that is false"

        @staticmethod
        def run(quick: bool) -> Report:
            return Report([Check("two", "arithmetic", 2.0, 3.0, 0.1, 1, 1)])

    monkeypatch.setattr(command, "TOPICS", {"broken": Broken})
    assert command.main([]) == 1
    assert "FAIL two: arithmetic says 2.0000; at n=1, M=1 measured 3.0000 ± 0.1000 (+50.0%)" in capsys.readouterr().out
