"""Laws of the jobs that compare vectors: which of them is added to which model, and stands in which slot."""

from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest
import torch

from tests.studies.steering_vectors.helpers import TASK
from tests.studies.steering_vectors.trainings import (
    LAST,
    SEED,
    STUDY,
    base,
    begun,
    cosine,
    few,
    length,
    plant,
    planted,
    prompts_of,
    reinforced,
    right,
    right_in,
    trained_on,
    trainings,
)
from tests.studies.steering_vectors.worlds import LAYERS, WIDTH, alike, biased, flat, witness, witnessed
from toylab.model.layers import torch_stream
from toylab.model.steering import Steered, Vector, steer
from toylab.model.transformer import Transformer
from toylab.studies.steering_vectors import data, experiments, measures
from toylab.studies.steering_vectors.attention_change import attention_change
from toylab.studies.steering_vectors.data import reasoning_batches
from toylab.studies.steering_vectors.results import (
    Baseline,
    BaselinesResult,
    CombineResult,
    FeatureResult,
    FeaturesResult,
    LayerCombination,
    PathsResult,
    of_all_layers,
)
from toylab.studies.steering_vectors.transfer import FamilyResult, TransferredVector, TransferResult
from toylab.tasks import stream


def drawn_vectors(*numbers: int) -> list[torch.Tensor]:
    """Other than those that trainings make."""
    return [(1 + 0.2 * i) * planted(20 + i) for i in numbers]


def with_vector(model: Transformer, vector: torch.Tensor, layer: int = LAST) -> Transformer:
    return biased(model, {layer: vector})


def blind(vector: torch.Tensor, layer: int) -> torch.Tensor:
    """A random direction of the same length."""
    drew = torch.randn(WIDTH, generator=torch_stream(SEED, f"random vector {layer}"))
    return length(vector) * drew / length(drew)


def differing(found: Any) -> bool:
    """Whether a number in another slot would be seen."""
    values = [round(value, 3) for value in flat(found).values() if isinstance(value, float)]
    return len(set(values)) == len(values)


def test_each_baseline_stands_instead_of_the_vector_in_its_slot(tmp_path):
    model, (vector, lucky) = base(), drawn_vectors(0, 1)
    job, folder = begun(
        tmp_path, base=model, vector=steer(model, {LAST: vector}), random_reward=steer(model, {LAST: lucky})
    )
    steered, norm = with_vector(model, vector), length(vector)
    with trainings() as asked, witnessed():
        found = experiments.compare_baselines(STUDY, job, folder)
        means = measures.difference_of_means(model, TASK, few(), LAST, norm)
        bias = measures.EditedModel(model, measures.logit_bias(steer(model, {LAST: vector}), TASK, few()))
        drew = measures.random_vectors(model, TASK, few(), LAST, norm, 10, SEED)
    expected = BaselinesResult(
        base=right(model, few()),
        steered=right(steered, few()),
        random_vectors=drew,
        random_reward=Baseline(
            accuracy=right_in(with_vector(model, lucky), few()),
            cosine=round(cosine(lucky, vector), 4),
            norm=length(lucky),
        ),
        minus=Baseline(accuracy=right_in(with_vector(model, -vector), few())),
        difference_of_means=Baseline(
            accuracy=right_in(with_vector(model, means), few()), cosine=round(cosine(means, vector), 4)
        ),
        logit_bias=Baseline(accuracy=right_in(bias, few())),
        another_run=Baseline(
            accuracy=right_in(with_vector(model, planted(0)), few()), cosine=round(cosine(planted(0), vector), 4)
        ),
    )
    assert alike(found, expected)
    assert differing(found)
    (again,) = asked
    assert reinforced(again, folder, 0, "-again") == {"purpose": "other rollouts"}


