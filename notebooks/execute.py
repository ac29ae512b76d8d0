"""Run every notebook in a real kernel and keep its outputs: `python notebooks/execute.py [--check]`.

With `--check` the files stay as they are; a cell that raises fails either way.
"""

import sys
from pathlib import Path

import nbformat
from nbclient import NotebookClient


def main() -> None:
    here = Path(__file__).parent
    for path in sorted(here.glob("*.ipynb")):
        notebook = nbformat.read(path, as_version=4)
        NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(here)}}).execute()
        for cell in notebook.cells:
            cell.metadata.pop("execution", None)  # times of day would change with every run
        if "--check" not in sys.argv:
            nbformat.write(notebook, path)
        print(f"{path.name}: every cell ran")


if __name__ == "__main__":
    main()
