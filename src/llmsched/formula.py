"""Formula: an order, a reserve or an eviction order that a user writes, as in ``order="(prompt + bound) * bound"``.

Python's `ast` parses the text; everything in it is then looked up in the short lists below, and what is not there is
refused. Nothing is ever given to `eval`. `Formula.value` is the readable evaluator, and defines what a formula means
(docs/reference/formulas.md); `_engine/formula.pxd` runs `Formula.code` and agrees with it to the last bit.
"""

from __future__ import annotations

import ast
import enum
import functools
import keyword
import math
import re
from array import array
from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import NamedTuple

from .errors import FormulaError, FormulaValueError, PolicyError, nearest
from .formula_names import ALLOWED, NAMES, REPLICA_NAMES, Place

#: Policy field -> the names whose values change while its formula is in use: as a request waits, runs, or both.
_CHANGING: Mapping[str, frozenset[str]] = MappingProxyType(
    {
        "order": frozenset({"now"}),
        "evict": frozenset({"now", "generated"}),
        "reserve": frozenset(),
        "score": frozenset(REPLICA_NAMES),
    }
)
#: What changes only as a request leaves the batch, and so is fixed while it waits.
_CHANGED_BY_LEAVING = frozenset({"bound", "generated", "joined", "evictions"})

#: Policy field, or "score" of a router -> why its formula may not use some names.
_WHY_NOT: Mapping[str, str] = MappingProxyType(
    {
        "order": "a scheduler does not see its replica from outside",
        "evict": "a scheduler does not see its replica from outside",
        "reserve": "what a request is believed to reach is fixed when it begins to wait",
        "score": "a router sees the request as it arrives, and not the truth",
    }
)

#: Function -> how many arguments it takes at least and at most.
FUNCTIONS: Mapping[str, tuple[int, float]] = MappingProxyType(
    {"min": (2, math.inf), "max": (2, math.inf), "abs": (1, 1), "floor": (1, 1), "ceil": (1, 1), "sqrt": (1, 1)}
)

LONGEST = 1000  #: characters
MOST_NODES = 200  #: names, numbers and operations
#: What a formula reads, its constants and what it computes: each of its nodes needs one at most, and `and` and `or` add
#: the numbers 0 and 1. FORMULA_CELLS in _engine/formula.pxd.
MOST_CELLS = 256
LARGEST_POWER = 64  #: exponent

#: A value of a reserve counts as the whole number below it if it exceeds that by less: 0.07 * 100 is 7 tokens, not 8.
_SLIP = 2.0**-20
#: No believed length is larger; `simulation.problem.LARGEST_BOUND`.
_MOST_TOKENS = 2**62


# The tree of a formula ------------------------------------------------------------------------------------------------


class _Node(NamedTuple):
    """A number, a name, or an operation on others. Truth is 1 or 0, but the parser never lets it meet a number."""

    what: str  # "number", "name", "if", or an operation
    operands: tuple[_Node, ...] = ()
    number: float = 0.0  # of a number; of "**" the exponent
    name: str = ""
    column: int = 1  # where it stands in the text, from 1


class _FaultError(Exception):
    """An operation has no finite value. `node` is it."""

    def __init__(self, what: str, node: _Node) -> None:
        super().__init__(what)
        self.node = node


def _power(base: float, exponent: float) -> float:
    product = base
    for _ in range(int(exponent) - 1):
        product *= base
    return product


# All of these are exact, or rounded once to the nearest double, by every machine and in every language.
_BINARY: Mapping[str, Callable[[float, float], float]] = {
    "+": lambda a, b: a + b,
    "-": lambda a, b: a - b,
    "*": lambda a, b: a * b,
    "/": lambda a, b: a / b,
    "//": lambda a, b: a // b,
    "%": lambda a, b: a % b,
    "min": lambda a, b: b if b < a else a,
    "max": lambda a, b: b if b > a else a,
    "<": lambda a, b: float(a < b),
    "<=": lambda a, b: float(a <= b),
    ">": lambda a, b: float(a > b),
    ">=": lambda a, b: float(a >= b),
    "==": lambda a, b: float(a == b),
    "!=": lambda a, b: float(a != b),
}
_UNARY: Mapping[str, Callable[[float], float]] = {
    "negative": lambda a: -a,
    "abs": lambda a: abs(a),
    "floor": lambda a: float(math.floor(a)),
    "ceil": lambda a: float(math.ceil(a)),
    "sqrt": lambda a: math.sqrt(a),
    "not": lambda a: 1.0 - a,
}

