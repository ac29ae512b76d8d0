"""Everything that measures, makes a loss or a model, as routes that are gone on each device."""

from collections.abc import Callable
from copy import deepcopy
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import torch

from tests.places import (
    CHAINS,
    CONCEPT,
    COUNTING,
    ITERATED,
    RECALL,
    SMALL,
    VOCAB,
    Place,
    counter,
    model_of,
    normal,
    slopes,
    strings_of,
    tokens,
    whole,
)
from toylab.model.checkpoint import load_model, save_model
from toylab.model.positions import POSITIONS
from toylab.model.steering import (
    Scaled,
    Steered,
    Vector,
    folded_unembedding,
    pre_flight,
    steer,
)
from toylab.model.token_counts import count_tokens
from toylab.model.transformer import Transformer
from toylab.planted import disguise as grafts
from toylab.planted.handwritten import contextual_counter, induction_head, iteration_head
from toylab.probes import permutation_sensitivity
from toylab.studies.contextual_counting import data as counting
from toylab.studies.contextual_counting import measures as counting_circuits
from toylab.studies.iteration_head import measures as interventions
from toylab.studies.safety_finetuning import data as concept
from toylab.studies.safety_finetuning import measures as safety
from toylab.studies.steering_vectors import data as reasoning
from toylab.studies.steering_vectors import measures
from toylab.survey import copy_accuracy, survey
from toylab.tasks import Copy, Reasoning, held_out, stream
from toylab.training import evaluate, losses
from toylab.training.attention_history import AttentionHistory, RecordedSequence, read_history
from toylab.training.batches import next_token_loss, pack, pad, prompt_tokens
from toylab.training.losses import PolicyGradient, RefusalLoss, Rollouts, Unlearning

ROUTES: dict[str, Callable[[Place], Any]] = {}


def route(go: Callable[[Place], Any]) -> Callable[[Place], Any]:
    ROUTES[go.__name__.replace("_", " ")] = go
    return go


# Models --------------------------------------------------------------------------------------------------------------


@route
def bidirectional_models(place):
    return [whole(place(model_of(name, causal=False)), place(tokens())) for name in POSITIONS]


@route
def models_of_half_precision(place):
    found = []
    for name in POSITIONS:
        model = place(model_of(name)).bfloat16()
        found.append([model(place(tokens())).float(), place(model).float()(place(tokens()))])
    return found


@route
def a_copy_and_a_saved_model(place, tmp_path):
    found = []
    for model in (model_of("learned"), counter()):
        save_model(tmp_path / "model", place(model))
        found += [deepcopy(place(model)), place(load_model(tmp_path / "model"))]
    return found


# Losses --------------------------------------------------------------------------------------------------------------


@route
def policy_gradients(place):
    model, reference = place(model_of()), place(model_of("alibi"))
    counted = losses.up_to_end(2, tokens(4, 3))
    made = place(Rollouts(tokens(4, 6)[:, :4], tokens(4, 3), counted, torch.tensor([[1.0, 0.0], [0.0, 0.5]])))
    return [
        *slopes(PolicyGradient(0.3, 0.2, reference)(model, made), model),
        losses.leave_one_out(place(torch.tensor([[1, 0, 0]]))),
        made.log_probs(model),
    ]


@route
def losses_of_the_next_token(place):
    task, weights = Copy(), torch.arange(len(Copy().vocabulary)) + 1.0
    model, batch = place(Transformer.for_task(task)), task.sample(stream(0), 6)
    return [
        slopes(next_token_loss(model, place(layout(batch)), given), model)
        for layout in (pad, pack)
        for given in (None, place(weights))
    ]


@route
def losses_of_counts(place):
    found = []
    for model in (counter(), counter(positions="rotary"), counting.RegionTeacher(counter())):
        here = place(model)
        inner = getattr(here, "model", here)
        read = replace(counting.for_model(COUNTING, inner, strings_of(4)), auxiliary=0.5)
        found.append(slopes(counting.count_loss(here, read), here))
    return found


