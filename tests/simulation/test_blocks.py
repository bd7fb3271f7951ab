"""Whole blocks: properties, and one place where they are rounded."""

from __future__ import annotations

import ast
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

import llmsched as ls
from llmsched.simulation.blocks import down_to_blocks, whole_blocks


@given(tokens=st.integers(0, 2**50), block=st.integers(1, 1024))
def test_rounding_up_and_down_differ_by_a_block_or_nothing(tokens: int, block: int) -> None:
    up, down = whole_blocks(tokens, block), down_to_blocks(tokens, block)
    assert up % block == down % block == 0
    assert down <= tokens <= up
    assert up - down == (block if tokens % block else 0)


#: Where tokens are cut into blocks: of the cache, and into the stretches whose hashes a workload has.
BLOCKS = ("blocks.py", "block_names.py")


def test_tokens_are_rounded_to_blocks_in_one_place() -> None:
    elsewhere = []
    for file in Path(ls.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            divides = isinstance(node, ast.BinOp) and isinstance(node.op, (ast.Mod, ast.FloorDiv))
            if divides and ast.unparse(node.right).rpartition(".")[2] == "block" and file.name not in BLOCKS:
                elsewhere.append(f"{file.name}:{node.lineno}: {ast.unparse(node)}")
    assert not elsewhere
