"""Laws of devices: on an accelerator, everything that takes a model or tensors gives the numbers of the CPU.

Each route below is gone twice, with all models and tensors here and with all of them on the pretend accelerator of
`accelerator.py`, which refuses what CUDA refuses. Tasks, batches of numpy and generators stay on the CPU, as they do
in use.
"""

from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import asdict, is_dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests.accelerator import DEVICE, Accelerator, is_far
from toylab import probes
from toylab.model.checkpoint import load_model, save_model
from toylab.model.config import ModelConfig
from toylab.model.encoder_decoder import ENCODER, EncoderDecoderConfig
from toylab.model.generate import generate
from toylab.model.layers import Cache
from toylab.model.lora import confine, release
from toylab.model.positions import POSITIONS
from toylab.model.steering import (
    Scaled,
    Steered,
    Vector,
    folded_unembedding,
    load_steering,
    pre_flight,
    save_steering,
    vectors,
)
from toylab.model.token_counts import tally
from toylab.model.transformer import Transformer
from toylab.planted import disguise as grafts
from toylab.planted.handwritten import contextual_counter, induction_head, iteration_head
from toylab.probes import edit, points, watch
from toylab.studies.contextual_counting import data as counting
from toylab.studies.contextual_counting import measures as counting_circuits
from toylab.studies.iteration_head import measures as interventions
from toylab.studies.safety_finetuning import data as concept
from toylab.studies.safety_finetuning import measures as safety
from toylab.studies.steering_vectors import data as reasoning
from toylab.studies.steering_vectors import measures
from toylab.survey import says_what_stands, survey
from toylab.tasks import AssociativeRecall, ContextualCounting, Copy, Polynomial, Reasoning, Styles, TaskConcept, stream
from toylab.training import evaluate, losses
from toylab.training.attention_history import Film, Scene, read_film
from toylab.training.batches import device_of, fresh, next_token_loss, pack, pad, to_device
from toylab.training.loop import TrainConfig, train
from toylab.training.losses import DPO, NPO, Pairs, PolicyGradient, Refusal, Rollouts, Unlearning
from toylab.training.population import Population

Place = Callable[[Any], Any]
"""Puts a copy of a model, a tensor, or what is made of them where a route is gone."""

VOCAB, CONTEXT = 7, 14
ROUTES: dict[str, Callable[[Place], Any]] = {}


def route(go: Callable[[Place], Any]) -> Callable[[Place], Any]:
    ROUTES[go.__name__.replace("_", " ")] = go
    return go


def placed(x: Any, device: torch.device) -> Any:
    """A copy on a device."""
    if isinstance(x, nn.Module):
        return deepcopy(x).to(device)
    if isinstance(x, Tensor):
        return x.detach().to(device).requires_grad_(x.requires_grad)
    if isinstance(x, Mapping):
        return {name: placed(one, device) for name, one in x.items()}
    if isinstance(x, list | tuple):
        return type(x)(placed(one, device) for one in x)
    return to_device(x, device)


def agree(found: Any, expected: Any, where: str) -> None:
    """The same numbers; tensors lie on the accelerator."""
    if isinstance(expected, nn.Module):
        agree(found.state_dict(), expected.state_dict(), where)
    elif isinstance(expected, Tensor):
        assert is_far(found), f"{where} is left on the CPU"
        torch.testing.assert_close(found.cpu(), expected, rtol=1e-5, atol=1e-6)
    elif isinstance(expected, Mapping):
        assert list(found) == list(expected)
        for name in expected:
            agree(found[name], expected[name], f"{where}[{name}]")
    elif isinstance(expected, list | tuple):
        assert len(found) == len(expected)
        for n, pair in enumerate(zip(found, expected, strict=True)):
            agree(*pair, f"{where}[{n}]")
    elif is_dataclass(expected):
        agree(vars(found), vars(expected), where)
    elif isinstance(expected, float):
        assert found == pytest.approx(expected, rel=1e-5, abs=1e-6)
    else:
        assert found == expected


