"""State: what a scheduler sees before a round. Requests in it can be read, and that is counted; never changed."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any, overload

from ..errors import shown
from ..simulation.blocks import whole_blocks
from ..simulation.reference import Request as Served

#: What a workload may say of a request beyond prompt and arrival.
OPTIONAL = ("lower", "upper", "point", "priority", "deadline", "session")

_WITHOUT = {name: f"the workload has no {name!r}: add it with workload.replace({name}=...)" for name in OPTIONAL}
_WITHOUT |= {name: f"the workload has no {name!r}: workload.with_intervals(...) adds it" for name in ("lower", "upper")}
_WITHOUT["output"] = (
    "a scheduler does not see the true output: let it read a prediction (lower, upper, point), or pass truth=True to "
    "test one that knows the future"
)


class Request:
    """A request as a scheduler sees it. The same object stands for it in every round, and is always up to date.

    Attributes
    ----------
    index
        Its place in the workload, which names it in a `Decision`.
    prompt
        Prompt tokens.
    rank
        Where it stands among equals: a permutation drawn from the seed, or with ``seed=None`` the index.
    lower, upper, point, priority, deadline, session
        As in `llmsched.Workload`; AttributeError where the workload lacks them. Where there are both bounds and no
        point, the point is their middle, rounded up.
    output
        The true output; AttributeError unless ``truth=True`` was asked for.
    """

    __slots__ = (
        "_block", "_reached", "_salt", "_served", "deadline", "index", "lower", "output", "point", "priority", "prompt",
        "rank", "session", "upper",
    )  # fmt: skip

    index: int
    prompt: int
    rank: int
    lower: int
    upper: int
    point: int
    priority: int
    deadline: float
    session: int
    output: int
    _served: Served
    _block: int
    _reached: int
    _salt: int

    def __init__(self, served: Served, known: dict[str, Any], block: int, salt: int) -> None:
        fixed = {"index": served.index, "prompt": served.prompt, "rank": served.rank}
        hidden = {"_served": served, "_block": block, "_reached": 0, "_salt": salt}
        for name, value in (fixed | known | hidden).items():
            object.__setattr__(self, name, value)

    @property
    def arrival(self) -> float:
        """When it arrived, in rounds, or in seconds with a clock."""
        return self._served.arrival

    @property
    def generated(self) -> int:
        """Tokens that it has; 0 again where an eviction lost them."""
        return self._served.generated

    @property
    def reached(self) -> int:
        """The most tokens that it had at an eviction; 0 before the first. Its output is larger."""
        return self._reached

    @property
    def joined(self) -> float:
        """When it last began to wait."""
        return self._served.joined

    @property
    def evictions(self) -> int:
        """How often it was evicted."""
        return self._served.evictions

    @property
    def to_prefill(self) -> int:
        """While it runs: tokens of its prompt, and of those it kept, that are still to be processed."""
        return self._served.to_prefill

    @property
    def tokens(self) -> int:
        """Tokens of cache that it takes in the coming round if it runs: prompt + generated + 1, in whole blocks."""
        return whole_blocks(self.prompt + self._served.generated + 1, self._block)

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError("a scheduler may read requests, not change them: what it wants done is a Decision")

    def __delattr__(self, name: str) -> None:
        self.__setattr__(name, None)

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(_WITHOUT.get(name, f"a request has no {shown(name)}; help(llmsched.testing.Request)"))

    def __hash__(self) -> int:  # `check` runs a scheduler with another salt, so that it meets sets in another order
        return hash((self._salt, self.index))

    def __eq__(self, other: object) -> bool:
        return self is other

    def __repr__(self) -> str:
        return f"Request({self.index}: {self.prompt} prompt + {self.generated} generated tokens)"


class Looks:
    """How many requests a scheduler looked at."""

    __slots__ = ("count",)

    def __init__(self) -> None:
        self.count = 0


class Requests(Sequence[Request]):
    """Requests in order, valid during the call. Each one that is taken out, by index or in a loop, counts as a look.

    `len` is free. A scheduler that goes through everybody in every round has that in its work counters.
    """

    __slots__ = ("_looks", "_served", "_views")

    def __init__(self, served: Sequence[Served], views: Sequence[Request], looks: Looks) -> None:
        self._served, self._views, self._looks = served, views, looks

    def __len__(self) -> int:
        return len(self._served)

    @overload
    def __getitem__(self, at: int) -> Request: ...

    @overload
    def __getitem__(self, at: slice) -> list[Request]: ...

    def __getitem__(self, at: int | slice) -> Request | list[Request]:
        if isinstance(at, slice):
            return list(Requests(self._served[at], self._views, self._looks))
        self._looks.count += 1
        return self._views[self._served[at].index]

    def __iter__(self) -> Iterator[Request]:
        for served in self._served:
            self._looks.count += 1
            yield self._views[served.index]

    def __repr__(self) -> str:
        return f"Requests({', '.join(str(served.index) for served in self._served)})"


@dataclasses.dataclass(frozen=True, slots=True)
class State:
    """What a scheduler sees before a round.

    Attributes
    ----------
    round
        Number of the coming round, from 0: rounds that ran before it.
    now
        When it starts, in rounds, or in seconds with a clock.
    memory
        M, tokens of cache, down to whole blocks.
    waiting
        Those that wait, in the order in which they began to, equals by rank.
    running
        The batch, in order of admission.
    need
        Tokens of cache that the coming round takes if nobody leaves or starts. More than `memory`: somebody must leave.
    block, max_batch, prefill_budget
        As in `llmsched.simulate`; the last two are None where there is no such limit.
    """

    round: int
    now: float
    memory: int
    waiting: Requests
    running: Requests
    need: int
    block: int = 1
    max_batch: int | None = None
    prefill_budget: int | None = None
