"""Block hashes of prompts, the histories of sessions, and what the blocks of a cache are called by them."""

from __future__ import annotations

import itertools
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from helpers.trace_files import error, load
from hypothesis import given
from hypothesis import strategies as st

import llmsched as ls
from llmsched import Prefixes, Workload, generate, traces
from llmsched.errors import InputError, TraceError, WorkloadError
from llmsched.workloads.block_names import BlockNames

ROW = '{"timestamp": 0, "input_length": 9, "output_length": 2'


@given(
    tokens=st.lists(st.lists(st.integers(0, 1), min_size=1, max_size=30), min_size=1, max_size=6),
    hashed=st.integers(1, 9),
    block=st.integers(1, 9),
)
def test_blocks_of_one_name_begin_with_the_same_tokens(tokens, hashed, block):
    """Prompts of zeros and ones, whose hashes are their beginnings: no two blocks are taken for the same wrongly."""
    beginnings: dict[tuple[int, ...], int] = {}
    hashes = [
        [beginnings.setdefault(tuple(text[:end]), len(beginnings)) for end in range(hashed, len(text) + hashed, hashed)]
        for text in tokens
    ]
    prompt = [len(text) for text in tokens]
    names = BlockNames(Workload(prompt, 1).with_prefixes(Prefixes(hashes, hashed)), block)
    assert names.size.tolist() == [len(text) // block for text in tokens]
    called = [
        (names.name(i, j), tuple(text[: (j + 1) * block]))
        for i, text in enumerate(tokens)
        for j in range(names.size[i])
    ]
    for (name, text), (other_name, other) in itertools.combinations(called, 2):
        assert name != other_name or text == other
        if hashed == block or hashed == 1:
            assert (name == other_name) == (text == other)


def test_a_turn_that_begins_with_all_before_it_has_the_same_blocks() -> None:
    w = Workload([4, 2, 9, 3, 20], [3, 1, 2, 1, 1], session=[7, 1, 7, 7, 7])
    names = BlockNames(w, 2)
    called = [[names.name(i, j) for j in range(names.size[i])] for i in range(5)]
    assert called[0] == called[2][:3]  # 4 + 3 tokens are in 9
    assert not {*called[1]} & {*called[0]}
    assert not {*called[3]} & {*called[2]}, "it forgot what was said"
    assert called[4][:2] == called[3]


def test_prefixes_are_taken_pickled_and_compared_with_their_requests() -> None:
    prefixes = Prefixes([[5, 6], [], [5, 7, 8]], 4)
    w = Workload([8, 1, 12], [1, 1, 1]).with_prefixes(prefixes)
    assert [w.prefixes[i].tolist() for i in range(3)] == [[5, 6], [], [5, 7, 8]]
    assert w.take([2, 0]).prefixes == Prefixes([[5, 7, 8], [5, 6]], 4)
    assert w.head(1).prefixes == Prefixes([[5, 6]], 4)
    assert pickle.loads(pickle.dumps(w)) == w != w.with_prefixes(None)
    assert w.with_prefixes(Prefixes([[5, 6], [], [5, 7, 9]], 4)) != w
    assert w.replace(arrival=1.0).prefixes == w.replace(output=2).prefixes == prefixes
    assert generate.poisson(w, 1.0).prefixes == generate.speed_up(w, 2.0).prefixes == prefixes
    assert generate.resample(w, 5).prefixes is None
    with pytest.raises(AttributeError):
        prefixes.block = 3


@pytest.mark.parametrize("hashes", [[[1], [-1]], [[1], [0.5]], [[1], [[2]]], [[1], [2**53 + 1]]])
def test_hashes_that_are_none_name_the_request(hashes) -> None:
    with pytest.raises(WorkloadError, match="request 1: block hashes are whole numbers"):
        Prefixes(hashes)


def test_prefixes_of_other_requests_are_refused() -> None:
    with pytest.raises(WorkloadError, match="2 requests have block hashes, not 3"):
        Workload([1, 1, 1], 1).with_prefixes(Prefixes([[1], [2]]))
    with pytest.raises(WorkloadError, match="the block of hashes is 0"):
        Prefixes([[1]], 0)


def test_a_trace_with_hash_ids_keeps_them() -> None:
    w = load(ROW + ', "hash_ids": [3, 4]}\n' + ROW + "}\n")
    assert w.prefixes == Prefixes([[3, 4], []], 512)
    assert load(ROW + "}\n").prefixes is None
    spaced = load(ROW + ', "other": {"a": 1}, "hash_ids": [3, 4]}\n')  # a row for the careful reader
    assert spaced.prefixes == Prefixes([[3, 4]], 512)


@pytest.mark.parametrize("ids", ["5", "[1.5]", "[-1]", '["a"]', "[true]", "[9007199254740993]", "null"])
def test_hash_ids_that_are_none_are_a_bad_row(ids) -> None:
    bad = error(ROW + "}\n" + ROW + f', "hash_ids": {ids}}}\n')
    assert bad.line == 2
    assert "hash_ids is" in str(bad)
    assert "expected a list of whole numbers" in str(bad)


def test_the_real_mooncake_trace_says_which_prompts_begin_alike(data_file: Callable[[str], Path]) -> None:
    w = traces.load(data_file("mooncake_conversation_blocks.jsonl"))
    assert w.prefixes is not None
    assert w.prefixes.block == 512
    assert (w.prefixes.size == -(-w.prompt // 512)).all()
    assert w.with_prefixes(None) == traces.load(data_file("mooncake_conversation_head.jsonl"))


def test_block_hashes_cannot_be_written(tmp_path: Path) -> None:
    w = Workload([8], [1]).with_prefixes(Prefixes([[1]], 4))
    with pytest.raises(TraceError, match="neither CSV nor Parquet has a place for block hashes"):
        traces.write(w, tmp_path / "w.csv")
    traces.write(w.with_prefixes(None), tmp_path / "w.csv")


def test_think_times_are_written_and_read(tmp_path: Path) -> None:
    w = Workload([8, 9], [1, 2], arrival=[0, 1], session=[3, 3], think=[0, 2.5])
    traces.write(w, tmp_path / "w.csv")
    assert traces.load(tmp_path / "w.csv") == w


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"think": [0, -1], "session": [0, 0]}, "request 1: think is -1"),
        ({"think": [0, np.inf], "session": [0, 0]}, "request 1: think is inf"),
        ({"think": [0, 1]}, "give the column 'session' too"),
        (
            {"think": [0, 1], "session": [4, 4], "arrival": [5, 2]},
            r"request 1: it arrives at 2, before request 0 of the same session \(4\), which does at 5",
        ),
    ],
)
def test_sessions_that_make_no_sense_are_refused(columns, message) -> None:
    with pytest.raises(WorkloadError, match=message):
        Workload([1, 1], [1, 1], **columns)
    with pytest.raises(WorkloadError, match=message):
        Workload([1, 1], [1, 1]).replace(**columns)


def test_turns_are_not_drawn_one_by_one() -> None:
    w = Workload([1, 1], [1, 1], session=[0, 0], think=[0, 0])
    with pytest.raises(InputError, match="with think times they are turns of sessions"):
        generate.resample(w, 3)
    with pytest.raises(InputError, match="with think times they are turns of sessions"):
        generate.chunks(w, 3, 1.0)
    drawn = generate.resample(w.replace(think=None), 3)
    with pytest.raises(ls.errors.MissingPredictionError, match="sessions in their order"):
        ls.simulate(drawn, "vllm, prefixes=cached", memory=100)
