"""Models that run in the page of a report: their weights, and what a panel needs to know of the task, as JSON.

`model.js` computes the forward pass, `live.js` the panel. A configuration that `model.js` cannot compute is refused by
name in the page.
"""

from __future__ import annotations

import json
import zlib
from base64 import b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from math import inf
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from toylab.model.encoder_decoder import EncoderDecoder
from toylab.model.transformer import Transformer
from toylab.report.task_panels import task_panel
from toylab.tasks import Task


@dataclass(frozen=True, kw_only=True)
class LivePanel:
    """A panel of a page in which trained models run on the reader's input.

    Attributes:
        task: the task of the models, and with it the form of the input, the reference solution and the measured
            quantity (`task_panel`).
        caption: what the panel shows.
        claim: id of the claim that the panel is about, the headline of the page.
        examples: title and text of held-out inputs, as a reader would type them.
        models: models by title, in the order of choice.
        facts: measured facts by name, in addition to those of the task; see `live.js`.
        start: by title, the head shown first, such as "1.3".
        bases: by title, the model before fine-tuning, to add a multiple of the change to it.
        vectors: by title, steering vectors by hook point.
        threshold: from which value the quantity counts as the claim's, if there is one.
    """

    task: Task
    caption: str
    claim: str
    examples: Sequence[tuple[str, str]]
    models: Mapping[str, Transformer | EncoderDecoder]
    start: Mapping[str, str]
    facts: Mapping[str, Any] = field(default_factory=dict)
    bases: Mapping[str, Transformer] = field(default_factory=dict)
    vectors: Mapping[str, Mapping[str, Tensor]] = field(default_factory=dict)
    threshold: float | None = None


def panel_record(panel: LivePanel, room: float | int = inf) -> dict[str, Any]:
    """The panel in JSON form, with as many models as fit into `room` characters of a page, at least one."""
    form = task_panel(panel.task, any(isinstance(model, EncoderDecoder) for model in panel.models.values()))
    record = {
        "kind": form.kind,
        "vocabulary": panel.task.vocabulary,
        "examples": panel.examples,
        "task": {**form.facts, **panel.facts},
        "start": panel.start,
        "threshold": panel.threshold,
    }
    models: list[dict[str, Any]] = []
    size = len(compressed(record))
    for title, model in panel.models.items():
        entry: dict[str, Any] = {"title": title, "model": model_record(model)}
        if title in panel.bases:
            entry["change"] = change_record(panel.bases[title], model)
        if title in panel.vectors:
            entry["vectors"] = {
                point: [float(f"{x:.7g}") for x in vector.tolist()] for point, vector in panel.vectors[title].items()
            }
        size += 0 if room == inf else len(compressed(entry))
        if models and size > room:
            break
        models.append(entry)
    return record | {"models": models}


def compressed(data: Any) -> str:
    """The base64 of deflated JSON, as pages hold their data."""
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"))
    return b64encode(zlib.compress(text.encode(), 9)).decode()


def model_record(model: Transformer | EncoderDecoder) -> dict[str, Any]:
    """Class, configuration and float32 weights of a model in JSON form, as `model.js` reads them."""
    state: Mapping[str, Tensor] = model.state_dict()
    if getattr(model.config, "unembedding", None) == "tied":
        state = {name: tensor for name, tensor in state.items() if name != "unembedding.weight"}
    return {
        "kind": type(model).__name__,
        "config": _without_unused(model.config),
        "weights": {name: _packed(tensor) for name, tensor in state.items()},
    }


def _without_unused(config: Any) -> dict[str, Any]:
    """A configuration without the settings that were added later and are at their default, which change nothing."""
    record = {}
    for setting in fields(config):
        value = getattr(config, setting.name)
        if not (setting.metadata and value == setting.default):
            record[setting.name] = _without_unused(value) if is_dataclass(value) else value
    return record


def change_record(base: nn.Module, tuned: nn.Module) -> dict[str, Any]:
    """The change of the weights from the first model to the second, in 16-bit steps.

    A second set of float32 weights would not fit into a page. A step is 1 / 32767 of the largest change of a tensor.
    """
    before, record = base.state_dict(), {}
    for name, tensor in tuned.state_dict().items():
        change = (tensor - before[name]).detach().to("cpu", torch.float32)
        scale = max(change.abs().max().item(), 1e-30) / 32767
        data = (change / scale).round().numpy().astype("<i2").tobytes()
        record[name] = {"scale": scale, "data": b64encode(data).decode()}
    return record


def _packed(tensor: Tensor) -> dict[str, Any]:
    """Bytes by significance, which deflate shortens by a tenth; it finds nothing in whole numbers."""
    numbers = np.ascontiguousarray(tensor.detach().to("cpu", torch.float32).numpy().astype("<f4"))
    planes = numbers.reshape(-1).view(np.uint8).reshape(-1, 4).T
    return {"shape": list(tensor.shape), "data": b64encode(planes.tobytes()).decode()}
