"""Stored models with their tasks, and properties by name."""

from dataclasses import replace

import pytest
import torch

from toylab.console import ToylabError
from toylab.model.checkpoint import save_model
from toylab.model.config import ModelConfig
from toylab.model.transformer import Transformer
from toylab.planted.handwritten import iteration_head
from toylab.proofs.properties import Answers, Attends, Edited, IdealPattern
from toylab.proofs.stored import named_property, stored_model
from toylab.runs.store import claim_folder
from toylab.studies.iteration_head.study import IterationHeadStudy
from toylab.tasks import Polynomial

TASK = Polynomial(p=5, lengths=(4, 6))


def run_with(folder, *jobs):
    """A run of the iteration-head study with untrained models in the folders of these jobs; returns its settings."""
    study = replace(IterationHeadStudy.quick(), task=Polynomial(p=5, lengths=(1, 6)), seeds=(0, 3))
    claim_folder(study, "iteration-head", folder)
    conditions = {(job.name, job.seed): job.what for job in study.jobs()}
    for name, seed in jobs:
        condition = conditions[name, seed]
        model = Transformer.for_task(condition.task, replace(condition.model, width=16), seed)
        (folder / f"seed-{seed}" / name).mkdir(parents=True)
        save_model(folder / f"seed-{seed}" / name / "model.safetensors", model)
    return conditions


def test_the_folder_of_a_job_holds_its_model_and_names_its_task(tmp_path):
    jobs = [("main", 0), ("fresh", 3), ("parity", 0), ("no-chain", 3)]
    conditions = run_with(tmp_path, *jobs)
    for name, seed in jobs:
        model, task = stored_model(tmp_path / f"seed-{seed}" / name)
        assert task == conditions[name, seed].task
        assert model.vocab == len(task.vocabulary)
    assert conditions["fresh", 3].task != conditions["main", 3].task


def test_a_model_file_needs_a_task_and_the_folder_of_a_run_names_its_jobs(tmp_path):
    run_with(tmp_path / "run", ("main", 0))
    model = Transformer.for_task(TASK, ModelConfig(width=8))
    save_model(tmp_path / "model.safetensors", model)
    loaded, task = stored_model(tmp_path / "model.safetensors", TASK)
    assert task is TASK
    assert torch.equal(loaded.embedding.weight, model.embedding.weight)
    for path, why in (
        (tmp_path / "model.safetensors", "give one with --task"),
        (tmp_path / "run", "holds the jobs .*seed-0/main"),
        (tmp_path / "nothing", "give the folder of a job"),
    ):
        with pytest.raises(ToylabError, match=why):
            stored_model(path)


def test_properties_by_name_are_of_the_planted_head():
    model = iteration_head(TASK)
    assert named_property("answers", model, TASK) == Answers()
    assert named_property("free-running", model, TASK) == Answers(free_running=True)
    assert named_property("attention:carry", model, TASK) == Attends(link="carry", layer=1, head=0)
    assert named_property("attention:end of input", model, TASK).layer == 0
    ideal = IdealPattern(link="carry", layer=1, head=0)
    assert named_property("ideal-pattern:carry", model, TASK) == Edited(edits=ideal)
    for name, why in (
        ("answer", "answers, free-running"),
        ("attention:cary", "end of input, carry, stop"),
        ("x:y", "is unknown"),
    ):
        with pytest.raises(ToylabError, match=why):
            named_property(name, model, TASK)
