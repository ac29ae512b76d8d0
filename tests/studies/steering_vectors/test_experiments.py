"""Laws of the jobs that train: which model, vector, prompts and settings each number comes from."""

import math
from copy import deepcopy
from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from tests.model.small_steerings import numbers
from tests.studies.steering_vectors.helpers import DIRECT, FLAGGED, TASK, THINK
from tests.studies.steering_vectors.trainings import (
    LAST,
    SEED,
    STUDY,
    answers_in,
    base,
    begun,
    few,
    left,
    length,
    plant,
    planted,
    prompts_of,
    reinforced,
    right,
    trained_on,
    trainings,
)
from tests.studies.steering_vectors.worlds import LAYERS, SEP, WIDTH, alike, drawn, questions, streams, witnessed
from toylab.model.layers import torch_stream
from toylab.model.steering import Scaled, Steered, load_steering, pre_flight, rms_normed, steer
from toylab.studies.steering_vectors import bases, experiments, measures
from toylab.studies.steering_vectors.data import READOUT_SEED, readout_rows, weight_distance
from toylab.studies.steering_vectors.results import (
    AdaptiveResult,
    FlagResult,
    FullResult,
    JointResult,
    SteeredPair,
    VectorResult,
)
from toylab.studies.steering_vectors.separability import SeparabilityResult


@pytest.mark.parametrize(("layer", "examine"), [(0, False), (1, True), (LAST, True)])
def test_a_vector_is_measured_on_all_prompts_and_examined_on_half_of_them(tmp_path, layer, examine):
    model, every = base(), prompts_of()
    job, folder = begun(tmp_path, base=model)
    with trainings() as asked, witnessed():
        found = experiments.train_vector(STUDY, job, folder, layer, examine=examine)
        vector, steered = planted(0), trained_on(model, 0, layer)
        change = measures.residual_changes(steered, TASK, every, SEED)[LAST]
        blind = measures.random_vector(vector, layer, SEED)
        expected = VectorResult(
            answers=answers_in(steered, every),
            norm=length(vector),
            kl=measures.kl_by_position(steered, TASK, every, SEED),
            lens=measures.logit_lens(vector, model, TASK),
            difference_lens=measures.logit_lens(change.mean(dim=0), model, TASK),
            random_lens=measures.logit_lens(blind, model, TASK),
            random_kl=measures.kl_by_position(steer(model, {layer: blind}), TASK, every, SEED),
            random_accuracy=right(steer(model, {layer: blind}), every),
        )
        if examine:
            places = measures.accuracy_by_place(steered, TASK, few(), SEED)
            expected = replace(
                expected, places=places, few=SteeredPair(base=right(model, few()), steered=right(steered, few()))
            )
        if examine and layer == LAST:
            scaled = {x: right(steer(model, {LAST: x * vector}), few()) for x in (0.5, 0.75, 1.25, 1.5, 2)}
            clean = right(measures.with_clean_scale(steered), every)
            expected = replace(expected, clean_scale=clean, scaled=scaled)
    assert alike(found, expected)
    (one,) = asked
    assert reinforced(one, folder) == {}
    assert torch.equal(load_steering(folder / "vector.safetensors", model).additions[str(layer)].vector, vector)
    assert one.loss.reference is None
    assert torch.equal(one.batch_at.reference.embedding.weight, model.embedding.weight)


def test_at_most_500_prompts_are_read_for_the_mean_change(tmp_path, monkeypatch):
    study, model, read = replace(STUDY, rows=520), base(), []
    job, folder = begun(tmp_path, base=model)
    change = {LAST: numbers(5, 4, WIDTH).float(), LAST - 1: numbers(6, 4, WIDTH).float()}
    monkeypatch.setattr(measures, "residual_changes", lambda *told: read.append(told) or change)
    monkeypatch.setattr(measures, "kl_by_position", lambda *told: [])
    with trainings(), witnessed():
        found = experiments.train_vector(study, job, folder, LAST - 1)
    ((_, task, prompts, seed),) = read
    assert (task, prompts.tolist(), seed) == (TASK, prompts_of(study)[:500].tolist(), SEED)
    assert alike(found.difference_lens, measures.logit_lens(sum(change[LAST]) / 4, model, TASK))


