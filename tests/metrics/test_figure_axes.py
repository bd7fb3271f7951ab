"""Every function that draws takes axes and returns them; a figure of its own has a title, yours does not."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import llmsched as ls
from llmsched.errors import InputError
from llmsched.experiments import paper, paper_figure, predictor_figures, theory_tables
from llmsched.metrics import figure_style, figures, fleet_figures, load_figures
from llmsched.predict.intervals import with_midpoints
from llmsched.serving.records import Requests
from llmsched.serving.validation_figure import draw as draw_validation

pytest.importorskip("matplotlib", reason="figures need matplotlib (extra plot)")

W = with_midpoints(ls.generate.lmsys(80).with_intervals(ls.intervals.buckets(100)))
LATER = ls.generate.poisson(W, 4.0)
MACHINE = ls.machines["llama2-70b-2xa100"]
SLO = {"ttft": 1.0}
Draw = Callable[..., Any]


def compared(**options: Any) -> Draw:
    found = ls.compare(LATER, ["amin", "fcfs"], record=("tokens", "timeline"), **MACHINE.options())
    return lambda **how: figures.comparison(found, **options, **how)


def timeline() -> Draw:
    run = ls.simulate(LATER.head(30), "amin", memory=900, record=("tokens", "timeline"))
    assert run.total_evictions
    return lambda **how: figures.timeline(run, **how)


def tradeoff() -> Draw:
    runs = {"amin": ls.simulate(LATER, "amin", record="tokens", **MACHINE.options())}
    return lambda **how: figures.tradeoff(runs, "example-2xa100", **how)


def sweep() -> Draw:
    swept = ls.sweep(W, ["amin"], rates=[1, 3], slo=SLO, requests=100, replications=2, **MACHINE.options())
    return lambda **how: load_figures.sweep(swept, **how)


def capacity() -> Draw:
    found = {"amin": ls.capacity.highest_rate(W, slo=SLO, replications=1, tolerance=0.5, **MACHINE.options())}
    return lambda **how: load_figures.capacity(found, W, clock=MACHINE.clock, **how)


def imbalance() -> Draw:
    fleets = {"random": ls.simulate_fleet(LATER, "fcfs", replicas=2, router="random", memory=3000)}
    return lambda **how: fleet_figures.imbalance(fleets, **how)


def the_paper() -> Draw:
    rows = paper.reproduce(subsets=2, sizes=[20, 40], memory=3000)
    return lambda **how: paper_figure.paper(rows, **how)


def of_predictors(draw: Draw) -> Draw:
    study = ls.predictor_value(W, policies=["amin"], requests=40, replications=2, predicted={"one": W}, memory=2000)
    return lambda **how: draw(study, **how)


def validation() -> Draw:
    times = np.linspace(1.0, 5.0, 30)
    real = Requests(np.full(30, 5), np.full(30, 4), np.zeros(30), times / 2, times)
    return lambda **how: draw_validation(real, real, "measured and simulated", **how)


#: Name -> how it is made, and how many panels it has.
DRAWN: dict[str, tuple[Callable[[], Draw], int]] = {
    "comparison": (compared, 2),
    "comparison with targets": (lambda: compared(slo=SLO), 4),
    "timeline": (timeline, 5),
    "tradeoff": (tradeoff, 1),
    "sweep": (sweep, 3),
    "capacity": (capacity, 1),
    "imbalance": (imbalance, 2),
    "paper": (the_paper, 6),
    "theory": (lambda: theory_tables.figure, 4),
    "heatmap": (lambda: of_predictors(predictor_figures.heatmap), 2),
    "curves": (lambda: of_predictors(predictor_figures.latency_curves), 3),
    "real predictors": (lambda: of_predictors(predictor_figures.real_predictors), 1),
    "validation": (validation, 3),
}


@pytest.mark.parametrize("name", DRAWN)
def test_a_figure_takes_axes_and_returns_them(name: str, tmp_path: Any) -> None:
    make, count = DRAWN[name]
    draw = make()
    own = draw()
    panels = [own] if count == 1 else list(own)
    assert len(panels) == count
    assert figure_style.figure_of(own).get_suptitle()
    figure = figure_style.new_figure(4 * count, 4)
    mine = figure.subplots(1, count)
    given = draw(ax=mine)
    assert (given is mine) if count == 1 else [id(axes) for axes in given] == [id(axes) for axes in mine]
    assert figure.get_suptitle() == ""
    assert figure.legends == []
    for theirs, ours in zip(panels, [mine] if count == 1 else mine, strict=True):
        assert len(theirs.lines) == len(ours.lines)
        assert len(theirs.patches) == len(ours.patches)
        assert theirs.get_xlabel() in ("", ours.get_xlabel()) or name == "timeline"
    figure_style.save(given, tmp_path / "given.png")
    figure_style.save(own, tmp_path / "own.svg")


@pytest.mark.parametrize("name", [name for name, (_, count) in DRAWN.items() if count > 1])
def test_another_number_of_axes_is_refused(name: str) -> None:
    make, count = DRAWN[name]
    figure = figure_style.new_figure(8, 4)
    with pytest.raises(InputError, match=f"{count} panels: give ax= so many axes"):
        make()(ax=figure.subplots(1, count + 1))


def functions_that_draw() -> list[Any]:
    """Public functions and methods of the package that return axes, or say that they do."""
    found = []
    for module in pkgutil.walk_packages(ls.__path__, "llmsched."):
        parts = module.name.split(".")
        if parts[1] not in ("metrics", "experiments", "study", "serving") or "vllm" in module.name:
            continue
        try:
            home = importlib.import_module(module.name)
        except ImportError:  # an extra that is not there
            continue
        for thing in vars(home).values():
            if getattr(thing, "__module__", None) != module.name:
                continue
            members = vars(thing).values() if inspect.isclass(thing) else [thing]
            found += [one for one in members if inspect.isfunction(one) and not one.__name__.startswith("_")]
    returned = {"Figure", "Axes", "Panels", "matplotlib.figure.Figure"}
    return [one for one in found if inspect.signature(one).return_annotation in returned]


#: Helpers that make figures and axes for those that draw.
HELPERS = {"new_figure", "figure_of", "axes_or_new"}


def test_every_function_that_draws_takes_axes() -> None:
    drawing = [one for one in functions_that_draw() if one.__name__ not in HELPERS]
    assert len(drawing) >= 14
    for one in drawing:
        assert "ax" in inspect.signature(one).parameters, f"{one.__module__}.{one.__qualname__}"
        assert inspect.signature(one).return_annotation != "Figure", f"{one.__module__}.{one.__qualname__}"
