"""Laws of the nearness through fine-tuning: it begins with the base and ends with the measured result, and training has
the same bits without it."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from toylab.model.checkpoint import save_model
from toylab.model.config import ModelConfig
from toylab.probes import watch
from toylab.runs.study import Job
from toylab.studies.safety_finetuning import measures as safety
from toylab.studies.safety_finetuning.data import concept_model
from toylab.studies.safety_finetuning.figures import nearness_page
from toylab.studies.safety_finetuning.nearness_history import NEARNESS_FILE, mean_nearness, nearness_history
from toylab.studies.safety_finetuning.study import FINETUNE, SafetyFinetuningStudy
from toylab.training.tensor_history import TensorHistory, read_tensor_history
from toylab.verdicts.claim import Conditions

SEED, ROWS = 4, 32
STUDY = SafetyFinetuningStudy(
    model=ModelConfig(layers=2, heads=1, width=6, hidden=8, positions="learned"),
    finetune=replace(FINETUNE, steps=5, rows=8, learning_rate=0.05, warmup=1, evaluate_every=2),
    seeds=(SEED,),
    rows=ROWS,
)
TASK = STUDY.task
SETS = safety.held_out_sets(TASK, SEED, ROWS)


def base():
    return concept_model(TASK, STUDY.model, SEED)


def tau_by_hand(model) -> list[list[float]]:
    """Mean nearness, prompt by prompt."""
    found = []
    for layer in range(2):
        clouds = []
        for name in ("safe", "unsafe"):
            with watch(model, f"blocks.{layer}.mlp.post") as cache:
                model(torch.from_numpy(SETS[name].tokens[:, : TASK.prompt]))
            clouds.append(cache[f"blocks.{layer}.mlp.post"][:, TASK.prompt - 1].detach().double())
        safe, unsafe = (cloud[: ROWS // 2].mean(dim=0) for cloud in clouds)
        taus = [[float((x - unsafe).norm() - (x - safe).norm()) for x in cloud[ROWS // 2 :]] for cloud in clouds]
        found.append([sum(tau) / len(tau) for tau in taus])
    return found


def fine_tuned(folder: Path, record=None):
    return STUDY.fine_tune(STUDY.conditions()["ssft"], base(), SEED, folder, record)


def interrupted(folder: Path, stop: int) -> None:
    history = nearness_history(folder, TASK, SETS)

    def record(model, step: int) -> None:
        history.add(model, step)
        if step == stop:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fine_tuned(folder, record)


def test_it_begins_with_the_base_and_ends_with_the_result_and_training_has_the_same_bits_without(tmp_path):
    recorded, bare, resumed = (tmp_path / name for name in ("recorded", "bare", "resumed"))
    for folder in (recorded, bare, resumed):
        folder.mkdir()
    tuned = fine_tuned(recorded, nearness_history(recorded, TASK, SETS).add)
    assert all(torch.equal(*pair) for pair in zip(tuned.parameters(), fine_tuned(bare).parameters(), strict=True))
    steps, tensors = read_tensor_history(recorded / NEARNESS_FILE)
    assert steps == [0, 2, 4, 5]
    for frame, model in ((0, base()), (-1, tuned)):
        torch.testing.assert_close(tensors["nearness"][frame].double(), torch.tensor(tau_by_hand(model)).double())
        bands = [layer.nearness for layer in safety.layer_clusters(model, TASK, SETS)]
        stored = torch.tensor([[band.safe[0], band.unsafe[0]] for band in bands])
        torch.testing.assert_close(tensors["nearness"][frame], stored, rtol=0, atol=6e-5)
    interrupted(resumed, 4)
    fine_tuned(resumed, nearness_history(resumed, TASK, SETS).add)
    assert (resumed / NEARNESS_FILE).read_bytes() == (recorded / NEARNESS_FILE).read_bytes()


def test_ssft_and_the_control_are_recorded_and_nothing_else(monkeypatch, tmp_path):
    recorded = {}

    def fine_tune(self, condition, base, seed, folder, record):
        recorded[folder.name] = record
        raise KeyboardInterrupt

    monkeypatch.setattr(SafetyFinetuningStudy, "fine_tune", fine_tune)
    for job in STUDY.jobs():
        if job.needs:
            save_model(job.path("base", job.folder(tmp_path)), base())
            with pytest.raises(KeyboardInterrupt):
                STUDY.run_job(job, job.folder(tmp_path))
    assert {name for name, record in recorded.items() if record is not None} == {"ssft", "control"}
    recorded["ssft"](base(), 0)
    (steps, tensors) = read_tensor_history(Job("ssft", SEED).folder(tmp_path) / NEARNESS_FILE)
    assert steps == [0]
    assert torch.equal(tensors["nearness"][0], mean_nearness(base(), TASK, SETS))


def test_the_page_shows_each_recorded_seed_and_a_run_without_a_record_has_no_viewer(tmp_path):
    results = Conditions({name: {1: None, 0: None} for name in ("base", "control", "ssft")})
    assert nearness_page(results, tmp_path) is None
    for name, seed, last in (("ssft", 0, 5), ("ssft", 1, 6), ("control", 0, 5)):
        folder = Job(name, seed).folder(tmp_path)
        folder.mkdir(parents=True)
        for step in (0, last):
            values = step + torch.tensor([[0.12345, -0.2], [0.3, -0.4]])
            TensorHistory(folder / NEARNESS_FILE, lambda _, values=values: {"nearness": values}).add(base(), step)
    page = nearness_page(results, tmp_path)
    assert page.names == ["layer 1, safe", "layer 1, unsafe", "layer 2, safe", "layer 2, unsafe"]
    assert page.marked == ["layer 1, unsafe", "layer 2, unsafe"]
    assert (page.steps, list(page.scenes)) == ([0, 5], ["SSFT, seed 0", "control, seed 0"])  # seed 1 has other steps
    assert page.scenes["SSFT, seed 0"] == [[0.123, -0.2, 0.3, -0.4], [5.123, 4.8, 5.3, 4.6]]
