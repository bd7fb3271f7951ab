"""Machine: a clock with the cache and the limits of the engine that it was measured on. Named ones, or from a file.

machine = ls.machines["llama2-70b-8xh100"]
ls.simulate(workload, "vllm", **machine.options())
ls.compare(workload, **machine.replace(memory=200_000).options())
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from typing import Any

from .. import settings_files
from ..errors import InputError, InputLimitError, by_name, nearest
from ..workloads.argument_checks import whole
from . import clock as clocks
from . import kv_cache
from .clock import Clock

_ASK = (
    "tokens of KV cache that it holds (the line 'GPU KV cache size' of vLLM's log, or "
    "llmsched.kv_cache.tokens_of_cache(model, gpu, count))"
)


@dataclasses.dataclass(frozen=True)
class Machine:
    """What serves: everything about it that a simulation wants to know.

    Attributes
    ----------
    name
        What tables call it.
    clock
        How long its rounds take: a `Clock`, or the name of one.
    memory
        Tokens of KV cache that it holds.
    block
        Tokens in a block of cache.
    max_batch
        Most requests that run at once; None: as many as fit.
    prefill_budget
        Most tokens that a round processes (chunked prefill); None: every prompt takes one round.
    power
        Name of the power model (see `llmsched.energy.powers`), or None.
    source
        Where the numbers come from, each of them.

    Raises
    ------
    InputError
        There is no cache, a number is out of range, or the clock is unknown (the nearest is suggested).
    """

    name: str
    clock: Clock
    memory: int
    block: int = 1
    max_batch: int | None = None
    prefill_budget: int | None = None
    power: str | None = None
    source: str = dataclasses.field(default="", compare=False, repr=False)

    def __post_init__(self) -> None:
        for key in ("name", "source"):
            if not isinstance(getattr(self, key), str):
                raise InputError(f"{key} is {getattr(self, key)!r}, expected a text")
        clock = clocks.named(self.clock)
        if clock is None:
            raise InputError("clock is missing: the name of a clock, or a llmsched.Clock")
        if self.memory is None:
            raise InputError(f"memory is missing: a clock has no cache; say how many {_ASK}")
        object.__setattr__(self, "clock", clock)
        object.__setattr__(self, "block", whole("block", self.block, 1))
        object.__setattr__(self, "memory", whole("memory", self.memory, self.block))
        for key in ("max_batch", "prefill_budget"):
            value = getattr(self, key)
            object.__setattr__(self, key, None if value is None else whole(key, value, 1))
        if not (self.power is None or isinstance(self.power, str)):
            raise InputError(f"power is {self.power!r}, expected the name of a power model")

    def options(self, *, memory: bool = True) -> dict[str, Any]:
        """Keyword arguments for `simulate`, `compare` and `capacity`; without the cache for ``memory=False``."""
        names = ("clock", "memory", "block", "max_batch", "prefill_budget")
        return {name: getattr(self, name) for name in names if memory or name != "memory"}

    def replace(self, **changes: Any) -> Machine:
        """The same machine with some attributes changed."""
        for name in changes:
            if name not in _KEYS:
                raise InputError(f"a machine has no {name!r}; {nearest(name, _KEYS)}")
        return dataclasses.replace(self, **changes)

    def fields(self) -> dict[str, Any]:
        """All attributes as a plain dict, the clock's as another in it."""
        return {key: getattr(self, key) for key in _KEYS} | {"clock": self.clock.fields()}

    def __str__(self) -> str:
        parts = [f"{self.memory:,} tokens of KV cache" + (f" in blocks of {self.block}" if self.block > 1 else "")]
        parts += [f"at most {self.max_batch:,} requests at once"] if self.max_batch else []
        parts += [f"at most {self.prefill_budget:,} tokens a round"] if self.prefill_budget else []
        return f"{self.name}: {', '.join(parts)}"

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> Machine:
        """The machine in a file: JSON if its name ends in .json, else TOML.

        The keys are the attributes. `clock` is the name of a clock, that of a clock file (beside this one), or a table
        with the keys of a clock file. In the place of `memory` there may be a table `cache` with the arguments of
        `llmsched.kv_cache.tokens_of_cache`. `name` is the file's, unless given. For example::

            clock = "mine.toml"
            block = 16
            max_batch = 256
            prefill_budget = 2048
            source = "our own machine"

            [cache]
            model = "llama-3.1-8b"
            gpu = "rtx-4090"

        Raises InputError, naming file and key, for what is missing, unknown (the nearest is suggested) or impossible;
        OSError if the file cannot be read.
        """
        name = os.fspath(path)
        kind = "JSON" if name.lower().endswith(".json") else "TOML"
        try:
            values = settings_files.parsed(settings_files.read_text(name), kind)
        except InputLimitError:
            raise
        except ValueError as error:  # what parsing and the decoding of text raise
            raise InputError(f"machine file {name}: not {kind}: {error}") from None
        try:
            return cls._from(values, name)
        except InputError as error:
            raise InputError(f"machine file {name}: {error}") from None

    @classmethod
    def _from(cls, values: Any, path: str) -> Machine:
        if not isinstance(values, dict):
            raise InputError("expected keys and values, such as memory = 16492")
        if "clock" not in values and ("unit" in values or "base" in values):
            raise InputError(
                f"this is a clock, and it has no cache: write a file with clock = {path!r} and memory = {_ASK}"
            )
        for key in values:
            if key not in (*_KEYS, "cache"):
                raise InputError(f"there is no key {key!r}; {nearest(key, [*_KEYS, 'cache'])}")
        values = {"name": os.path.splitext(os.path.basename(path))[0]} | values
        if "clock" not in values:
            raise InputError("clock is missing: the name of a clock, a clock file, or a table with its keys")
        values["clock"] = _clock(values["clock"], path)
        if "cache" in values:
            values["memory"] = _cache(values.pop("cache"), values)
        return cls(**{"memory": None} | values)

    def write(self, path: str | os.PathLike[str]) -> None:
        """Write the machine, its clock as a table, as `read` reads it: JSON if the name ends in .json, else TOML."""
        import json

        values = {key: value for key, value in self.fields().items() if value is not None}
        clock = {"unit": "s", **values.pop("clock")}
        if os.fspath(path).lower().endswith(".json"):
            text = json.dumps(values | {"clock": clock}, indent=2)
        else:
            lines = [f"{key} = {json.dumps(value)}" for key, value in values.items()]
            text = "\n".join([*lines, "", "[clock]", *(f"{key} = {json.dumps(value)}" for key, value in clock.items())])
        with open(path, "w", encoding="utf-8") as file:
            file.write(text + "\n")


