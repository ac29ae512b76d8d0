"""Laws of the jobs of the safety study, on models that lie in their folders already: which model, base or fine-tuned,
each measure is of, on which prompts, and what each training is given."""

import math
from copy import deepcopy
from dataclasses import replace

import pytest
import torch

from tests.studies.safety_finetuning.planted import held_out
from toylab.model.checkpoint import load_model, save_model
from toylab.model.config import ModelConfig
from toylab.model.controls import with_random_change
from toylab.runs.store import write_metrics
from toylab.studies.safety_finetuning import measures as safety
from toylab.studies.safety_finetuning import study as module
from toylab.studies.safety_finetuning.data import concept_model, fine_tuning_batches, preference_pairs
from toylab.studies.safety_finetuning.results import Nearness, NearSafe, as_field
from toylab.studies.safety_finetuning.study import SafetyFinetuningStudy
from toylab.training.loop import Training
from toylab.training.losses import RefusalLoss, Unlearning, answer_log_probs

SEED, ROWS = 3, 100
STUDY = SafetyFinetuningStudy(
    model=ModelConfig(layers=1, heads=1, width=6, hidden=8, positions="learned"),
    unlearning=Unlearning(weight=0.5, cap=1.0),
    parts=("standard", "decay"),
    attack_steps=2,
    relearning_steps=30,
    seeds=(SEED,),
    rows=ROWS,
)
TASK = STUDY.task
JOBS = {job.name: job for job in STUDY.jobs()}


@pytest.fixture(scope="module")
def models():
    """A base, and a fine-tuned model that differs in everything; both drawn at random, with large logits."""
    found = [concept_model(TASK, STUDY.model, seed) for seed in (0, 1)]
    for k, model in enumerate(found):
        scale(model, 2 + k)
    return found


@pytest.fixture(scope="module")
def sets():
    return safety.held_out_sets(TASK, SEED, ROWS)


def scale(model, factor: float) -> None:
    with torch.no_grad():
        for weight in model.parameters():
            weight *= factor


def same(one, other) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


@pytest.fixture
def trainings(monkeypatch):
    """What each training was given; in the place of training, all weights grow by a half."""
    given = []

    def grow(model, loss, batch_at, config, **options):
        given.append((deepcopy(model), loss, batch_at, config, options))
        scale(model, 1.5)
        return Training()

    monkeypatch.setattr(module, "train", grow)
    return given


def measured(name: str, models, folder, rows: int = 32):
    """The result of a job whose models lie there already."""
    job, base, tuned = JOBS[name], *models
    for path, model in ((job.folder(folder), tuned), *((made.folder(folder), base) for made in job.needs)):
        path.mkdir(parents=True)
        save_model(path / "model.safetensors", model)
        write_metrics(path / "metrics.jsonl", Training())
    return replace(STUDY, rows=rows).run_job(job, job.folder(folder))


# Measurements --------------------------------------------------------------------------------------------------------


