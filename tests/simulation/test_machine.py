"""Machines: named ones complete, files read and refused by key, and what simulations get of them."""

from __future__ import annotations

import inspect
import json
from pathlib import Path

import pytest

import llmsched as ls
from llmsched.errors import InputError
from llmsched.simulation import machine as module

CLOCK = ls.Clock(base=0.02, per_request=0.001, context="generated", source="ours")


def written(folder: Path, text: str, name: str = "ours.toml") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def test_every_named_clock_has_a_machine_with_its_cache_and_sources():
    assert list(ls.machines) == list(ls.clocks)
    for name, machine in ls.machines.items():
        assert machine.name == name
        assert machine.clock is ls.clocks[name]
        assert all(word in machine.source for word in ("clock:", "cache:", ls.clocks[name].source))
        assert machine.power is None or machine.power in ls.energy.powers
    assert ls.machines["llama2-70b-2xa100"].memory == 16_492


@pytest.mark.parametrize("name", [name for name in ls.machines if name != "llama2-70b-2xa100"])
def test_other_caches_are_those_of_the_formula(name):
    count, gpu = int(name.split("-")[-1][0]), {"a100": "a100-80gb", "h100": "h100"}[name.split("x")[-1]]
    assert ls.machines[name].memory == ls.kv_cache.tokens_of_cache("llama-2-70b", gpu, count)


def test_the_two_h100_hold_what_splitwise_measured_on_them_and_not_what_it_did_not():
    assert 32 * 640 <= ls.machines["llama2-70b-2xh100"].memory < 64 * 640


def test_options_are_arguments_of_everything_that_simulates():
    machine = ls.machines["llama2-70b-8xh100"]
    options = machine.options()
    for function in (ls.simulate, ls.compare, ls.simulate_batch, ls.capacity.highest_rate):
        assert set(options) <= set(inspect.signature(function).parameters)
    assert set(machine.options(memory=False)) <= set(inspect.signature(ls.capacity.smallest_memory).parameters)
    w = ls.generate.lmsys(50, 0)
    result = ls.simulate(w, "vllm", **options)
    assert (result.memory, result.block, result.max_batch, result.clock) == (1_412_656, 16, 256, machine.clock)


def test_replace_changes_one_thing_and_refuses_what_there_is_not():
    machine = ls.machines["llama2-70b-2xa100"].replace(memory=6000, clock="llama2-70b-4xa100")
    assert (machine.memory, machine.clock) == (6000, ls.clocks["llama2-70b-4xa100"])
    with pytest.raises(InputError, match="a machine has no 'memry'; did you mean 'memory'"):
        machine.replace(memry=1)


@pytest.mark.parametrize("name", ["ours.toml", "ours.json"])
def test_what_is_written_is_read_again(tmp_path, name):
    machine = ls.Machine("m", CLOCK, 4096, block=16, max_batch=9, prefill_budget=512, power="x", source='a "source"')
    machine.write(tmp_path / name)
    again = module.parse(str(tmp_path / name))
    assert again == machine
    assert (again.source, again.clock.source) == (machine.source, "ours")
    assert module.named(again) is again
    assert (
        str(again)
        == "m: 4,096 tokens of KV cache in blocks of 16, at most 9 requests at once, at most 512 tokens a round"
    )


def test_a_file_may_name_a_clock_file_beside_it_and_compute_its_cache(tmp_path):
    CLOCK.write(tmp_path / "clock.toml")
    path = written(
        tmp_path,
        'clock = "clock.toml"\nblock = 16\n[cache]\nmodel = "llama-3.1-8b"\ngpu = "rtx-4090"\nutilization = 0.8\n',
    )
    machine = module.parse(str(path))
    assert machine.name == "ours"
    assert machine.clock == CLOCK
    assert machine.memory == ls.kv_cache.tokens_of_cache("llama-3.1-8b", "rtx-4090", utilization=0.8)
    named = written(tmp_path, json.dumps({"clock": "llama2-70b-2xa100", "memory": 99, "name": "n"}), "b.json")
    assert module.parse(str(named)) == ls.Machine("n", ls.clocks["llama2-70b-2xa100"], 99)


GOOD_CLOCK = 'clock = "llama2-70b-2xa100"\n'
BAD_FILES = {
    "memory = 5": "clock is missing",
    GOOD_CLOCK: "memory is missing: a clock has no cache; say how many tokens",
    'unit = "s"\nbase = 1': "this is a clock, and it has no cache: write a file with clock = .* and memory = tok",
    GOOD_CLOCK + "memroy = 5": "no key 'memroy'; did you mean 'memory'",
    GOOD_CLOCK + "memory = 0": "memory must be a whole number from 1",
    GOOD_CLOCK + "memory = 8\nblock = 16": "memory must be a whole number from 16",
    GOOD_CLOCK + "memory = 8\nmax_batch = 'x'": "max_batch must be",
    GOOD_CLOCK + "memory = 8\npower = 3": "power is 3",
    GOOD_CLOCK + "memory = 8\nname = 3": "name is 3",
    "clock = 'llama2'\nmemory = 5": "clock: there is no clock 'llama2'",
    "memory = 5\n[clock]\nbase = 1": "clock: the unit of the coefficients is missing",
    GOOD_CLOCK + "memory = 8\n[cache]\nmodel = 'llama-3.1-8b'\ngpu = 'h100'": "not both",
    GOOD_CLOCK + "[cache]\nmodel = 'llama-3.1-8b'": "cache: gpu is missing",
    GOOD_CLOCK + "[cache]\nmodle = 'llama-3.1-8b'": "cache: there is no key 'modle'; did you mean 'model'",
    GOOD_CLOCK + "[cache]\nmodel = 'llama-3.1-8b'\ngpu = 'h10'": "cache: there is no GPU 'h10'",
    GOOD_CLOCK + "cache = 3": "cache is a table",
    "memory =": "not TOML",
}


@pytest.mark.parametrize("text", BAD_FILES)
def test_a_bad_file_is_refused_with_its_name_and_the_key(tmp_path, text):
    path = written(tmp_path, text)
    with pytest.raises(InputError, match=BAD_FILES[text]) as caught:
        module.parse(str(path))
    assert str(caught.value).startswith(f"machine file {path}: ")


def test_json_that_is_none_and_lists_are_refused(tmp_path):
    for text, message in (("{", "not JSON"), ("[]", "expected keys and values")):
        with pytest.raises(InputError, match=message):
            module.parse(str(written(tmp_path, text, "m.json")))


def test_unknown_machines_suggest_the_nearest():
    for call in (module.parse, module.named):
        with pytest.raises(InputError, match="no machine 'llama2-70b-8xh10'; did you mean 'llama2-70b-8xh100'"):
            call("llama2-70b-8xh10")
    with pytest.raises(InputError, match="not int"):
        module.named(3)
    with pytest.raises(InputError, match="clock is missing"):
        ls.Machine("x", None, 5)


@pytest.mark.parametrize("clock", ["", ".", "missing.toml"])
def test_a_clock_that_is_no_file_is_refused_in_words(tmp_path, clock):
    """The fuzzer found the first: the place beside the file is a directory."""
    path = tmp_path / "machine.toml"
    path.write_text(f'clock = "{clock}"\nmemory = 1000\n')
    with pytest.raises(InputError, match=r"clock: .* cannot be read: (Is a directory|No such file)"):
        ls.Machine.read(path)
