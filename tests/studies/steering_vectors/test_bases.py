"""Laws of the bases: which model is pre-trained on what, and when each number of it is taken."""

from copy import deepcopy
from dataclasses import replace
from typing import Any

import pytest
import torch

from tests.studies.steering_vectors.helpers import DIRECT, FLAGGED, TASK, THINK
from tests.studies.steering_vectors.trainings import SEED, STUDY, answers_in, begun, left, plant, trainings
from tests.studies.steering_vectors.worlds import alike, questions, witness, witnessed
from toylab.model.checkpoint import save_model
from toylab.model.steering import pre_flight
from toylab.runs.store import read_metrics
from toylab.studies.steering_vectors import bases
from toylab.studies.steering_vectors.data import READOUT_SEED, reasoning_batches, reasoning_model
from toylab.studies.steering_vectors.results import BaseResult
from toylab.studies.steering_vectors.settings import SEPARABLE_SEED
from toylab.tasks import Styles


@pytest.mark.parametrize("which", ["", "learned", "apart", "flag"])
def test_a_base_is_measured_after_each_of_its_two_phases(tmp_path, monkeypatch, which):
    job, folder = begun(tmp_path)
    batches: list[tuple] = []
    monkeypatch.setattr(bases, "reasoning_batches", lambda *told: batches.append(told) or reasoning_batches(*told))
    with trainings() as asked, witnessed():
        found = bases.pretrain_base(STUDY, job, folder, which)
    task = FLAGGED if which == "flag" else TASK
    config = replace(STUDY.model, unembedding="learned") if which == "learned" else STUDY.model
    model = reasoning_model(task, config, SEED, readout=SEPARABLE_SEED + SEED if which == "apart" else READOUT_SEED)
    plant(model, 0)
    skilled = deepcopy(model)
    plant(model, 1)
    every = questions(SEED, STUDY.rows, task)
    half, flag = every[:70], {"flag": which == "flag"}
    expected = BaseResult(
        chain=witness(skilled, task, half, 0, SEED, "THINK").accuracy,
        answers=answers_in(model, every, **flag),
        prefix=answers_in(model, every, "THINK", **flag),
        direct=answers_in(model, half, "DIRECT", (1,), **flag),
        pre_flight=pre_flight(model, every, THINK, DIRECT),
        prefix_direct=answers_in(model, every, "DIRECT", (0, 1), **flag) if which == "flag" else None,
    )
    assert alike(found, expected)
    skill, mixture = asked
    phase = replace(STUDY.skill, weight_decay=STUDY.skill.weight_decay / 10) if which == "learned" else STUDY.skill
    assert [skill.config, mixture.config] == [phase, STUDY.mixture]
    clean = Styles.clean(1.0 if which == "learned" else 0.9, 0.5 if which == "flag" else None)
    mixed = replace(STUDY.styles, think=0.5) if which == "flag" else STUDY.styles
    name = f"{which} " if which else ""
    told = [(task, SEED, phase.rows, clean, f"{name}skill"), (task, SEED, STUDY.mixture.rows, mixed, f"{name}mixture")]
    assert batches == told
    assert skill.checkpoint != mixture.checkpoint
    assert {skill.checkpoint.parent, mixture.checkpoint.parent} == {folder}
    assert [read_metrics(folder / f"metrics{end}.jsonl") for end in ("-skill", "")] == [[{"step": 0}], [{"step": 1}]]
    files: list[tuple[str, Any]] = [("model.safetensors", model), *([] if which else [("skill.safetensors", skilled)])]
    for file, one in files:
        assert torch.equal(left(folder, file).blocks[0].mlp.up.weight, one.blocks[0].mlp.up.weight)
    assert (folder / "skill.safetensors").exists() == (not which)
    with witnessed():
        watched = skill.evaluate(model)
    asked_for = questions(SEED, 200, task, "validation")
    chains = asked_for[[row[-1] == task.token("SEP") for row in asked_for.tolist()]]
    assert watched == {"accuracy": witness(model, task, chains, 0, 0, "THINK").accuracy}
    assert mixture.evaluate is None


@pytest.mark.parametrize("unembedding", ["orthogonal", "learned"])
def test_a_base_that_is_loaded_trains_what_it_trained_when_it_was_made(tmp_path, unembedding):
    made = reasoning_model(TASK, replace(STUDY.model, unembedding=unembedding), SEED)
    save_model(tmp_path / "base", made)
    trained, again = (
        {name for name, p in m.named_parameters() if p.requires_grad}
        for m in (made, bases.load_base(tmp_path / "base"))
    )
    assert again == trained
    assert ("ln_final.weight" in again) == (unembedding == "learned")


def test_half_of_the_prompts_are_few_but_no_less_than_64():
    for rows, few in ((500, 250), (140, 70), (128, 64), (100, 64)):
        study = replace(STUDY, rows=rows)
        prompts = bases.evaluation_prompts(study, SEED)
        assert prompts.tolist() == questions(SEED, rows).tolist()
        assert bases.first_half(study, prompts).tolist() == prompts[:few].tolist()
    assert bases.evaluation_prompts(STUDY, 3, FLAGGED).tolist() == questions(3, 140, FLAGGED).tolist()
