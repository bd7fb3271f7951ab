"""What should a router believe of a request's length, and how good must a predictor be before it pays?

    python examples/routing.py lmsys_predicted_classes.csv --out routing

Requests with the classes that a BERT predicted for them go to a fleet at several loads, behind every router, on the
same random draws. Prints a table of mean latency over that of `least-requests`, with 95 % confidence intervals over
the draws (paired), and the gap to the fleet's lower bound; then what wrong predictions, small batches, old information
and more replicas do; and draws a figure of it. Prompts are drawn from the lmsys generator, as the file has none.
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

import llmsched as ls
from llmsched import predict
from llmsched.experiments import real_predictors
from llmsched.metrics import figure_style
from llmsched.metrics.confidence import mean_and_half_width

CLOCK = "llama2-70b-2xa100"
#: Policy and tokens of cache of each table; the last is the one that the figure is about.
SETTINGS = (("fcfs", 16_492), ("amin", 4_096), ("fcfs", 4_096))
LOADS = (0.7, 0.85, 0.95)
#: What is believed of a request -> what that is of its class in the half of the file that was used to learn.
STATISTICS: Mapping[str, Callable[[np.ndarray[Any, Any]], float]] = {
    "class mean": np.mean,
    "class median": np.median,
}
WRONG = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
BIASES = (0.25, 0.5, 2.0, 4.0)
DELAYS = (0.0, 0.1, 0.3, 1.0, 3.0, 10.0)
SIZES = (2, 8, 32, 128)
BATCHES = (1, 2, 4, 8, 16, 64)
PLAIN = ("random", "round-robin", "power-of-two", "least-requests", "least-tokens", "join-idle-queue", "central-queue")

#: What is believed, router -> (mean latency, p99 of latency, p99 of the wait) of each replication.
Found = dict[str, np.ndarray[Any, Any]]


class Fleet:
    """One comparison. Its load is a share of what first come first served sustains."""

    def __init__(
        self,
        lengths: Mapping[str, ls.Workload],
        setting: tuple[str, int],
        load: float,
        asked: Any,
        *,
        replicas: int | None = None,
        max_batch: int | None = None,
    ) -> None:
        self.lengths, self.asked, self.policy = lengths, asked, setting[0]
        self.replicas = asked.replicas if replicas is None else replicas
        self.machine: dict[str, Any] = {"memory": setting[1], "clock": CLOCK, "max_batch": max_batch}
        self.rate = load * self.replicas * stable_rate(lengths["truth"], self.machine)
        self.found: Found = {}
        self.bounds: list[float] = []

    def draws(self, believed: str) -> Iterator[ls.Workload]:
        """The same requests and arrivals, whatever is believed."""
        for seed in range(self.asked.replications):
            drawn = ls.generate.resample(self.lengths[believed], self.asked.requests * self.replicas, seed)
            yield ls.generate.poisson(drawn, self.rate, seed)

    def run(self, label: str, router: str, believed: str = "truth") -> None:
        rows = []
        for seed, drawn in enumerate(self.draws(believed)):
            result = ls.simulate_fleet(
                drawn, self.policy, replicas=self.replicas, router=router, seed=seed, **self.machine
            )
            wait = result.start - drawn.arrival
            rows.append((result.mean_latency, result.percentile(99), float(np.percentile(wait, 99))))
        self.found[label] = np.array(rows)

    def bound(self) -> None:
        """The fleet's lower bound on mean latency, of each draw."""
        for drawn in self.draws("truth"):
            bound = ls.lower_bound(drawn, replicas=self.replicas, memory=self.machine["memory"], clock=CLOCK)
            self.bounds.append(bound.of(self.policy) / len(drawn))

    def ratio(self, label: str, which: int = 0, to: str = "least-requests") -> tuple[float, float]:
        """Mean over the draws of latency over that of another router, and half its 95 % confidence interval."""
        return mean_and_half_width(self.found[label][:, which] / self.found[to][:, which])

    def gap(self, label: str) -> float:
        return float(np.mean(self.found[label][:, 0] / np.array(self.bounds)) - 1)


def stable_rate(requests: ls.Workload, machine: Mapping[str, Any]) -> float:
    """Requests per second that one replica works through in the middle of a long queue, first come first served."""
    queue = ls.generate.at_once(ls.generate.resample(requests, 4000, 0))
    early, late = np.quantile(ls.simulate(queue, "fcfs", **machine).completion, [0.25, 0.75])
    return len(queue) / 2 / float(late - early)


