"""Every task, every loss and every probe give the numbers of the CPU on the pretend accelerator."""

import inspect
from dataclasses import is_dataclass
from functools import lru_cache
from pathlib import Path

import pytest
import torch

from tests.accelerator import DEVICE, Accelerator
from tests.device_probes import ON_NUMBERS, PROBES
from tests.device_scene import LOSSES, Models, Scene
from tests.device_table import table, triples
from tests.places import agree, placed
from toylab import probes
from toylab.tasks import TASKS
from toylab.training import losses

PARTS_OF_LOSSES = {
    "PreferencePairs",
    "Rollouts",
    "answer_log_probs",
    "entropy",
    "kl_divergence",
    "leave_one_out",
    "pair_log_probs",
    "up_to_end",
}
"""Of `toylab.training.losses`, what is no loss by itself; losses call each."""


@lru_cache(maxsize=2)
def models_of(task: type, device: torch.device) -> Models:
    return Models(task(), lambda x: placed(x, device))


@pytest.mark.parametrize(
    ("task", "loss", "shown"),
    [
        pytest.param(task, loss, shown, id=f"{task.__name__}-{loss}", marks=[] if shown else pytest.mark.slow)
        for task, loss, shown in triples()
    ],
)
def test_a_model_its_loss_and_probes_are_the_same_on_an_accelerator(task, loss, shown):
    models = models_of(task, torch.device("cpu"))
    here = Scene(models, loss)
    expected = {name: PROBES[name](here) for name in shown}
    with Accelerator():
        far = models_of(task, DEVICE)
        agree([far.logits, far.patterns], [models.logits, models.patterns], "model")
        there = Scene(far, loss)
        agree([there.loss, there.gradient], [here.loss, here.gradient], loss)
        for name in shown:
            agree(PROBES[name](there), expected[name], name)


def test_every_probe_and_every_loss_is_tried_and_the_page_shows_the_table():
    rest = {name for name in probes.__all__ if name not in PROBES and name not in ON_NUMBERS}
    assert all(is_dataclass(getattr(probes, name)) for name in rest)
    assert not ON_NUMBERS - set(probes.__all__)
    public = {
        name
        for name, value in vars(losses).items()
        if not name.startswith("_") and inspect.getmodule(value) is losses and callable(value)
    }
    assert public == PARTS_OF_LOSSES | {name for name in LOSSES if not name.startswith("next_token")}
    assert {task for task, _, _ in triples()} == set(TASKS)
    page = (Path(__file__).parents[1] / "docs" / "costs.md").read_text(encoding="utf-8")
    assert table() in page, "python -m tests.device_table prints it"
    *pairs, _ = [row.split("|")[2:4] for row in table().splitlines()[2:]]
    assert all(int(there) == int(tried) for there, tried in pairs)
