"""Policy: what decides. A frozen dataclass of the fields in model.md, section 6, and `policies`, the named ones."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Mapping
from functools import cached_property
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple, cast, get_args

import numpy as np
import numpy.typing as npt

from .errors import PolicyError, UnknownPolicyError, by_name, nearest
from .formula_names import NAMES, PLACES, REQUEST_NAMES, Place
from .html_tables import table

if TYPE_CHECKING:
    from .formula import Formula

Order = Literal["arrival", "queue", "bound", "area", "upper", "point", "output", "volume", "priority", "table"]
Bound = Literal["lower", "upper", "point", "one", "prompt"]
Reserve = Literal["bound", "upper", "point", "output", "none", "prompt", "conditional", "ratio", "history"]
Hold = Literal["growth", "peak", "rising"]
Fill = Literal["break", "skip"]
Evict = Literal["bound", "progress", "newest", "all", "random", "priority"]
Refine = Literal["progress", "double", "none"]
Cap = Literal["none", "bound", "advised"]
Shed = Literal["none", "lottery"]
CapRefine = Literal["upper", "double"]
Resume = Literal["restart", "recompute", "swap"]
Pause = Literal["none", "overflow"]
Tie = Literal["drawn", "prompt", "last"]
Slices = Literal["none", "staggered"]
Slots = Literal["ahead", "processed"]
SharedPrefixes = Literal["none", "cached"]
Prompts = Literal["processed", "moved"]


class OrderRule(NamedTuple):
    """A word of `Policy.order`."""

    reads: str | None  # a column of the workload, "lengths" (the table), "bound" (õ), or nothing but arrivals
    changes: bool  # whether the key of a request may be another one when it joins the waiting set again


#: Word of `Policy.order` -> what is to be known of it. The engines must know all of these, in this and the next two
#: tables: see `check_words`.
ORDERS: Mapping[str, OrderRule] = MappingProxyType(
    {
        "arrival": OrderRule(reads=None, changes=False),
        "queue": OrderRule(reads=None, changes=True),
        "bound": OrderRule(reads="bound", changes=True),
        "area": OrderRule(reads="bound", changes=True),
        "upper": OrderRule(reads="upper", changes=False),
        "point": OrderRule(reads="point", changes=False),
        "output": OrderRule(reads="output", changes=False),
        "volume": OrderRule(reads="output", changes=False),
        "priority": OrderRule(reads="priority", changes=False),
        "table": OrderRule(reads="lengths", changes=True),
    }
)


class ReserveRule(NamedTuple):
    """A word of `Policy.reserve`."""

    belief: str  # what a request is believed to reach, for docs/reference/policies.md
    reads: str | None  # a column of the workload, "lengths" (the table), "bound" (õ), or nothing
    kind: Literal["none", "bound", "column", "moving"]  # "moving": different as a request runs (model.md, section 8)


#: Word of `Policy.reserve` -> what is to be known of it.
RESERVES: Mapping[str, ReserveRule] = MappingProxyType(
    {
        "bound": ReserveRule("õ", reads="bound", kind="bound"),
        "upper": ReserveRule("the upper bound", reads="upper", kind="column"),
        "point": ReserveRule("the point prediction", reads="point", kind="column"),
        "output": ReserveRule("the truth", reads="output", kind="column"),
        "none": ReserveRule("nothing: only the coming round counts", reads=None, kind="none"),
        "prompt": ReserveRule(
            "nothing, but all that it has to prefill must fit, in however many rounds that will be", None, kind="none"
        ),
        "conditional": ReserveRule(
            "the `quantile` of the outputs that exceed what it generated so far, by a table of lengths",
            reads="lengths",
            kind="moving",
        ),
        "ratio": ReserveRule("a falling share of what is left to the upper bound", reads="upper", kind="moving"),
        "history": ReserveRule(
            "a length drawn from those of the last `window` completed requests", reads="upper", kind="moving"
        ),
    }
)


class EvictionRule(NamedTuple):
    """A word of `Policy.evict`."""

    who: str  # leaves, for docs/reference/policies.md
    reads: Literal["bound", "priority"] | None  # õ, or a column of the workload
    ranks: bool  # by a key, the smallest leaves first; equals form lists (model.md, section 5) and `tie` chooses there
    may_cycle: Literal["never", "always", "unless bounds rise", "by chance"]  # whether requests may evict each other
    # for ever: never, where the one furthest on, the oldest or the most urgent is evicted last and so completes; by
    # chance, where draws decide, which end every run at last


#: Word of `Policy.evict` -> what is to be known of it.
EVICTION_RULES: Mapping[str, EvictionRule] = MappingProxyType(
    {
        "bound": EvictionRule("the one with the smallest õ", "bound", ranks=True, may_cycle="unless bounds rise"),
        "progress": EvictionRule("the one with the fewest tokens", None, ranks=True, may_cycle="never"),
        "newest": EvictionRule("the one admitted last", None, ranks=False, may_cycle="never"),
        "all": EvictionRule("every running request", None, ranks=False, may_cycle="always"),
        "random": EvictionRule(
            "each running request with probability `beta`, in repeated passes", None, ranks=False, may_cycle="by chance"
        ),
        "priority": EvictionRule(
            "the least urgent, of these the one that arrived last", "priority", ranks=True, may_cycle="never"
        ),
    }
)

#: Field -> the words it may hold. `order`, `evict` and `reserve` may also hold a formula, and `order` an array; the
#: fields that are not here are numbers.
CHOICES: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "order": get_args(Order),
        "reserve": get_args(Reserve),
        "fill": get_args(Fill),
        "evict": get_args(Evict),
        "refine": get_args(Refine),
        "cap": get_args(Cap),
        "cap_refine": get_args(CapRefine),
        "shed": get_args(Shed),
        "resume": get_args(Resume),
        "pause": get_args(Pause),
        "bound": get_args(Bound),
        "hold": get_args(Hold),
        "tie": get_args(Tie),
        "slices": get_args(Slices),
        "slots": get_args(Slots),
        "prefixes": get_args(SharedPrefixes),
        "prompts": get_args(Prompts),
    }
)


def check_words(where: str, known: Iterable[str], words: Iterable[str]) -> None:
    """Raise TypeError unless `known`, what some code knows how to do, are these words of a policy field.

    For the import of a module: a rule that one of the engines lacks is found there, not met in a run.
    """
    lacking, unknown = sorted(set(words) - set(known)), sorted(set(known) - set(words))
    if lacking or unknown:
        raise TypeError(f"{where}: it lacks {lacking} of the words in llmsched.policy, which does not have {unknown}")


check_words("policy.ORDERS", ORDERS, CHOICES["order"])
check_words("policy.RESERVES", RESERVES, CHOICES["reserve"])
check_words("policy.EVICTION_RULES", EVICTION_RULES, CHOICES["evict"])


class _Limits(NamedTuple):
    """Between what a number field must lie."""

    least: float
    most: float
    below: str = "<="  # how `least` compares with the value
    above: str = "<="  # how the value compares with `most`
    whole: bool = False

    def hold(self, value: float) -> bool:
        above_least = self.least < value or (self.below == "<=" and self.least == value)
        below_most = value < self.most or (self.above == "<=" and value == self.most)
        return above_least and below_most and not (self.whole and value != int(value))

    def spelled(self, name: str) -> str:
        what = f"{self.least:g} {self.below} {name} {self.above} {self.most:.7g}"
        return f"a whole number, {what}" if self.whole else what


#: What a policy may read that a workload need not have.
_OPTIONAL = ("lower", "upper", "point", "priority", "deadline", "lengths", "prefixes")

#: What a policy written in Python may decide itself: methods of a subclass of `Policy`.
METHODS = ("admission_key", "feasible", "victims")

_COUNT = _Limits(1, 2**20, whole=True)
#: Number field -> its limits.
_NUMBERS: Mapping[str, _Limits] = MappingProxyType(
    {
        "margin": _Limits(0, 1, above="<"),
        "beta": _Limits(0, 1, below="<"),
        "headroom": _COUNT,
        "quantile": _Limits(0, 1),
        "ratio": _Limits(0, 1, below="<"),
        "ratio_floor": _Limits(0, 1),
        "ratio_rounds": _COUNT,
        "clip": _Limits(1, 2**30, whole=True),
        "window": _COUNT,
        "rate_limit": _Limits(0, 2**20),
        "chunk": _Limits(1, 2**30, whole=True),
    }
)

#: Field -> what reads it, as (another field, the words of it); a field that is not here is always read.
_READERS: Mapping[str, tuple[str, tuple[str, ...]]] = MappingProxyType(
    {
        "beta": ("evict", ("random",)),
        "cap_refine": ("cap", ("bound", "advised")),
        "shed": ("cap", ("none",)),
        "tie": ("evict", tuple(word for word, rule in EVICTION_RULES.items() if rule.ranks)),
        "ratio": ("reserve", ("ratio",)),
        "ratio_floor": ("reserve", ("ratio",)),
        "ratio_rounds": ("reserve", ("ratio",)),
        "clip": ("reserve", ("ratio",)),
        "window": ("reserve", ("history",)),
        "chunk": ("slots", ("processed",)),
        "prefixes": ("slots", ("processed",)),
    }
)


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Policy:
    """A scheduling policy; the defaults are those of A_min (paper, Algorithm 2).

    Attributes
    ----------
    order
        Admission order, smallest first: ``"arrival"``, ``"queue"`` (when it last joined the waiting set), ``"bound"``
        (õ), ``"area"`` ((s + õ)·õ), ``"upper"``, ``"point"``, ``"output"`` and ``"volume"`` (clairvoyant),
        ``"priority"`` (the smaller the number, the more urgent; then by arrival), ``"table"`` (the length that the
        workload's table gives for the tokens seen so far, as ``reserve="conditional"``), one number per request, or a
        formula such as ``"bound - 0.5 * (now - arrival)"`` (docs/reference/formulas.md).
    reserve
        What a request is believed to reach when an admission is tested, or ``"none"``: only the coming round counts, or
        ``"prompt"``: that, and all that it has to prefill, though it may take several rounds (see `slots`).
        Three beliefs move while it runs: ``"conditional"``, ``"ratio"`` and ``"history"``, see the fields below. Or a
        formula, such as ``"lower + 0.3 * (upper - lower)"``, rounded up to whole tokens.
    margin
        Share of the cache kept free while anything runs, 0 <= margin < 1.
    fill
        At the first waiting request that does not fit: ``"break"`` stops admission, ``"skip"`` tries the next.
    evict, beta
        Who leaves when the cache overflows: smallest ``"bound"``, least ``"progress"``, ``"newest"``, least urgent
        ``"priority"`` (then latest arrival), ``"all"``, or ``"random"``, each with probability `beta` (0 < beta <= 1)
        in repeated passes. See `EVICTION_RULES`. Or the smallest value of a formula, such as ``"prompt + generated"``.
    refine
        What becomes of õ on an overflow eviction: ``"progress"``, ``"double"`` or ``"none"``.
    cap, cap_refine
        ``"bound"`` stops a running request that has generated õ tokens; õ becomes ``"upper"`` or ``"double"``.
        ``"advised"`` does so to those whose lower bound is less than (3-√5)/2 ≈ 0.382 of the upper, where the paper
        (Theorems 6 and 7) has the better guarantee for it.
    shed
        ``"lottery"`` stops a running request at random once it has generated õ tokens: it gets from i tokens to j with
        chance (s+i)/(s+j), as in the paper's Lemma 1. õ becomes the tokens it had, plus one. ``"none"``, or any `cap`,
        which comes first: never.
    resume
        ``"restart"``: a request that leaves loses its tokens; ``"recompute"``: only its cache, which is computed again
        when it is admitted; ``"swap"``: nothing, its cache is moved out and back in. The last two differ with a clock.
    pause
        ``"overflow"``: nobody is admitted in a round that evicted for overflow; ``"none"``: admission goes on.
    bound
        Where õ starts: ``"lower"`` (the paper), ``"upper"`` or ``"point"``; or, which needs no prediction, at ``"one"``
        token or at the ``"prompt"``, rounded up to a power of two.
    hold
        How much of the cache the belief takes: ``"growth"``, in every round what it will have grown to (the paper's
        Eq. 3); ``"peak"``, from its admission on all that it may come to, as systems do that allocate ahead; or
        ``"rising"``, the same, and once a request outgrows that, what it occupies.
    tie
        Of those with the smallest bound, formula or progress, or the last priority, the victim is ``"drawn"``, or one
        with the longest ``"prompt"`` (drawn if there are several), or the ``"last"``: whom ties of the admission order
        would put behind the others.
    headroom
        Once the cache overflows, evict until so many tokens are free for each request that remains, or one is left
        (1: until the coming round fits; 1 <= headroom <= 2**20).
    quantile
        ``reserve="conditional"`` believes this quantile of the output given that it exceeds the most tokens the
        request ever generated, from `Workload.lengths` (0 <= quantile <= 1).
    ratio, ratio_floor, ratio_rounds, clip
        ``reserve="ratio"`` (SGLang) keeps r·min(upper - generated, `clip`) tokens for each running request, and all of
        that for those admitted in the same round. r starts at `ratio`, falls by equal steps to `ratio_floor` of it in
        `ratio_rounds` rounds, starts again when nothing ran, and after an overflow is what the remaining n requests
        show: min(1, (tokens generated + headroom·n) / (upper bounds + 1)), each summed over them; from there it falls
        by the same steps. 0 < ratio <= 1, 0 <= ratio_floor <= 1, ratio_rounds and clip whole and at least 1.
    slots
        When a request takes its slots of the cache: ``"ahead"``, those of its whole prompt at its admission, and the
        one of a token in the round that generates it (the paper); or ``"processed"``, those of a token in the round
        that processes it: of a prompt chunk by chunk, of a generated token in the round after. Who runs then gets slots
        in order of admission, and where there are none left somebody leaves, perhaps within a prompt (vLLM; model.md,
        section 7). That needs a `reserve` of ``"none"`` or ``"prompt"``, a `headroom` of 1, and no ``resume="swap"``.
    chunk
        With ``slots="processed"``, the most tokens of one request that a round processes while others run or wait
        (1 <= chunk <= 2**30; vLLM's long_prefill_token_threshold).
    prefixes
        With ``slots="processed"``, ``"cached"``: blocks of the cache stay until they are needed, the least recently
        used goes first, and a request that begins with tokens that are there need not process them again, nor take
        slots for those that others hold (vLLM's prefix caching; model.md, section 7). Which begin alike, block hashes
        of the workload say (`Workload.with_prefixes`), else its sessions. ``"none"``: all of a prompt is processed.
    prompts
        ``"moved"``: a request comes with the cache of its prompt, which another machine has processed, as to the decode
        replicas of a disaggregated service; whoever loses that cache has to process it here (model.md, section 7).
        ``"processed"``: prompts are processed where requests run. Not with ``prefixes="cached"``.
    window
        ``reserve="history"`` (LightLLM's past-future) believes a length drawn anew, for each request in each round,
        from those of the last `window` completed requests that exceed the most tokens it ever generated; the upper
        bound where there is none (1 <= window <= 2**20).
    rate_limit
        How many requests are admitted in a round, at most and spread evenly: ⌈(t+1)·rate_limit⌉ - ⌈t·rate_limit⌉ in the
        t-th round after one in which nobody ran (arXiv 2606.15555). 0: no limit (0 <= rate_limit <= 2**20).
    slices
        ``"staggered"``: those with the same õ are a slice; nobody of another slice is admitted while one runs, and
        request j of a slice starts ⌊j·õ/k⌋ rounds after the first, where k of them are as many as always fit together
        (arXiv 2607.09248 and 2601.22996). ``"none"``: they mix.

    Raises
    ------
    PolicyError
        A field has a value it cannot have; FormulaError, where that is neither a word of the field nor a formula.
    """

    #: Of a subclass that decides in Python (docs/how-to/your-own-policy.md): what its methods read of a request besides
    #: what every scheduler sees. Names of `llmsched.formula_names.REQUEST_NAMES`.
    reads: ClassVar[tuple[str, ...]] = ()

    order: Order | str | npt.ArrayLike = "bound"
    reserve: Reserve | str = "bound"
    margin: float = 0.0
    fill: Fill = "break"
    evict: Evict | str = "bound"
    beta: float = 0.2
    refine: Refine = "progress"
    cap: Cap = "none"
    cap_refine: CapRefine = "upper"
    shed: Shed = "none"
    resume: Resume = "restart"
    pause: Pause = "none"
    bound: Bound = "lower"
    hold: Hold = "growth"
    tie: Tie = "drawn"
    headroom: int = 1
    quantile: float = 0.1
    ratio: float = 0.7
    ratio_floor: float = 0.14
    ratio_rounds: int = 600
    clip: int = 4096
    window: int = 1000
    rate_limit: float = 0.0
    slices: Slices = "none"
    slots: Slots = "ahead"
    chunk: int = 2**30
    prefixes: SharedPrefixes = "none"
    prompts: Prompts = "processed"

    def __post_init__(self) -> None:
        if not isinstance(self.order, str):
            object.__setattr__(self, "order", _custom_order(self.order))
        unknown = [name for name in self.reads if name not in REQUEST_NAMES]
        if unknown:
            no_name = f"{type(self).__name__}.reads: {unknown[0]!r} is no name"
            raise PolicyError(f"{no_name}; {nearest(unknown[0], REQUEST_NAMES)}")
        for name, words in CHOICES.items():
            value = getattr(self, name)
            if name == "order" and isinstance(value, np.ndarray):
                continue
            if isinstance(value, str) and value in words:
                continue
            if isinstance(value, str) and name in PLACES:
                object.__setattr__(self, name, _formula(name, value).text)
            else:
                raise PolicyError(f"policy field {name}={value!r} is unknown; {nearest(str(value), words)}")
        for name, limits in _NUMBERS.items():
            given = getattr(self, name)
            value = _number(given)
            if not limits.hold(value):
                raise PolicyError(f"policy field {name}={given!r} is out of range, expected {limits.spelled(name)}")
            object.__setattr__(self, name, int(value) if limits.whole else value)
        if self.slots == "processed" and self.looks_ahead:
            raise PolicyError(
                f"slots='processed' with reserve={self.reserve!r}: nobody looks ahead for slots that are taken as "
                'tokens are processed; reserve="none" or "prompt" goes with them, or slots="ahead" with this reserve'
            )
        if self.slots == "processed" and self.headroom > 1:
            raise PolicyError(
                f"slots='processed' with headroom={self.headroom}: who runs gets slots one by one, and no more room is "
                'made than the next one needs; headroom=1 goes with that, or slots="ahead" with this headroom'
            )
        if self.slots != "processed" and self.prefixes != "none":
            raise PolicyError(
                f"prefixes={self.prefixes!r} with slots={self.slots!r}: what stays in the cache is blocks of tokens "
                'that were processed; slots="processed" goes with it, as the policy vllm has, or prefixes="none"'
            )
        if self.prefixes != "none" and self.prompts != "processed":
            raise PolicyError(
                f"prompts={self.prompts!r} with prefixes={self.prefixes!r}: what is moved in is not shared; "
                'prefixes="none" goes with it, or prompts="processed" with these prefixes'
            )
        if self.slots == "processed" and self.resume == "swap":
            raise PolicyError(
                "slots='processed' with resume='swap': a part of a prompt is not moved out and in; "
                'resume="recompute" or "restart" goes with it, or slots="ahead" with this resume'
            )

    def __init_subclass__(cls) -> None:
        """A policy in Python has some of `METHODS`; a class without them would run as if it were its fields alone."""
        if any(hasattr(cls, name) for name in METHODS):
            return
        own = [name for name, value in vars(cls).items() if callable(value) and not name.startswith("_")]
        strange = f"nothing would call {own[0]}() of it; {nearest(own[0], METHODS)}" if own else "it has no method"
        raise PolicyError(
            f"{cls.__name__} decides nothing: {strange}. Make a llmsched.Policy(...) of the fields that are wanted, or "
            f"give it one of the methods {', '.join(METHODS)}"
        )

    def __reduce__(self) -> tuple[Any, ...]:
        # Made again rather than copied: an array would come out of a pickle writable.
        return _again, (type(self), self.label, tuple(getattr(self, f.name) for f in dataclasses.fields(self)))

    @property
    def label(self) -> str:
        """What tables call it, if it was given a name: see `labelled`. Not part of equality."""
        return str(self.__dict__.get("_label", ""))

    def labelled(self, label: str) -> Policy:
        """The same policy under a name of its own, which tables and results show. `dataclasses.replace` drops it."""
        if not isinstance(label, str) or not label.strip():
            raise PolicyError(f"the name of a policy is a text, not {label!r}")
        made = type(self)(*(getattr(self, f.name) for f in dataclasses.fields(self)))
        object.__setattr__(made, "_label", label)
        return made

    @cached_property
    def name(self) -> str:
        """Its label, or the name of the named policy with these fields, or the fields that differ from `amin`'s."""
        if self.label:
            return self.label
        for name, policy in policies.items():
            if policy == self:
                return name
        return self._spelled()

    @classmethod
    def based_on(cls, base: str | Policy) -> Policy:
        """One with the fields of another policy, for what this class does not decide itself."""
        return cls(**named(base).fields())

    @cached_property
    def methods(self) -> tuple[str, ...]:
        """What it decides in Python: some of `METHODS`. Then the readable engine runs it, whichever is asked for."""
        return tuple(name for name in METHODS if hasattr(self, name))

    @cached_property
    def formulas(self) -> Mapping[str, Formula]:
        """The fields that hold a formula: ``order``, ``evict``, ``reserve``, all, some or none of them."""
        given = {name: getattr(self, name) for name in PLACES}
        return MappingProxyType(
            {
                name: _formula(name, value)
                for name, value in given.items()
                if isinstance(value, str) and value not in CHOICES[name]
            }
        )

    @property
    def looks_ahead(self) -> bool:
        """Whether an admission is tested beyond the coming round and the prompt."""
        return "reserve" in self.formulas or RESERVES[self.reserve].kind != "none"

    @property
    def clairvoyant(self) -> bool:
        """Whether it reads the true output lengths."""
        return "output" in self._read

    @cached_property
    def needs(self) -> tuple[str, ...]:
        """What it reads of a workload that need not be there: columns, and ``lengths`` (the table)."""
        read = {*self._read, self.bound} if self.tracks_bound else set(self._read)
        if self.cap == "advised":
            read |= {"lower", "upper"}
        elif self.cap == "bound" and self.cap_refine == "upper":
            read.add("upper")
        if self.prefixes == "cached":
            read.add("prefixes")
        return tuple(column for column in _OPTIONAL if column in read)

    @cached_property
    def tracks_bound(self) -> bool:
        """Whether it reads õ."""
        acts_on_it = self.cap != "none" or self.shed == "lottery" or self.slices != "none"
        return "bound" in self._read or acts_on_it

    @cached_property
    def _read(self) -> frozenset[str | None]:
        """What its order, its reserve and its eviction rule read."""
        read: set[str | None] = {*self.reads}
        for formula in self.formulas.values():
            read.update(formula.reads)
        tables: Mapping[str, Mapping[str, Any]] = {"order": ORDERS, "reserve": RESERVES, "evict": EVICTION_RULES}
        for field, words in tables.items():
            word = getattr(self, field)
            if isinstance(word, str) and word in words:
                read.add(words[word].reads)
        return frozenset(read)

    def fields(self) -> dict[str, Any]:
        """The fields as a plain dict; a custom order as a list."""
        values = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        return {k: v.tolist() if isinstance(v, np.ndarray) else v for k, v in values.items()}

    @cached_property
    def _identity(self) -> tuple[Any, ...]:
        """What equality compares: neither a field that nothing reads (beta, say), nor how a formula is written."""
        values = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)} | dict(self.formulas)
        if isinstance(self.order, np.ndarray):
            values["order"] = self.order.tobytes()
        for name, (reader, words) in _READERS.items():
            ranked_by_formula = name == "tie" and "evict" in self.formulas
            if getattr(self, reader) not in words and not ranked_by_formula:
                del values[name]
        if not self.tracks_bound:
            del values["bound"]
        if not self.looks_ahead:
            del values["hold"]
        if "lengths" not in self.needs:
            del values["quantile"]
        return type(self), *values.items()

    def __eq__(self, other: object) -> bool:
        return self._identity == other._identity if isinstance(other, Policy) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._identity)

    def __repr__(self) -> str:
        spelled = self._spelled()
        return spelled if self.name == spelled else f"{spelled}  # {self.name}"

    def _repr_html_(self) -> str:
        default = {f.name: f.default for f in dataclasses.fields(self)}
        rows = []
        for name, value in self.fields().items():
            text = f"{len(value)} numbers" if isinstance(value, list) else value
            if name != "name" and value != default[name]:
                rows.append((name, str(text), str(default[name])))
        needs = f"reads {', '.join(sorted(self.needs))}; " if self.needs else ""
        note = f"{needs}every {'other ' if rows else ''}field has its default, that of amin"
        header = ["field", "value", "default"] if rows else []
        return table(f"Policy {self.name}", rows, header=header, note=note)

    def _spelled(self) -> str:
        """The fields that differ from the defaults, as a call."""
        shown = []
        for f in dataclasses.fields(self):
            value = getattr(self, f.name)
            if isinstance(value, np.ndarray):
                shown.append(f"{f.name}=<{len(value)} numbers>")
            elif value != f.default:
                shown.append(f"{f.name}={value!r}")
        return f"{type(self).__name__}({', '.join(shown)})"


def _formula(place: str, text: str) -> Formula:
    """The formula of a field. A word that means nothing there is no formula: one of the words was meant, or a name."""
    from .formula import parse  # when the first one is met: most policies have none

    words = [*CHOICES[place], *(name for name in PLACES[place] if name not in CHOICES[place])]
    if text.isidentifier() and text not in NAMES:
        raise PolicyError(f"policy field {place}={text!r} is unknown; {nearest(text, words)}, or a formula")
    return parse(text, cast(Place, place))


def _again(kind: type[Policy], label: str, fields: tuple[Any, ...]) -> Policy:
    """A policy from its fields, in order, and its label."""
    policy = kind(*fields)
    return policy.labelled(label) if label else policy


def _number(value: object) -> float:
    if isinstance(value, (bool, str)) or not hasattr(value, "__float__"):
        return float("nan")
    try:
        return float(value)
    except (OverflowError, TypeError, ValueError):
        return float("nan")


def _custom_order(order: npt.ArrayLike) -> npt.NDArray[np.float64]:
    try:
        given = np.asarray(order)
        if given.dtype.kind not in "biufO":
            raise TypeError
        keys = np.array(given, dtype=np.float64)
    except (TypeError, ValueError, OverflowError):
        words = ", ".join(CHOICES["order"])
        raise PolicyError(f"policy field order must be one of {words}, a formula, or numbers") from None
    if keys.ndim != 1:
        raise PolicyError(f"policy field order must be one number per request, not an array of shape {keys.shape}")
    if not np.isfinite(keys).all():
        i = int(np.argmin(np.isfinite(keys)))
        raise PolicyError(f"policy field order: the number of request {i} is {keys[i]}, expected a finite one")
    keys.flags.writeable = False
    return keys


def _unchecked(**fields: Any) -> Policy:
    """The policy of these fields, which are right: what reads formulas is not imported until somebody asks for it."""
    policy = object.__new__(Policy)
    for f in dataclasses.fields(Policy):
        object.__setattr__(policy, f.name, fields.get(f.name, f.default))
    return policy


_LOOKAHEAD: dict[str, Any] = {"evict": "progress", "refine": "none"}
_GREEDY: dict[str, Any] = {"order": "arrival", "reserve": "none", "refine": "none"}
_ALLOCATED: dict[str, Any] = {"hold": "peak", "evict": "newest", "refine": "none"}  # ahead, for the whole attempt
_DOUBLING: dict[str, Any] = {"cap": "bound", "cap_refine": "double"}
_WIDTH = "(max(2 * prompt, 1) if 4 * prompt <= memory else memory)"  # of a rectangle of cache (arXiv 2607.09248)
_SHORT, _LONG = "sqrt(sqrt(upper))", "sqrt(upper) * sqrt(sqrt(upper))"  # T^(1/4) and T^(3/4) (arXiv 2606.22327)
_PROXY = [f"{length} * (prompt + ({length} + 1) / 2)" for length in (_SHORT, _LONG)]
_VLLM: dict[str, Any] = {  # release 0.32
    "reserve": "prompt",
    "slots": "processed",
    "refine": "none",
    "resume": "recompute",
    "pause": "overflow",
}
_RETRACT: dict[str, Any] = {"evict": "progress", "tie": "prompt", "headroom": 20, "refine": "none"}

#: The named policies (docs/reference/policies.md): name -> Policy.
#: Make another with `dataclasses.replace(policies["amin"], ...)`.
policies: Mapping[str, Policy] = by_name(
    {
        "hsf": Policy(order="output", reserve="output", **_LOOKAHEAD),
        "amax": Policy(order="upper", reserve="upper", **_LOOKAHEAD),
        "amin": Policy(),
        "amin-doubling": Policy(refine="double"),
        "aell": Policy(cap="bound"),
        "mcsf": Policy(order="point", reserve="point", **_LOOKAHEAD),
        "mc-benchmark": Policy(order="arrival", reserve="point", **_LOOKAHEAD),
        "fcfs": Policy(**_GREEDY, margin=0.01, evict="newest", resume="recompute"),
        "protection": Policy(**_GREEDY, margin=0.25, evict="all"),
        "clearing": Policy(**_GREEDY, margin=0.2, evict="random", beta=0.2),
        "svf": Policy(order="volume", reserve="output", **_LOOKAHEAD),
        "amin-recompute": Policy(resume="recompute"),
        "amin-lottery": Policy(shed="lottery", hold="rising"),
        "auto": Policy(cap="advised"),
        "mcsf-protection": Policy(order="point", reserve="point", margin=0.1, evict="all", refine="none"),
        "vllm": Policy(order="arrival", evict="newest", **_VLLM),
        "vllm-priority": Policy(order="priority", evict="priority", tie="last", **_VLLM),
        "trtllm": Policy(order="arrival", reserve="upper", **_ALLOCATED, resume="recompute"),
        "s3": Policy(order="arrival", bound="upper", fill="skip", **_ALLOCATED, **_DOUBLING, resume="recompute"),
        "rect": _unchecked(
            order=f"{_WIDTH} * bound",
            bound="one",
            reserve="prompt if 4 * prompt <= memory else memory",
            **_ALLOCATED,
            **_DOUBLING,
        ),
        "response": Policy(
            bound="prompt", reserve="none", evict="newest", refine="none", slices="staggered", **_DOUBLING
        ),
        "svf-1bit": _unchecked(
            order=f"{_PROXY[0]} if output <= sqrt(upper) else {_PROXY[1]}", reserve="output", **_LOOKAHEAD
        ),
        "conditional": Policy(order="table", reserve="conditional", **_LOOKAHEAD),
        "sglang": Policy(order="queue", reserve="ratio", **_RETRACT, resume="recompute", pause="overflow"),
        "past-future": Policy(
            order="arrival", reserve="history", margin=0.05, evict="newest", refine="none", resume="recompute"
        ),
    },
    "policy",
    UnknownPolicyError,
)

#: What each named policy is, in one line.
DESCRIPTIONS: Mapping[str, str] = MappingProxyType(
    {
        "hsf": "Hindsight Shortest First, the paper's benchmark (Alg. 3); MC-SF with perfect predictions",
        "amax": "A_max (Alg. 1): reserve the upper bound",
        "amin": "A_min (Alg. 2, and 5 with per-request lower bounds): start from the lower bound, evict, refine",
        "amin-doubling": "A_min with lower-bound doubling",
        "aell": "A_l, promote-l (Alg. 6): stop at the lower bound, then reserve the upper",
        "mcsf": "MC-SF with point predictions (arXiv 2502.07115)",
        "mc-benchmark": "first come first served with lookahead on point predictions (arXiv 2502.07115)",
        "fcfs": "first come first served: keep a hundredth free, preempt the newest, recompute",
        "protection": "alpha-protection greedy: keep a share free, on overflow all restart (arXiv 2502.07115)",
        "clearing": "alpha-protection, beta-clearing: on overflow some restart (arXiv 2502.07115)",
        "svf": "Smallest Volume First, clairvoyant (arXiv 2606.22327)",
        "amin-recompute": "A_min whose evicted requests keep their tokens and compute their cache again",
        "amin-lottery": "A_min as its proofs analyse it: who outgrew its bound is stopped by lot, and its peak is kept",
        "auto": "the paper's advice: A_l for requests whose lower bound is under 0.382 of the upper, else A_min",
        "mcsf-protection": "MC-SF for wrong predictions: keep a tenth free, on overflow all restart (arXiv 2502.07115)",
        "vllm": "vLLM 0.32: first come first served, slots as tokens are processed, preempt the newest, recompute",
        "vllm-priority": "vLLM 0.32 by priority: the most urgent is admitted first, the least urgent preempted",
        "trtllm": "TensorRT-LLM, guaranteed no evict: first come, the largest length allocated from the start",
        "s3": "S3: allocate the predicted bucket, stop who outgrows it, allocate twice as much (arXiv 2306.06000)",
        "rect": "attempts of 1, 2, 4, ... tokens in rectangles of cache, the smallest first (arXiv 2607.09248)",
        "response": "slices of requests that may take 1, 2, 4, ... tokens, their starts staggered (arXiv 2607.09248)",
        "svf-1bit": "smallest volume first, of volumes that know short from long only (arXiv 2606.22327)",
        "conditional": "lengths asked again while a request runs: the 10th percentile given its tokens so far",
        "sglang": "SGLang: keep a falling share of the largest lengths; on overflow retract the least progress",
        "past-future": "LightLLM: lengths drawn from those of the last 1,000 completed requests (past-future)",
    }
)


def named(policy: str | Policy) -> Policy:
    """The policy itself, the named one, or a named one with other fields: ``"amin; order=deadline; margin=0.05"``.

    Raises
    ------
    PolicyError
        There is no policy or field of that name, or a field cannot have that value; the message suggests the nearest.
    """
    if isinstance(policy, Policy):
        return policy
    if not isinstance(policy, str):
        raise PolicyError(f"a policy is a name or a llmsched.Policy, not {type(policy).__name__}")
    return parse_composed(policy) if "=" in policy else policies[policy]


def composed(values: Mapping[str, Any]) -> Policy:
    """The policy that some keys describe: fields of `Policy`, `base` (a named policy that has the others; by default
    amin) and `name` (its label).

    Raises
    ------
    PolicyError
        A key, the base or a value is unknown; the message suggests the nearest.
    """
    fields = {key: value for key, value in values.items() if key not in ("name", "base")}
    made = dataclasses.replace(named(values.get("base", "amin")), **checked_keys(fields, "base", "name"))
    return made.labelled(values["name"]) if "name" in values else made


def checked_keys(fields: Mapping[str, Any], *others: str) -> Mapping[str, Any]:
    """The same, whose keys are fields of `Policy`. Raises PolicyError, which names the nearest, `others` among them."""
    known = [f.name for f in dataclasses.fields(Policy)]
    for key in fields:
        if key not in known:
            raise PolicyError(f"a policy has no field {key!r}; {nearest(str(key), [*known, *others])}")
    return fields


def parse_composed(text: str) -> Policy:
    """The policy written ``amin,margin=0.05``. Raises PolicyError as `composed` does."""
    base, *pairs = re.split(r",(?=\s*\w+\s*=(?!=))", text)
    if "=" in base:
        raise PolicyError(f"policy {text!r} does not begin with the name of a policy, as in amin,margin=0.05")
    values: dict[str, Any] = {}
    for pair in pairs:
        key, _, value = (part.strip() for part in pair.partition("="))
        if key in values or key == "base":
            raise PolicyError(f"policy {text!r}: {key!r} is given twice")
        values[key] = _word_or_number(value) if key != "name" else value
    return composed({"name": text, "base": base.strip()} | values)


def _word_or_number(text: str) -> str | float:
    try:
        return float(text)
    except ValueError:
        return text