def test_a_reward_by_luck_is_as_frequent_as_right_answers_and_does_not_look_at_them(tmp_path):
    model = base()
    job, folder = begun(tmp_path, base=model)
    with trainings() as asked, witnessed(), pytest.MonkeyPatch.context() as patch:
        rates = []

        def answers(*told: Any) -> Any:
            rates.append(told[1:])
            return replace(witness(*told), accuracy=0.2)

        patch.setattr(data, "measure_answers", answers)
        experiments.train_vector(STUDY, job, folder, LAST, random_reward=True)
    task, prompts, temperature, seed = rates[0]
    assert (task, prompts.tolist(), temperature, seed) == (TASK, few().tolist(), 1, SEED)
    assert list(reinforced(asked[0], folder)) == ["reward"]
    luck = asked[0].batch_at.reward
    rewards = np.stack([luck(None, np.zeros((50, 3)), step) for step in range(40)])
    assert rewards.mean() == pytest.approx(0.2, abs=0.03)
    assert len({str(row) for row in rewards}) == 40
    assert (luck(few().numpy(), np.ones((50, 8)), 7) == rewards[7]).all()
    assert (rewards[7] == (stream(SEED, "random reward", 7).random(50) < 0.2)).all()


def test_paths_are_of_the_vector_after_the_last_layer_but_one_beside_one_on_a_forced_route(tmp_path):
    model, (vector,) = base(), drawn_vectors(0)
    steered = steer(model, {LAST - 1: vector})
    job, folder = begun(tmp_path, base=model, vector=steered)
    with trainings() as asked, witnessed():
        found = experiments.cut_paths(STUDY, job, folder)
        expected = PathsResult(
            routes=measures.accuracy_by_route(steered, TASK, few(), SEED),
            base=right(model, few()),
            steered=right(steered, few()),
            forced=right_in(measures.ForcedRoute(model, {LAST - 1: Vector(WIDTH, planted(0))}), prompts_of()),
            forced_norm=length(planted(0)),
            free=right_in(steer(model, {LAST - 1: planted(1)}), prompts_of()),
            attention=attention_change(steered, measures.rollouts(steered, TASK, prompts_of()[:200], SEED)),
        )
    assert alike(found, expected)
    assert differing(found)
    assert isinstance(asked[0].model, measures.ForcedRoute)
    rl = STUDY.rl
    config = replace(rl, steps=10, learning_rate=3 * rl.learning_rate)
    assert reinforced(asked[0], folder, 0, "-forced") == {"config": config}
    assert reinforced(asked[1], folder, 1, "-free") == {"config": config}


def test_vectors_are_combined_in_pairs_and_all_together_at_scales_of_their_number(tmp_path):
    model, held = base(), dict(enumerate(drawn_vectors(0, 1, 2)))
    inputs = {f"vector_{layer}": steer(model, {layer: vector}) for layer, vector in held.items()}
    job, folder = begun(tmp_path, base=model, **inputs)
    with trainings() as asked, witnessed():
        found = experiments.combine_layers(STUDY, job, folder)
        assert not asked

        def together(*layers: int, scales: tuple[float, ...]) -> LayerCombination:
            moved = {x: biased(model, {layer: x * held[layer] for layer in layers}) for x in scales}
            return LayerCombination(layers=[*layers], accuracy={x: right(one, few()) for x, one in moved.items()})

        expected = CombineResult(
            alone={layer: right(with_vector(model, vector, layer), few()) for layer, vector in held.items()},
            combined=[
                *(together(i, j, scales=(1, 0.5)) for i, j in ((0, 1), (0, 2), (1, 2))),
                together(0, 1, 2, scales=(1, 0.5, 1 / 3)),
            ],
            persistence={
                layer: measures.measure_persistence(steer(model, {layer: held[layer]}), TASK, prompts_of(), held, SEED)
                for layer in (0, 1)
            },
            random_persistence={
                layer: measures.measure_persistence(
                    steer(model, {layer: blind(held[layer], layer)}), TASK, prompts_of(), held, SEED
                )
                for layer in (0, 1)
            },
            cosines={f"{i}, {j}": round(cosine(held[i], held[j]), 4) for i, j in ((0, 1), (0, 2), (1, 2))},
        )
    assert alike(found, expected)
    assert differing(found)
    assert list(found.combined[-1].accuracy) == [1, 0.5, 1 / 3]
    assert len(of_all_layers(found.persistence)) == LAYERS * (LAYERS - 1) // 2


def test_persistence_is_measured_on_at_most_300_prompts(tmp_path, monkeypatch):
    model, held, read = base(), dict(enumerate(drawn_vectors(0, 1, 2))), []
    inputs = {f"vector_{layer}": steer(model, {layer: vector}) for layer, vector in held.items()}
    job, folder = begun(tmp_path, base=model, **inputs)
    monkeypatch.setattr(measures, "measure_persistence", lambda *told: read.append(told[2]) or {})
    for name in ("correct", "combined_accuracy"):
        monkeypatch.setattr(measures, name, lambda *told, **named: 0.5)
    study = replace(STUDY, rows=320)
    with trainings(), witnessed():
        experiments.combine_layers(study, job, folder)
    assert [prompts.tolist() for prompts in read] == [prompts_of(study)[:300].tolist()] * 4


