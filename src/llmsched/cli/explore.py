"""`llmsched explore`: a page in the browser with sliders, and what they change while they move."""

from __future__ import annotations

import dataclasses
import threading
import webbrowser
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import typer

from .. import progress
from ..errors import InputError, nearest
from ..fleet import router as routers
from ..metrics import figure_style
from ..metrics.compare import MEMORY
from ..policy import policies as known_policies
from ..simulation import machine as machines
from ..simulation.blocks import whole_blocks
from ..workloads.argument_checks import whole
from ..workloads.workload import Workload
from . import console, describe
from .explorer import picture, server
from .explorer.setting import ROUNDS, Setting
from .option_groups import expand_groups
from .options import (
    DEFAULT_INTERVALS,
    DEFAULT_MACHINE,
    POLICY_HELP,
    Format,
    Generate,
    MachineName,
    OnError,
    RequestOptions,
    Trace,
    parse_policies,
    whole_number,
)

_REQUESTS = 2000
_DEFAULT_POLICIES = ("hsf", "amin", "mcsf", "vllm")
#: The page draws so many at most: more lines cannot be told apart.
_MOST_POLICIES = 8


@dataclasses.dataclass(frozen=True)
class ExploredRequests:
    """What the page is about."""

    trace: Trace = None
    format_: Format = None
    on_error: OnError = "raise"
    generator: Generate = "lmsys"
    limit: Annotated[
        int,
        typer.Option(metavar="N", parser=whole_number, help="Only the first N requests: few, so that sliders answer."),
    ] = _REQUESTS

    def source(self) -> RequestOptions:
        """As `compare` reads them, with the number of those that there are. InputError if there are none."""
        if self.trace == "-":
            raise InputError("the explorer needs a file, which commands that it gives can name again: not -")
        options = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        source = RequestOptions(**options)
        if self.trace is None:
            return source
        there = source.load()
        assert there is not None
        if len(there) > self.limit:
            console.say(f"note: the first {self.limit:,} of {len(there):,} requests: --limit says how many")
        return dataclasses.replace(source, limit=min(self.limit, len(there)))


@expand_groups("trace machine_name policy limit generator format_ on_error port no_browser")
def explore(
    requests: ExploredRequests,
    machine_name: MachineName = None,
    policy: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help=f"{POLICY_HELP} These are shown first; repeat for several. By default {', '.join(_DEFAULT_POLICIES)}.",
        ),
    ] = None,
    port: Annotated[int, typer.Option(metavar="N", help="Port on this computer; 0 takes a free one.")] = 0,
    no_browser: Annotated[bool, typer.Option("--no-browser", help="Print the address and open nothing.")] = False,
) -> None:
    """Explore in the browser: move sliders, and see latency, cache, waiting and the gap to the best while they move.

    The page chooses machine, policies, cache, arrival rate, replicas and the quality of the predictor, compares two
    settings side by side, and gives each as a command, as Python and as a study. It is served on this computer alone,
    and to nobody who does not have the address that is printed. Needs no network. Ctrl-C ends it.
    """
    server.require()
    whole("--port", port, 0, 65535)
    source = requests.source()
    read = picture.Requests(source)
    data = _page_data(read, machine_name, policy or _DEFAULT_POLICIES)
    listening = server.listen(port)

    def told(address: str) -> None:
        console.say(f"{describe.requests_text(read(0))}\n{address}")
        console.aside("That page is for this computer alone. Ctrl-C ends it.")
        if not no_browser:
            threading.Thread(target=webbrowser.open, args=(address,), daemon=True).start()

    bounds = picture.Bounds(read)
    kinds = {"picture": _Picture, server.ASIDE: _Gap, server.SLOW: _Load}
    answers = {name: kind(read, bounds, data) for name, kind in kinds.items()}
    try:
        with progress.no_other():  # nobody watches a bar for each answer
            server.serve(data, answers, listening, told)
    except KeyboardInterrupt:
        console.complain("ended")
    finally:
        listening.close()


