"""Plan: a study with everything read that it names, ready for workers, and where its random numbers come from."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..errors import InputError, StudyError, nearest, number_of
from ..metrics.energy import Power
from ..policy import Policy
from ..predict import intervals
from ..predict.intervals import IntervalRule
from ..simulation import clock as clocks
from ..simulation.clock import Clock
from ..workloads import generate, traces
from ..workloads.workload import Workload
from .file_entries import CellsEntry, WorkloadEntry
from .study_file import StudyFile
from .summary import FACTORS

#: A trace under the name "", and under that of an interval setting the same requests with a predictor's predictions.
Trace = Mapping[str, Workload]


class Cell(NamedTuple):
    """One combination of the factors: positions in the axes of the plan."""

    workload: int
    intervals: int
    policy: int
    memory: int
    clock: int


@dataclasses.dataclass(frozen=True)
class Plan:
    """What workers need to know of a study.

    Attributes
    ----------
    seed
        The study's.
    workloads, intervals, policies, memories, clocks
        The axes: name -> what it stands for. A rule of None leaves the predictions that a workload has, a clock of None
        a round of 1.
    cells
        All combinations that are simulated, each once.
    metrics
        Names of what is measured.
    options
        max_batch, block, prefill_budget and max_rounds, as for `llmsched.simulate`.
    service
        slo, warmup and drain, as for `llmsched.service.metrics`.
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
    memories: tuple[int, ...]
    clocks: Mapping[str, Clock | None]
    cells: tuple[Cell, ...]
    metrics: tuple[str, ...]
    options: Mapping[str, Any]
    service: Mapping[str, Any]
    power: Power | None
    traces: Mapping[str, Mapping[str, str]]
    read: Mapping[str, Trace] = dataclasses.field(repr=False, compare=False)

    def __reduce__(self) -> tuple[Any, ...]:
        values = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        return _plan, ({**values, "read": {}},)

    @property
    def factors(self) -> tuple[str, ...]:
        """The columns that tell cells apart; the clock's is there if there are several."""
        return FACTORS if len(self.clocks) > 1 else FACTORS[:-1]

    def labels(self, cell: Cell) -> dict[str, Any]:
        """The values of the factor columns of a cell."""
        axes = [tuple(axis) for axis in (self.workloads, self.intervals, self.policies, self.memories, self.clocks)]
        found = {factor: axis[k] for factor, axis, k in zip(FACTORS, axes, cell, strict=True)}
        return {factor: found[factor] for factor in self.factors}

    def definitions(self) -> dict[str, Any]:
        """What decides about the numbers, as plain values: equal definitions give equal rows."""
        return {
            "seed": self.seed,
            "metrics": list(self.metrics),
            **self.options,
            "service": dict(self.service),
            "power": None if self.power is None else self.power.fields(),
            "workloads": {
                name: {**dataclasses.asdict(entry), "format": None, "trace": self.traces.get(name, {}).get("")}
                for name, entry in self.workloads.items()
            },
            "intervals": {name: self._meaning(name) for name in self.intervals},
            "policies": {name: policy.fields() for name, policy in self.policies.items()},
            "memories": list(self.memories),
            "clocks": {name: None if clock is None else clock.fields() for name, clock in self.clocks.items()},
        }

    def _meaning(self, setting: str) -> Any:
        predicted = {workload: digests[setting] for workload, digests in self.traces.items() if setting in digests}
        rule = self.intervals[setting]
        return predicted or ("given" if rule is None else str(rule))

    def find(self, **labels: Any) -> int:
        """The index of the one cell with these values of factors; what is not given must leave no choice.

        Raises InputError, which names what there is.
        """
        axes = dict(
            zip(FACTORS, (self.workloads, self.intervals, self.policies, self.memories, self.clocks), strict=True)
        )
        for factor, value in labels.items():
            if factor not in axes:
                raise InputError(f"there is no factor {factor!r}; {nearest(factor, self.factors)}")
            if value not in axes[factor]:
                raise InputError(
                    f"{factor} {value!r} is not in the study; {nearest(str(value), map(str, axes[factor]))}"
                )
        found = [k for k, cell in enumerate(self.cells) if labels.items() <= self.labels(cell).items()]
        if len(found) == 1:
            return found[0]
        if not found:
            raise InputError("the study has no cell with these values together")
        values = {f: {self.labels(self.cells[k])[f] for k in found} for f in self.factors}
        open_ = [f"{factor} ({', '.join(map(str, sorted(seen)))})" for factor, seen in values.items() if len(seen) > 1]
        raise InputError(f"{len(found)} cells of the study fit: say which {' and which '.join(open_)}")


def _plan(values: dict[str, Any]) -> Plan:
    return Plan(**values)


def make(study: StudyFile, folder: Path) -> Plan:
    """The plan of a study whose files are relative to `folder`; see `Study.plan`."""
    chosen = {name: clocks.parse(name if name in clocks.clocks else str(folder / name)) for name in study.clocks}
    sizes = study.factors()
    cells = _cells(study, {**sizes, "clocks": sizes["clocks"] or [""]})
    read = _read_all(study, cells, folder)
    return Plan(
        seed=study.seed,
        workloads={entry.name: entry for entry in study.workloads},
        intervals={
            e.name: None if e.rule in (None, "given") else intervals.parse(str(e.rule)) for e in study.intervals
        },
        policies={entry.name: entry.policy() for entry in study.policies},
        memories=study.memories,
        clocks=chosen or {"": None},
        cells=cells,
        metrics=study.metrics,
        options={key: getattr(study, key) for key in ("max_batch", "block", "prefill_budget", "max_rounds")},
        service=dataclasses.asdict(study.service),
        power=None if study.power is None else study.power.power(),
        traces={name: {of: _digest(workload) for of, workload in trace.items()} for name, trace in read.items()},
        read=read,
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
    workload = traces.load(path, format=format_)
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
    for block in study.cells or (CellsEntry(),):
        wanted = {key: getattr(block, key) or axis for key, axis in axes.items()}
        picked = [[k for k, value in enumerate(axis) if value in wanted[key]] for key, axis in axes.items()]
        chosen.update(Cell(*combination) for combination in itertools.product(*picked))
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
        return generate.poisson(workload, entry.rate or 0, seed)
    if entry.arrivals == "gamma":
        return generate.gamma(workload, entry.rate or 0, entry.cv or 0, seed)
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