_KEYS = tuple(field.name for field in dataclasses.fields(Machine))


def _clock(value: Any, path: str) -> Clock:
    """What a machine file says of its clock: a name, a file beside it, or the keys of one."""
    try:
        if not isinstance(value, str):
            return Clock.from_values(value)
        beside = os.path.join(os.path.dirname(path), value)
        return clocks.parse(beside if value not in clocks.clocks and os.path.exists(beside) else value)
    except OSError as error:
        raise InputError(f"clock: {value!r} cannot be read: {error.strerror}") from None
    except InputError as error:
        raise InputError(f"clock: {error}") from None


def _cache(value: Any, values: Mapping[str, Any]) -> int:
    """Tokens of cache, computed from what a machine file says of model and GPU."""
    if "memory" in values:
        raise InputError("give memory, or the table cache to compute it from: not both")
    if not isinstance(value, dict):
        raise InputError('cache is a table with model = "…" and gpu = "…"')
    known = ("model", "gpu", "count", "dtype", "cache_dtype", "utilization", "reserve", "block")
    for key in value:
        if key not in known:
            raise InputError(f"cache: there is no key {key!r}; {nearest(key, known)}")
    for key in ("model", "gpu"):
        if key not in value:
            raise InputError(f"cache: {key} is missing")
    try:
        return kv_cache.tokens_of_cache(**{"block": values.get("block", 1)} | value)
    except InputError as error:
        raise InputError(f"cache: {error}") from None


_DERIVED = (
    "cache: llmsched.kv_cache.tokens_of_cache('llama-2-70b', {gpu!r}, {count}), bfloat16 at 90 % of the memory{remark}"
    "; block: vLLM's default of 16; max_batch: vLLM's default max_num_seqs of 256; prompts in one piece, as measured"
)


def _splitwise(count: int, gpu: str, remark: str = "") -> Machine:
    """The machine of a clock that was fitted to Splitwise's measurements of vLLM."""
    name = f"llama2-70b-{count}x{gpu.partition('-')[0]}"
    return Machine(
        name,
        clocks.clocks[name],
        memory=kv_cache.tokens_of_cache("llama-2-70b", gpu, count),
        block=16,
        max_batch=256,
        source=f"clock: {clocks.clocks[name].source}; {_DERIVED.format(gpu=gpu, count=count, remark=remark)}",
    )


#: Named machines: one for every named clock.
machines: Mapping[str, Machine] = by_name(
    {
        machine.name: machine
        for machine in (
            Machine(
                "llama2-70b-2xa100",
                clocks.clocks["llama2-70b-2xa100"],
                memory=16_492,
                power="example-2xa100",
                source=f"clock: {clocks.clocks['llama2-70b-2xa100'].source}; cache: 16,492 tokens, arXiv 2502.07115 "
                "(the formula of llmsched.kv_cache has room for 37,648: the paper keeps 4.5 GiB per GPU free); single "
                "tokens, no limits: the model of arXiv 2508.14544",
            ),
            _splitwise(4, "a100-80gb", " (vLLM reported 505,840, and 333,840 with more kept free: its PR 2031)"),
            _splitwise(8, "a100-80gb"),
            _splitwise(2, "h100", " (Splitwise measured 32 requests of 640 tokens here, and not 64)"),
            _splitwise(4, "h100"),
            _splitwise(8, "h100"),
        )
    },
    "machine",
)


def named(machine: str | Machine) -> Machine:
    """The machine itself, or the named one. Raises InputError, with the nearest name, for an unknown one."""
    if isinstance(machine, Machine):
        return machine
    if not isinstance(machine, str):
        raise InputError(f"a machine is a name or a llmsched.Machine, not {type(machine).__name__}")
    return machines[machine]


def parse(text: str) -> Machine:
    """The machine written as on the command line: a name, or a file (see `Machine.read`).

    Raises InputError, with the nearest name, if it is neither, and as `Machine.read` does.
    """
    if text in machines:
        return machines[text]
    if text.lower().endswith((".toml", ".json")) or os.path.exists(text):
        return Machine.read(text)
    raise InputError(f"there is no machine {text!r}; {nearest(text, machines)}; or the name of a .toml or .json file")