def test_a_base_that_no_vector_can_move_is_refused_unless_asked_for(tmp_path):
    study, (job, folder) = replace(STUDY, rows=64), begun(tmp_path, base=base())
    bound = pre_flight(base(), prompts_of(study), THINK, DIRECT).bound
    with trainings() as asked, witnessed():
        with pytest.raises(ValueError, match="bound="):
            experiments.train_vector(replace(study, least_shift=1.01 * bound), job, folder, LAST)
        assert not asked
        experiments.train_vector(replace(study, least_shift=1.01 * bound), job, folder, LAST, refuse=False)
        experiments.train_vector(replace(study, least_shift=0.99 * bound), job, folder, LAST)


def test_full_training_is_of_all_but_the_readout(tmp_path):
    model, moved = base(), base()
    job, folder = begun(tmp_path, base=model)
    with trainings() as asked, witnessed():
        found = experiments.train_full(STUDY, job, folder)
    moved.ln_final.requires_grad_(False)
    plant(moved, 0)
    assert alike(found, FullResult(answers=answers_in(moved, prompts_of())))
    config = replace(STUDY.rl, learning_rate=STUDY.full_rate, clip=1.0)
    assert reinforced(asked[0], folder) == {"config": config}
    for one, other in ((asked[0].batch_at.reference, model), (left(folder), moved)):
        assert all(torch.equal(x, y) for x, y in zip(one.parameters(), other.parameters(), strict=True))


def test_joint_vectors_are_of_all_layers_beside_random_ones_of_the_same_norms(tmp_path):
    model = base()
    job, folder = begun(tmp_path, base=model)
    with trainings() as asked, witnessed():
        found = experiments.train_joint(STUDY, job, folder)
    held = load_steering(folder / "vectors.safetensors", model)
    assert list(held.additions) == [str(layer) for layer in range(LAYERS)]
    norms = [length(one.vector.detach()) for one in held.additions.values()]
    drew = [torch.randn(WIDTH, generator=torch_stream(SEED, f"random vector {k}")) for k in range(LAYERS)]
    blind = {k: norm * one / length(one) for k, (one, norm) in enumerate(zip(drew, norms, strict=True))}
    at_random = right(steer(model, blind), prompts_of())
    assert alike(found, JointResult(answers=answers_in(held, prompts_of()), norms=norms, random_accuracy=at_random))
    assert len(set(norms)) == LAYERS
    assert reinforced(asked[0], folder) == {}


def test_a_token_wise_scale_is_compared_with_a_constant_vector_and_at_sep_alone(tmp_path):
    model = base()
    job, folder = begun(tmp_path, base=model)
    with trainings() as asked, witnessed():
        found = experiments.train_adaptive(STUDY, job, folder)
        steered = Steered(model, {LAST - 1: Scaled(WIDTH, generator=torch_stream(SEED, "adaptive"))})
        steered.model.requires_grad_(False)
        plant(steered, 0)
        blind = deepcopy(steered)
        drew = torch.randn(WIDTH, generator=torch_stream(SEED, "random gate"))
        gate = blind.additions[str(LAST - 1)]
        gate.weight.data = length(gate.weight.detach()) * drew / length(drew)
        expected = AdaptiveResult(
            answers=answers_in(steered, prompts_of()),
            constant=answers_in(trained_on(model, 1, LAST - 1), prompts_of()),
            scales=measures.token_scales(steered, TASK, prompts_of(), SEED),
            random_scales=measures.token_scales(blind, TASK, prompts_of(), SEED),
            sep_alone=right(steered.only((SEP,)), few()),
            all_but_sep=right(steered.only([p for p in range(TASK.context) if p != SEP]), few()),
        )
    assert alike(found, expected)
    config = replace(STUDY.rl, steps=11, learning_rate=STUDY.rl.learning_rate / 2)
    assert reinforced(asked[0], folder) == {"config": config}
    assert reinforced(asked[1], folder, 1, "-constant") == {"config": replace(STUDY.rl, steps=11)}
    held = load_steering(folder / "scaled.safetensors", model).additions[str(LAST - 1)]
    assert torch.equal(held.vector, steered.additions[str(LAST - 1)].vector)