#: The order is that of `FormulaOperation` in _engine/formula.pxd.
_OPERATIONS = (*_BINARY, "**", *_UNARY, "copy", "unless", "jump")


def _operated(node: _Node, operands: list[float]) -> float:
    """The value of an operation on these values. Raises `_FaultError`."""
    if node.what in ("/", "//", "%") and operands[1] == 0:
        raise _FaultError("divides by zero", node)
    if node.what == "sqrt" and operands[0] < 0:
        raise _FaultError(f"takes the square root of {operands[0]:g}", node)
    if node.what == "**":
        result = _power(operands[0], node.number)
    elif node.what in _BINARY:
        result = _BINARY[node.what](operands[0], operands[1])
    else:
        result = _UNARY[node.what](operands[0])
    if not math.isfinite(result):
        raise _FaultError("is too large for a double", node)
    return result


def _evaluated(node: _Node, values: Mapping[str, float]) -> float:
    if node.what == "number":
        return node.number
    if node.what == "name":
        return float(values[node.name])
    if node.what == "if":
        condition, then, otherwise = node.operands
        return _evaluated(then if _evaluated(condition, values) else otherwise, values)
    return _operated(node, [_evaluated(operand, values) for operand in node.operands])


# The formula ----------------------------------------------------------------------------------------------------------


class Formula:
    """A checked formula: what it reads, and its value for a request.

    Two formulas are equal if they are computed alike, whatever their texts look like.

    Parameters
    ----------
    text
        Names (`NAMES`), numbers, ``+ - * / // % **``, comparisons, ``and or not``, ``a if c else b``, and `FUNCTIONS`.
    place
        The policy field that it is for, ``"order"``, ``"evict"`` or ``"reserve"``, or ``"score"`` of a router. Says
        which names it may use.

    Attributes
    ----------
    text
        The text, with single spaces.
    reads
        The names that its value depends on, in the order of `NAMES`. ``now`` is not among them where it adds the same
        to the values of all requests (`bound - 0.5 * (now - arrival)`, say): it then counts as 0.
    code, constants, result
        The same for a machine whose cells hold the names (in the order of `NAMES`), then the constants (doubles), then
        what is computed: instructions of four int32 each, operation, left cell, right cell, cell of the result; and the
        cell in which the value is in the end.

    Raises
    ------
    FormulaError
        The text is no formula: the message shows where, and suggests the nearest name.
    """

    __slots__ = ("_tree", "code", "constants", "place", "reads", "result", "text")

    text: str
    place: Place
    reads: tuple[str, ...]
    code: array[int]
    constants: array[float]
    result: int

    def __init__(self, text: str, place: Place = "order") -> None:
        if place not in ALLOWED:
            raise PolicyError(f"a formula is for {', '.join(ALLOWED)}, not for {place!r}")
        self.text = _spaced(text, place)
        self.place = place
        tree = _Parser(self.text, place).tree()
        if _growth(tree) == _Growth.ALIKE:
            tree = _at_time_0(tree)
        try:
            self._tree = _folded(tree)
        except _FaultError as fault:
            raise FormulaError(f"it always {fault}", place, self.text, fault.node.column) from None
        read = {node.name for node in _nodes(self._tree) if node.what == "name"}
        self.reads = tuple(name for name in NAMES if name in read)
        self.code, self.constants, self.result = _compiled(self._tree)

    def value(self, values: Mapping[str, float], request: int | None = None) -> float:
        """Its value where the names that it reads have these values.

        Raises
        ------
        FormulaValueError
            It divides by zero, takes the root of a negative number, or exceeds all doubles. `request` is named.
        """
        try:
            return _evaluated(self._tree, values)
        except _FaultError as fault:
            given = ", ".join(f"{name} = {values[name]:.17g}" for name in self.reads)
            where = f", where {given}" if given else ""
            raise FormulaValueError(f"{fault}{where}", self.place, self.text, fault.node.column, request) from None

    @property
    def clairvoyant(self) -> bool:
        """Whether it reads the true output."""
        return "output" in self.reads

    @property
    def changes_over_time(self) -> bool:
        """Whether its value changes while it is in use: of an order, as a request waits; of an eviction, as it runs."""
        return not _CHANGING[self.place].isdisjoint(self.reads)

    @property
    def changes_by_leaving(self) -> bool:
        """Whether its value may be another one each time that the request joins those that wait."""
        return not _CHANGED_BY_LEAVING.isdisjoint(self.reads)

    def __eq__(self, other: object) -> bool:
        return self._identity == other._identity if isinstance(other, Formula) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._identity)

    @property
    def _identity(self) -> tuple[str, bytes, bytes, int]:
        return self.place, self.code.tobytes(), self.constants.tobytes(), self.result

    def __repr__(self) -> str:
        return f"Formula({self.text!r}, {self.place!r})"

    def __str__(self) -> str:
        return self.text

    def __reduce__(self) -> tuple[type[Formula], tuple[str, Place]]:
        return Formula, (self.text, self.place)


