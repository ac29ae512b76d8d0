"""The logit lens of a steering vector at every step of its training, for the page."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from toylab.console import ToylabError
from toylab.files import read_tensors, write_tensors
from toylab.model.steering import Steered, folded_unembedding
from toylab.report.bars import BarHistory
from toylab.runs.study import Job
from toylab.studies.steering_vectors.settings import Settings
from toylab.verdicts.claim import Conditions

LENS_FILE = "lens.safetensors"


class LensHistory:
    """The dot product of a vector with each token's unembedding row at every recorded step, kept in a file.

    Args:
        path: file of the history; an existing one is continued.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.frames = path, dict[int, Tensor]()
        if path.exists():
            self.frames = dict(zip(*read_frames(path), strict=True))

    @torch.no_grad()
    def add(self, steered: Steered, step: int) -> None:
        """Record the vector of a step, replacing an earlier record of the same step."""
        (addition,) = steered.additions.values()
        self.frames[step] = (folded_unembedding(steered.model) @ addition.get_parameter("vector")).cpu()
        steps = sorted(self.frames)
        write_tensors(self.path, {"lens": torch.stack([self.frames[s] for s in steps])}, {"steps": steps})


def read_frames(path: Path) -> tuple[list[int], list[Tensor]]:
    """Steps and logits of a history. Raises `ToylabError`, naming the file, if it is damaged."""
    tensors, about = read_tensors(path)
    try:
        return list(about["steps"]), list(tensors["lens"])
    except (KeyError, TypeError) as error:
        raise ToylabError(f"{path}: is no history of a vector ({error!r}); delete it, rerun") from None


def lens_page(study: Settings, results: Conditions, out: Path) -> BarHistory | None:
    """The history of the last layer's vector of each seed with the steps of the first; None if there is none."""
    name = study.vectors[-1]
    paths = {seed: Job(name, seed).folder(out) / LENS_FILE for seed in sorted(results[name])}
    read = {f"seed {seed}": read_frames(path) for seed, path in paths.items() if path.exists()}
    if not read:
        return None
    steps, _ = next(iter(read.values()))
    return BarHistory(
        title="Watch the vector learn the opener",
        caption="The last layer's vector through its reinforcement learning: its dot product with the unembedding row "
        "of each token, including the gain of the final norm. The vector starts at 0.",
        names=study.task.vocabulary,
        marked=("THINK", "DIRECT"),
        unit="dot product with the unembedding row",
        steps=steps,
        scenes={
            title: [[round(x, 3) for x in frame.tolist()] for frame in frames]
            for title, (own_steps, frames) in read.items()
            if own_steps == steps
        },
    )
