"""Stored models of jobs with their tasks."""

from dataclasses import replace

from toylab.model.checkpoint import load_model, save_model
from toylab.model.transformer import Transformer
from toylab.runs.store import claim_folder
from toylab.runs.task_training import stored_models
from toylab.studies.iteration_head.study import IterationHeadStudy
from toylab.tasks import Polynomial


def run_with(folder, *jobs):
    """A run of the iteration-head study with untrained models in the folders of these jobs; returns its settings."""
    study = replace(IterationHeadStudy.quick(), task=Polynomial(p=5, lengths=(1, 6)), seeds=(0, 3))
    claim_folder(study, "iteration-head", folder)
    conditions = {(job.name, job.seed): job.what for job in study.jobs()}
    for name, seed in jobs:
        condition = conditions[name, seed]
        model = Transformer.for_task(condition.task, replace(condition.model, width=24), seed)
        (folder / f"seed-{seed}" / name).mkdir(parents=True)
        save_model(folder / f"seed-{seed}" / name / "model.safetensors", model)
    return conditions


def test_the_folder_of_a_job_holds_its_model_and_names_its_task(tmp_path):
    jobs = [("main", 0), ("fresh", 3), ("parity", 0), ("no-chain", 3)]
    conditions = run_with(tmp_path, *jobs)
    for name, seed in jobs:
        (stored,) = stored_models(tmp_path / f"seed-{seed}" / name)
        assert stored.task == conditions[name, seed].task
        assert load_model(stored.path).vocab == len(stored.task.vocabulary)
    assert conditions["fresh", 3].task != conditions["main", 3].task