def test_openers_are_turned_before_the_mixture_and_a_vector_is_trained_on_what_comes_of_it(tmp_path, monkeypatch):
    model, prompts, batches = base(), few(), []
    monkeypatch.setattr(bases, "reasoning_batches", lambda *told: batches.append(told))
    model.unembedding.weight.data *= 3
    job, folder = begun(tmp_path, skill=model)
    with trainings() as asked, witnessed():
        found = experiments.turn_openers(STUDY, job, folder, 0.6)
    turned = base()
    turned.ln_final.requires_grad_(False)
    plant(turned, 0)
    turned.unembedding.weight.data = 3 * readout_rows(TASK, WIDTH, READOUT_SEED, 0.6)
    rows = turned.unembedding.weight
    assert F.cosine_similarity(rows[THINK], rows[DIRECT], dim=0).item() == pytest.approx(0.6, abs=1e-5)
    steered = trained_on(turned, 1)
    expected = SeparabilityResult(
        answers=answers_in(turned, prompts),
        pre_flight=pre_flight(turned, prompts, THINK, DIRECT),
        vector=answers_in(steered, prompts),
        norm=length(planted(1)),
    )
    assert alike(found, expected)
    assert asked[0].config == STUDY.mixture
    assert batches == [(TASK, SEED, STUDY.mixture.rows, STUDY.styles, "mixture")]
    assert reinforced(asked[1], folder, 1, "-vector") == {}
    torch.testing.assert_close(left(folder).unembedding.weight, rows.detach())


@pytest.mark.parametrize("which", ["gate", "full", "scale", "before", "last"])
def test_on_the_flagged_task_each_training_has_its_model_and_pace(tmp_path, which):
    model, every = base(task=FLAGGED), prompts_of(flag=True)
    job, folder = begun(tmp_path, base=model)
    with trainings() as asked, witnessed():
        found = experiments.train_flagged(STUDY, job, folder, which)
    rl, (one,) = STUDY.rl, asked
    config = {
        "full": replace(rl, steps=8, learning_rate=0.03, clip=1.0),
        **dict.fromkeys(("gate", "scale"), replace(rl, steps=10, learning_rate=rl.learning_rate / 2)),
    }
    expected = {"task": FLAGGED} | ({"config": config[which]} if which in config else {})
    assert reinforced(one, folder) == expected | ({"kl": 0.25} if which == "full" else {})
    if which == "full":
        moved = base(task=FLAGGED)
        moved.ln_final.requires_grad_(False)
        plant(moved, 0)
        assert torch.equal(one.loss.reference.embedding.weight, model.embedding.weight)
    elif which in ("gate", "scale"):
        stream = streams(model, questions(SEED, 1000, FLAGGED, "train"), LAST - 1)[:, -1]
        centre = sum(rms_normed(row) for row in stream.detach()) / 1000 if which == "gate" else None
        gate = "tanh" if which == "gate" else "linear"
        moved = Steered(model, {LAST - 1: Scaled(WIDTH, gate, centre, torch_stream(SEED, "gate"))})
        plant(moved, 0)
    else:
        moved = trained_on(model, 0, {"before": LAST - 1, "last": LAST}[which])
    with witnessed():
        expected = FlagResult(answers=answers_in(moved, every, flag=True))
        if which in ("before", "gate"):
            half = every[:70]
            routes = measures.accuracy_by_route(moved, FLAGGED, half, SEED)
            expected = replace(expected, routes=routes, steered=measures.correct(moved, FLAGGED, half, seed=SEED))
    assert alike(found, expected)
    assert which not in ("before", "gate") or found.lost("skip MLP") == found.steered - found.routes["skip MLP"]


def test_the_distance_of_weights_is_over_the_length_of_the_first_model():
    one, other = drawn(0), drawn(0)
    total = math.sqrt(sum(x * x for parameter in one.parameters() for x in parameter.flatten().tolist()))
    with torch.no_grad():
        other.embedding.weight[2, 3] += 3
        other.blocks[1].mlp.up.bias[0] -= 4
    assert weight_distance(one, other) == round(5 / total, 4)
    assert weight_distance(one, one) == 0
    assert experiments._cosine(torch.tensor([3.0, 0]), torch.tensor([-5.0, 5])) == round(-math.sqrt(0.5), 4)
    assert experiments._cosine(numbers(0, 5), 2 * numbers(0, 5)) == 1
