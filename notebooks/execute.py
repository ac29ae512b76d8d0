"""Run notebooks in real kernels, two at a time, and keep their outputs: `python notebooks/execute.py [--check] [NAME]`.

All, or those whose names begin so. With `--check` the files stay as they are; a cell that raises fails either way.
"""

import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import nbformat
from nbclient import NotebookClient


def main() -> None:
    wanted = tuple(argument for argument in sys.argv[1:] if argument != "--check")
    paths = sorted(path for path in Path(__file__).parent.glob("*.ipynb") if not wanted or path.name.startswith(wanted))
    with ProcessPoolExecutor(2) as pool:  # each kernel works with one thread
        for name in pool.map(execute, paths):
            print(f"{name}: every cell ran", flush=True)


def execute(path: Path) -> str:
    """Run one notebook and return its name."""
    notebook = nbformat.read(path, as_version=4)
    where = {"metadata": {"path": str(path.parent)}}
    try:
        NotebookClient(notebook, timeout=600, resources=where).execute()
    except RuntimeError as error:
        if "before replying" not in str(error):
            raise
        # Two kernels that start at the same moment may choose the same port.
        NotebookClient(notebook, timeout=600, resources=where).execute()
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)  # times of day would change with every run
    if "--check" not in sys.argv:
        nbformat.write(notebook, path)
    return path.name


if __name__ == "__main__":
    main()
