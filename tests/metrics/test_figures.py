"""Figures: what they show, and that they leave nothing behind."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import llmsched as ls
from llmsched import errors
from llmsched.experiments import paper, paper_figure
from llmsched.metrics import figure_style, figures
from llmsched.metrics.compare import Comparison, compare
from llmsched.predict.intervals import with_midpoints

pytest.importorskip("matplotlib", reason="figures need matplotlib (extra plot)")


@pytest.fixture(scope="module")
def compared() -> Comparison:
    workload = with_midpoints(ls.generate.lmsys(120, seed=1).with_intervals(ls.intervals.buckets(100)))
    return compare(workload, memory=3000)


@pytest.fixture(scope="module")
def rows() -> list[paper.Row]:
    return paper.reproduce(subsets=2, sizes=[20, 40], memory=2000)


def test_every_named_policy_has_a_look_of_its_own() -> None:
    assert figure_style.STYLES.keys() == ls.policies.keys()
    colours = [colour for colour, _ in figure_style.STYLES.values()] + list(figure_style._COLOURS_OF_OTHERS)
    near = [(a, b) for k, a in enumerate(colours) for b in colours[:k] if difference(a, b) < 12]
    assert near == []


def difference(one: str, other: str) -> float:
    """How different two colours look (CIE 1976, L*a*b*): below 2 nobody sees it."""

    def lab(colour: str) -> np.ndarray:
        rgb = np.array([int(colour[k : k + 2], 16) / 255 for k in (1, 3, 5)])
        rgb = np.where(rgb > 0.04045, ((rgb + 0.055) / 1.055) ** 2.4, rgb / 12.92)
        to_xyz = [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]
        x, y, z = np.cbrt(np.maximum(np.array(to_xyz) @ rgb / [0.9505, 1, 1.089], 1e-9))
        return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])

    return float(np.linalg.norm(lab(one) - lab(other)))


@pytest.mark.parametrize(("name", "start"), [("a.png", b"\x89PNG"), ("a.svg", b"<?xml"), ("a.PDF", b"%PDF")])
def test_save_writes_what_the_extension_says(compared: Comparison, tmp_path: Path, name: str, start: bytes) -> None:
    figure_style.save(figures.comparison(compared), tmp_path / name)
    assert (tmp_path / name).read_bytes().startswith(start)


@pytest.mark.parametrize("extension", ["svg", "pdf"])
def test_equal_figures_make_equal_files(rows: list[paper.Row], tmp_path: Path, extension: str) -> None:
    files = [tmp_path / f"{k}.{extension}" for k in range(2)]
    for file in files:
        figure_style.save(paper_figure.paper(rows), file)
    assert files[0].read_bytes() == files[1].read_bytes()


@pytest.mark.parametrize("name", ["a.jpg", "a", "a.png.txt", ".png"])
def test_another_extension_is_refused_before_anything_is_drawn(name: str) -> None:
    with pytest.raises(errors.InputError, match=r"\.png, \.svg, \.pdf"):
        figure_style.check_path(name)


def test_the_comparison_shows_each_policy_in_its_colour(compared: Comparison) -> None:
    from matplotlib.colors import to_hex

    bars, curves = figures.comparison(compared)
    ranked = [row.policy for row in compared.ranked()]
    assert [label.get_text() for label in bars.get_yticklabels()] == ranked
    lines = {line.get_label(): line for line in curves.get_lines()}
    assert list(lines) == ranked
    for patch, policy in zip(bars.patches, ranked, strict=True):
        colour, dash = figure_style.STYLES[policy]
        assert to_hex(patch.get_facecolor()).upper() == to_hex(lines[policy].get_color()).upper() == colour
        assert lines[policy].get_linestyle() == dash
    assert "rounds" in bars.get_xlabel()
    assert "rounds" in curves.get_xlabel()


def test_the_curve_is_the_distribution_of_latency(compared: Comparison) -> None:
    _, curves = figures.comparison(compared)
    line = next(line for line in curves.get_lines() if line.get_label() == "amin")
    result = compared["amin"].result
    assert result is not None
    assert np.array_equal(line.get_xdata(), np.sort(result.latency))
    assert np.allclose(line.get_ydata(), np.arange(1, len(result) + 1) / len(result))


def test_a_policy_without_a_result_says_so() -> None:
    stuck = with_midpoints(ls.Workload(prompt=0, output=[10] * 4).with_intervals(ls.intervals.buckets(100)))
    bars, _ = figures.comparison(compare(stuck, ["hsf", "protection"], memory=20))
    assert [text.get_text().strip() for text in bars.texts] == ["1.00", "does not finish"]
    bars, _ = figures.comparison(compare(ls.Workload(prompt=0, output=[3]), ["fcfs", "mcsf"], memory=20))
    assert bars.texts[1].get_text().strip() == "cannot run"


def test_next_to_nothing_can_be_drawn_too(compared: Comparison, tmp_path: Path) -> None:
    one = compare(compared.workload.head(1), ["hsf", "amin"], memory=3000)
    rows = paper.reproduce(subsets=1, sizes=[5])
    for figure in (figures.comparison(one), paper_figure.paper(rows)):
        figure_style.save(figure, tmp_path / "a.png")


def test_nothing_cannot_be_drawn(compared: Comparison) -> None:
    nothing = compared.workload.head(0)
    run = ls.simulate(nothing, "fcfs", memory=3000, record="timeline")
    for draw in (
        lambda: figures.comparison(compare(nothing, ["hsf"], memory=3000)),
        lambda: figures.timeline(run),
        lambda: paper_figure.paper([]),
    ):
        with pytest.raises(errors.InputError, match="nothing to draw"):
            draw()


def test_compositions_of_ones_own_are_drawn(compared: Comparison) -> None:
    mine = {f"mine {k}": ls.Policy(margin=k / 100) for k in range(8)}
    _, curves = figures.comparison(compare(compared.workload, mine, memory=3000))
    assert len(curves.get_lines()) == 8


def test_the_papers_figure_has_a_panel_per_setting(rows: list[paper.Row]) -> None:
    figure = figure_style.figure_of(paper_figure.paper(rows))
    panels = [axes for axes in figure.axes if axes.get_title(loc="left")]
    titles = [panel.get_title(loc="left") for panel in panels]
    assert titles == [f"{e.number}. {e.title}" for e in paper.EXPERIMENTS]
    for panel, experiment in zip(panels, paper.EXPERIMENTS, strict=True):
        lines = {line.get_label(): line for line in panel.get_lines()}
        assert set(lines) == set(paper.POLICIES)
        for policy, line in lines.items():
            mine = [row for row in rows if (row.intervals, row.policy) == (str(experiment.rule), policy)]
            assert list(line.get_xdata()) == [20, 40]
            assert list(line.get_ydata()) == [row.mean_latency for row in mine]
            assert line.get_color() == figure_style.STYLES[policy][0]
            low, high = panel.get_ylim()
            assert low == 0
            assert max(line.get_ydata()) <= high


def test_matplotlib_is_imported_when_needed_and_pyplot_never() -> None:
    code = (
        "import sys, llmsched as ls; from llmsched.metrics import figures\n"
        "assert 'matplotlib' not in sys.modules\n"
        "figures.comparison(ls.compare(ls.Workload(prompt=0, output=[3, 4]), ['hsf'], memory=20))\n"
        "assert 'matplotlib' in sys.modules and 'matplotlib.pyplot' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_without_matplotlib_the_error_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, rows: list[paper.Row]
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(errors.MissingExtraError, match=r"llmsched\[plot\]"):
        paper_figure.paper(rows)


def test_a_run_without_a_queue_has_an_axis_of_whole_requests() -> None:
    run = ls.simulate(ls.Workload(5, [3]), "fcfs", memory=100, record=("timeline", "tokens"))
    figure = figure_style.figure_of(figures.timeline(run))
    bounds = {axes.get_ylabel(): axes.get_ylim() for axes in figure.axes}
    assert bounds["waiting"] == (0, 1)
    assert bounds["running"][0] == 0 < 1 <= bounds["running"][1]
    assert "1 request, " in figure.get_suptitle()


def test_the_largest_value_in_an_interval_counts_rounds_begun_before() -> None:
    """Prefill of a long prompt makes a round longer than several of the pieces that a long run is drawn in."""
    outputs = [1, *[4000] * 3]
    long = ls.Workload([40_000, 1, 1, 1], outputs, arrival=[60, 0, 0, 0])
    run = ls.simulate(long, "fcfs", memory=90_000, clock="llama2-70b-2xa100", record="timeline")
    drawn = ls.plots.rounds_of(run)
    assert len(drawn["begin"]) < run.rounds
    for name in ("memory", "batch", "waiting"):
        assert (drawn[f"{name} at most"] >= drawn[name] - 1e-6).all()
