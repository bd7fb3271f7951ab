"""The corpus of the fuzz targets: no input in it raises anything but our own errors."""

from __future__ import annotations

import importlib.util
import warnings

import pytest
from helpers import ROOT

from llmsched.errors import InputError

pytest.importorskip("skops")
pytest.importorskip("pydantic")
_spec = importlib.util.spec_from_file_location("fuzz_targets", ROOT / "fuzz" / "targets.py")
targets = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(targets)

CORPUS = sorted(path for path in (ROOT / "fuzz" / "corpus").glob("*/*") if path.is_file())


def test_every_target_has_a_corpus_and_every_corpus_a_target():
    assert {path.parent.name for path in CORPUS} == targets.TARGETS.keys()


@pytest.mark.parametrize("path", CORPUS, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_no_input_raises_anything_but_our_errors(path):
    with warnings.catch_warnings(action="ignore"):
        targets.run(path.parent.name, path.read_bytes())


@pytest.mark.parametrize("name", targets.TARGETS)
def test_every_target_reads_something_good(name):
    """Else it would fuzz error messages alone."""
    good = [path for path in CORPUS if path.parent.name == name and path.name.startswith("good")]
    assert good
    for path in good:
        try:
            targets.TARGETS[name](path.read_bytes())
        except InputError as error:
            if "written with scikit-learn" not in str(error):
                raise
            pytest.skip(str(error).partition(": ")[2])