class _Picture:
    """Answers what a setting gives, of the machines and policies that the page offers: no other file is opened."""

    def __init__(self, requests: picture.Requests, bounds: picture.Bounds, offered: Mapping[str, Any]) -> None:
        self.requests, self.bounds = requests, bounds
        self.machines = [machine["name"] for machine in offered["machines"]]
        self.policies = [policy["text"] for policy in offered["policies"]]

    def __call__(self, values: Any, progress: picture.Progress) -> dict[str, Any]:
        setting = self.setting(values)
        return picture.picture(setting, self.requests, self.bounds.known(setting), progress)

    def setting(self, values: Any) -> Setting:
        """The setting that the page sends. Raises InputError for what is none, or not offered."""
        setting = Setting.from_json(values)
        if len(setting.policies) > _MOST_POLICIES:
            raise InputError(f"choose at most {_MOST_POLICIES} policies: more lines cannot be told apart")
        for policy in setting.policies:
            if policy not in self.policies:
                raise InputError(f"the page has no policy {policy!r}; {nearest(policy, self.policies)}")
        if setting.machine not in self.machines:
            raise InputError(f"the page has no machine {setting.machine!r}; {nearest(setting.machine, self.machines)}")
        return setting


class _Gap(_Picture):
    """Finds the lower bound that the next picture of the same setting shows."""

    def __call__(self, values: Any, progress: picture.Progress) -> dict[str, Any]:
        self.bounds.find(self.setting(values))
        return {}


class _Load(_Picture):
    """Answers how latency depends on the rate."""

    def __call__(self, values: Any, progress: picture.Progress) -> dict[str, Any]:
        if not isinstance(values, dict) or set(values) != {"setting", "most"}:
            raise InputError("a question about load has a setting and most, the largest rate")
        setting = self.setting(values["setting"])
        most = self.setting(values["setting"] | {"rate": values["most"]}).rate
        if most is None:
            raise InputError("most is the largest rate: a number")
        rates = [float(f"{most * share:.3g}") for share in picture.LOADS]
        return {"curves": picture.load_curve(setting, self.requests, rates, progress)}


def _page_data(requests: picture.Requests, machine_name: str | None, chosen: Sequence[str]) -> dict[str, Any]:
    """What there is to choose, and what is chosen first."""
    parsed = parse_policies(chosen)
    for name, one in parsed.items():
        if one.methods:
            raise InputError(f"policy {name} decides in Python, too slowly for a slider: see llmsched compare")
    if len(parsed) > _MOST_POLICIES:
        raise InputError(f"at most {_MOST_POLICIES} --policy: more lines cannot be told apart")
    workload = requests(0)
    timed = requests.source.trace is not None and bool(workload.arrival.any())
    names = [ROUNDS, *machines.machines]
    if machine_name is not None and machine_name not in names:
        machines.parse(machine_name)
        names.append(machine_name)
    first = machine_name or (DEFAULT_MACHINE if timed else ROUNDS)
    choices = {name: _machine(name, workload) for name in names}
    spelled = {text: next(iter(parse_policies([text]))) for text in dict.fromkeys(chosen)}
    texts = [*spelled, *(name for name in known_policies if name not in spelled)]
    labels = {text: spelled.get(text, text) for text in texts}
    styles = figure_style.styles_of(list(labels.values()))
    setting = Setting(
        machine=first,
        memory=choices[first]["memory"],
        rate=None,
        replicas=1,
        router="least-requests",
        intervals=None if requests.bring_intervals else DEFAULT_INTERVALS,
        policies=tuple(spelled),
    )
    return {
        "requests": describe.requests_text(workload),
        "trace": requests.source.trace is not None,
        "arrives": bool(workload.arrival.any()),
        "setting": dataclasses.asdict(setting),
        "machines": [{"name": name, **choice} for name, choice in choices.items()],
        "routers": [{"name": name, "words": words} for name, words in routers.DESCRIPTIONS.items()],
        "policies": [{"text": text, "label": label, **_style(styles[label])} for text, label in labels.items()],
        "most": _MOST_POLICIES,
        "given": requests.bring_intervals,
        "longest": int(workload.output.max()),
    }


def _style(style: tuple[str, str]) -> Mapping[str, Any]:
    from ..study.report import web_style

    return web_style(*style)


def _machine(name: str, workload: Workload) -> dict[str, Any]:
    """Its cache, and the least that holds the longest request, with which the slider begins."""
    machine = None if name == ROUNDS else machines.parse(name)
    least = whole_blocks(int((workload.prompt + workload.output).max()), 1 if machine is None else machine.block)
    memory = MEMORY if machine is None else machine.memory
    return {"memory": max(memory, least), "least": least, "seconds": machine is not None}
