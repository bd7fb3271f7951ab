"""Gates: conditions on a comparison, such as ``amin.mean > 1.05 * hsf.mean``, for a CI job that is to fail.

    gate = ls.gates.parse("amin.mean > 1.05 * hsf.mean or amin.p99 > 2000")
    gate.holds(ls.compare(workload, ["amin", "hsf"], memory=16_492))

A value is a policy's label, a dot and the name of a column of the comparison (or a short name: `METRICS`). Labels with
dashes are written as they are (``amin-doubling.p99``), others in quotes (``'amin, margin 5 %'.mean``). There are
numbers, + - * /, comparisons (< <= > >= == !=, also chained), and, or, not, and parentheses: nothing else.
"""

from __future__ import annotations

import ast
import dataclasses
import math
import operator
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from types import MappingProxyType
from typing import Any

from ..errors import InputError, nearest
from .compare import Comparison

__all__ = ["METRICS", "Gate", "Value", "parse"]

#: Short name -> the column of a comparison that it stands for.
METRICS: Mapping[str, str] = MappingProxyType(
    {
        "mean": "mean_latency",
        "p50": "p50_latency",
        "p90": "p90_latency",
        "p99": "p99_latency",
        "max": "max_latency",
        "total": "total_latency",
        "wasted": "wasted_share",
        "peak": "peak_share",
        "evicted": "evicted_requests",
    }
)

_ARITHMETIC: Mapping[type[ast.operator], Callable[[float, float], float]] = MappingProxyType(
    {ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv}
)
_COMPARISONS: Mapping[type[ast.cmpop], Callable[[float, float], bool]] = MappingProxyType(
    {
        ast.Lt: operator.lt,
        ast.LtE: operator.le,
        ast.Gt: operator.gt,
        ast.GtE: operator.ge,
        ast.Eq: operator.eq,
        ast.NotEq: operator.ne,
    }
)
_LABEL = re.compile(r"(?<![\w.'\"])[A-Za-z_]\w*(?:-\w+)+(?=\s*\.\s*[A-Za-z_])")
_STRINGS = re.compile(r"'[^']*'|\"[^\"]*\"")
_LONGEST = 10_000

#: Label -> its row as `Row.record` gives it.
Rows = Mapping[str, Mapping[str, Any]]


@dataclasses.dataclass(frozen=True)
class Value:
    """A policy's label and a column, as written in a gate at character `place` (from 1)."""

    policy: str
    column: str
    place: int

    def of(self, rows: Rows, text: str) -> float:
        """Its number. Raises InputError if there is no such row or column, or no number in it."""
        if self.policy not in rows:
            raise _wrong(text, self.place, f"there is no row {self.policy!r}; {nearest(self.policy, rows)}")
        row = rows[self.policy]
        if self.column not in row:
            raise _wrong(text, self.place, f"there is no column {self.column!r}; {nearest(self.column, _names(row))}")
        value = row[self.column]
        if isinstance(value, str) or value is None or math.isnan(value):
            why = f": {row['error']}" if row.get("error") else ""
            raise _wrong(text, self.place, f"{self.policy} has no {self.column}{why}")
        return float(value)


@dataclasses.dataclass(frozen=True)
class Gate:
    """A condition. Made by `parse`.

    Attributes
    ----------
    text
        As it was written.
    values
        What it reads, in order.
    """

    text: str
    values: tuple[Value, ...]
    _tree: ast.expr = dataclasses.field(repr=False, compare=False)
    _labels: Mapping[int, Value] = dataclasses.field(repr=False, compare=False)

    def holds(self, comparison: Comparison | Rows) -> bool:
        """Whether the condition holds for the rows of a comparison (or records of rows by label).

        Raises InputError, with the place, if it reads what there is not, or divides by 0.
        """
        return bool(self._of(self._tree, _rows(comparison)))

    def check(self, policies: Iterable[str]) -> None:
        """Raise InputError, with the place, if it reads a row that is not among these."""
        known = list(policies)
        for value in self.values:
            if value.policy not in known:
                raise _wrong(
                    self.text, value.place, f"there is no row {value.policy!r}; {nearest(value.policy, known)}"
                )

    def check_columns(self, columns: Collection[str], others: Mapping[str, str] | None = None) -> None:
        """Raise InputError, with the place, if it reads a column that is not among these.

        `others` are columns that there could be: name -> what it takes to have it.
        """
        for value in self.values:
            if value.column in columns:
                continue
            if others and value.column in others:
                raise _wrong(self.text, value.place, f"{value.column} is measured with {others[value.column]}")
            close = nearest(value.column, _names(columns))
            raise _wrong(self.text, value.place, f"there is no column {value.column!r}; {close}")

    def check_known(self, unknown: Mapping[str, Collection[str]]) -> None:
        """Raise InputError, with the place, if it reads one of these columns: label -> those not known of its row."""
        for value in self.values:
            if value.column in unknown.get(value.policy, ()):
                raise _wrong(self.text, value.place, f"{value.column} is not known of {value.policy}")

    def explain(self, comparison: Comparison | Rows) -> str:
        """The condition with the numbers that it reads, for a log; "none" for one that there is not."""
        rows = _rows(comparison)
        read = {f"{value.policy}.{value.column}": self._shown(value, rows) for value in self.values}
        return f"{self.text} ({', '.join(f'{name} = {number}' for name, number in read.items())})"

    def _shown(self, value: Value, rows: Rows) -> str:
        try:
            return f"{value.of(rows, self.text):.6g}"
        except InputError:
            return "none"

    def _of(self, node: ast.expr, rows: Rows) -> Any:
        """The number or truth of a part of the condition, all of whose kinds `parse` has let pass."""
        if isinstance(node, ast.BoolOp):
            parts = (self._of(part, rows) for part in node.values)
            return all(parts) if isinstance(node.op, ast.And) else any(parts)
        if isinstance(node, ast.UnaryOp):
            value = self._of(node.operand, rows)
            return not value if isinstance(node.op, ast.Not) else -value if isinstance(node.op, ast.USub) else value
        if isinstance(node, ast.Compare):
            numbers = [self._of(part, rows) for part in (node.left, *node.comparators)]
            tests = zip(node.ops, numbers[:-1], numbers[1:], strict=True)
            return all(_COMPARISONS[type(op)](left, right) for op, left, right in tests)
        if isinstance(node, ast.BinOp):
            left, right = self._of(node.left, rows), self._of(node.right, rows)
            if isinstance(node.op, ast.Div) and right == 0:
                raise _wrong(self.text, _place(self.text, node.right), "this is 0 and divides")
            return _ARITHMETIC[type(node.op)](left, right)
        if isinstance(node, ast.Constant):
            return node.value
        return self._labels[id(node)].of(rows, self.text)


