"""Attention history: attention patterns on a few sequences, stored at every evaluation of a training run.

    history = AttentionHistory(folder / "film.safetensors", sequences)
    train(model, ..., record=history.add)

Attention is quantised to 8 bits; a history of twenty evaluations takes a few hundred kilobytes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Int, UInt8
from torch import Tensor, nn

from toylab.console import ToylabError
from toylab.files import read_tensors
from toylab.model.modes import evaluation_mode
from toylab.probes import watch
from toylab.training.batches import device_of
from toylab.training.tensor_history import TensorHistory


@dataclass(frozen=True)
class RecordedSequence:
    """A sequence whose attention patterns are recorded.

    Attributes:
        title: shown above the pattern.
        tokens: token ids.
        names: token names, of the keys and, without `queries`, of the queries.
        links: for each link name, the (query, key) pairs along which an ideal algorithm attends.
        points: hook points of the patterns, one per layer.
        queries: names of the queries; if given, the links are those of the recorded attention.
    """

    title: str
    tokens: Int[Tensor, " position"]
    names: tuple[str, ...]
    links: Mapping[str, list[list[int]]]
    points: str = "blocks.*.attn.pattern"
    queries: tuple[str, ...] = ()


class AttentionHistory:
    """Attention patterns on fixed sequences at every recorded step, written to a file after each.

    Args:
        path: file of the history; an existing one is continued.
        scenes: sequences to record, at least one.
    """

    def __init__(self, path: Path | str, scenes: Sequence[RecordedSequence]) -> None:
        self.scenes = tuple(scenes)
        about = [
            {"title": s.title, "names": s.names, "links": dict(s.links)} | ({"queries": s.queries} if s.queries else {})
            for s in self.scenes
        ]
        self.history = TensorHistory(path, self._patterns, {"scenes": about})

    def add(self, model: nn.Module, step: int) -> None:
        """Record the patterns of a step, replacing an earlier record of the same step."""
        self.history.add(model, step)

    def _patterns(self, model: nn.Module) -> dict[str, Tensor]:
        patterns = {}
        for number, scene in enumerate(self.scenes):
            with evaluation_mode(model), watch(model, scene.points) as cache:
                model(scene.tokens[None].to(device_of(model)))
            weights = torch.stack([pattern[0] for pattern in cache.values()])
            patterns[f"scene {number}"] = (255 * weights).round().to(torch.uint8)
        return patterns


@dataclass(frozen=True)
class HistoryPage:
    """An attention history as displayed on a report page.

    Attributes:
        title, caption: texts of the figure.
        steps: optimiser step of each frame.
        scenes: one entry per displayed sequence: title, token names, links, and names of queries that differ from them.
        patterns: one array per scene: attention times 255, axes (frame, layer, head, query, key); lengths differ.
        curves: for each name, one value per frame.
        start: (layer, head) shown first.
    """

    title: str
    caption: str
    steps: list[int]
    scenes: list[dict]
    patterns: list[UInt8[Tensor, "frame layer head _ _"]]
    curves: dict[str, list[float]]
    start: tuple[int, int] = (0, 0)


def read_history(
    path: Path | str,
    title: str,
    caption: str,
    history: Sequence[Mapping[str, float | int]],
    names: Mapping[str, str],
    start: tuple[int, int] = (0, 0),
) -> HistoryPage:
    """Load an attention history, with curves from the metrics of the same training run.

    Args:
        names: from metric to the name of its curve.

    Raises:
        ToylabError: if the file is missing, damaged or not an attention history of this run.
    """
    tensors, about = read_tensors(path)
    try:
        steps, scenes = list(about["steps"]), [dict(scene) for scene in about["scenes"]]
        patterns = [tensors[f"scene {n}"] for n in range(len(scenes))]
        entries = {entry["step"]: entry for entry in history}
        curves = {curve: [float(entries[step][metric]) for step in steps] for metric, curve in names.items()}
    except (KeyError, TypeError, ValueError) as error:
        raise ToylabError(f"{path}: is no attention history of this run ({error!r}); delete it, rerun") from None
    return HistoryPage(title, caption, steps, scenes, patterns, curves, start)
