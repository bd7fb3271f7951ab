"""Whole blocks of cache: a request occupies as many as hold it, and a cache has as many as fit into it."""

from __future__ import annotations

from typing import TypeVar

from ..workloads.columns import IntArray

_Tokens = TypeVar("_Tokens", int, IntArray)


def whole_blocks(tokens: _Tokens, block: int) -> _Tokens:
    """Tokens of the blocks that hold so many: up to a multiple of `block`."""
    return tokens + -tokens % block


def blocks_of(tokens: _Tokens, block: int) -> _Tokens:
    """How many blocks hold so many tokens."""
    return whole_blocks(tokens, block) // block


def full_blocks(tokens: _Tokens, block: int) -> _Tokens:
    """How many blocks so many tokens fill."""
    return tokens // block


def down_to_blocks(tokens: int, block: int) -> int:
    """Tokens of the whole blocks that a cache of so many has: part of a block is of no use."""
    return tokens - tokens % block