def parse(text: str) -> Gate:
    """The condition written as on the command line (see the module's text).

    Raises InputError that says at which character what is wrong, with the nearest name.
    """
    if not isinstance(text, str) or not text.strip():
        raise InputError("a gate is a condition such as amin.mean > 1.05 * hsf.mean")
    text = text.strip()
    if len(text) > _LONGEST:
        raise InputError(f"a gate of {len(text):,} characters is too long")
    readable = _undashed(text)
    try:
        tree = ast.parse(readable, mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        place = getattr(error, "offset", None) or len(text)
        reason = getattr(error, "msg", None) or "it is no condition"
        raise _wrong(text, min(place, len(text) + 1), reason) from None
    labels: dict[int, Value] = {}
    if _kind(tree, text, labels) != "truth":
        raise _wrong(text, 1, "this is a number, not a condition: compare it with something")
    return Gate(text, tuple(sorted(labels.values(), key=lambda value: value.place)), tree, labels)


def _undashed(text: str) -> str:
    """The text with the dashes inside of labels as underscores, so that Python reads one name; places stay."""
    quoted = [match.span() for match in _STRINGS.finditer(text)]

    def join(match: re.Match[str]) -> str:
        inside = any(begin <= match.start() < end for begin, end in quoted)
        return match[0] if inside else match[0].replace("-", "_")

    return _LABEL.sub(join, text)


def _kind(node: ast.expr, text: str, labels: dict[int, Value]) -> str:
    """Whether a part is a "number" or a "truth"; refuses everything that a gate has no use for, and notes values."""
    place = _place(text, node)
    if isinstance(node, ast.BoolOp):
        for part in node.values:
            _expect("truth", part, text, labels)
        return "truth"
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, (ast.Not, ast.USub, ast.UAdd)):
        kind = "truth" if isinstance(node.op, ast.Not) else "number"
        _expect(kind, node.operand, text, labels)
        return kind
    if isinstance(node, ast.Compare):
        if not all(type(op) in _COMPARISONS for op in node.ops):
            raise _wrong(text, place, "numbers are compared by < <= > >= == != alone")
        for part in (node.left, *node.comparators):
            _expect("number", part, text, labels)
        return "truth"
    if isinstance(node, ast.BinOp):
        if type(node.op) not in _ARITHMETIC:
            raise _wrong(text, place, "numbers are put together by + - * / alone")
        for part in (node.left, node.right):
            _expect("number", part, text, labels)
        return "number"
    if isinstance(node, ast.Constant) and isinstance(node.value, (int, float)) and not isinstance(node.value, bool):
        if not math.isfinite(node.value):
            raise _wrong(text, place, "this number is not finite")
        return "number"
    if isinstance(node, ast.Attribute) and isinstance(node.value, (ast.Name, ast.Constant)):
        labels[id(node)] = _value(node, text, place)
        return "number"
    if isinstance(node, ast.Name):
        raise _wrong(
            text, place, f"write what of {_written(text, node)!r} is meant, such as {_written(text, node)}.mean"
        )
    raise _wrong(
        text,
        place,
        "a gate has no use for this: it is made of policy.metric, numbers, + - * /, comparisons, and, or, not",
    )


def _expect(kind: str, node: ast.expr, text: str, labels: dict[int, Value]) -> None:
    if _kind(node, text, labels) != kind:
        wanted = {"truth": "a comparison, and this is a number", "number": "a number, and this is a comparison"}[kind]
        raise _wrong(text, _place(text, node), f"here has to be {wanted}")


def _value(node: ast.Attribute, text: str, place: int) -> Value:
    label = node.value
    name = label.value if isinstance(label, ast.Constant) else _written(text, label)
    if not isinstance(name, str):
        raise _wrong(text, place, "a label is a name, or a text in quotes")
    column = METRICS.get(node.attr, node.attr)
    if column in ("policy", "error"):
        raise _wrong(text, place, f"{column} is no number")
    return Value(name, column, place)


def _written(text: str, node: ast.expr) -> str:
    """The part of the text that a node was read from."""
    raw = text.encode()
    return raw[node.col_offset : node.end_col_offset].decode()


def _place(text: str, node: ast.expr) -> int:
    """The character, from 1, at which a node begins."""
    return len(text.encode()[: node.col_offset].decode()) + 1


def _names(columns: Iterable[str]) -> list[str]:
    return [*METRICS, *(name for name in columns if name not in ("policy", "error"))]


def _rows(comparison: Comparison | Rows) -> Rows:
    return {row.policy: row.record() for row in comparison} if isinstance(comparison, Comparison) else comparison


def _wrong(text: str, place: int, what: str) -> InputError:
    return InputError(f"gate {text!r}, character {place}: {what}")
