"""What the page is set to, and the same as a command, as Python and as a study."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import shlex
from collections.abc import Mapping
from typing import Any, Self

from ...errors import InputError
from ...fleet.router import named as named_router
from ...policy import Policy
from ...policy import policies as known
from ...predict import intervals
from ...simulation import machine as machines
from ...workloads.argument_checks import LARGEST_SEED, whole
from ..options import FleetOptions, MachineOptions, RequestOptions

#: What the page calls the model without a machine: a round lasts 1.
ROUNDS = "rounds"


@dataclasses.dataclass(frozen=True)
class Setting:
    """Where the dials of the page stand.

    Attributes
    ----------
    machine
        `ROUNDS`, or a machine as --machine spells it.
    memory
        Tokens of KV cache, of each replica.
    rate
        Poisson arrivals per second (in rounds: per round); None: as the requests come.
    replicas, router
        How many machines of that kind, and who chooses; one replica has no router.
    intervals
        The rule that predicts output lengths, as --intervals spells it; None: what the trace brings.
    policies
        As --policy spells them.
    seed
        Governs everything that is random.
    """

    machine: str
    memory: int
    rate: float | None
    replicas: int
    router: str
    intervals: str | None
    policies: tuple[str, ...]
    seed: int = 0

    @classmethod
    def from_json(cls, values: Any) -> Self:
        """The setting that the page sends. Raises InputError for what is no setting."""
        names = [field.name for field in dataclasses.fields(cls)]
        if not isinstance(values, dict) or set(values) != set(names):
            raise InputError(f"a setting has the keys {', '.join(names)}")
        for key in ("machine", "router"):
            if not isinstance(values[key], str):
                raise InputError(f"{key} is {values[key]!r}, expected a text")
        policies = values["policies"]
        if not isinstance(policies, list) or not all(isinstance(name, str) for name in policies):
            raise InputError("policies is a list of texts")
        if not policies:
            raise InputError("choose at least one policy")
        rate = values["rate"]
        if rate is not None and (
            isinstance(rate, bool) or not isinstance(rate, (int, float)) or not 0 < rate < math.inf
        ):
            raise InputError(f"the rate is {rate!r}, expected a number greater than 0")
        rule = values["intervals"]
        if rule is not None:
            rule = str(intervals.parse(str(rule)))
        return cls(
            machine=values["machine"],
            memory=whole("memory", values["memory"], 1),
            rate=rate,
            replicas=whole("replicas", values["replicas"], 1, 1000),
            router=named_router(values["router"]).name,
            intervals=rule,
            policies=tuple(dict.fromkeys(policies)),
            seed=whole("seed", values["seed"], 0, LARGEST_SEED),
        )

    def machine_options(self) -> MachineOptions:
        """As options of the command line."""
        if self.machine == ROUNDS:
            return MachineOptions(memory=self.memory, in_rounds=True)
        return MachineOptions(machine_name=self.machine, memory=self.memory)

    def fleet_options(self) -> FleetOptions:
        """As options of the command line."""
        return FleetOptions() if self.replicas == 1 else FleetOptions(replicas=self.replicas, router=[self.router])


def command_line(setting: Setting, source: RequestOptions) -> str:
    """The `llmsched compare` that gives the numbers of the page."""
    words = ["llmsched", "compare", *([] if source.trace is None else [source.trace])]
    for name, value in _source_options(source).items():
        words += [f"--{name}", str(value)]
    words += ["--rounds"] if setting.machine == ROUNDS else ["--machine", setting.machine]
    words += ["--memory", str(setting.memory)]
    words += [] if setting.rate is None else ["--rate", _number(setting.rate)]
    words += [] if setting.replicas == 1 else ["--replicas", str(setting.replicas), "--router", setting.router]
    words += [] if setting.intervals is None else ["--intervals", setting.intervals]
    for policy in setting.policies:
        words += ["--policy", policy]
    words += ["--seed", str(setting.seed)] if setting.seed else []
    return shlex.join(words)


def python(setting: Setting, source: RequestOptions, policies: Mapping[str, Policy]) -> str:
    """A program that gives the numbers of the page."""
    lines = ["import llmsched as ls", ""]
    if source.trace is None:
        lines += [f"w = ls.generate.parse({source.generator!r}, {source.limit}, {setting.seed})"]
    else:
        format_ = "" if source.format_ is None else f", format={source.format_!r}"
        bad_rows = "" if source.on_error == "raise" else f", on_error={source.on_error!r}"
        lines += [f"w = ls.traces.load({source.trace!r}{format_}{bad_rows}).head({source.limit})"]
    if setting.rate is not None:
        lines += [f"w = ls.generate.poisson(w, {setting.rate!r}, {setting.seed})"]
    if setting.intervals is not None:
        rule = f"ls.intervals.{intervals.parse(setting.intervals)!r}"
        if setting.intervals.startswith("realistic"):
            lines += [f"rule = {rule}", "w = w.replace(point=rule.point(w.output)).with_intervals(rule)"]
        else:
            lines += [f"w = w.replace(point=None).with_intervals({rule})"]
    if any("lengths" in policy.needs for policy in policies.values()):
        lines += ["w = w.with_lengths(ls.LengthTable.from_outputs(w.output))"]
    lines += ["", *_compare_call(setting, policies), "for row in compared.ranked():"]
    lines += ["    print(row.policy, row.result and row.result.mean_latency)"]
    return "\n".join(lines) + "\n"


def _compare_call(setting: Setting, policies: Mapping[str, Policy]) -> list[str]:
    given = [
        text if text == label and "," not in text else None
        for label, text in zip(policies, setting.policies, strict=True)
    ]
    if all(given):
        wanted = f"[{', '.join(map(repr, given))}]"
    else:
        wanted = f"{{{', '.join(f'{label!r}: {_policy_call(policy)}' for label, policy in policies.items())}}}"
    arguments = [f"memory={setting.memory}"]
    if setting.machine != ROUNDS:
        known = setting.machine in machines.machines
        machine = f"ls.machines[{setting.machine!r}]" if known else f"ls.Machine.read({setting.machine!r})"
        arguments = [f"**{machine}.replace(memory={setting.memory}).options()"]
    if setting.replicas > 1:
        arguments += [f"replicas={setting.replicas}", f"router={setting.router!r}"]
    arguments += [f"seed={setting.seed}"]
    return ["compared = ls.compare(", "    w,", f"    {wanted},", *(f"    {argument}," for argument in arguments), ")"]


def _policy_call(policy: Policy) -> str:
    default = Policy().fields()
    changed = {name: value for name, value in policy.fields().items() if value != default[name]}
    return f"ls.Policy({', '.join(f'{name}={value!r}' for name, value in changed.items())})"


def study(setting: Setting, source: RequestOptions, policies: Mapping[str, Policy]) -> str:
    """A study file: the same setting, with requests drawn anew in each of 20 replications."""
    workload: dict[str, Any] = {"requests": source.limit}
    if source.trace is None:
        workload |= {"name": "requests", "generator": source.generator}
    else:
        workload |= {"name": os.path.basename(source.trace), "trace": os.path.abspath(source.trace)}
        workload |= {} if source.format_ is None else {"format": source.format_}
        workload |= {} if setting.rate is not None else {"sample": "window"}
    workload |= {} if setting.rate is None else {"rate": setting.rate}
    rule = setting.intervals or "given"
    values: dict[str, Any] = {
        "name": "From the explorer",
        "seed": setting.seed,
        "replications": 20,
        "intervals": [rule],
        "memories": [setting.memory],
    }
    values |= {} if setting.machine == ROUNDS else {"machines": [_absolute(setting.machine)]}
    values |= {} if setting.replicas == 1 else {"replicas": setting.replicas, "routers": [setting.router]}
    listed = [_policy_entry(label, policy) for label, policy in policies.items()]
    lines = ["# Made by llmsched explore. How long it takes: llmsched study check FILE; then", "#"]
    lines += ["#     llmsched study run FILE --out DIR", "#     llmsched study report DIR", ""]
    lines += [f"{key} = {_toml(value)}" for key, value in values.items()]
    lines += ["policies = [", *(f"    {_toml(entry)}," for entry in listed), "]", "", "[[workloads]]"]
    lines += [f"{key} = {_toml(value)}" for key, value in workload.items()]
    return "\n".join(lines) + "\n"


def _policy_entry(label: str, policy: Policy) -> str | dict[str, Any]:
    if label in known:
        return label
    default = known["amin"].fields()
    changed = {name: value for name, value in policy.fields().items() if value != default[name]}
    return {"name": label, "base": "amin", **changed}


def _source_options(source: RequestOptions) -> dict[str, Any]:
    options = {
        "format": source.format_,
        "on-error": None if source.on_error == "raise" else source.on_error,
        "generate": None if source.trace is not None or source.generator == "lmsys" else source.generator,
        "limit": source.limit,
    }
    return {name: value for name, value in options.items() if value is not None}


def _absolute(machine: str) -> str:
    return machine if machine in machines.machines else os.path.abspath(machine)


def _number(value: float) -> str:
    return str(int(value)) if float(value).is_integer() else repr(value)


def _toml(value: Any) -> str:
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{key} = {_toml(item)}" for key, item in value.items()) + " }"
    if isinstance(value, list):
        return "[" + ", ".join(map(_toml, value)) + "]"
    return json.dumps(value, ensure_ascii=False)
