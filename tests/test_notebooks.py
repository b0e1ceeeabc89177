"""Each notebook is stored without outputs, runs from top to bottom (shortened), and shows a plot."""

from __future__ import annotations

import os
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOKS = sorted((Path(__file__).resolve().parent.parent / "notebooks").glob("*.ipynb"))
# Values for the cell tagged `parameters`.
SHORT = {
    "01_quickstart.ipynb": {"train_iters": 6},
    "02_drop_in.ipynb": {"steps": 3, "rounds": 1, "against": ("torch",)},
}
SHOWS_PROGRESS = {"01_quickstart.ipynb"}


def test_every_notebook_is_tested() -> None:
    assert {path.name for path in NOTEBOOKS} == set(SHORT)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_stored_without_outputs(path: Path) -> None:
    for cell in nbformat.read(path, as_version=4).cells:
        assert not cell.get("outputs") and not cell.get("execution_count"), cell.source


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_runs_and_shows_a_plot(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(os.environ, "PYTHONPATH", os.pathsep.join([str(path.parent.parent / "python")]))
    notebook = nbformat.read(path, as_version=4)
    (parameters,) = [cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", [])]
    parameters.source += "\n" + "\n".join(f"{name} = {value!r}" for name, value in SHORT[path.name].items())
    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": tmp_path}}).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    assert any("image/png" in output.get("data", {}) for output in outputs)
    progress = any("<progress" in output.get("data", {}).get("text/html", "") for output in outputs)
    assert progress == (path.name in SHOWS_PROGRESS)
    assert not [output for output in outputs if output.get("name") == "stderr"]
