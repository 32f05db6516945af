"""Every notebook runs from top to bottom, is what its text says, and shows its pictures."""

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from notebooks.write import cells_of

FOLDER = Path(__file__).parent.parent / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
MOST_BYTES = 400_000


def test_each_text_has_its_notebook():
    texts = [path.stem for path in sorted(FOLDER.glob("[0-9]*.py"))]
    assert texts == [path.stem for path in NOTEBOOKS]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_is_its_text_with_small_outputs(path):
    """`python notebooks/write.py NAME` mends what fails here."""
    notebook = nbformat.read(path, as_version=4)
    text = cells_of(path.with_suffix(".py"))
    assert [(c.cell_type, c.source) for c in notebook.cells] == [
        (c.cell_type, c.source) for c in text.cells
    ]
    outputs = [o for cell in notebook.cells for o in cell.get("outputs", ())]
    assert any("image/png" in output.get("data", {}) for output in outputs)
    assert not [output for output in outputs if output.output_type == "error"]
    assert path.stat().st_size < MOST_BYTES


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_runs(path):
    notebook = nbformat.read(path, as_version=4)
    NotebookClient(notebook, timeout=240, kernel_name="python3").execute()
