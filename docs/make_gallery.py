"""Write docs/gallery.md: `python docs/make_gallery.py`, or `make gallery`. Every task with two rows, their links, and
the attention of its hand-written circuit."""

import inspect
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from toylab.commands.flags import known_tasks
from toylab.files import write_text
from toylab.planted.handwritten import contextual_counter, induction_head, iteration_head
from toylab.probes import watch
from toylab.report.canvas import add_legend, new_figure, to_svg
from toylab.report.figures import plot_attention
from toylab.report.links import plot_links
from toylab.tasks import IGNORE, AssociativeRecall, Batch, ContextualCounting, IteratedMap, Task, decode, stream

HERE = Path(__file__).parent
IMAGES = "images/gallery"
SETTINGS = {ContextualCounting: {"length": 12, "regions": 2}}
"""Settings of tasks whose rows are long by default."""
POSITIONS = 12
"""The rows shown are those of 64 whose number of positions is nearest to this."""
CIRCUITS: dict[type, Callable[[Any], torch.nn.Module]] = {
    IteratedMap: iteration_head,
    AssociativeRecall: induction_head,
    ContextualCounting: lambda task: contextual_counter(task.regions, task.length + 1),
}
"""By class of tasks, a function that writes the weights of a model by hand."""
INTRODUCTION = f"""# Gallery

Every task with two rows: a token per line, its target at the right, and at the left the [links](tasks.md#links), arcs
from a position up to the position that an ideal algorithm attends to. A marker without an arc is a position that
attends to itself. Of 64 sampled rows, the page shows the two whose length is nearest to {POSITIONS}. For tasks with a
circuit that was written by hand, a second figure shows its attention on the first row. Red squares are the links.

`make gallery` writes this page.
"""


def main() -> None:
    """Write the page and its figures."""
    write_text(HERE / "gallery.md", "\n".join([INTRODUCTION, *(section(*entry) for entry in known_tasks().items())]))


def section(name: str, kind: type) -> str:
    """The part of the page on one task; its figures are written."""
    settings = SETTINGS.get(kind, {})
    task = kind(**settings)
    batch = task.sample(stream(0, "gallery"), 64)
    order = np.argsort(abs(batch.sizes - POSITIONS), kind="stable")
    rows = [batch.rows(row, row + 1) for row in map(int, order[:2])]
    write_text(HERE / IMAGES / f"{name}-rows.svg", to_svg(draw_rows(task, rows)))
    first = inspect.cleandoc(kind.__doc__ or "").split("\n\n")[0].replace("\n", " ")
    flags = "".join(f" --{field} {value}" for field, value in settings.items())
    parts = [
        f"## {name}",
        textwrap.fill(first, 120, break_long_words=False),
        f"`toylab show {name}{flags}`",
        f"![Two rows of {name}, with links]({IMAGES}/{name}-rows.svg)",
    ]
    circuit = next((circuit for base, circuit in CIRCUITS.items() if issubclass(kind, base)), None)
    if circuit is None:
        parts.append("No circuit of this task was written by hand.")
    else:
        write_text(HERE / IMAGES / f"{name}-circuit.svg", to_svg(draw_circuit(task, circuit(task), rows[0])))
        parts.append(f"![Attention of a hand-written circuit of {name}]({IMAGES}/{name}-circuit.svg)")
    return "\n\n".join([*parts, ""])


def words(task: Task, batch: Batch) -> list[str]:
    """The tokens of a batch of one row."""
    return decode(task, batch.tokens[0, : batch.sizes[0]].tolist())


def draw_rows(task: Task, rows: list[Batch]) -> Any:
    """The rows side by side, with one legend."""
    figure, axes = new_figure(3.6, 0.17 * max(row.sizes[0] for row in rows) + 0.9, columns=len(rows))
    for ax, batch in zip(axes[0], rows, strict=True):
        targets = ["" if t == IGNORE else task.vocabulary[t] for t in batch.targets[0, : batch.sizes[0]].tolist()]
        plot_links(words(task, batch), targets, {name: edges[:, 1:] for name, edges in batch.links.items()}, ax=ax)
    add_legend(axes[0, 0], loc="upper left", bbox_to_anchor=(0, 0), ncols=2)
    return figure


def draw_circuit(task: Task, model: torch.nn.Module, batch: Batch) -> Any:
    """One heatmap per head, one below the other."""
    links = np.concatenate([edges[:, 1:] for edges in batch.links.values()])
    tokens, labels = batch.tokens[:, : batch.sizes[0]], words(task, batch)
    names: tuple[str, ...] = ("blocks.*.attn.pattern",)
    queries = None
    if isinstance(task, ContextualCounting):  # the counter reads the string, and has a query per region
        tokens = tokens[:, : task.length + 1]
        names, queries, links = ("decoder.cross.pattern",), [f"region {k}" for k in range(1, task.regions + 1)], None
    with torch.no_grad(), watch(model, *names) as seen:
        model(torch.as_tensor(tokens))
    heads = {name: pattern[0, head] for name, pattern in seen.items() for head in range(pattern.shape[1])}
    height = 0.28 * (len(queries) if queries else tokens.shape[1]) + 1.2
    figure, axes = new_figure(4.2, height * len(heads), rows=len(heads))
    for ax, (name, pattern) in zip(axes[:, 0], heads.items(), strict=True):
        plot_attention(
            pattern.numpy(),
            labels[: tokens.shape[1]],
            queries=queries,
            links=links,
            title=name.rsplit(".", 1)[0],
            ax=ax,
        )
    return figure


if __name__ == "__main__":
    main()
