"""The study file: what it may say, what its mistakes are called, and the study as a Python object."""

from __future__ import annotations

import dataclasses
import math
import tomllib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import llmsched as ls
from llmsched.errors import InputError, StudyError
from llmsched.study import PolicyEntry, Study, toml_lines

LEAST = {"workloads": ["lmsys"], "policies": ["amin"]}


# Lines ----------------------------------------------------------------------------------------------------------------


def paths(value, path=()):
    """Every path in what tomllib made of a file."""
    if path:
        yield path
    for key, item in value.items() if isinstance(value, dict) else enumerate(value if isinstance(value, list) else ()):
        yield from paths(item, (*path, key))


NAMES = {"a": "a", "b-1": "b-1", "2": "2", '"q.r"': "q.r", "'s # t'": "s # t", '"u \\" v"': 'u " v', "x_y": "x_y"}
keys = st.sampled_from(list(NAMES))
scalars = st.sampled_from(
    ["1", "-2.5e3", "true", "nan", "1979-05-27T07:32:00Z", "1979-05-27 07:32:00", '"x # y"', "'z\"'", '"a\\"]"', '""']
)
longs = st.sampled_from(['"""\nk = 1\n[t]\n"""', "'''\n# no\n'''", '"""a\\""""'])
values = st.recursive(
    st.one_of(scalars, longs),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3).map(lambda items: "[" + ", # c ]\n ".join(items) + "\n]"),
        st.lists(
            st.tuples(keys, inner.filter(lambda v: "\n" not in v)), max_size=3, unique_by=lambda pair: pair[0]
        ).map(lambda pairs: "{ " + ", ".join(f"{k} = {v}" for k, v in pairs) + " }"),
    ),
    max_leaves=6,
)


@st.composite
def files(draw):
    """A TOML file, and the line of each of its lines' keys by path."""
    text, known = "", {}
    for t in range(draw(st.integers(0, 3))):
        kind, table = draw(st.sampled_from(["", "[t{}]", "[[many]]", "[many.sub{}]"])), ()
        if kind.startswith("[many") and not any(path[:1] == ("many",) for path in known):
            kind = "[[many]]"
        if kind == "" and t > 0:
            continue
        if kind:
            count = sum(path[:1] == ("many",) and len(path) == 2 for path in known)
            table = {"[t{}]": (f"t{t}",), "[[many]]": ("many", count), "[many.sub{}]": ("many", count - 1, f"sub{t}")}[
                kind
            ]
            known[table] = text.count("\n") + 1
            text += " " * draw(st.integers(0, 2)) + kind.format(t) + draw(st.sampled_from(["\n", " # x = 1\n\n"]))
        for k, value in draw(st.lists(st.tuples(keys, values), max_size=3, unique_by=lambda pair: pair[0])):
            known[(*table, NAMES[k])] = text.count("\n") + 1
            text += f"{k} = {value}" + draw(st.sampled_from(["\n", "  # [x]\n", "\r\n\n"]))
    return text, known


@given(files())
def test_every_key_is_found_on_its_line(file):
    text, known = file
    read = tomllib.loads(text)
    found = toml_lines.lines(text)
    assert set(paths(read)) == set(found)
    assert {path: found[path] for path in known} == known


# Mistakes -------------------------------------------------------------------------------------------------------------

WRONG = """name = "first"
sed = 1
replications = 0
intervals = ["bucket:100", "relative:0.95"]
memories = [1000, "x"]
metrics = ["mean_latancy"]
policies = ["hsf", "amni", {name = "x", evict = "newst"},
  {base = "amin", refin = "double"}]
clocks = ["llama2-70b-2xa10"]
[[workloads]]
generator = "lmsys"
reqests = 10
[precision]
relative = -2
"""