@functools.lru_cache(maxsize=256)
def parse(text: str, place: Place) -> Formula:
    """The formula of a text, made once."""
    return Formula(text, place)


def whole_tokens(value: float) -> int:
    """The value of a reserve in whole tokens: rounded up, at least 1, at most 2**62.

    What exceeds a whole number by less than a millionth (2**-20) is that number.
    """
    if not value < _MOST_TOKENS:
        return _MOST_TOKENS
    near = math.floor(value + 0.5)
    return max(1, near if value - near <= _SLIP else near + 1)


# From text to tree ----------------------------------------------------------------------------------------------------

_TOKEN = re.compile(
    r"(?P<number>(?:\d[\d_]*\.?[\d_]*|\.\d[\d_]*)(?:[eE][+-]?\d+)?)|(?P<name>[A-Za-z_]\w*)"
    r"|(?P<mark>\*\*|//|[<>=!]=|[-+*/%(),<>])|(?P<space> )",
    re.ASCII,
)
_WORDS = ("if", "else", "and", "or", "not")
_INSTEAD = {"^": "** for a power", "&": "and", "|": "or", "×": "*", "·": "*", "÷": "/"}
_SYMBOLS: Mapping[type[ast.AST], str] = {
    ast.Add: "+", ast.Sub: "-", ast.Mult: "*", ast.Div: "/", ast.FloorDiv: "//", ast.Mod: "%", ast.Lt: "<",
    ast.LtE: "<=", ast.Gt: ">", ast.GtE: ">=", ast.Eq: "==", ast.NotEq: "!=",
}  # fmt: skip


def _spaced(text: str, place: Place) -> str:
    """The text with single spaces, if every character and word of it can be part of a formula."""
    if not isinstance(text, str):
        raise FormulaError(f"a formula is a text, not {type(text).__name__}", place, "", 1)
    if len(text) > LONGEST:
        message = f"it has {len(text)} characters, at most {LONGEST} are read"
        raise FormulaError(message, place, text[:LONGEST], LONGEST)
    text = " ".join(text.split())
    if not text:
        raise FormulaError("it is empty", place, text, 1)
    at = 0
    while at < len(text):
        token = _TOKEN.match(text, at)
        if token is None or (keyword.iskeyword(token[0]) and token[0] not in _WORDS):
            what = text[at] if token is None else token[0]
            instead = f": write {_INSTEAD[what]}" if what in _INSTEAD else ""
            raise FormulaError(f"{what!r} has no meaning in a formula{instead}", place, text, at + 1)
        if token["number"] and text[token.end() : token.end() + 1].isalpha():
            message = f"after the number {token[0]} an operation is missing"
            raise FormulaError(message, place, text, token.end() + 1)
        at = token.end()
    return text


