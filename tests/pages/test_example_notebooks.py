"""The notebooks in examples/notebooks run from the top to the end, on the real traces."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from helpers import DATA, ROOT

FOLDER = ROOT / "examples" / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))


def read(path: Path) -> Any:
    nbformat = pytest.importorskip("nbformat", reason="notebooks need nbformat, of the extra `test`")
    return nbformat.read(path, as_version=4)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=[path.stem for path in NOTEBOOKS])
def test_a_notebook_is_kept_without_outputs_and_says_what_it_answers(path: Path) -> None:
    notebook = read(path)
    assert all(not cell.outputs and cell.execution_count is None for cell in notebook.cells if cell.cell_type == "code")
    assert "**Answers:**" in notebook.cells[0].source
    assert "**Takes:**" in notebook.cells[0].source


@pytest.mark.parametrize("path", NOTEBOOKS, ids=[path.stem for path in NOTEBOOKS])
def test_a_notebook_runs_and_its_things_show_themselves(path: Path) -> None:
    nbclient = pytest.importorskip("nbclient", reason="notebooks are run by nbclient, of the extra `test`")
    for extra in ("matplotlib", "pandas", "scipy", "ipykernel"):
        pytest.importorskip(extra)
    if not DATA.is_dir():
        pytest.skip("the traces are no part of the project: ../shared/data is not there")
    notebook = read(path)
    nbclient.NotebookClient(notebook, timeout=250, resources={"metadata": {"path": str(FOLDER)}}).execute()
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    assert not [output.text for output in outputs if output.get("name") == "stderr"]
    kinds = [kind for output in outputs for kind in output.get("data", {})]
    assert kinds.count("text/html") >= 2
    assert "image/png" in kinds