def test_what_is_measured_of_a_fine_tuned_model_is_of_that_model_and_its_change_from_the_base(
    models, sets, trainings, monkeypatch, tmp_path
):
    monkeypatch.setattr(module, "ALPHAS", (0.5, 2.0))
    monkeypatch.setattr(module, "BUDGETS", (0.5, 3.0))
    base, tuned = models

    def nearness(model, task, sets, writer=None):  # drawn at random, models comply with nothing: it would be empty
        read, wrote = (one.embedding.weight[0, 0].item() for one in (model, writer or model))
        of = NearSafe(complied=read, refused=float(sets["unsafe"].tokens.sum()), auc=wrote)
        return Nearness(competing_text=of)

    monkeypatch.setattr(safety, "jailbreak_nearness", nearness)
    found = measured("dpo", models, tmp_path, ROWS)
    assert found.behaviour == safety.measure_behaviour(tuned, TASK, sets) != safety.measure_behaviour(base, TASK, sets)
    assert found.weights == safety.weight_change(base, tuned, TASK, sets)
    assert found.nearness == nearness(tuned, TASK, sets) != nearness(base, TASK, sets)
    assert found.nearness_before == nearness(base, TASK, sets, tuned) != nearness(base, TASK, sets)
    assert found.random == safety.weight_change(base, with_random_change(base, tuned, SEED), TASK, sets)
    assert found.clusters == safety.layer_clusters(tuned, TASK, sets)
    for name in ("safe", "unsafe"):
        assert getattr(found.sensitivity, name) == safety.measure_sensitivity(tuned, TASK, sets[name].rows(0, 96))

    few = {name: sets[name].rows(0, 96) for name in ("safe", "unsafe", "competing-text", "mismatched-text")}
    assert tuple(found.alpha) == (0.5, 2.0)
    for alpha in found.alpha:
        mixed = safety.interpolate_weights(base, tuned, alpha)
        assert found.alpha[alpha] == safety.measure_behaviour(mixed, TASK, few)
    beyond = with_random_change(tuned, safety.interpolate_weights(base, tuned, 1.25), SEED)
    assert found.alpha_random == safety.measure_behaviour(beyond, TASK, few)

    assert found.released_sine == safety.released_sine(base, tuned, SEED)
    for name in ("up in the column space", "up in the null space"):
        apart = safety.layer_clusters(safety.transplant_parts(base, tuned)[name], TASK, sets)[-1].separation
        assert getattr(found.part_separations, as_field(name)) == apart

    both = {name: few[name] for name in ("safe", "unsafe")}
    for name, part in [*safety.transplant_parts(base, tuned).items()][::2]:
        assert getattr(found.parts, as_field(name)) == safety.measure_behaviour(part, TASK, both)
    m, unsafe = (sets[name].rows(0, 32) for name in ("M, unsafe text", "unsafe"))
    for attacked, batch in (
        (found.soft.m_unsafe_text, m),
        (found.soft.unsafe, unsafe),
        (found.soft.m_other_answers, safety.with_other_answers(m)),
    ):
        assert tuple(attacked) == (0.5, 3.0)
        for budget in attacked:
            expected = safety.soft_attack(tuned, TASK, batch, budget, STUDY.attack_steps)
            assert attacked[budget] == expected.complies

    ((start, _, _, _, _),) = trainings
    assert same(start, tuned)
    scale(start, 1.5)
    assert found.relearned == safety.measure_behaviour(start, TASK, both | {"mismatched-text": few["mismatched-text"]})


@pytest.mark.parametrize(
    ("name", "given"),
    [
        ("base", {"clusters", "sensitivity", "pretraining", "exact"}),
        ("base-decay", set()),
        ("control", {"weights", "random", "clusters", "sensitivity", "nearness", "nearness_before", "released_sine"}),
        ("control-decay", {"weights", "random"}),
    ],
)
def test_what_is_not_asked_about_is_left_out(models, trainings, tmp_path, name, given):
    found = measured(name, models, tmp_path)
    assert {name for name, one in vars(found).items() if one is not None} == given | {"behaviour"}
    assert not trainings


def test_pretraining_goes_from_the_initial_weights_to_the_base(models, tmp_path):
    job, base = JOBS["base"], models[1]
    job.folder(tmp_path).mkdir(parents=True)
    save_model(job.folder(tmp_path) / "model.safetensors", base)
    write_metrics(job.folder(tmp_path) / "metrics.jsonl", Training())
    found = replace(STUDY, rows=32).run_job(job, job.folder(tmp_path)).pretraining
    assert found == safety.sizes(concept_model(TASK, STUDY.model, SEED), base)
    assert found != safety.sizes(base, concept_model(TASK, STUDY.model, SEED))