def test_every_mistake_is_named_with_file_line_key_and_the_nearest_word(tmp_path):
    path = tmp_path / "study.toml"
    path.write_text(WRONG)
    with pytest.raises(StudyError) as caught:
        Study.load(path)
    expected = [
        (2, "sed: there is no such key; did you mean 'seed'?"),
        (3, "replications: replications must be a whole number from 1"),
        (4, "intervals[0]: there is no interval rule 'bucket:100'; did you mean 'buckets'?"),
        (5, "memories[1]: a memory must be a whole number"),
        (6, "metrics[0]: there is no metric 'mean_latancy'; did you mean 'mean_latency'?"),
        (7, "policies[1]: there is no policy 'amni'; did you mean 'amin'?"),
        (7, "policies[2].evict: policy field evict='newst' is unknown; did you mean 'newest'?"),
        (8, "policies[3].refin: there is no such key; did you mean 'refine'?"),
        (9, "clocks[0]: there is no clock 'llama2-70b-2xa10'; did you mean 'llama2-70b-2xa100'?"),
        (12, "workloads[0].reqests: there is no such key; did you mean 'requests'?"),
        (14, "precision.relative: relative must be a number greater than 0, not -2"),
    ]
    said = str(caught.value).splitlines()
    assert len(said) == len(expected)
    for text, (line, what) in zip(said, expected, strict=True):
        assert text.startswith(f"{path}, line {line}: {what}"), text
    assert caught.value.path == str(path)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, "policies: is missing\nworkloads: is missing"),
        ({**LEAST, "workloads": "lmsys"}, "workloads: expected a list, such as ['lmsys']"),
        ({**LEAST, "workloads": []}, "workloads is empty"),
        ({**LEAST, "policies": ["amin", "amin"]}, "policies: 'amin' is there twice"),
        ({**LEAST, "policies": [{"refine": "double"}]}, "policies[0]: a policy composed of fields needs a name"),
        ({**LEAST, "memories": 100}, "memories: expected a list, not 100"),
        ({**LEAST, "memories": [100.5]}, "memories[0]: a memory must be a whole number"),
        ({**LEAST, "seed": True}, "seed: seed must be a whole number"),
        ({**LEAST, "name": 3}, "name: expected a text, not 3"),
        ({**LEAST, "service": {"slo": {"ttf": 1}}}, "service.slo: there is no SLO 'ttf'; did you mean 'ttft'?"),
        ({**LEAST, "replications": 5, "precision": {"relative": 0.1}}, "give either replications or precision"),
        ({**LEAST, "precision": {}}, "precision: a precision needs relative"),
        ({**LEAST, "precision": {"relative": 0.1, "first": 40, "most": 20}}, "precision: most is 20"),
        ({**LEAST, "precision": {"relative": 0.1, "metric": "ttft_p99"}}, "which is not among the metrics"),
        (
            {**LEAST, "cells": [{"policies": ["amni"]}]},
            "cells[0]: 'amni' is not among the policies; did you mean 'amin'?",
        ),
        ({**LEAST, "workloads": [{"trace": "a.csv", "generator": "lmsys"}]}, "either a generator or a trace"),
        ({**LEAST, "workloads": [{"generator": "lmsys", "arrivals": "poisson"}]}, 'arrivals = "poisson" needs rate'),
        ({**LEAST, "workloads": [{"generator": "lmsys", "cv": 2}]}, 'cv has no meaning with arrivals = "at_once"'),
        ({**LEAST, "workloads": [{"generator": "lmsys", "speed": 2}]}, "speed has no meaning"),
        (
            {**LEAST, "workloads": [{"generator": "lmsys", "rate": math.inf}]},
            "workloads[0].rate: rate must be a number",
        ),
        ({**LEAST, "workloads": [{"generator": "lmsys", "arrivals": "trace"}]}, "needs a trace"),
        ({**LEAST, "workloads": ["two_point:40,10"]}, "workloads[0].generator: generator 'two_point:40,10'"),
        ({**LEAST, "intervals": ["constant:9,1"]}, "exchange them?"),
        ({**LEAST, "steady_state": {"batches": 1}}, "steady_state.batches: batches must be a whole number from 2"),
        ({**LEAST, "steady_state": {"methd": "batches"}}, "steady_state.methd: there is no such key; did you mean"),
        ({**LEAST, "steady_state": {"method": "batch"}}, "there is no method 'batch'; did you mean 'batches'?"),
        ({**LEAST, "steady_state": "yes"}, "steady_state: expected a table"),
        ({**LEAST, "max_batch": [4, 0]}, "max_batch[1]: max_batch must be a whole number from 1"),
        ({**LEAST, "max_batch": "nine"}, "max_batch must be a whole number from 1"),
        ({**LEAST, "block": [16, 16]}, "block: '16' is there twice"),
        ({**LEAST, "block": ["none"]}, "block[0]: block must be a whole number"),
        ({**LEAST, "prefill_budget": [512, True]}, "prefill_budget[1]: prefill_budget must be a whole number"),
        ({**LEAST, "machines": ["llama2-70b-8xh10"]}, "machines[0]: there is no machine 'llama2-70b-8xh10'; did you"),
        ({**LEAST, "machines": "llama2-70b-8xh100"}, "machines: expected a list"),
        ({**LEAST, "machines": ["m.toml"], "clocks": ["c.toml"]}, "give either clocks or machines"),
        ({**LEAST, "workloads": [{"generator": "lmsys", "rate": [1, -2]}]}, "workloads[0].rate: rate must be a number"),
        ({**LEAST, "workloads": [{"generator": "lmsys", "rate": []}]}, "workloads[0].rate: rate is an empty list"),
        ({**LEAST, "workloads": [{"generator": "lmsys", "rate": [2, 2.0]}]}, "workloads[0].rate: rate: '2.0' is there"),
        ({**LEAST, "max_batch": [4], "cells": [{"max_batch": [5]}]}, "cells[0]: 5 is not among the max_batch"),
        ({**LEAST, "cells": [{"rates": [5]}]}, "cells[0]: 5.0 is not among the rates"),
        ({**LEAST, "metrics": ["gap_p99"]}, "there is no metric 'gap_p99'"),
        ({**LEAST, "metrics": ["energy_totl"]}, "did you mean 'energy_total'?"),
        ({**LEAST, "metrics": ["energy_total"]}, 'add power, such as power = "example-2xa100"'),
        ({**LEAST, "metrics": ["energy_total"], "power": "example-2xa100"}, "energy_total needs seconds: add clocks"),
        (
            {**LEAST, "power": "example-2xa10"},
            "there is no power model 'example-2xa10'; did you mean 'example-2xa100'?",
        ),
        ({**LEAST, "power": {}}, "power: give a named model (example-2xa100) or at least the watts when idle"),
        ({**LEAST, "power": {"model": "example-2xa100", "busy": 3}}, "either a named model or watts (busy), not both"),
        ({**LEAST, "power": {"idle": -1}}, "power.idle: idle must be a number at least 0, not -1"),
        ({**LEAST, "power": {"idle": 9, "limit": 3}}, "power limit=3 is below idle=9"),
    ],
)
def test_a_mistake_in_a_python_object_is_named_with_its_key(values, message):
    with pytest.raises(StudyError) as caught:
        Study.from_dict(values)
    assert message in str(caught.value)
    with pytest.raises(StudyError) as again:
        Study(**values)
    assert str(again.value) == str(caught.value)


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ('policies = ["hsf", amin]', r'not TOML: Invalid value .*column 20\); texts stand in quotes, as "amin"'),
        ('policies = ["hsf"]\nreplications = "20"', r"a whole number from 1 to \d+, without the quotes, not '20'"),
        ('policies = ["hsf"]\nreplications = "x"', r"a whole number from 1 to \d+, not 'x'"),
    ],
)
def test_quotes_that_lack_or_are_too_many_are_told(tmp_path, said, message):
    path = tmp_path / "study.toml"
    path.write_text(f'workloads = ["lmsys"]\n{said}\n')
    with pytest.raises(StudyError, match=message):
        Study.load(path)