class _Parser:
    """From a text of possible words to a tree of known ones."""

    def __init__(self, text: str, place: Place) -> None:
        self.text = text
        self.place = place

    def tree(self) -> _Node:
        try:
            body = ast.parse(self.text, mode="eval").body
        except SyntaxError as error:
            column = min(max(error.offset or 1, 1), len(self.text))
            raise FormulaError(f"this is no formula: {error.msg}", self.place, self.text, column) from None
        except (RecursionError, MemoryError):
            raise FormulaError("it is nested too deeply", self.place, self.text, 1) from None
        nodes = sum(isinstance(node, ast.expr) for node in ast.walk(body))
        if nodes > MOST_NODES:
            message = f"it has {nodes} names, numbers and operations, at most {MOST_NODES} are read"
            raise FormulaError(message, self.place, self.text, 1)
        return self.number(body)

    def refused(self, node: ast.expr, message: str) -> FormulaError:
        return FormulaError(message, self.place, self.text, node.col_offset + 1)

    def number(self, node: ast.expr) -> _Node:
        """An expression whose value is a number."""
        column = node.col_offset + 1
        match node:
            case ast.Constant(value=int() | float() as value):
                return self.constant(node, value)
            case ast.Name():
                return self.name(node)
            case ast.UnaryOp(op=ast.UAdd()):
                return self.number(node.operand)
            case ast.UnaryOp(op=ast.USub()):
                return _Node("negative", (self.number(node.operand),), column=column)
            case ast.BinOp(op=ast.Pow()):
                return self.power(node)
            case ast.BinOp() if type(node.op) in _SYMBOLS:
                symbol = _SYMBOLS[type(node.op)]
                operands = self.number(node.left), self.number(node.right)
                return _Node(symbol, operands, column=self.between(node, symbol))
            case ast.IfExp():
                choice = self.truth(node.test), self.number(node.body), self.number(node.orelse)
                return _Node("if", choice, column=column)
            case ast.Call():
                return self.call(node)
            case ast.Compare() | ast.BoolOp() | ast.UnaryOp():
                raise self.refused(
                    node, "a number is expected; a comparison becomes one as in: 1 if prompt < 100 else 0"
                )
            case ast.Tuple():
                raise self.refused(node, "a formula is one number, not several with commas")
        raise self.refused(node, "this has no meaning in a formula")

    def constant(self, node: ast.expr, value: float) -> _Node:
        try:
            number = float(value)
        except OverflowError:
            number = math.inf
        if not math.isfinite(number):
            raise self.refused(node, "this number is too large for a double")
        return _Node("number", number=number, column=node.col_offset + 1)

    def name(self, node: ast.Name) -> _Node:
        allowed = ALLOWED[self.place]
        if node.id in FUNCTIONS:
            raise self.refused(node, f"{node.id} is a function: {node.id}(...)")
        if node.id in NAMES and node.id not in allowed:
            reason = _WHY_NOT[self.place]
            raise self.refused(node, f"{node.id} cannot be used in {self.place}: {reason}")
        if node.id not in NAMES:
            raise self.refused(node, f"{_brief(node.id)!r} is no name; {nearest(node.id, allowed)}")
        return _Node("name", name=node.id, column=node.col_offset + 1)

    def power(self, node: ast.BinOp) -> _Node:
        exponent = node.right.value if isinstance(node.right, ast.Constant) else None
        if type(exponent) is not int or not 1 <= exponent <= LARGEST_POWER:
            raise self.refused(node.right, f"an exponent is a whole number from 1 to {LARGEST_POWER}")
        return _Node("**", (self.number(node.left),), float(exponent), column=self.between(node, "**"))

    def between(self, node: ast.BinOp, symbol: str) -> int:
        """The column of the symbol: only closing brackets stand between it and what is left of it."""
        return self.text.index(symbol, node.left.end_col_offset) + 1

    def call(self, node: ast.Call) -> _Node:
        function = node.func
        if not isinstance(function, ast.Name):
            raise self.refused(
                function,
                f"only a function can be called: {', '.join(FUNCTIONS)}; is an operation missing before the bracket?",
            )
        if function.id in NAMES:
            raise self.refused(function, f"{function.id} is a number, it cannot be called: an operation is missing")
        if function.id in ("log", "exp"):
            raise self.refused(function, f"{function.id} is left out: its last bit depends on the machine")
        if function.id not in FUNCTIONS:
            raise self.refused(function, f"{_brief(function.id)!r} is no function; {nearest(function.id, FUNCTIONS)}")
        least, most = FUNCTIONS[function.id]
        if not least <= len(node.args) <= most:
            takes = f"{least} argument" if least == most else f"{least} or more arguments"
            raise self.refused(node, f"{function.id} takes {takes}, not {len(node.args)}")
        if node.keywords:
            raise self.refused(node.keywords[0].value, "this has no meaning in a formula")
        column = node.col_offset + 1
        operands = [self.number(argument) for argument in node.args]
        result = _Node(function.id, tuple(operands[:least]), column=column)
        for operand in operands[least:]:  # min(a, b, c) is min(min(a, b), c)
            result = _Node(function.id, (result, operand), column=column)
        return result

    def truth(self, node: ast.expr) -> _Node:
        """An expression that holds or does not: a comparison, or several."""
        column = node.col_offset + 1
        match node:
            case ast.Compare(ops=[operator], comparators=[right]) if type(operator) in _SYMBOLS:
                return _Node(_SYMBOLS[type(operator)], (self.number(node.left), self.number(right)), column=column)
            case ast.Compare(ops=[_, _, *_]):
                raise self.refused(node, "compare two numbers at a time, as in: 1 < prompt and prompt < 9")
            case ast.UnaryOp(op=ast.Not()):
                return _Node("not", (self.truth(node.operand),), column=column)
            case ast.BoolOp():
                *others, result = [self.truth(value) for value in node.values]
                for other in reversed(others):  # the second is looked at only if the first does not decide
                    if isinstance(node.op, ast.And):
                        result = _Node("if", (other, result, _Node("number")), column=column)
                    else:
                        result = _Node("if", (other, _Node("number", number=1.0), result), column=column)
                return result
        raise self.refused(node, "a comparison is expected, such as prompt < 100")


