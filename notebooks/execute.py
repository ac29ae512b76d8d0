"""Run notebooks in real kernels, two at a time, and keep their outputs: `python notebooks/execute.py [--check] [NAME]`.

All, or those whose names begin so. With `--check` the files stay as they are; a cell that raises fails either way.
`--hosted OWNER/REPOSITORY` runs nothing: each notebook gets a badge that opens it in Colab from this repository, and
lines that install toylab there. Outputs stay as they are.
"""

import re
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import nbformat
from nbclient import NotebookClient

BADGE = "[![Open in Colab](images/colab.svg)](https://colab.research.google.com/github/{}/blob/main/notebooks/{})\n\n"
INSTALL = """import importlib.util

if importlib.util.find_spec("toylab") is None:  # a hosted notebook
    get_ipython().run_line_magic("pip", "install --quiet git+https://github.com/{}")

"""


def main() -> None:
    if sys.argv[1:2] == ["--hosted"]:
        if not re.fullmatch(r"[\w.-]+/[\w.-]+", " ".join(sys.argv[2:])):
            sys.exit("--hosted: takes OWNER/REPOSITORY, where the notebooks are published")
        for path in sorted(Path(__file__).parent.glob("*.ipynb")):
            make_hosted(path, sys.argv[2])
        return
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


def make_hosted(path: Path, repository: str) -> None:
    """Write the badge below the title and the installation above the first imports, or replace those of before."""
    notebook = nbformat.read(path, as_version=4)
    title = notebook.cells[0]
    imports = next(cell for cell in notebook.cells if cell.cell_type == "code")
    heading, _, prose = re.sub(r"^\[!\[Open in Colab.*\n\n", "", title.source, flags=re.MULTILINE).partition("\n\n")
    title.source = heading + "\n\n" + BADGE.format(repository, path.name) + prose
    earlier = re.escape(INSTALL).replace(r"\{\}", ".*")
    imports.source = INSTALL.format(repository) + re.sub(earlier, "", imports.source)
    nbformat.write(notebook, path)


if __name__ == "__main__":
    main()