def test_what_is_not_toml_is_named_with_its_line(tmp_path):
    path = tmp_path / "study.toml"
    path.write_text("seed = 1\nname = first\n")
    with pytest.raises(StudyError, match=r"study\.toml: not TOML: .*line 2"):
        Study.load(path)
    path.write_bytes(b"name = '\xff'")
    with pytest.raises(StudyError, match="not a text in UTF-8"):
        Study.load(path)


# The object -----------------------------------------------------------------------------------------------------------


def test_defaults_and_short_forms():
    study = Study(**LEAST)
    assert study.workloads[0].requests == 1000
    assert [entry.name for entry in study.intervals] == ["buckets:100"]
    assert (study.replications, study.precision, study.memories) == (100, None, (16492,))
    with pytest.raises(dataclasses.FrozenInstanceError):
        study.seed = 3


def test_the_file_that_a_python_object_makes_reads_as_the_same():
    study = Study(
        name='a "study"',
        workloads=[{"generator": "two_point:10,40,0.8", "requests": 50, "rate": 0.5, "cv": 4, "name": "bursts – é"}],
        policies=["amin", {"name": "mine", "base": "fcfs", "margin": 0.05, "resume": "restart"}],
        intervals=[{"name": "wide", "rule": "relative:0.95"}],
        memories=[100, 200],
        clocks=["llama2-70b-2xa100"],
        metrics=["ttft_p99", "goodput"],
        service={"slo": {"ttft": 1.5}},
        max_batch=[8, "none"],
        block=16,
        cells=[{"memories": [100]}, {"policies": ["mine"], "max_batch": ["none"]}],
        precision={"metric": "goodput", "absolute": 0.01},
    )
    assert Study.parse(study.to_toml()) == study