def _brief(name: str) -> str:
    return name if len(name) <= 40 else f"{name[:37]}..."


# What becomes of the tree ---------------------------------------------------------------------------------------------


def _nodes(tree: _Node) -> Iterator[_Node]:
    yield tree
    for operand in tree.operands:
        yield from _nodes(operand)


class _Growth(enum.IntEnum):
    """How a value grows with time."""

    CONSTANT = 0  # not at all, and it is the same for all requests
    NONE = 1  # not at all
    ALIKE = 2  # for all requests by the same in the same time
    OTHERWISE = 3


def _growth(node: _Node) -> _Growth:
    if node.what == "name":
        return {"now": _Growth.ALIKE, "memory": _Growth.CONSTANT}.get(node.name, _Growth.NONE)
    operands = [_growth(operand) for operand in node.operands]
    most = max(operands, default=_Growth.CONSTANT)
    if most < _Growth.ALIKE or node.what in ("+", "-", "negative"):
        return most
    if most == _Growth.ALIKE and (
        (node.what == "*" and _Growth.CONSTANT in operands) or (node.what == "/" and operands[1] == _Growth.CONSTANT)
    ):
        return most
    return _Growth.OTHERWISE


def _at_time_0(node: _Node) -> _Node:
    if node.what == "name" and node.name == "now":
        return _Node("number", column=node.column)
    return node._replace(operands=tuple(map(_at_time_0, node.operands)))


def _folded(node: _Node) -> _Node:
    """What numbers alone decide is computed once, in the same way. Raises `_FaultError`."""
    node = node._replace(operands=tuple(map(_folded, node.operands)))
    if node.what == "if" and node.operands[0].what == "number":
        return node.operands[1] if node.operands[0].number else node.operands[2]
    if node.operands and node.what != "if" and all(operand.what == "number" for operand in node.operands):
        number = _operated(node, [operand.number for operand in node.operands])
        return _Node("number", number=number, column=node.column)
    return node


def _compiled(tree: _Node) -> tuple[array[int], array[float], int]:
    """Instructions, constants, and the cell of the result. See `Formula` and _engine/formula.pxd."""
    cells = {name: cell for cell, name in enumerate(NAMES)}
    numbers: dict[bytes, float] = {}  # by their bits: 0.0 and -0.0 are two
    for node in _nodes(tree):
        if node.what == "number":
            numbers.setdefault(_bits(node.number), node.number)
    constants = {bits: len(cells) + k for k, bits in enumerate(numbers)}
    first_free = len(cells) + len(constants)
    code = array("i")

    def instruct(operation: str, left: int = 0, right: int = 0, result: int = 0) -> int:
        code.extend((_OPERATIONS.index(operation), left, right, result))
        return len(code) - 2  # where `right` is

    def place(node: _Node, free: int) -> int:
        """Compute it, into the cell `free` if it has none yet; cells after that may be used. Returns its cell."""
        if node.what == "name":
            return cells[node.name]
        if node.what == "number":
            return constants[_bits(node.number)]
        if node.what == "if":
            condition, then, otherwise = node.operands
            to_other = instruct("unless", place(condition, free))
            copy(then, free)
            to_end = instruct("jump")
            code[to_other] = len(code) // 4
            copy(otherwise, free)
            code[to_end] = len(code) // 4
            return free
        left = place(node.operands[0], free)
        right = int(node.number)  # the exponent of "**"
        if len(node.operands) == 2:
            right = place(node.operands[1], free + 1 if left == free else free)
        instruct(node.what, left, right, free)
        return free

    def copy(node: _Node, free: int) -> None:
        cell = place(node, free)
        if cell != free:
            instruct("copy", cell, 0, free)

    result = place(tree, first_free)
    return code, array("d", numbers.values()), result


def _bits(number: float) -> bytes:
    return array("d", [number]).tobytes()