@route
def losses_of_language(place):
    model = place(concept.concept_model(CONCEPT, SMALL))
    batch = concept.concept_batches(CONCEPT, 0, 4, 10)(0)
    return slopes(concept.language_loss(model, place(batch)), model)


# Steering ------------------------------------------------------------------------------------------------------------


@route
def vectors_of_every_layer(place):
    model, read = place(model_of()), place(tokens())
    given = steer(model, {1: normal(0, 16)}), steer(model, {1: place(normal(0, 16))}), steer(model)
    return [steered(read) for steered in given], folded_unembedding(model), pre_flight(model, read, 1, 2)


# Measuring -----------------------------------------------------------------------------------------------------------


@route
def accuracies(place):
    model, batches = place(iteration_head(ITERATED)), evaluate.by_length(ITERATED, 0, (3, 4), 6)
    head = evaluate.search_iteration_head(model, batches)
    return [
        evaluate.accuracy(model, batches),
        evaluate.free_running_accuracy(model, ITERATED, batches),
        evaluate.evaluation_metrics(model, batches),
        head,
        interventions.causal_tests(model, batches, head),
        interventions.steered_share(model, ITERATED, batches, head),
        interventions.mass_by_symbol(model, batches[4], head),
    ]


@route
def surveys(place):
    model, batch = place(induction_head(RECALL)), RECALL.sample(stream(0), 8)
    return survey(model, batch), copy_accuracy(model, batch, batch.links["induction"])


@route
def films(place, tmp_path):
    scene = RecordedSequence("a row", tokens()[0], tuple("abcdef"), {})
    film = AttentionHistory(tmp_path / "film", [scene])
    for step in (0, 5):
        film.add(place(model_of()), step)
    film = AttentionHistory(tmp_path / "film", [scene])
    film.add(place(model_of("alibi")), 9)
    shown = read_history(tmp_path / "film", "", "", [{"step": step} for step in (0, 5, 9)], {})
    return [patterns.tolist() for patterns in shown.patterns]


@route
def counts(place):
    found = []
    for model in (contextual_counter(COUNTING.most, COUNTING.classes), counter(causal=False), counter(layers=2)):
        here, batch = place(model), strings_of(10)
        asked = counting.for_model(COUNTING, here, batch)
        longer = counting.for_model(COUNTING, here, COUNTING.append_zeros(batch, 5))
        seen = torch.ones_like(asked.tokens, dtype=torch.bool)
        found += [
            counting.count_accuracy(here, asked),
            counting.count_accuracy(here, asked, {"decoder.cross.pattern": torch.zeros_like}),
            here(asked.tokens, seen=seen),
            counting_circuits.find_circuits(here, asked),
            counting_circuits.measure_shifts(here, asked, longer),
            counting_circuits.encoder_scores(here),
            permutation_sensitivity(here, asked.tokens, np.random.default_rng(0), kept=0),
            counting_circuits.constant_accuracy(asked),
        ]
    return found


@route
def counts_by_values_and_by_rotation(place):
    golden, turning = place(contextual_counter(COUNTING.most, COUNTING.classes)), place(counter(positions="rotary"))
    asked = counting.for_model(COUNTING, golden, strings_of(20))
    rotated = counting.for_model(COUNTING, turning, strings_of(6))
    return [
        counting_circuits.region_probes(golden, rotated, 0),
        counting_circuits.value_readout(golden, asked, counting_circuits.find_circuits(golden, asked)),
        counting_circuits.rotary_profile(turning, rotated, 0.1),
        count_tokens(place(tokens()), VOCAB, True),
        count_tokens(place(tokens()), VOCAB, False, torch.float64),
    ]


