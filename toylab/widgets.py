"""Widgets for notebooks: the attention of any model, and a trained model that runs in the reader's browser.

    LiveModel(model, task)                                       # type, switch off heads, drag attention
    Attention(model, batch, vocabulary=task.vocabulary)          # patterns of any model, also an adopted one

They use the scripts of the pages of runs (`toylab.report`) and load nothing from a network. They need anywidget:
`pip install 'toylab[notebooks]'`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from toylab.console import ToylabError
from toylab.model.encoder_decoder import EncoderDecoder
from toylab.model.modes import evaluation_mode
from toylab.model.transformer import Transformer
from toylab.probes import points, watch
from toylab.report.live import LivePanel, panel_record
from toylab.report.page import SCRIPTS, live_section, read_source, viewer_section
from toylab.report.task_panels import row_facts, task_panel
from toylab.report.viewer import patterns_record
from toylab.survey import strongest_head
from toylab.tasks import Batch, Task, decode, held_out
from toylab.training.batches import device_of

EXAMPLES = 4
"""Held-out inputs that a live model offers."""


class Attention:
    """The attention patterns of a model on some rows, with a choice of layer, head and row.

    Args:
        model: any module with hook points that end in `pattern` (`toylab.probes.points`): a model of toylab, or one
            of another library after `toylab.model.interop.adopt(model, patterns=True)`.
        tokens: rows of a task, whose links are marked where a head attends to them; or what the model takes, such as
            token ids (position) or (row, position).
        vocabulary: token names by id; without it, ids are shown.

    Attributes:
        widget: the widget of anywidget, for layouts of ipywidgets.

    Raises:
        ToylabError: without anywidget; for a model without attention patterns, or with nan in one.
    """

    def __init__(
        self, model: nn.Module, tokens: Batch | Tensor | np.ndarray, vocabulary: Sequence[str] | None = None
    ) -> None:
        inputs = torch.as_tensor(tokens.tokens if isinstance(tokens, Batch) else tokens)
        patterns = _patterns(model, inputs[None] if inputs.ndim == 1 else inputs)
        rows, _, _, size = next(iter(patterns.values())).shape
        names: list[list[str]] = [[str(position) for position in range(size)]] * rows
        if not inputs.is_floating_point():
            ids = inputs.reshape(rows, size).tolist()
            if vocabulary is not None and max(map(max, ids)) >= len(vocabulary):
                raise ToylabError(f"vocabulary: has {len(vocabulary)} names, but a token is {max(map(max, ids))}")
            names = [[str(id if vocabulary is None else vocabulary[id]) for id in row] for row in ids]
        sizes = [size] * rows
        links: list[dict[str, list[list[int]]]] = [{} for _ in range(rows)]
        if isinstance(tokens, Batch):
            sizes = tokens.sizes.tolist()
            for row, of_row in enumerate(links):
                of_row |= {name: edges[edges[:, 0] == row, 1:].tolist() for name, edges in tokens.links.items()}
        caption = "Squares mark the links of the task that the head attends to." if any(links) else ""
        self.widget = _widget(
            "toyViewer", viewer_section("Attention", caption), patterns_record(patterns, names, links, sizes)
        )

    def _ipython_display_(self) -> None:
        _display(self.widget)


class LiveModel:
    """A trained model that runs in the reader's browser: type an input, change the model, and see answer and attention.

    Args:
        model: a `Transformer` or an `EncoderDecoder`.
        task: its task; the reference solution of a typed input is known for tasks of the studies, and for any other
            task that of the held-out rows.
        seed: of the held-out rows offered as examples.

    Attributes:
        widget: the widget of anywidget, for layouts of ipywidgets.

    Raises:
        ToylabError: without anywidget; for a model of another class, or of another vocabulary.
    """

    def __init__(self, model: nn.Module, task: Task, seed: int = 0) -> None:
        if not isinstance(model, Transformer | EncoderDecoder):
            raise ToylabError(
                f"model={type(model).__name__}: the browser computes a Transformer or an EncoderDecoder; Attention "
                "shows any model, and toylab.model.interop.from_hooked converts a HookedTransformer"
            )
        tokens = model.vocab if isinstance(model, Transformer) else len(task.vocabulary)
        if tokens != len(task.vocabulary):
            raise ToylabError(
                f"model: has {tokens} tokens, and {type(task).__name__} has {len(task.vocabulary)}; give the task that "
                "the model was trained on"
            )
        batch = held_out(task, seed, EXAMPLES, purpose="widget")
        form = task_panel(task, isinstance(model, EncoderDecoder))
        rows = [decode(task, row[:size]) for row, size in zip(batch.tokens.tolist(), batch.sizes.tolist(), strict=True)]
        panel = LivePanel(
            task=task,
            caption="Type an input, switch off heads, MLPs and layers, or drag attention to another key: the answer "
            "follows. Red squares: links, which an ideal algorithm attends to.",
            claim="",
            examples=[(text, text) for text in map(form.typed, rows)],
            models={"model": model},
            start={"model": _first_head(model, batch, form.link)},
            facts=row_facts(task, batch) if form.kind == "tokens" else {},
        )
        self.widget = _widget("toyLive", live_section(panel.caption), panel_record(panel))

    def _ipython_display_(self) -> None:
        _display(self.widget)


def _display(widget: Any) -> None:
    from IPython.display import display  # installed with anywidget

    display(widget)


def _first_head(model: Transformer | EncoderDecoder, batch: Batch, link: str) -> str:
    """The head shown first: the one with the most attention on the marked links, or else on the first of any name."""
    if isinstance(model, EncoderDecoder):
        return "decoder.0"
    linked = [name for name, edges in batch.links.items() if len(edges)]
    if not linked:
        return "0.0"
    return "{}.{}".format(*strongest_head(model, batch, link if link in linked else linked[0]))


def _patterns(model: nn.Module, inputs: Tensor) -> dict[str, Tensor]:
    """Attention patterns (row, head, query, key) by title of the layer, in the order of the forward pass."""
    names = [name for name in points(model) if name.endswith("pattern")]
    if not names:
        raise ToylabError(
            f"model={type(model).__name__}: has no hook point that ends in pattern; give "
            "toylab.model.interop.adopt(model, patterns=True), or a model with `taps` of its own (probes.Tap)"
        )
    with evaluation_mode(model), watch(model, *names) as cache, torch.no_grad():
        model(inputs.to(device_of(model)))
    for name, pattern in cache.items():
        if bool(pattern.isnan().any()):
            raise ToylabError(f"{name}: has nan, which no colour shows; find the first hook point with nan")
        if pattern.ndim != 4:
            shape = tuple(pattern.shape)
            raise ToylabError(f"{name}: has shape {shape}, and a pattern has (row, head, query, key); rename the point")
    return {_title(name): pattern.float() for name, pattern in cache.items()}


def _title(point: str) -> str:
    """The layer of a pattern: `layer 0` for blocks.0.attn.pattern, `decoder, cross` for decoder.cross.pattern."""
    parts = re.sub(r"\.(attn\.)?(hook_)?pattern$", "", point)
    return re.sub(r"\bblocks\.", "layer ", parts).replace(".", ", ")


def _widget(panel: str, section: str, data: dict[str, Any]) -> Any:
    return _widget_class(panel)(markup=f"<style>{read_source('page.css')}</style>{section}", data=data)


@cache
def _widget_class(panel: str) -> Any:
    try:
        import anywidget
        import traitlets
    except ImportError:
        raise ToylabError("widgets: need anywidget, which is not installed; pip install 'toylab[notebooks]'") from None

    class Panel(anywidget.AnyWidget):
        _esm = "\n".join(
            [
                *map(read_source, (*SCRIPTS[panel], "widget.js")),
                f"export default toyWidget({panel});",
            ]
        )
        markup = traitlets.Unicode().tag(sync=True)
        data = traitlets.Dict().tag(sync=True)
        state = traitlets.Dict().tag(sync=True)

    return Panel
