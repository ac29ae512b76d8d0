"""The logit lens of a steering vector at every step of its training, for the page."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from toylab.model.steering import Steered, folded_unembedding
from toylab.report.bars import BarHistory
from toylab.runs.study import Job
from toylab.studies.steering_vectors.settings import Settings
from toylab.training.tensor_history import TensorHistory, read_tensor_history
from toylab.verdicts.claim import Conditions

LENS_FILE = "lens.safetensors"


def lens_history(folder: Path) -> TensorHistory:
    """The history, in the folder of a job, of the dot product of a vector with each token's unembedding row."""

    def lens(steered: Steered) -> dict[str, Tensor]:
        (addition,) = steered.additions.values()
        return {"lens": folded_unembedding(steered.model) @ addition.get_parameter("vector")}

    return TensorHistory(folder / LENS_FILE, lens)


def lens_page(study: Settings, results: Conditions, out: Path) -> BarHistory | None:
    """The history of the last layer's vector of each seed with the steps of the first; None if there is none."""
    name = study.vectors[-1]
    paths = {seed: Job(name, seed).folder(out) / LENS_FILE for seed in sorted(results[name])}
    read = {f"seed {seed}": read_tensor_history(path) for seed, path in paths.items() if path.exists()}
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
            title: [[round(x, 3) for x in frame] for frame in tensors["lens"].tolist()]
            for title, (own_steps, tensors) in read.items()
            if own_steps == steps
        },
    )
