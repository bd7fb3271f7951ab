"""Plan: a study with everything read that it names, ready for workers, and where its random numbers come from."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
import math
from collections.abc import Iterable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from .. import input_limits
from ..errors import InputError, InputLimitError, PolicyError, StudyError, TraceError, nearest, number_of
from ..fleet import router as routers
from ..fleet.router import Router
from ..fleet.simulate_fleet import simulate_fleet
from ..metrics import catalogue, energy
from ..metrics.energy import Power
from ..policy import Policy
from ..policy_files import code_of
from ..predict import intervals
from ..predict.intervals import IntervalRule
from ..simulation import clock as clocks
from ..simulation import machine as machines
from ..simulation.clock import Clock
from ..simulation.machine import Machine
from ..simulation.result import Result
from ..simulation.run import simulate
from ..workloads import generate, traces
from ..workloads.workload import Workload
from .file_entries import CellsEntry, WorkloadEntry
from .study_file import StudyFile
from .summary import AXES

#: A trace under the name "", and under that of an interval setting the same requests with a predictor's predictions.
Trace = Mapping[str, Workload]


class Cell(NamedTuple):
    """One combination of the factors: positions in the axes of the plan."""

    workload: int
    intervals: int
    policy: int
    memory: int
    clock: int
    machine: int
    rate: int
    max_batch: int
    block: int
    prefill_budget: int
    replicas: int
    router: int

    @property
    def engine(self) -> tuple[int, ...]:
        """Where the axes are that say what simulates it, its memory aside."""
        limits = (self.max_batch, self.block, self.prefill_budget)
        return (self.clock, self.machine, *limits, self.replicas, self.router)


@dataclasses.dataclass(frozen=True)
class Plan:
    """What workers need to know of a study.

    Attributes
    ----------
    seed
        The study's.
    workloads, intervals, policies, memories, clocks, machines, rates, max_batch, block,
    prefill_budget, replicas, routers
        The axes: name -> what it stands for, or the levels. A rule of None leaves the predictions that a workload has,
        a clock of None a round of 1. An axis that the study does not give has the one level None: see `engine_of`.
    given
        Keys of the axes that the study gives.
    cells
        All combinations that are simulated, each once.
    metrics
        Names of what is measured.
    options
        max_rounds, as for `llmsched.simulate`.
    service
        slo, warmup and drain, as for `llmsched.service.metrics`.
    steady
        Arguments of `measure` of that name, if the study has them.
    power
        The power model, if the study has one.
    traces
        Name of a workload -> name of what it is in its `Trace` -> SHA-256.
    read
        Name of a workload -> its trace. Pickles do not have it: it travels apart, once.
    """

    seed: int
    workloads: Mapping[str, WorkloadEntry]
    intervals: Mapping[str, IntervalRule | None]
    policies: Mapping[str, Policy]
    memories: tuple[int | None, ...]
    clocks: Mapping[str, Clock | None]
    machines: Mapping[str, Machine | None]
    rates: tuple[float | None, ...]
    max_batch: tuple[int | None, ...]
    block: tuple[int | None, ...]
    prefill_budget: tuple[int | None, ...]
    replicas: tuple[int | None, ...]
    routers: Mapping[str, Router | None]
    given: frozenset[str]
    cells: tuple[Cell, ...]
    metrics: tuple[str, ...]
    options: Mapping[str, Any]
    service: Mapping[str, Any]
    steady: Mapping[str, Any] | None
    power: Power | None
    traces: Mapping[str, Mapping[str, str]]
    read: Mapping[str, Trace] = dataclasses.field(repr=False, compare=False)

    def __reduce__(self) -> tuple[Any, ...]:
        values = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        return _plan, ({**values, "read": {}},)

    @cached_property
    def factors(self) -> tuple[str, ...]:
        """The columns that tell cells apart.

        Workload, intervals and policy always, the memory unless it is the machine's, others if there are several.
        """
        always = {"workload", "intervals", "policy", *(["memory"] if "memories" in self.given else [])}
        return tuple(f for f, axis in self._axes.items() if f in always or len(axis) > 1)

    @cached_property
    def _axes(self) -> dict[str, tuple[Any, ...]]:
        return {factor: tuple(getattr(self, key)) for factor, key in AXES.items()}

    def labels(self, cell: Cell) -> dict[str, Any]:
        """The values of the factor columns of a cell."""
        found = self._all_labels(cell)
        return {factor: found[factor] for factor in self.factors}

    def _all_labels(self, cell: Cell) -> dict[str, Any]:
        return {factor: axis[k] for (factor, axis), k in zip(self._axes.items(), cell, strict=True)}

    # What a cell is simulated with: what the study gives, else the machine's, else the defaults of `simulate`.

    def engine_of(self, cell: Cell) -> dict[str, Any]:
        """Clock and limits, as for `llmsched.simulate`; of a fleet replicas and router too: see `run_by`.

        The same for equal `cell.engine`.
        """
        machine = list(self.machines.values())[cell.machine]
        options: dict[str, Any] = {"clock": list(self.clocks.values())[cell.clock]}
        options |= {"max_batch": None, "block": 1, "prefill_budget": None}
        if machine is not None:
            options = machine.options(memory=False)
        given = {key: getattr(self, key)[getattr(cell, key)] for key in _LIMITS if key in self.given}
        replicas = self.replicas[cell.replicas]
        if replicas is not None:
            given |= {"replicas": replicas, "router": list(self.routers.values())[cell.router]}
        return {**options, **given, **self.options}

    def memory_of(self, cell: Cell) -> int:
        """Tokens of cache of a cell."""
        memory, machine = self.memories[cell.memory], list(self.machines.values())[cell.machine]
        if memory is None:
            assert machine is not None
            return machine.memory
        return memory

    def power_of(self, cell: Cell) -> Power | None:
        """The power model of a cell: the study's, or the machine's."""
        machine = list(self.machines.values())[cell.machine]
        named = None if machine is None or machine.power is None else energy.powers.get(machine.power)
        return named if self.power is None else self.power

    def workload_of(self, cell: Cell) -> WorkloadEntry:
        """The workload of a cell, with one rate."""
        entry = list(self.workloads.values())[cell.workload]
        return dataclasses.replace(entry, rate=self.rates[cell.rate]) if len(entry.rates) > 1 else entry

    def definitions(self) -> dict[str, Any]:
        """What decides about the numbers, as plain values: equal definitions give equal rows."""
        return {
            "seed": self.seed,
            "metrics": list(self.metrics),
            **self.options,
            "service": dict(self.service),
            "steady_state": None if self.steady is None else dict(self.steady),
            "power": None if self.power is None else self.power.fields(),
            "workloads": {
                name: {
                    **dataclasses.asdict(entry),
                    "format": None,
                    "trace": self.traces.get(name, {}).get(""),
                    "rate": entry.rate if len(entry.rates) == 1 else "a factor",
                }
                for name, entry in self.workloads.items()
            },
            "intervals": {name: self._meaning(name) for name in self.intervals},
            "policies": {name: policy.fields() | code_of(policy) for name, policy in self.policies.items()},
            "machines": {n: None if machine is None else _decisive(machine) for n, machine in self.machines.items()},
            **{key: self._levels(key) for key in ("memories", "rates", *_LIMITS)},
            "replicas": list(self.replicas),
            "routers": {name: None if router is None else router.fields() for name, router in self.routers.items()},
            "clocks": {name: None if clock is None else clock.fields() for name, clock in self.clocks.items()},
        }

    def _levels(self, key: str) -> Any:
        if key in self.given:
            return list(getattr(self, key))
        if key == "rates":
            return "of the workloads"
        return "of the machines" if "machines" in self.given else [1 if key == "block" else None]

    def _meaning(self, setting: str) -> Any:
        predicted = {workload: digests[setting] for workload, digests in self.traces.items() if setting in digests}
        rule = self.intervals[setting]
        return predicted or ("given" if rule is None else str(rule))

    def find(self, **labels: Any) -> int:
        """The index of the one cell with these values of factors; what is not given must leave no choice.

        Raises InputError, which names what there is.
        """
        axes = self._axes
        for factor, value in labels.items():
            if factor not in axes:
                raise InputError(f"there is no factor {factor!r}; {nearest(factor, self.factors)}")
            if value not in axes[factor]:
                raise InputError(
                    f"{factor} {value!r} is not in the study; {nearest(str(value), map(str, axes[factor]))}"
                )
        found = [k for k, cell in enumerate(self.cells) if labels.items() <= self._all_labels(cell).items()]
        if len(found) == 1:
            return found[0]
        if not found:
            raise InputError("the study has no cell with these values together")
        values = {f: {self.labels(self.cells[k])[f] for k in found} for f in self.factors}
        open_ = [
            f"{factor} ({', '.join(sorted(map(_named, seen)))})" for factor, seen in values.items() if len(seen) > 1
        ]
        raise InputError(f"{len(found)} cells of the study fit: say which {' and which '.join(open_)}")


_LIMITS = ("max_batch", "block", "prefill_budget")


def run_by(engine: Mapping[str, Any], workload: Workload, policy: Policy, **options: Any) -> Result:
    """The simulation of one machine, or of a fleet if `engine` (of `Plan.engine_of`) says how many replicas."""
    if "replicas" in engine:
        return simulate_fleet(workload, policy, **engine, **options)
    return simulate(workload, policy, **engine, **options)


def _decisive(machine: Machine) -> dict[str, Any]:
    """What of a machine decides about the numbers."""
    return {key: value for key, value in machine.fields().items() if key not in ("name", "source")}


def _named(level: Any) -> str:
    return "none" if level is None else str(level)


def _plan(values: dict[str, Any]) -> Plan:
    return Plan(**values)


def make(study: StudyFile, folder: Path) -> Plan:
    """The plan of a study whose files are relative to `folder`; see `Study.plan`."""
    chosen = {name: clocks.parse(name if name in clocks.clocks else str(folder / name)) for name in study.clocks}
    there = {name: _machine(study, k, folder) for k, name in enumerate(study.machines)}
    levels = study.factors()
    cells = _cells(study, {key: axis or (None,) for key, axis in levels.items()})
    read = _read_all(study, cells, folder)
    _check_power(study, there)
    return Plan(
        seed=study.seed,
        workloads={entry.name: entry for entry in study.workloads},
        intervals={
            e.name: None if e.rule in (None, "given") else intervals.parse(str(e.rule)) for e in study.intervals
        },
        policies={entry.name: _policy(study, k, folder) for k, entry in enumerate(study.policies)},
        memories=tuple(study.memories or (None,)),
        clocks=chosen or {"": None},
        machines=there or {"": None},
        rates=study.rate_levels() or (None,),
        max_batch=study.max_batch or (None,),
        block=study.block or (None,),
        prefill_budget=study.prefill_budget or (None,),
        replicas=study.replicas or (None,),
        routers={name: routers.named(name) for name in study.routers} or {"": None},
        given=frozenset(key for key, axis in levels.items() if axis),
        cells=cells,
        metrics=study.metrics,
        options={"max_rounds": study.max_rounds},
        service=dataclasses.asdict(study.service),
        steady=None if study.steady_state is None else dataclasses.asdict(study.steady_state),
        power=None if study.power is None else study.power.power(),
        traces={name: {of: _digest(workload) for of, workload in trace.items()} for name, trace in read.items()},
        read=read,
    )


def _policy(study: StudyFile, k: int, folder: Path) -> Policy:
    """Policy k of the study."""
    try:
        return study.policies[k].policy(folder)
    except FileNotFoundError as error:
        raise StudyError(
            f"{study.where('policies', k)}: there is no file {error.filename}. Policies in Python are looked for where "
            "the study file is, or in --traces DIR"
        ) from None
    except PolicyError as error:
        raise StudyError(f"{study.where('policies', k)}: {error}") from None


def _machine(study: StudyFile, k: int, folder: Path) -> Machine:
    """Machine k of the study: a named one, or the one in a file."""
    name = study.machines[k]
    try:
        return machines.parse(name if name in machines.machines else str(folder / name))
    except FileNotFoundError:
        raise StudyError(
            f"{study.where('machines', k)}: there is no file {folder / name}. Machines are looked for where the study "
            "file is, or in --traces DIR"
        ) from None


def _check_power(study: StudyFile, there: Mapping[str, Machine]) -> None:
    asked = [name for name in study.metrics if catalogue.find(name).source == "energy"]
    for k, (name, machine) in enumerate(there.items()):
        if asked and study.power is None and (machine.power is None or machine.power not in energy.powers):
            raise StudyError(
                f"{study.where('machines', k)}: the metric {asked[0]} needs watts, and machine {name!r} has no power "
                f'model: add power, such as power = "{next(iter(energy.powers))}"'
            )


def _read_all(study: StudyFile, cells: Iterable[Cell], folder: Path) -> dict[str, Trace]:
    """The traces, and the predictions for them, that cells need."""
    files = {
        entry.name: _load(folder, entry.trace, entry.format, study.where("workloads", w, "trace"))
        for w, entry in enumerate(study.workloads)
        if entry.trace
    }
    read: dict[str, dict[str, Workload]] = {name: {"": trace} for name, trace in files.items()}
    for w, i in sorted({(cell.workload, cell.intervals) for cell in cells}):
        workload, setting = study.workloads[w], study.intervals[i]
        if setting.predictions is None:
            continue
        if workload.name not in read:
            raise StudyError(
                f"intervals {setting.name!r} are predictions for the requests of a trace, but workload "
                f"{workload.name!r} is drawn by a generator: leave out that combination with [[cells]]"
            )
        where = study.where("intervals", i, "predictions")
        predicted = _load(folder, setting.predictions, None, where)
        read[workload.name][setting.name] = _joined(files[workload.name], predicted, setting.predictions, where)
    return dict(read)


def _load(folder: Path, name: str | None, format_: str | None, where: str) -> Workload:
    path = folder / str(name)
    if not path.exists():
        raise StudyError(
            f"{where}: there is no file {path}. Traces are looked for where the study file is, or in --traces DIR"
        )
    try:
        workload = traces.load(path, format=format_)
    except TraceError as error:
        if path.resolve().is_relative_to(folder.resolve()) or isinstance(error, InputLimitError):
            raise
        # A study file from a stranger may name any file of this machine: its content is not printed.
        raise StudyError(
            f"{where}: {path} is no trace that can be read, and outside of {folder}: see it alone"
        ) from None
    if not len(workload):
        raise StudyError(f"{where}: {path}: there are no requests in it")
    return workload


def _joined(trace: Workload, predicted: Workload, name: str, where: str) -> Workload:
    """The trace with the predictions of the same requests."""
    n = min(len(trace), len(predicted))
    differ = np.flatnonzero((trace.prompt[:n] != predicted.prompt[:n]) | (trace.output[:n] != predicted.output[:n]))
    how = [f"they differ from request {differ[0]:,} on"] if len(differ) else []
    if len(trace) != len(predicted):
        how.append(f"it has {number_of(len(trace), 'request')}, they are for {len(predicted):,}")
    if how:
        raise StudyError(
            f"{where}: the predictions in {name} are not for the requests of the trace: {'; '.join(how)}. Give a file "
            "with the same requests in the same order"
        )
    return trace.replace(lower=predicted.lower, upper=predicted.upper, point=predicted.point)


def _cells(study: StudyFile, axes: Mapping[str, Any]) -> tuple[Cell, ...]:
    """Every block's cross, in the order of the axes, each cell once."""
    chosen: set[Cell] = set()
    rates = [entry.rates if study.rate_levels() else (None,) for entry in study.workloads]
    for k, block in enumerate(study.cells or (CellsEntry(),)):
        wanted = {key: set(getattr(block, key) or axis) for key, axis in axes.items()}
        picked = [[k for k, value in enumerate(axis) if value in wanted[key]] for key, axis in axes.items()]
        input_limits.check("cells", math.prod(map(len, picked)), f"{study.where('cells', k)}: the study has")
        crossed = (Cell(*combination) for combination in itertools.product(*picked))
        found = [cell for cell in crossed if axes["rates"][cell.rate] in rates[cell.workload]]
        if not found:
            raise StudyError(f"{study.where('cells', k)}: no workload in it has one of its rates")
        chosen.update(found)
    return tuple(sorted(chosen))