def test_a_loaded_study_keeps_its_text_and_a_changed_one_does_not():
    text = 'workloads = ["lmsys"]\npolicies = ["amin"]  # mine\n'
    study = Study.parse(text)
    assert study.to_toml() == text
    changed = study.replace(seed=7)
    assert Study.parse(changed.to_toml()).seed == 7


def test_composed_policies_have_the_fields_that_policies_have():
    fields = {f.name for f in dataclasses.fields(PolicyEntry)} - {"name", "base", "python"}
    assert fields == {f.name for f in dataclasses.fields(ls.Policy)}
    entry = PolicyEntry(name="x", base="fcfs", margin=0.1, pause="overflow")
    assert entry.policy() == dataclasses.replace(ls.policies["fcfs"], margin=0.1, pause="overflow")


def test_the_design_is_the_full_cross_or_the_union_of_blocks():
    axes = {
        "workloads": ["lmsys"],
        "policies": ["hsf", "amin", "amax"],
        "intervals": ["exact", "buckets:9"],
        "memories": [1000, 2000],
    }
    assert len(Study(**axes).plan().cells) == 12
    blocks = [
        {"policies": ["hsf"], "intervals": ["exact"]},
        {"policies": ["amin"], "memories": [1000]},
        {"memories": [1000]},
    ]
    plan = Study(**axes, cells=blocks).plan()
    labels = [tuple(plan.labels(cell).values())[1:] for cell in plan.cells]
    everything = [(i, p, m) for i in axes["intervals"] for p in axes["policies"] for m in axes["memories"]]
    assert labels == [c for c in everything if c[2] == 1000 or c == ("exact", "hsf", 2000)]


def test_the_commented_example_is_a_study():
    text = (Path(ls.__file__).parent / "study" / "example.toml").read_text(encoding="utf-8")
    study = Study.parse(text)
    assert len(study.plan().cells) == 32
    lively = "\n".join(
        line.removeprefix("# ") if line.startswith(("# [", "# ")) and "=" in line else line
        for line in text.splitlines()
    )
    assert "precision" in lively


MACHINE = """
clock = "llama2-70b-8xh100"
memory = 4000
block = 16
max_batch = 8
"""


def test_limits_rates_and_machines_are_factors_of_the_cross(tmp_path):
    (tmp_path / "mine.toml").write_text(MACHINE)
    study = Study(
        workloads=[{"name": "a", "generator": "lmsys", "rate": [1, 2]}, {"name": "b", "generator": "lmsys", "rate": 2}],
        policies=["amin", "vllm"],
        machines=["llama2-70b-2xa100", "mine.toml"],
        max_batch=[4, "none"],
        prefill_budget=[64, 128],
    )
    plan = study.plan(tmp_path)
    assert len(plan.cells) == 3 * 2 * 2 * 2 * 2
    assert plan.factors == ("workload", "intervals", "policy", "machine", "rate", "max_batch", "prefill_budget")
    cell = plan.cells[plan.find(workload="b", policy="amin", machine="mine.toml", max_batch=None, prefill_budget=64)]
    assert plan.labels(cell)["rate"] == 2
    engine = plan.engine_of(cell)
    assert (plan.memory_of(cell), engine["block"], engine["max_batch"], engine["prefill_budget"]) == (
        4000,
        16,
        None,
        64,
    )
    assert engine["clock"] == ls.clocks["llama2-70b-8xh100"]
    some = study.replace(cells=[{"workloads": ["a"], "rates": [1], "max_batch": ["none"]}])
    assert len(some.plan(tmp_path).cells) == 2 * 2 * 2
    with pytest.raises(StudyError, match=r"cells\[0\]: no workload in it has one of its rates"):
        study.replace(cells=[{"workloads": ["b"], "rates": [1]}]).plan(tmp_path)


