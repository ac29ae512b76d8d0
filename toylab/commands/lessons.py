"""The command lessons."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from toylab.console import ToylabError, align_columns


def write_lessons(options: argparse.Namespace, rest: list[str]) -> None:
    """`toylab lessons`: copies of all notebooks, never in the place of a file with other content."""
    from toylab.files import refuse_unwritable, write_bytes
    from toylab.lessons.notebooks import as_otter, lesson_paths, read_notebook, read_outline, with_solutions

    form = "solutions" if options.solutions else "otter" if options.otter else None
    folder = options.out or Path("runs") / ("lessons" if form is None else f"lessons-{form}")
    lines, copies = [("lesson", "minutes", "exercises")], {}
    for path in lesson_paths():
        notebook = read_notebook(path)
        outline = read_outline(notebook["cells"])
        lines.append((path.stem, str(outline.minutes), str(len(outline.exercises))))
        code = "\n".join(cell["source"] for cell in notebook["cells"] if cell["cell_type"] == "code")
        data = [file.name for file in sorted(path.parent.glob("*.json")) if f'"{file.name}"' in code]
        copies |= {name: (path.parent / name).read_bytes() for name in data}
        if form is None:
            copies[path.name] = path.read_bytes()
            continue
        notebook = with_solutions(notebook) if options.solutions else as_otter(notebook, path.stem, data)
        copies[path.name] = (json.dumps(notebook, indent=1, ensure_ascii=False) + "\n").encode()
    for name, content in copies.items():
        refuse_unwritable("out", folder / name)
        if (folder / name).exists() and (folder / name).read_bytes() != content:
            raise ToylabError(f"{folder / name}: has other content, perhaps answers; give another folder with --out")
    for name, content in copies.items():
        write_bytes(folder / name, content)
    print(align_columns(lines))
    print(f"{len(lines) - 1} notebooks in {folder}")