@route
def safety_of_a_model(place):
    base, tuned = place(concept.concept_model(CONCEPT, SMALL, 0)), place(concept.concept_model(CONCEPT, SMALL, 1))
    sets = safety.held_out_sets(CONCEPT, 0, 4)
    batch = sets["unsafe"]
    return [
        safety.measure_behaviour(base, CONCEPT, sets),
        safety.layer_clusters(base, CONCEPT, sets),
        safety.jailbreak_nearness(base, CONCEPT, sets),
        safety.measure_sensitivity(base, CONCEPT, batch),
        safety.weight_change(base, tuned, CONCEPT, sets),
        safety.interpolate_weights(base, tuned, 1.5),
        safety.transplant_parts(base, tuned),
        safety.soft_attack(base, CONCEPT, batch, 1.0, 2),
        safety.gradient_cosine(base, RefusalLoss(), Unlearning(), CONCEPT, batch),
    ]


@route
def chains_of_a_model(place):
    model = place(reasoning.reasoning_model(CHAINS, replace(reasoning.MODEL, layers=2, width=32)))
    prompts = place(prompt_tokens(CHAINS, held_out(CHAINS, 0, 6, purpose="prompts")))
    sampler = reasoning.RolloutSampler(model, CHAINS, 0, 2, 3, reference=model)
    return [
        reasoning.measure_answers(model, CHAINS, prompts, 1.0),
        reasoning.measure_answers(model, CHAINS, prompts.cpu(), 0.0, opener="THINK"),
        reasoning.write_answers(model, CHAINS, prompts, 0.0, opener="THINK", samples=2),
        reasoning.chain_accuracy(CHAINS, 0, 5)(model),
        sampler(0),
        sampler.summary(model),
    ]


class Lenient(Reasoning):
    """Accepts answers whose tokens have an even sum: models without training write some."""

    def verify(self, prompts: np.ndarray, answers: np.ndarray) -> np.ndarray:
        return answers.sum(axis=1) % 2 == 0


@route
def steering_of_a_model(place):
    model = place(reasoning.reasoning_model(CHAINS, replace(reasoning.MODEL, layers=2, width=32)))
    prompts = place(prompt_tokens(CHAINS, held_out(CHAINS, 0, 12, purpose="prompts")))
    steered, scaled = steer(model, {0: normal(0, 32)}), Steered(model, {0: Scaled(32, generator=torch.Generator())})
    vector = measures.vector_of(steered)
    found = measures.fit_features(steered, Lenient(p=3, length=3), prompts, dictionary=12, steps=3)
    return [
        measures.accuracy_by_place(steered, CHAINS, prompts[:2]),
        measures.kl_by_position(steered, CHAINS, prompts[:2]),
        measures.logit_lens(vector, model, CHAINS),
        measures.measure_persistence(steered, CHAINS, prompts[:2], {1: vector}),
        measures.ForcedRoute(model, {0: Vector(32, vector)})(prompts),
        measures.with_clean_scale(steered)(prompts),
        measures.random_vectors(model, CHAINS, prompts[:2], 0, 2.0, 2),
        measures.difference_of_means(model, CHAINS, prompts, 0, 2.0),
        measures.EditedModel(model, measures.logit_bias(steered, CHAINS, prompts))(prompts),
        measures.combined_accuracy(model, CHAINS, prompts[:2], {0: vector}, [0], 0.5),
        measures.mapped(vector, model, model),
        measures.token_scales(scaled, CHAINS, prompts[:2]),
        {kind: sorted(one) for kind, one in asdict(found).items()},
    ]


@route
def disguises(place):
    plant, rng = place(induction_head(RECALL)), np.random.default_rng(0)
    return [
        grafts.add_heads(plant, 2, 1, rng),
        grafts.add_layer(plant, 1, rng),
        grafts.rotate_basis(plant, rng),
        grafts.rotate_encoder_basis(place(contextual_counter(COUNTING.most, COUNTING.classes)), rng),
        grafts.add_noise(plant, 0.3, rng),
    ]
