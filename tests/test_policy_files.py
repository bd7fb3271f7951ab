"""Policies in files of Python: run, refused with the line, sent elsewhere, part of what a study is."""

from __future__ import annotations

import pickle
import subprocess
import sys

import pytest

import llmsched as ls
from llmsched.errors import PolicyError, StudyError
from llmsched.policy_files import code_of, from_code, parse
from llmsched.study import Study, results

CODE = """\
import llmsched as ls


class LongestFirst(ls.Policy):
    reads = ("upper",)

    def admission_key(self, request, now):
        return -request.upper


careful = ls.Policy(margin=0.2)
number = 3


def function(state):
    return None
"""


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(CODE)
    return path


def workload(n=60):
    return ls.generate.lmsys(n, seed=3).with_intervals(ls.intervals.buckets(50))


def test_a_class_in_a_file_runs_as_if_it_were_imported(file):
    policy = parse(f"{file}:LongestFirst")
    assert policy.name == "LongestFirst"
    formula = ls.Policy(order="-upper")
    mine, theirs = (ls.simulate(workload(), p, memory=2000) for p in (policy, formula))
    assert mine.completion.tolist() == theirs.completion.tolist()
    assert ls.simulate(workload(), "amin", memory=2000).completion.tolist() != mine.completion.tolist()


def test_base_and_fields_are_what_the_class_does_not_decide(file):
    policy = from_code(f"{file}:LongestFirst", values={"base": "vllm", "margin": 0.1}, name="mine")
    assert (policy.reserve, policy.margin, policy.name) == ("prompt", 0.1, "mine")
    assert from_code("mine.py:careful", file.parent) == ls.Policy(margin=0.2)
    assert from_code(f"{file}:LongestFirst") == from_code(f"{file}:LongestFirst")


def test_it_travels_with_its_code(file):
    policy = parse(f"{file}:LongestFirst")
    sent = pickle.dumps(policy)
    file.unlink()
    program = "import pickle, sys; p = pickle.load(sys.stdin.buffer); print(p.name, p.methods)"
    done = subprocess.run([sys.executable, "-c", program], input=sent, capture_output=True, check=True)
    assert done.stdout == b"LongestFirst ('admission_key',)\n"
    assert pickle.loads(sent) == policy


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("mine.py:LongestLast", r"mine.py has no policy 'LongestLast'; did you mean 'LongestFirst'\? known: .*careful"),
        ("mine.py:number", "mine.py: number is neither a subclass of llmsched.Policy nor a policy"),
        ("mine.py", r"'mine.py': a policy in Python is written FILE.py:NAME, NAME being one in that file"),
        ("mine.py:function", "nor a policy; llmsched.testing runs a scheduler that is a function"),
        ("mine.py:", r"has no policy ''; known"),
        ("broken.py:Broken", r"broken.py, line 3: ZeroDivisionError: division by zero"),
        ("syntax.py:Broken", r"syntax.py, line 2: SyntaxError"),
        ("useless.py:Useless", r"useless.py, line 2: PolicyError: Useless decides nothing"),
    ],
)
def test_what_is_wrong_with_a_file_is_said_with_its_line(file, text, message):
    (file.parent / "broken.py").write_text("x = 1\n\ny = 1 / 0\n")
    (file.parent / "syntax.py").write_text("x = 1\nclass\n")
    (file.parent / "useless.py").write_text("import llmsched as ls\nclass Useless(ls.Policy): pass\n")
    with pytest.raises(PolicyError, match=message):
        from_code(text, file.parent)
    with pytest.raises(PolicyError, match="has no field 'margn'; did you mean 'margin'"):
        from_code("mine.py:LongestFirst", file.parent, {"margn": 1})
    with pytest.raises(PolicyError, match="careful is a policy already"):
        from_code("mine.py:careful", file.parent, {"base": "vllm"})


STUDY = """
seed = 1
replications = 3
memories = [2000]
metrics = ["mean_latency", "gap"]
policies = ["amin", { python = "mine.py:LongestFirst", base = "amin-recompute" }]

[[workloads]]
generator = "lmsys"
requests = 40

[[intervals]]
rule = "buckets:50"
"""


def test_a_study_simulates_it_in_processes_of_its_own(file, tmp_path):
    study_file = tmp_path / "study.toml"
    study_file.write_text(STUDY)
    study = Study.load(study_file)
    study.run(tmp_path / "out", workers=2, traces=tmp_path)
    rows = results(tmp_path / "out").to_pylist()
    assert {row["policy"] for row in rows} == {"amin", "LongestFirst"}
    assert all(row["gap"] >= 0 for row in rows)
    slow = [row["mean_latency"] for row in rows if row["policy"] == "LongestFirst"]
    assert min(slow) > max(row["mean_latency"] for row in rows if row["policy"] == "amin")


def test_another_text_of_the_file_is_another_study(file, tmp_path):
    study_file = tmp_path / "study.toml"
    study_file.write_text(STUDY)
    Study.load(study_file).run(tmp_path / "out", traces=tmp_path)
    file.write_text(CODE.replace("-request.upper", "request.upper"))
    with pytest.raises(StudyError, match="another study"):
        Study.load(study_file).run(tmp_path / "out", traces=tmp_path)
    file.unlink()
    with pytest.raises(StudyError, match=r"policies\[1\].*there is no file .*mine.py"):
        Study.load(study_file).run(tmp_path / "new", traces=tmp_path)


def test_what_decides_about_it_is_its_code(file):
    policy = parse(f"{file}:LongestFirst")
    meaning = code_of(policy)
    file.write_text(CODE + "\n")
    assert code_of(parse(f"{file}:LongestFirst")) != meaning
    assert code_of(ls.policies["amin"]) == {}
