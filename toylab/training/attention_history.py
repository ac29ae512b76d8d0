"""Attention through training: the patterns of a few sequences at every evaluation, kept to be watched afterwards.

    film = Film(folder / "film.safetensors", scenes)
    train(model, ..., record=film.add)

Weights are kept in steps of 1/255, so a film of twenty evaluations takes a few hundred kilobytes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Int, UInt8
from torch import Tensor, nn

from toylab.console import ToylabError
from toylab.files import read_tensors, write_tensors
from toylab.probes import watch
from toylab.training.batches import device_of
from toylab.training.modes import evaluation_mode


@dataclass(frozen=True)
class RecordedSequence:
    """A sequence that is filmed.

    Attributes:
        title: what it is.
        tokens: ids, as the model reads them.
        names: of the tokens.
        links: by name, (query, key): what an ideal algorithm would read.
    """

    title: str
    tokens: Int[Tensor, " position"]
    names: tuple[str, ...]
    links: Mapping[str, list[list[int]]]


class AttentionHistory:
    """The patterns of some scenes at the steps at which `add` was called; kept in a file from the first one on.

    Args:
        path: a film that was interrupted there goes on.
        scenes: at least one.
    """

    def __init__(self, path: Path | str, scenes: Sequence[RecordedSequence]) -> None:
        self.path, self.scenes = Path(path), tuple(scenes)
        self.frames: dict[int, list[Tensor]] = {}
        if self.path.exists():
            tensors, about = read_tensors(self.path)
            for number, step in enumerate(about["steps"]):
                self.frames[step] = [tensors[f"scene {n}"][number] for n in range(len(self.scenes))]

    @torch.no_grad()
    def add(self, model: nn.Module, step: int) -> None:
        """Film a step, also a second time."""
        self.frames[step] = []
        for scene in self.scenes:
            with evaluation_mode(model), watch(model, "blocks.*.attn.pattern") as seen:
                model(scene.tokens[None].to(device_of(model)))
            patterns = torch.stack([pattern[0] for pattern in seen.values()])
            self.frames[step].append((255 * patterns).round().to("cpu", torch.uint8))
        steps = sorted(self.frames)
        tensors = {f"scene {n}": torch.stack([self.frames[s][n] for s in steps]) for n in range(len(self.scenes))}
        about = [{"title": s.title, "names": s.names, "links": dict(s.links)} for s in self.scenes]
        write_tensors(self.path, tensors, {"steps": steps, "scenes": about})


@dataclass(frozen=True)
class HistoryPage:
    """A finished film, as a page shows it.

    Attributes:
        title, caption: what it shows.
        steps: of the optimiser, one a frame.
        scenes: title, names and links of each.
        patterns: of each scene, in 255ths: (frame, layer, head, query, key); scenes differ in length.
        curves: by name, a value a frame.
        start: layer and head that are shown first.
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
    """A film from its file, with curves from the history of the same training.

    Args:
        names: of the curves, by the metric that each shows.

    Raises:
        ValueError: naming the file, if it is missing, damaged or something else.
    """
    tensors, about = read_tensors(path)
    try:
        steps, scenes = list(about["steps"]), [dict(scene) for scene in about["scenes"]]
        patterns = [tensors[f"scene {n}"] for n in range(len(scenes))]
        at = {entry["step"]: entry for entry in history}
        curves = {shown: [float(at[step][metric]) for step in steps] for metric, shown in names.items()}
    except (KeyError, TypeError, ValueError) as error:
        raise ToylabError(f"{path}: is not a film of its training ({error!r}); delete it, and run again") from None
    return HistoryPage(title, caption, steps, scenes, patterns, curves, start)