def test_the_study_overrides_what_a_machine_sets(tmp_path):
    (tmp_path / "mine.toml").write_text(MACHINE)
    plan = Study(**LEAST, machines=["mine.toml"]).plan(tmp_path)
    assert plan.factors == ("workload", "intervals", "policy")
    assert (plan.memory_of(plan.cells[0]), plan.engine_of(plan.cells[0])["max_batch"]) == (4000, 8)
    plan = Study(**LEAST, machines=["mine.toml"], memories=[5000], max_batch="none", block=1).plan(tmp_path)
    assert plan.memory_of(plan.cells[0]) == 5000
    assert [plan.engine_of(plan.cells[0])[key] for key in ("max_batch", "block")] == [None, 1]


def test_machines_put_in_later_bring_their_own_memory():
    study = Study(**LEAST).replace(machines=["llama2-70b-8xh100"])
    assert study.memories is None
    plan = study.plan()
    assert plan.memory_of(plan.cells[0]) == ls.machines["llama2-70b-8xh100"].memory
    assert Study.parse(study.to_toml()) == study
    assert Study(**LEAST, memories=[16492]).replace(machines=["llama2-70b-8xh100"]).memories == (16492,)


def test_rates_of_the_study_are_those_of_each_workload(tmp_path):
    asked = {"policies": ["amin"], "workloads": ["lmsys", {"name": "b", "generator": "uniform:5,50", "requests": 9}]}
    short = Study.from_dict({**asked, "rates": [1, 2.5]})
    rated = [{"generator": "lmsys", "rate": [1, 2.5]}, {**asked["workloads"][1], "rate": [1, 2.5]}]
    long = Study.from_dict({**asked, "workloads": rated})
    assert short == long
    assert short.to_dict() == long.to_dict()
    assert Study.from_dict(short.to_dict()) == short
    assert short.plan(tmp_path).factors == ("workload", "intervals", "policy", "memory", "rate")
    assert len(short.replace(cells=[{"rates": [2.5]}]).plan(tmp_path).cells) == 2
    assert Study.from_dict({**asked, "rates": 3}).factors() == Study.from_dict({**asked, "rates": [3]}).factors()
    for rates, said in (([], "empty"), ([0], "rate"), ([1, 1], "is there twice")):
        with pytest.raises(StudyError, match=said):
            Study.from_dict({**asked, "rates": rates})
    with pytest.raises(StudyError, match="workload 'b' has a rate of its own"):
        Study.from_dict({**asked, "workloads": rated[1:], "rates": [1]})


def test_mistakes_in_machines_and_rates_are_named_with_their_line(tmp_path):
    path = tmp_path / "study.toml"
    path.write_text('policies = ["amin"]\nmachines = ["llama2-70b-2xa100",\n  "mine.toml"]\nworkloads = ["lmsys"]\n')
    with pytest.raises(StudyError, match=r"study\.toml, line 3: machines\[1\]: there is no file .*mine\.toml"):
        Study.load(path).plan(tmp_path)
    (tmp_path / "mine.toml").write_text(MACHINE)
    energy = Study.load(path).replace(metrics=["energy_total"])
    with pytest.raises(StudyError, match=r"machines\[1\]: the metric energy_total needs watts"):
        energy.plan(tmp_path)
    path.write_text('policies = ["amin"]\nmax_batch = [1,\n 0]\n[[workloads]]\ngenerator = "lmsys"\nrate = [0]\n')
    with pytest.raises(StudyError) as caught:
        Study.load(path)
    assert [line.split(": ")[:2] for line in str(caught.value).splitlines()] == [
        [f"{path}, line 3", "max_batch[1]"],
        [f"{path}, line 6", "workloads[0].rate"],
    ]


def test_finding_a_cell_says_what_there_is():
    plan = Study(**{**LEAST, "policies": ["amin", "amax"], "memories": [1000, 2000]}).plan()
    assert plan.cells[plan.find(policy="amax", memory=2000)] == (0, 0, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0)
    with pytest.raises(InputError, match=r"2 cells of the study fit: say which policy \(amax, amin\)"):
        plan.find(memory=1000)
    with pytest.raises(InputError, match="policy 'amni' is not in the study; did you mean 'amin'"):
        plan.find(policy="amni")
