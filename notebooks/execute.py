"""Run every notebook in a real kernel, two at a time, and keep its outputs: `python notebooks/execute.py [--check]`.

With `--check` the files stay as they are; a cell that raises fails either way.
"""

import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import nbformat
from nbclient import NotebookClient


def main() -> None:
    with ProcessPoolExecutor(2) as pool:  # each kernel works with one thread
        for name in pool.map(execute, sorted(Path(__file__).parent.glob("*.ipynb"))):
            print(f"{name}: every cell ran", flush=True)


def execute(path: Path) -> str:
    """Run one notebook and return its name."""
    notebook = nbformat.read(path, as_version=4)
    NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(path.parent)}}).execute()
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)  # times of day would change with every run
    if "--check" not in sys.argv:
        nbformat.write(notebook, path)
    return path.name


if __name__ == "__main__":
    main()