@pytest.mark.parametrize("method", ["ssft", "dpo", "dpo-standard"])
def test_before_is_the_cosine_at_the_base_and_after_the_one_at_the_fine_tuned_model(
    models, trainings, monkeypatch, tmp_path, method
):
    for other in ("_with_attacks", "_with_activations"):
        monkeypatch.setattr(SafetyFinetuningStudy, other, lambda self, result, *_: result)
    for other in ("weight_change", "jailbreak_nearness"):
        monkeypatch.setattr(safety, other, lambda *_, **__: None)
    base, tuned = models
    found = measured(method, models, tmp_path).cosine
    batch = preference_pairs(TASK, held_out(TASK, SEED, 128, "unsafe", "validation"))
    answers = batch.chosen, batch.rejected
    before = [answer_log_probs(base, batch.prompts, answer).detach() for answer in answers]

    def unlearning(chosen, rejected):  # whose cap, of one nat, does not count here
        return -chosen.mean() + 0.5 * rejected.mean()

    def other(*log_probs):
        if method == "ssft":
            return -log_probs[0].mean()
        chosen, rejected = (now - then for now, then in zip(log_probs, before, strict=True))
        if method == "dpo":
            return torch.log(1 + torch.exp(0.01 * rejected.mean(dim=1) - 0.1 * chosen.mean(dim=1))).mean()
        odds = torch.exp(0.1 * (rejected - chosen).sum(dim=1))
        return torch.log(1 + odds).mean() - log_probs[0].mean()

    def cosine(model) -> float:
        gradients = []
        for loss in (unlearning, other):
            log_probs = [answer_log_probs(model, batch.prompts, answer) for answer in answers]
            parts = torch.autograd.grad(loss(*log_probs), [*model.parameters()])
            gradients.append(torch.cat([part.flatten() for part in parts]).double().numpy())
        a, b = gradients
        return a @ b / math.sqrt((a @ a) * (b @ b))

    assert (found.before, found.after) == pytest.approx((cosine(base), cosine(tuned)), abs=1e-5)
    assert abs(found.after - found.before) > 5e-4


# Trainings -----------------------------------------------------------------------------------------------------------


def share_to_refuse(batch_at) -> float:
    return sum(bool(batch_at(step).unsafe[0]) for step in range(256)) / 256


def test_relearning_goes_on_from_a_copy_on_safe_prompts_that_no_fine_tuning_saw(models, trainings):
    _, tuned = models
    before = deepcopy(tuned)
    STUDY._relearn(tuned, SEED)
    ((start, loss, batch_at, config, _),) = trainings
    assert same(tuned, before)
    assert same(start, before)
    assert loss == RefusalLoss()
    assert share_to_refuse(batch_at) == 0
    assert config == replace(STUDY.finetune, steps=30, warmup=3)
    assert len(batch_at(0)) == STUDY.finetune.rows
    seen = fine_tuning_batches(TASK, SEED, STUDY.finetune.rows, 0.0)(0).prompts.tolist()
    assert batch_at(0).prompts.tolist() != seen


@pytest.mark.parametrize(
    ("method", "share"), [("control", 0), ("ssft", 0.2), ("unlearning", 0.5), ("dpo", 0.5), ("dpo-standard", 0.5)]
)
def test_fine_tuning_starts_from_a_copy_of_the_base_and_refuses_in_the_share_of_its_method(
    models, trainings, tmp_path, method, share
):
    base, condition = deepcopy(models[0]), STUDY.conditions()[method]
    tuned = STUDY.fine_tune(condition, base, SEED, tmp_path)
    ((start, loss, batch_at, config, _),) = trainings
    assert same(base, models[0])
    assert same(start, base)
    assert not same(tuned, base)
    assert config == condition.train
    assert share_to_refuse(batch_at) == pytest.approx(share, abs=0.1 if share else 0)
    assert "dpo" not in method or same(loss.reference, base)
    assert same(load_model(tmp_path / "model.safetensors"), tuned)


def test_an_arm_of_low_rank_trains_nothing_but_the_matrices_of_the_mlps(models, trainings, tmp_path):
    base, condition = models[0], replace(STUDY.conditions()["ssft"], rank=1)
    tuned = STUDY.fine_tune(condition, base, SEED, tmp_path)
    ((start, *_),) = trainings
    free = {name for name, weight in start.named_parameters() if weight.requires_grad}
    assert free
    assert all(".mlp." in name and "parametrizations.weight" in name for name in free)
    assert [name for name, _ in tuned.named_parameters()] == [name for name, _ in base.named_parameters()]