def normal(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def tokens(rows: int = 3, width: int = 6, vocab: int = VOCAB) -> Tensor:
    return torch.randint(vocab, (rows, width), generator=torch.Generator().manual_seed(rows))


def model_of(positions: str = "rotary", **shape: Any) -> Transformer:
    return Transformer(ModelConfig(width=16, positions=positions, **shape), VOCAB, CONTEXT)


def slopes(loss: Tensor, model: nn.Module) -> list[Tensor]:
    return [loss, *torch.autograd.grad(loss, [p for p in model.parameters() if p.requires_grad])]


# Models --------------------------------------------------------------------------------------------------------------


def whole(model: Transformer, read: Tensor) -> Any:
    with watch(model, "blocks.*.attn.pattern") as seen:
        return slopes(model(read).logsumexp(dim=-1).mean(), model), dict(seen)


def cached(model: Transformer, read: Tensor) -> Tensor:
    cache = Cache()
    pieces = [model(piece, cache=cache) for piece in read.split([3, 2, 1], dim=1)]
    cache.repeat(2)
    cache.keep(torch.arange(2 * len(read), device=read.device) % 2 == 0)
    return torch.cat([*pieces, model(read[:, :1], cache=cache)], dim=1)


def chosen(model: Transformer, read: Tensor) -> Tensor:
    queries = torch.tensor([[1, 4]] * len(read), device=read.device)
    segments = torch.tensor([[0, 0, 0, 1, 1, 1]] * len(read), device=read.device)
    positions = torch.tensor([[0, 1, 2, 0, 1, 2]], device=read.device)
    return model(read, positions=positions, segments=segments, queries=queries)


def written(model: nn.Module, read: Tensor) -> list[Tensor]:
    options = [
        {},
        {"cache": False, "samples": 2},
        {"temperature": 1.0, "samples": 3},
        {"temperature": 1e-9, "stop": 0},
        {"temperature": 2.0, "stop": 1, "samples": 4, "drop": True},
    ]
    return [generate(model, read, 5, generator=torch.Generator().manual_seed(0), **one) for one in options]


FORMS = (whole, cached, chosen, written)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("positions", POSITIONS)
def test_every_encoding_by_every_route_is_the_same_on_an_accelerator(positions, form):
    model = model_of(positions)
    expected = form(model, tokens())
    with Accelerator():
        agree(form(model.to(DEVICE), tokens().to(DEVICE)), expected, form.__name__)


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

PREFERENCES: dict[str, Callable[[Transformer], Any]] = {
    "refusal": lambda reference: Refusal(),
    "unlearning": lambda reference: Unlearning(),
    "DPO": lambda reference: DPO(reference, anchor=0.5),
    "published DPO": DPO.as_published,
    "NPO": NPO,
}


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("name", PREFERENCES)
def test_every_loss_of_pairs_and_its_gradient_are_the_same_on_an_accelerator(name, causal):
    read, model = Pairs(tokens(4, 3), tokens(4, 2), tokens(4, 4)[:, :2], tokens(4)[:, 0] > 2), model_of(causal=causal)
    reference = model_of(causal=causal, heads=1)
    expected = slopes(PREFERENCES[name](reference)(model, read), model)
    with Accelerator():
        model, reference = model.to(DEVICE), reference.to(DEVICE)
        agree(slopes(PREFERENCES[name](reference)(model, to_device(read, DEVICE)), model), expected, name)


@route
def policy_gradients(place):
    model, reference = place(model_of()), place(model_of("alibi"))
    counted = losses.up_to(2, tokens(4, 3))
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


@pytest.mark.parametrize("at", [slice(None), slice(1, 4), slice(2, None), (3,), (0, 2, 5)], ids=str)
@pytest.mark.parametrize("kind", ["vector", "scaled", "tanh"])
def test_every_addition_at_every_place_is_the_same_on_an_accelerator(tmp_path, kind, at):
    def addition() -> nn.Module:
        if kind == "vector":
            return Vector(16, normal(0, 16))
        made = Scaled(16, "tanh" if kind == "tanh" else "linear", normal(1, 16), torch.Generator().manual_seed(0))
        nn.init.constant_(made.weight, 0.3)
        return made

    def go(model: Transformer, read: Tensor) -> Any:
        steered = Steered(model, {0: addition(), 1: addition()}, at)  # an addition is made on the CPU
        save_steering(tmp_path / "steering", steered)
        again = load_steering(tmp_path / "steering", model)
        loss = steered(read).logsumexp(dim=-1).mean()
        return slopes(loss, steered), written(steered, read), again(read), steered.only((1,))(read)

    expected = go(model_of(), tokens())
    with Accelerator():
        agree(go(model_of().to(DEVICE), tokens().to(DEVICE)), expected, kind)


@route
def vectors_of_every_layer(place):
    model, read = place(model_of()), place(tokens())
    given = vectors(model, {1: normal(0, 16)}), vectors(model, {1: place(normal(0, 16))}), vectors(model)
    return [steered(read) for steered in given], folded_unembedding(model), pre_flight(model, read, 1, 2)


# Probes --------------------------------------------------------------------------------------------------------------

LINKS = np.array([[0, 3, 1], [0, 4, 2], [1, 3, 1], [1, 4, 2]])


def pattern(seed: int = 0) -> Tensor:
    return normal(seed, 2, 3, 6, 6).softmax(dim=-1)


def mask(seed: int = 0) -> Tensor:
    return normal(seed, 2, 3, 6) > 0


def masses() -> dict[str, Tensor]:
    return {name: normal(seed, 9).abs() for seed, name in enumerate(("ones", "zeros", "begin"))}


def edited(name: str, change: Callable[[Place], probes.Edit]) -> Callable[[Place], Tensor]:
    def go(place: Place) -> Tensor:
        model = place(model_of())
        with edit(model, {name: change(place)}):
            return model(place(tokens(2)))

    return go


def watched(place: Place) -> Any:
    model = place(model_of())
    with watch(model, *points(model)) as seen:
        model(place(tokens()))
    return dict(seen)


def fitted(place: Place) -> Any:
    x = place(normal(0, 20, 8))
    model = probes.fit_autoencoder(x, features=12, steps=4, rows=5)
    return model, model(x), probes.explained_variance(model, x), probes.dead_share(model, x)


def by_paths(place: Place) -> Any:
    change = place(normal(0, 16))
    options = [{"blind": ("blocks.1.ln1", "ln_final")}, {"clean": ("blocks.1.attn.q",), "clean_scale": "ln_final"}]
    return [
        probes.Paths(place(model_of()), lambda h: h + change, "blocks.0.resid_post", **one)(place(tokens()))
        for one in options
    ]


def slope_sizes(measure: Callable) -> Callable[[Place], Tensor]:
    def go(place: Place) -> Tensor:
        weight = place(normal(0, 4, 3))
        function = (lambda x: x.tanh() @ weight) if measure is probes.jacobian_norms else (lambda x: x.square().sum(1))
        return measure(function, place(normal(1, 5, 4)))

    return go


BY_LENGTH = {n: {"carry": LINKS, "stop": LINKS, "end of input": LINKS} for n in (1, 2)}
PROBES: dict[str, Callable[[Place], Any]] = {
    "Paths": by_paths,
    "SparseAutoencoder": lambda place: place(probes.SparseAutoencoder(8, 12, 3, torch.Generator()))(
        place(normal(0, 5, 8))
    ),
    "against": lambda place: probes.against(place(normal(0, 4)), place(normal(1, 7, 4)), 1, 2),
    "alignment": lambda place: probes.alignment(place(normal(0, 5, 4)), place(normal(1, 4))),
    "auc": lambda place: probes.auc(place(normal(0, 5)), place(normal(1, 7))),
    "block_keys": edited("blocks.0.attn.scores", lambda place: probes.block_keys(place(mask()[:, :1]))),
    "class_readout": lambda place: probes.class_readout(
        place(masses()), place({name: normal(3, 4) for name in masses()}), place(normal(4, 4)), place(normal(5, 9, 4))
    ),
    "compare_features": lambda place: probes.compare_features(
        *(place(normal(seed, 30, *shape) > 0) for seed, shape in enumerate([(4,), (), ()])), permutations=5
    ),
    "conditional_share": lambda place: probes.conditional_share(
        *place([normal(0, 6, 4), normal(1, 6, 4), normal(2, 3, 4)])
    ),
    "cosine_to": lambda place: [
        probes.cosine_to(place(normal(0, 5, 4))),
        probes.cosine_to(place(normal(0, 5, 4)), place(normal(1, 4))),
    ],
    "dead_share": fitted,
    "edit": edited("blocks.0.mlp_out", lambda place: torch.zeros_like),
    "effect": lambda place: probes.effect(*place([normal(0, 6, 4), normal(1, 6, 4), normal(2, 3, 4)])),
    "explained_variance": fitted,
    "find_iteration_head": lambda place: probes.find_iteration_head(
        {n: [place(pattern(n)), place(pattern(n + 5))] for n in BY_LENGTH}, BY_LENGTH, carry_bar=0.1
    ),
    "fit_autoencoder": fitted,
    "fit_saturation": lambda place: probes.fit_saturation(place(normal(0, 9).abs()), place(torch.arange(9))),
    "follow_links": edited("blocks.0.attn.pattern", lambda place: probes.follow_links(0, LINKS)),
    "gain": lambda place: probes.gain(*place([normal(1, 6, 4), normal(2, 3, 4)])),
    "gradient_norms": slope_sizes(probes.gradient_norms),
    "invariance": lambda place: probes.invariance(place(pattern()), LINKS, 0.01),
    "jacobian_norms": slope_sizes(probes.jacobian_norms),
    "leading": lambda place: [probes.leading(place(normal(0, 6, 4)), energy).abs() for energy in (None, 0.5)],
    "linear_probe": lambda place: [
        probes.linear_probe(place(normal(0, 40, 3)), labels, groups, np.random.default_rng(0), steps=5)
        for labels in (place((normal(1, 40) > 0).long()),)
        for groups in (place(torch.arange(40) // 4), torch.arange(40) // 4)
    ],
    "link_mass": lambda place: [
        probes.link_mass(place(pattern()), links) for links in (LINKS, place(torch.tensor(LINKS)))
    ],
    "logit_attribution": lambda place: probes.logit_attribution(place(normal(0, 3, 5, 4)), place(normal(1, 7, 4))),
    "mass_by_class": lambda place: probes.mass_by_class(
        place(pattern()[:, 0, :3]), place({"in": mask(), "out": ~mask()})
    ),
    "mass_by_query": lambda place: probes.mass_by_query(place(pattern()), LINKS),
    "moved": lambda place: probes.moved(place(torch.tensor(LINKS)), 1).tolist(),
    "name_bias": lambda place: probes.name_bias(place(masses()), "ones"),
    "null_share": lambda place: probes.null_share(*place([normal(0, 6, 4), normal(1, 6, 4)]), draws=3),
    "outside": lambda place: probes.outside(place(normal(0, 6, 2)), place(torch.eye(6)[:, :3].double())),
    "peakiness": lambda place: probes.peakiness(place(pattern()), LINKS, 0.2),
    "points": lambda place: list(points(place(model_of()))),
    "put_back": edited("blocks.0.resid_post", lambda place: probes.put_back(place(normal(0, 2, 6, 16)), [1, 3])),
    "ranks": lambda place: probes.ranks(place(normal(0, 3, 7))),
    "rotary_planes": lambda place: probes.rotary_planes(place(normal(0, 3, 4)), place(normal(1, 3, 4))),
    "row_cosines": lambda place: probes.row_cosines(place(normal(0, 6, 4)), place(normal(1, 3, 4))),
    "score_table": lambda place: probes.score_table(place(normal(0, 3, 2, 4)), place(normal(1, 3, 2, 4))),
    "separation": lambda place: probes.separation(place(normal(0, 5, 4)), place(normal(1, 6, 4))),
    "split_change": lambda place: probes.split_change(place(normal(0, 6, 4)), place(normal(1, 6, 4))),
    "tau": lambda place: probes.tau(*place([normal(0, 5, 4), normal(1, 4), normal(2, 4)])),
    "through_origin": lambda place: probes.through_origin(place(normal(0, 9)), place(torch.arange(9))),
    "token_cosines": lambda place: probes.token_cosines(place(normal(0, 3, 4)), place(normal(1, 7, 4))),
    "top_energy": lambda place: probes.top_energy(place(normal(0, 6, 4)), 2),
    "top_rank": lambda place: probes.top_rank(place(normal(0, 6, 4)), 2),
    "top_share": lambda place: probes.top_share(place(normal(0, 6, 4))),
    "uniform_heads": edited("blocks.0.attn.pattern", lambda place: probes.uniform_heads([0, 1], [2, 4])),
    "uniform_mass": lambda place: [probes.uniform_mass(links) for links in (LINKS, place(torch.tensor(LINKS)))],
    "watch": watched,
    "weak_share": lambda place: probes.weak_share(place(normal(0, 5, 4)), place(normal(1, 6, 4))),
    "zero_heads": edited("blocks.0.attn.z", lambda place: probes.zero_heads(1, slice(2, None))),
}
ON_NUMBERS = {"CIRCUITS", "Edit", "Tap", "name_circuit", "predicted_slope"}
"""Of `probes`, what takes no tensors."""


def test_every_probe_is_tried():
    rest = {name for name in probes.__all__ if name not in PROBES and name not in ON_NUMBERS}
    assert all(is_dataclass(getattr(probes, name)) for name in rest)
    assert not ON_NUMBERS - set(probes.__all__)


@pytest.mark.parametrize("name", PROBES)
def test_every_probe_is_the_same_on_an_accelerator(name):
    same_on_an_accelerator(PROBES[name], name)


def same_on_an_accelerator(go: Callable[..., Any], name: str, *given: Any) -> None:
    expected = go(lambda x: placed(x, torch.device("cpu")), *given)
    with Accelerator():
        agree(go(lambda x: placed(x, DEVICE), *given), expected, name)


# Measuring -----------------------------------------------------------------------------------------------------------

ITERATED = Polynomial(p=5, lengths=(1, 5))
RECALL = AssociativeRecall(pairs=4)
COUNTING = ContextualCounting(length=(10, 20), regions=(1, 3))
CONCEPT = TaskConcept(letters=6, nodes=2, safe=1, unsafe=1, mixed=1, duplicates=1, soft_slots=1)
CHAINS = Reasoning(p=3, length=4)
SMALL = replace(concept.MODEL, width=16, heads=2)


@route
def accuracies(place):
    model, batches = place(iteration_head(ITERATED)), evaluate.held_out(ITERATED, 0, (3, 4), 6)
    head = evaluate.search_iteration_head(model, batches)
    return [
        evaluate.accuracy(model, batches),
        evaluate.free_running_accuracy(model, ITERATED, batches),
        evaluate.progress(model, batches),
        head,
        interventions.causal_tests(model, batches, head),
        interventions.steered_share(model, ITERATED, batches, head),
        interventions.mass_by_symbol(model, batches[4], head),
    ]


@route
def surveys(place):
    model, batch = place(induction_head(RECALL)), RECALL.sample(stream(0), 8)
    return survey(model, batch), says_what_stands(model, batch, batch.links["induction"])


@route
def films(place, tmp_path):
    scene = Scene("a row", tokens()[0], tuple("abcdef"), {})
    film = Film(tmp_path / "film", [scene])
    for step in (0, 5):
        film.add(place(model_of()), step)
    film = Film(tmp_path / "film", [scene])
    film.add(place(model_of("alibi")), 9)
    shown = read_film(tmp_path / "film", "", "", [{"step": step} for step in (0, 5, 9)], {})
    return [patterns.tolist() for patterns in shown.patterns]


def counter(**encoder: Any) -> nn.Module:
    shape = replace(ENCODER, width=8, **encoder)
    return counting.counting_model(COUNTING, EncoderDecoderConfig(encoder=shape, self_attention=True, hidden=8))


def strings_of(rows: int) -> Any:
    return counting.held_out_strings(COUNTING, 0, rows)


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
            counting_circuits.shift(here, asked, longer),
            counting_circuits.encoder_scores(here),
            counting_circuits.permutation_gap(here, asked, np.random.default_rng(0)),
            counting_circuits.floor(asked),
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
        counting_circuits.rotary_profile(turning),
        counting_circuits.stopped_planes(turning, rotated, 0.1),
        tally(place(tokens()), VOCAB, True),
        tally(place(tokens()), VOCAB, False, torch.float64),
    ]


@route
def safety_of_a_model(place):
    base, tuned = place(concept.concept_model(CONCEPT, SMALL, 0)), place(concept.concept_model(CONCEPT, SMALL, 1))
    sets = safety.judged_on(CONCEPT, 0, 4)
    batch = sets["unsafe"]
    return [
        safety.behaviour(base, CONCEPT, sets),
        safety.clusters(base, CONCEPT, sets),
        safety.nearness(base, CONCEPT, sets),
        safety.sensitivity(base, CONCEPT, batch),
        safety.weight_change(base, tuned, CONCEPT, sets),
        safety.between(base, tuned, 1.5),
        safety.with_parts(base, tuned),
        safety.soft_attack(base, CONCEPT, batch, 1.0, 2),
        safety.cosines(base, {"refusal": Refusal(), "unlearning": Unlearning()}, CONCEPT, batch),
    ]


@route
def chains_of_a_model(place):
    model = place(reasoning.reasoning_model(CHAINS, replace(reasoning.MODEL, layers=2, width=32)))
    prompts = place(reasoning.held_out_questions(CHAINS, 0, 6))
    sampler = reasoning.Sampler(model, CHAINS, 0, 2, 3, reference=model)
    return [
        reasoning.answers(model, CHAINS, prompts, 1.0),
        reasoning.answers(model, CHAINS, prompts.cpu(), 0.0, opener="THINK"),
        reasoning.write_answers(model, CHAINS, prompts, 0.0, opener="THINK", samples=2),
        reasoning.right_chains(CHAINS, 0, 5)(model),
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
    prompts = place(reasoning.held_out_questions(CHAINS, 0, 12))
    steered, scaled = vectors(model, {0: normal(0, 32)}), Steered(model, {0: Scaled(32, generator=torch.Generator())})
    vector = measures.vector_of(steered)
    found = measures.features(steered, Lenient(p=3, length=4), prompts, dictionary=12, steps=3)
    return [
        measures.by_place(steered, CHAINS, prompts[:2]),
        measures.kl_by_position(steered, CHAINS, prompts[:2]),
        measures.says(vector, model, CHAINS),
        measures.persistence(steered, CHAINS, prompts[:2], {1: vector}),
        measures.ForcedRoute(model, {0: Vector(32, vector)})(prompts),
        measures.with_clean_scale(steered)(prompts),
        measures.random_vectors(model, CHAINS, prompts[:2], 0, 2.0, 2),
        measures.difference_of_means(model, CHAINS, prompts, 0, 2.0),
        measures.Edited(model, measures.logit_bias(steered, CHAINS, prompts))(prompts),
        measures.combined(model, CHAINS, prompts[:2], {0: vector}, [0], 0.5),
        measures.mapped(vector, model, model),
        measures.scales(scaled, CHAINS, prompts[:2]),
        {kind: sorted(one) for kind, one in asdict(found).items()},
    ]


@route
def disguises(place):
    plant, rng = place(induction_head(RECALL)), np.random.default_rng(0)
    return [
        grafts.widened(plant, 2, 1, rng),
        grafts.deepened(plant, 1, rng),
        grafts.rotated(plant, rng),
        grafts.rotated_stream(place(contextual_counter(COUNTING.most, COUNTING.classes)), rng),
        grafts.blended(plant, 0.3, rng),
    ]


@pytest.mark.parametrize("name", ROUTES)
def test_everything_that_measures_is_the_same_on_an_accelerator(name, tmp_path):
    go = ROUTES[name]
    same_on_an_accelerator(go, name, *([tmp_path] if go.__code__.co_argcount > 1 else []))


# Training ------------------------------------------------------------------------------------------------------------

CONFIG = TrainConfig(steps=4, warmup=2, cooldown=1, evaluate_every=2, rows=4, weight_decay=0.1)


def trained(model: nn.Module, loss: Callable, batches: Callable, **options: Any) -> Any:
    """A model after a few steps, and what was measured on the way."""
    device = device_of(model)
    state = train(model, loss, lambda step: to_device(batches(step), device), CONFIG, **options)
    return model, state.history


@pytest.mark.parametrize("kind", ["next token", "counts", "pairs", "vectors", "low rank", "policy"])
def test_training_takes_the_same_steps_on_an_accelerator(tmp_path, kind):
    held = evaluate.held_out(ITERATED, 0, (3, 4), 4)

    def go(place: Place, folder: str) -> Any:
        model = place(Transformer.for_task(ITERATED, ModelConfig(width=16)))
        if kind == "next token":
            options = {
                "evaluate": lambda it: evaluate.progress(it, held),
                "record": Film(
                    tmp_path / folder / "film", [Scene("", torch.from_numpy(held[3].tokens[0]), (), {})]
                ).add,
                "checkpoint": tmp_path / folder / "checkpoint",
            }
            made = trained(model, next_token_loss, fresh(ITERATED, 0, 4), **options)
            again = place(Transformer.for_task(ITERATED, ModelConfig(width=16)))
            return made, trained(again, next_token_loss, fresh(ITERATED, 0, 4), **options)
        if kind == "counts":
            teacher = place(counting.RegionTeacher(counter()))
            batches = counting.fresh_strings(COUNTING, 0, 4, auxiliary=counting.fading(4, 0.5))
            return trained(teacher, counting.count_loss, batches)
        if kind == "pairs":
            model = place(concept.concept_model(CONCEPT, SMALL))
            return trained(model, DPO(model), concept.fine_tuning(CONCEPT, 0, 4, 0.5))
        if kind == "low rank":
            model = confine(place(concept.concept_model(CONCEPT, SMALL)), 2)
            trained(model, Refusal(), concept.fine_tuning(CONCEPT, 0, 4, 0.5))
            return release(model)
        steered = vectors(place(reasoning.reasoning_model(CHAINS, replace(reasoning.MODEL, layers=2, width=32))))
        if kind == "policy":
            sampler = reasoning.Sampler(steered, CHAINS, 0, 2, 4, reference=steered.model)
            loss = PolicyGradient(0.1, 0.1, steered.model)
            return trained(steered, loss, sampler, evaluate=sampler.summary)
        return trained(steered, next_token_loss, reasoning.reasoning_batches(CHAINS, 0, 4, Styles(), "vectors"))

    expected = go(lambda x: placed(x, torch.device("cpu")), "here")
    with Accelerator():
        agree(go(lambda x: placed(x, DEVICE), "there"), expected, kind)


def test_a_population_takes_the_same_steps_on_an_accelerator():
    def go(device: torch.device) -> Any:
        models = [Transformer.for_task(ITERATED, ModelConfig(width=16), seed).to(device) for seed in range(2)]
        together = Population(models, next_token_loss, CONFIG)
        data = [fresh(ITERATED, seed, 4, pad) for seed in range(2)]
        losses = together.train([lambda step, one=one: one(step).to(device) for one in data], 3)
        return losses, together.members()

    expected = go(torch.device("cpu"))
    with Accelerator():
        agree(go(DEVICE), expected, "population")


# The accelerator itself ----------------------------------------------------------------------------------------------


def test_the_pretend_accelerator_refuses_what_cuda_refuses():
    here, number = torch.arange(6.0), torch.tensor(2.0)
    index = torch.tensor([0, 2])
    source = torch.Generator().manual_seed(0)
    with Accelerator():
        there = here.to(DEVICE)
        assert (here.device.type, there.device) == ("cpu", DEVICE)
        for refused in (
            lambda: here + there,
            lambda: torch.cat([here, there]),
            lambda: torch.where(here > 1, there, there),
            lambda: there.gather(0, index),
            lambda: there.masked_fill(here > 1, 0),
            lambda: here[index.to(DEVICE)],
            lambda: there.index_put((index,), here[:2]),
            lambda: torch.multinomial(there, 1, generator=source),
            lambda: torch.randn(2, generator=source, device=DEVICE),
            lambda: nn.Linear(6, 2)(there),
        ):
            with pytest.raises(RuntimeError, match="expected"):
                refused()
        for refused in (there.numpy, lambda: np.asarray(there), lambda: torch.from_numpy(there.numpy())):
            with pytest.raises(TypeError, match="copy it first"):
                refused()
        for allowed in (
            there * number,
            there[index],
            there[here > 1],
            there.view(2, 3)[0],
            there.clone(),
            there.double(),
        ):
            assert allowed.device == DEVICE
        for near in (there.cpu(), there.to("cpu"), torch.zeros_like(there, device="cpu"), torch.tensor(there.tolist())):
            assert near.device.type == "cpu"
        assert torch.zeros(2, device=there.device).device == torch.as_tensor(here, device=DEVICE).device == DEVICE
        assert here.device.type == "cpu"  # it was copied, not marked
        assert here.copy_(there).device.type == "cpu"
        assert (float(there.sum()), there.tolist()) == (15.0, here.tolist())


def test_gradients_of_the_pretend_accelerator_come_back_to_where_a_tensor_was():
    with Accelerator():
        here, model = torch.ones(3, requires_grad=True), nn.Linear(3, 2).to(DEVICE)
        model(here.to(DEVICE)).sum().backward()
        assert (here.grad.device.type, model.weight.grad.device) == ("cpu", DEVICE)
        assert here.grad.tolist() == model.weight.sum(dim=0).tolist()