def beliefs(path: str, column: str) -> dict[str, ls.Workload]:
    """What is believed -> the second half of the requests with that as their `point`, and 90 % intervals."""
    table = predict.read_csv(path)
    outputs = np.array(table["output_tokens"])
    half = len(outputs) // 2
    classes = np.array(table[column])
    requests = real_predictors.from_classes(path, ls.generate.lmsys(1000, 0), 0.9, seed=0)[column]
    assert requests.lower is not None
    assert requests.upper is not None
    found = {"lower": requests.lower, "upper": requests.upper, "middle": (requests.lower + requests.upper) // 2}
    for name, statistic in STATISTICS.items():
        of_class = {c: max(1, round(statistic(outputs[:half][classes[:half] == c]))) for c in np.unique(classes)}
        found[name] = np.array([of_class[c] for c in classes[half:]])
    found["truth"] = requests.output
    return {name: requests.replace(point=point) for name, point in found.items()}


def wrong(requests: ls.Workload, share: float) -> ls.Workload:
    """The truth is believed, but of a share of the requests that of another one."""
    rng = np.random.default_rng(7)
    point = requests.output.copy()
    at = rng.random(len(point)) < share
    point[at] = rng.permutation(point)[at]
    return requests.replace(point=point)


def biased(requests: ls.Workload, factor: float) -> ls.Workload:
    """Every other request is believed to be so many times as long as it is."""
    point = requests.output.astype(np.float64)
    point[::2] *= factor
    return requests.replace(point=np.maximum(1, np.rint(point)).astype(np.int64))


def routers_compared(lengths: Mapping[str, ls.Workload], fleet: Fleet) -> None:
    for router in PLAIN:
        fleet.run(router, router)
    for believed in lengths:
        fleet.run(f"least-work, {believed}", "least-work", believed)
    fleet.run("least-work of two, class mean", "least-work,choices=2", "class mean")
    fleet.run("length-classes, class mean", "length-classes", "class mean")
    fleet.run("length-classes, truth", "length-classes", "truth")
    fleet.run("requests + 3 waiting", "least-requests,score=requests + 3 * waiting")
    fleet.run("requests, of equals the least work", "least-requests,score=requests + believed_work / 1e9", "class mean")
    fleet.bound()


def table(fleets: Mapping[tuple[tuple[str, int], float], Fleet], setting: tuple[str, int]) -> None:
    loads = [load for other, load in fleets if other == setting]
    print(f"\n{setting[0]}, {setting[1]:,} tokens of cache: mean latency over that of least-requests (p99); gap\n")
    print("| router, what it believes |" + "".join(f" {load:.0%} load | gap |" for load in loads))
    print("|---|" + "---|---|" * len(loads))
    for label in fleets[setting, loads[0]].found:
        cells = ""
        for load in loads:
            fleet = fleets[setting, load]
            mean, half = fleet.ratio(label)
            cells += f" {mean:.3f} ± {half:.3f} ({fleet.ratio(label, 1)[0]:.2f}) | {fleet.gap(label):.0%} |"
        print(f"| {label} |{cells}")
    means = [f"{fleets[setting, load].found['least-requests'][:, 0].mean():.2f}" for load in loads]
    waits = [f"{fleets[setting, load].found['least-requests'][:, 2].mean():.2f}" for load in loads]
    print(f"\nleast-requests: mean latency {', '.join(means)} s; p99 of the wait {', '.join(waits)} s")


def curve(title: str, ratios: Mapping[str, Mapping[float, tuple[float, float]]]) -> None:
    print(f"\n{title}")
    for name, points in ratios.items():
        print(f"{name:<28}" + "  ".join(f"{x:g}: {mean:.3f}±{half:.3f}" for x, (mean, half) in points.items()))


def figure(curves: Mapping[str, Any], asked: Any) -> Any:
    drawing = figure_style.new_figure(11, 8.4)
    for axes, (title, (label, even, ratios)) in zip(drawing.subplots(2, 2).flat, curves.items(), strict=True):
        styles = figure_style.styles_of(list(ratios))
        for name, points in ratios.items():
            x = np.arange(len(points)) if even else np.array(list(points))
            mean, half = np.array(list(points.values())).T
            colour, dash = styles[name]
            axes.plot(x, mean, linestyle=dash, color=colour, marker="o", markersize=3, label=name)
            axes.fill_between(x, mean - half, mean + half, color=colour, alpha=0.2, linewidth=0)
        axes.axhline(1, color="black", linewidth=0.8, linestyle=":")
        axes.set_yscale("log")
        figure_style.light_grid(axes)
        if even:
            axes.set_xticks(range(len(points)), [f"{value:g}" for value in points])
        axes.set_xlabel(label)
        axes.set_ylabel("mean latency / that of least-requests")
        axes.set_title(title, fontsize=10, loc="left")
        axes.legend(framealpha=0.7, edgecolor="none", fontsize=8)
    policy, memory = SETTINGS[-1]
    figure_style.title(
        drawing,
        f"{asked.replicas} replicas, {asked.requests:,} requests each; {asked.replications} draws, Poisson arrivals",
        f"{policy}; {memory:,} tokens of KV cache; clock {CLOCK}; bands: 95 % confidence, paired",
    )
    return drawing


#: What is compared where it is not the prediction that varies: name -> router, what it believes.
COMPARED = {
    "least-requests": ("least-requests", "truth"),
    "power-of-two": ("power-of-two", "truth"),
    "central-queue": ("central-queue", "truth"),
    "least-work, upper": ("least-work", "upper"),
    "least-work, class mean": ("least-work", "class mean"),
    "least-work, truth": ("least-work", "truth"),
}
Curves = dict[str, dict[float, tuple[float, float]]]


def of_predictions(lengths: Mapping[str, ls.Workload], asked: Any) -> tuple[Curves, Curves]:
    """`least-work` over `least-requests`, by the share of wrong predictions, and by how wrong half of them are."""
    spoilt: Curves = {}
    slanted: Curves = {}
    made = {f"{share}": wrong(lengths["truth"], share) for share in WRONG}
    made |= {f"x{factor}": biased(lengths["truth"], factor) for factor in BIASES}
    for load in LOADS:
        fleet = Fleet({**lengths, **made}, SETTINGS[-1], load, asked)
        fleet.run("least-requests", "least-requests")
        for name in made:
            fleet.run(name, "least-work", name)
        spoilt[f"least-work at {load:.0%}"] = {share: fleet.ratio(f"{share}") for share in WRONG}
        slanted[f"least-work at {load:.0%}"] = {factor: fleet.ratio(f"x{factor}") for factor in BIASES}
    return spoilt, slanted


def of_fleets(fleets: Mapping[float, Fleet]) -> Curves:
    """The routers of `COMPARED` over `least-requests`, by what the fleets differ in."""
    curves: Curves = {}
    for at, fleet in fleets.items():
        for name, (router, believed) in COMPARED.items():
            fleet.run(name, router, believed)
            if name != "least-requests":
                curves.setdefault(name, {})[at] = fleet.ratio(name)
    return curves


def of_delays(fleet: Fleet) -> Curves:
    """Routers with an old view over `least-requests` with a fresh one."""
    curves: Curves = {}
    fleet.run("least-requests", "least-requests")
    for name in ("least-requests", "power-of-two", "least-work, class mean"):
        router, believed = COMPARED[name]
        for delay in DELAYS:
            fleet.run(f"{name} {delay}", f"{router},delay={delay}", believed)
        curves[name] = {delay: fleet.ratio(f"{name} {delay}") for delay in DELAYS}
    for router in ("random", "round-robin"):
        fleet.run(router, router)
        curves[router] = dict.fromkeys(DELAYS, fleet.ratio(router))
    return curves


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("classes", help="CSV with output_tokens and columns of predicted classes")
    parser.add_argument("--column", default="class_of_5")
    parser.add_argument("--requests", type=int, default=2000, help="for each replica, in a replication")
    parser.add_argument("--replications", type=int, default=10)
    parser.add_argument("--replicas", type=int, default=8)
    parser.add_argument("--out", type=Path, default=Path("routing"), help="directory of the figure and the numbers")
    asked = parser.parse_args()
    lengths = beliefs(asked.classes, asked.column)
    fleets = {}
    for setting in SETTINGS:
        for load in LOADS:
            fleet = fleets[setting, load] = Fleet(lengths, setting, load, asked)
            routers_compared(lengths, fleet)
        table(fleets, setting)

    spoilt, slanted = of_predictions(lengths, asked)
    curve("Share of requests of which the length of another one is believed", spoilt)
    curve("Every other request is believed to be so many times as long", slanted)
    late = of_delays(Fleet(lengths, SETTINGS[-1], 0.85, asked))
    curve("Age of the router's view (seconds), 85 % load", late)
    batches = of_fleets({most: Fleet(lengths, SETTINGS[-1], 0.85, asked, max_batch=most) for most in BATCHES})
    curve("Requests that run at once at most, 85 % load of each", batches)
    sizes = of_fleets({replicas: Fleet(lengths, SETTINGS[-1], 0.95, asked, replicas=replicas) for replicas in SIZES})
    curve("Replicas, 95 % load", sizes)

    asked.out.mkdir(parents=True, exist_ok=True)
    curves = {
        "Wrong predictions": ("share of requests with the length of another one", False, spoilt),
        "Small batches, 85 % load of each": ("requests that run at once, at most", True, batches),
        "Old information, 85 % load": ("age of the router's view (s)", True, late),
        "More replicas, 95 % load": ("replicas", True, sizes),
    }
    figure_style.save(figure(curves, asked), asked.out / "routing.png")
    with (asked.out / "routing.csv").open("w", newline="") as file:
        out = csv.writer(file, lineterminator="\n")
        numbers = ["ratio", "ratio_ci95", "mean_latency", "p99_latency", "p99_wait", "gap"]
        out.writerow(["policy", "memory", "load", "router", *numbers])
        for (setting, load), one in fleets.items():
            for label, rows in one.found.items():
                out.writerow([*setting, load, label, *one.ratio(label), *rows.mean(axis=0), one.gap(label)])


if __name__ == "__main__":
    main()