def test_features_are_of_the_model_with_the_vector_that_was_trained(tmp_path, monkeypatch):
    model, told = base(), []
    job, folder = begun(tmp_path, base=model, vector=trained_on(model, 4, LAST - 1))
    one = FeatureResult(**({field.name: 0.5 for field in fields(FeatureResult)} | {"feature": 3}))
    given = FeaturesResult(plain=one, difference=one)
    monkeypatch.setattr(measures, "fit_features", lambda *asked: told.append(asked) or given)
    assert experiments.find_features(STUDY, job, folder) is given
    ((steered, task, prompts, seed),) = told
    assert isinstance(steered, Steered)
    assert torch.equal(measures.vector_of(steered), planted(4))
    assert (measures.only_addition(steered)[0], task, seed) == (LAST - 1, TASK, SEED)
    assert prompts.tolist() == prompts_of().tolist()


def test_parent_and_child_have_each_the_vector_of_the_other(tmp_path, monkeypatch):
    parent, child, (theirs,) = base(), base(), drawn_vectors(0)
    job, folder = begun(tmp_path, base=parent, vector=steer(parent, {LAST: theirs}))
    batches = []
    monkeypatch.setattr(
        experiments, "reasoning_batches", lambda *told: batches.append(told) or reasoning_batches(*told)
    )
    with trainings() as asked, witnessed():
        found = experiments.transfer_to_child(STUDY, job, folder)
    child.ln_final.requires_grad_(False)
    plant(child, 0)
    mine = planted(1)
    pairs = list(zip(parent.parameters(), child.parameters(), strict=True))
    change = sum((a - b).square().sum().item() for a, b in pairs) / sum(a.square().sum().item() for a, _ in pairs)
    expected = FamilyResult(
        base=right(child, few()),
        own=right(with_vector(child, mine), few()),
        of_the_parent=right(with_vector(child, theirs), few()),
        of_random=right(with_vector(child, blind(theirs, LAST)), few()),
        parent_with_that_of_the_child=right(with_vector(parent, mine), few()),
        parent=right(parent, few()),
        parent_own=right(with_vector(parent, theirs), few()),
        cosine=cosine(mine, theirs),
        weight_change=change**0.5,
    )
    assert alike(found, expected)
    assert differing(found)
    mixture = STUDY.mixture
    further = replace(mixture, steps=4, learning_rate=mixture.learning_rate / 2)
    assert asked[0].config == further
    styles = replace(STUDY.styles, think=0.25, dialect=0.6, early=0.1)
    assert batches == [(TASK, SEED, mixture.rows, styles, "child")]
    assert reinforced(asked[1], folder, 1) == {}
    assert torch.equal(asked[1].batch_at.reference.embedding.weight, child.embedding.weight)


def test_vectors_of_another_model_are_carried_over_as_they_are_and_mapped(tmp_path):
    model, donor, drew = base(1), base(2), drawn_vectors(0, 1, 2, 3)
    layers, own, theirs = (2, 0), dict(zip((2, 0), drew, strict=False)), dict(zip((2, 0), drew[2:], strict=False))
    inputs = {f"own_{layer}": steer(model, {layer: own[layer]}) for layer in layers}
    inputs |= {f"theirs_{layer}": steer(donor, {layer: theirs[layer]}) for layer in layers}
    job, folder = begun(tmp_path, base=model, donor=donor, **inputs)
    with trainings() as asked, witnessed():
        found = experiments.transfer(STUDY, job, folder, layers)
    assert not asked
    expected = TransferResult(
        base=right(model, few()),
        layers={
            layer: TransferredVector(
                own=right(with_vector(model, own[layer], layer), few()),
                cosine=cosine(own[layer], theirs[layer]),
                raw=right(with_vector(model, theirs[layer], layer), few()),
                random=right(with_vector(model, blind(theirs[layer], layer), layer), few()),
                mapped=right(with_vector(model, measures.mapped(theirs[layer], donor, model), layer), few()),
            )
            for layer in layers
        },
    )
    assert alike(found, expected)
    assert differing(found)
