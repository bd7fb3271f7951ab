"""Predictor files that somebody made to do harm: `load` refuses them, or their answers are numbers."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import zipfile

import numpy as np
import pytest
from helpers.examples import SHARE

pytest.importorskip("skops")

from sklearn.ensemble import RandomForestRegressor

from llmsched import predict
from llmsched.errors import InputError, InputLimitError
from llmsched.predict import model_checks

FEATURES = 3


@pytest.fixture(scope="module")
def content(tmp_path_factory):
    """A good file."""
    drawn = np.random.default_rng(0)
    X, y = drawn.normal(size=(300, FEATURES)), drawn.integers(1, 200, 300)
    path = tmp_path_factory.mktemp("predictor") / "p"
    predict.save(predict.IntervalRegressor(0.8).fit(X, y), path)
    return path.read_bytes()


def changed(content, change, wanted):
    """The file with the trees changed: `change` gets the nodes of every array of nodes."""
    sink = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(sink, "w") as new:
        for name in old.namelist():
            raw = old.read(name)
            if name.endswith(".npy"):
                array = np.load(io.BytesIO(raw))
                if wanted(array):
                    change(array)
                    out = io.BytesIO()
                    np.save(out, array)
                    raw = out.getvalue()
            new.writestr(name, raw)
    return sink.getvalue()


def of_nodes(array):
    return array.dtype.names is not None


def leaf_loop(nodes):
    nodes["left"][0] = nodes["right"][0] = 0


def outside(nodes):
    nodes["left"][0] = 2**31


def wrong_feature(nodes):
    nodes["feature_idx"][0] = 10**12


def negative_feature(nodes):
    nodes["feature_idx"][0] = -(10**9)


def no_category(nodes):
    nodes["is_categorical"][0], nodes["bitset_idx"][0] = 1, 2**30


def shared(nodes):
    nodes["right"][0] = nodes["left"][0]


def no_number(nodes):
    nodes["value"][:] = np.nan


@pytest.mark.parametrize(
    "change", [leaf_loop, outside, wrong_feature, negative_feature, no_category, shared, no_number]
)
def test_an_edited_tree_is_refused(content, tmp_path, change):
    (tmp_path / "p").write_bytes(changed(content, change, of_nodes))
    with pytest.raises(InputError, match="this predictor is damaged"):
        predict.load(tmp_path / "p")


def test_a_good_file_is_read(content, tmp_path):
    (tmp_path / "p").write_bytes(changed(content, lambda nodes: None, of_nodes))
    lower, upper = predict.load(tmp_path / "p").predict_interval(np.zeros((2, FEATURES)))
    assert (lower <= upper).all()


def with_part(content, name, raw):
    sink = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(sink, "w", zipfile.ZIP_DEFLATED) as new:
        for other in old.namelist():
            if other != name:
                new.writestr(other, old.read(other))
        new.writestr(name, raw)
    return sink.getvalue()


def test_a_long_note_is_not_unpacked(content, tmp_path):
    (tmp_path / "p").write_bytes(with_part(content, "llmsched.json", b" " * 10**8))
    with pytest.raises(InputError, match="its note has 100,000,000 bytes"):
        predict.load(tmp_path / "p")


def test_a_part_that_unpacks_to_too_much_is_refused(content, tmp_path, monkeypatch):
    (tmp_path / "p").write_bytes(with_part(content, "more", b" " * 10**8))
    monkeypatch.setenv("LLMSCHED_LIMITS", "predictor=20M")
    with pytest.raises(InputLimitError, match="unpacks to more than 20 MiB"):
        predict.load(tmp_path / "p")


def test_an_array_that_says_it_is_longer_is_refused(content, tmp_path):
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        name = next(n for n in archive.namelist() if n.endswith(".npy"))
    head = io.BytesIO()
    np.lib.format.write_array_header_1_0(head, {"descr": "<f8", "fortran_order": False, "shape": (10**12,)})
    (tmp_path / "p").write_bytes(with_part(content, name, head.getvalue()))
    with pytest.raises(InputError, match="is not as long as it says"):
        predict.load(tmp_path / "p")


def test_compiled_trees_of_other_models_have_to_be_trusted(tmp_path):
    drawn = np.random.default_rng(0)
    X, y = drawn.normal(size=(60, FEATURES)), drawn.integers(1, 200, 60)
    model = predict.IntervalRegressor(0.8).fit(X, y)
    model.median_ = RandomForestRegressor(2).fit(X, y)
    predict.save(model, tmp_path / "p")
    with pytest.raises(InputError, match=r"not trusted: .*sklearn\.tree\._tree\.Tree"):
        predict.load(tmp_path / "p")


def test_losses_are_known_by_the_names_that_older_versions_of_scikit_learn_give_them():
    for name in ("_loss.CyPinballLoss", "_loss.CyHalfMultinomialLoss", "sklearn._loss._loss.CyPinballLoss"):
        assert model_checks._KNOWN.fullmatch(name)
    assert not model_checks._KNOWN.fullmatch("_loss.os.system")


def test_no_mutated_schema_or_array_crashes_the_process(content, tmp_path):
    """In a process of its own, as a crash would take the tests with it."""
    (tmp_path / "p").write_bytes(content)
    code = f"""
import io, random, sys, warnings, zipfile
import numpy as np
from llmsched import predict
from llmsched.errors import LlmschedError
warnings.simplefilter("ignore")
drawn = random.Random(3)
whole = open("p", "rb").read()
with zipfile.ZipFile(io.BytesIO(whole)) as archive:
    parts = {{name: archive.read(name) for name in archive.namelist()}}
names = sorted(parts)
loaded = 0
for _ in range({max(12, round(60 * SHARE))}):
    changed = dict(parts)
    for name in drawn.sample(names, 3):
        raw = bytearray(changed[name])
        raw[drawn.randrange(min(len(raw), 4000))] = drawn.randrange(256)
        changed[name] = bytes(raw)
    with zipfile.ZipFile("q", "w") as new:
        for name, raw in changed.items():
            new.writestr(name, raw)
    try:
        predictor = predict.load("q")
    except LlmschedError:
        continue
    loaded += 1
    try:
        predictor.predict_interval(np.zeros((2, {FEATURES})))
    except Exception:  # whatever it says of numbers that were edited: what counts is that the process lives
        pass
print(loaded)
"""
    ran = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    assert json.loads(ran.stdout) >= 0
