"""Run the notebooks' text and write each beside it with its outputs: python notebooks/write.py.

Names of notebooks as arguments choose among them. Text is what is edited; pictures are what
readers see.
"""

import sys
from pathlib import Path

import jupytext
import nbformat
from nbclient import NotebookClient

HERE = Path(__file__).parent


def cells_of(text: Path):
    """The notebook that a text file stands for, without outputs."""
    notebook = jupytext.read(text, fmt="py:percent")
    notebook.nbformat, notebook.nbformat_minor = 4, 5
    notebook.metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}
    }
    for place, cell in enumerate(notebook.cells):
        cell.id, cell.metadata = f"cell-{place:02d}", {}
    return notebook


def executed(notebook):
    """The same with its outputs; what goes to stderr (bars, warnings) isn't kept."""
    client = NotebookClient(notebook, timeout=240, kernel_name="python3", record_timing=False)
    client.execute(cwd=str(HERE.parent))
    notebook.metadata.pop("language_info", None)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = [o for o in cell.outputs if o.get("name") != "stderr"]
    return notebook


def main() -> None:
    wanted = set(sys.argv[1:])
    for text in sorted(HERE.glob("[0-9]*.py")):
        if not wanted or text.stem in wanted:
            print(text.stem, flush=True)
            nbformat.write(executed(cells_of(text)), text.with_suffix(".ipynb"))


if __name__ == "__main__":
    main()