def _digest(workload: Workload) -> str:
    """SHA-256 of the columns: the same requests from another file or format are the same."""
    digest = hashlib.sha256()
    for name, column in workload.columns().items():
        digest.update(name.encode())
        digest.update(column.tobytes())
    return digest.hexdigest()


def fingerprint(definitions: Mapping[str, Any]) -> str:
    """SHA-256 of definitions, or any plain values."""
    return hashlib.sha256(json.dumps(definitions, sort_keys=True).encode()).hexdigest()


# Random numbers -------------------------------------------------------------------------------------------------------


def replication_seed(seed: int, replication: int) -> int:
    """The seed of replication `replication` (from 0) of every cell of a study: the child of that index.

    It draws requests, arrivals and intervals (each from a stream of its own, see `random_streams.py`), and breaks ties.
    """
    child = np.random.SeedSequence(seed, spawn_key=(replication,))
    return int(child.generate_state(1, np.uint64)[0])


def draw(entry: WorkloadEntry, given: Workload | None, seed: int) -> Workload:
    """The requests of a replication with this seed; `given` is the entry's trace."""
    if given is None:
        workload = generate.parse(str(entry.generator), entry.requests or 0, seed)
    elif entry.sample == "resample":
        workload = generate.resample(given, entry.requests or len(given), seed)
    else:
        workload = _consecutive(given, entry, seed)
    if entry.arrivals == "poisson":
        return generate.poisson(workload, entry.rates[0] or 0, seed)
    if entry.arrivals == "gamma":
        return generate.gamma(workload, entry.rates[0] or 0, entry.cv or 0, seed)
    if entry.arrivals == "at_once":
        return generate.at_once(workload) if workload.arrival.any() else workload
    return workload if entry.speed is None else generate.speed_up(workload, entry.speed)


def _consecutive(given: Workload, entry: WorkloadEntry, seed: int) -> Workload:
    n = entry.requests or len(given)
    if n > len(given):
        raise InputError(f"workload {entry.name!r} wants {n} requests of a trace that has {len(given)}")
    start = 0
    if entry.sample == "window":
        start = int(np.random.Generator(np.random.PCG64(seed)).integers(len(given) - n + 1))
    taken = given.take(slice(start, start + n))
    return taken.replace(arrival=taken.arrival - taken.arrival.min()) if n else taken


def predict(workload: Workload, rule: IntervalRule | None, seed: int) -> Workload:
    """The workload with the intervals of `rule`; a rule that errs does so anew for every seed."""
    if rule is None:
        return workload
    if rule.seed is not None:
        mixed = np.random.SeedSequence([seed, rule.seed]).generate_state(1, np.uint64)[0]
        rule = rule.reseeded(int(mixed))
    if workload.point is not None:
        workload = workload.replace(point=None)
    return workload.with_intervals(rule)
