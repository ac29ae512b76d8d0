"""Laws of devices: on an accelerator, everything that takes a model or tensors gives the numbers of the CPU.

Each route is gone twice, with all models and tensors here and with all of them on the pretend accelerator of
`accelerator.py`, which refuses what CUDA refuses. Tasks, batches of numpy and generators stay on the CPU, as they do
in use.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests.accelerator import DEVICE, Accelerator
from tests.device_routes import ROUTES
from tests.places import (
    CHAINS,
    CONCEPT,
    COUNTING,
    ITERATED,
    SMALL,
    WAYS_TO_WRITE,
    Place,
    agree,
    counter,
    model_of,
    normal,
    placed,
    same_on_an_accelerator,
    slopes,
    tokens,
    whole,
    written,
)
from toylab.model.config import ModelConfig
from toylab.model.layers import KVCache
from toylab.model.lora import add_lora, merge_lora
from toylab.model.positions import POSITIONS
from toylab.model.steering import (
    Scaled,
    Steered,
    Vector,
    load_steering,
    save_steering,
    steer,
)
from toylab.model.transformer import Transformer
from toylab.studies.contextual_counting import data as counting
from toylab.studies.safety_finetuning import data as concept
from toylab.studies.steering_vectors import data as reasoning
from toylab.tasks import Styles
from toylab.training import evaluate
from toylab.training.attention_history import AttentionHistory, RecordedSequence
from toylab.training.batches import device_of, next_token_loss, pad, to_device, training_batches
from toylab.training.loop import TrainConfig, train
from toylab.training.losses import DPO, NPO, PolicyGradient, PreferencePairs, RefusalLoss, Unlearning
from toylab.training.population import Population

LONG = {
    "counts",
    "counts by values and by rotation",
    "safety of a model",
    "steering of a model",
}
"""Routes through all measures of a study, which take seconds each."""


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow) if name in LONG else name for name in ROUTES]
)
def test_everything_that_measures_is_the_same_on_an_accelerator(name, tmp_path):
    go = ROUTES[name]
    same_on_an_accelerator(go, name, *([tmp_path] if go.__code__.co_argcount > 1 else []))


# Models --------------------------------------------------------------------------------------------------------------


def cached(model: Transformer, read: Tensor) -> Tensor:
    cache = KVCache()
    pieces = [model(piece, cache=cache) for piece in read.split([3, 2, 1], dim=1)]
    cache.repeat(2)
    cache.keep(torch.arange(2 * len(read), device=read.device) % 2 == 0)
    return torch.cat([*pieces, model(read[:, :1], cache=cache)], dim=1)


def chosen(model: Transformer, read: Tensor) -> Tensor:
    queries = torch.tensor([[1, 4]] * len(read), device=read.device)
    segments = torch.tensor([[0, 0, 0, 1, 1, 1]] * len(read), device=read.device)
    positions = torch.tensor([[0, 1, 2, 0, 1, 2]], device=read.device)
    return model(read, positions=positions, segments=segments, queries=queries)


FORMS = (whole, cached, chosen, written)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("positions", POSITIONS)
def test_every_encoding_by_every_route_is_the_same_on_an_accelerator(positions, form):
    model = model_of(positions)
    expected = form(model, tokens())
    with Accelerator():
        agree(form(model.to(DEVICE), tokens().to(DEVICE)), expected, form.__name__)


# Losses --------------------------------------------------------------------------------------------------------------


PREFERENCES: dict[str, Callable[[Transformer], Any]] = {
    "refusal": lambda reference: RefusalLoss(),
    "unlearning": lambda reference: Unlearning(),
    "DPO": lambda reference: DPO(reference, anchor=0.5),
    "published DPO": DPO.as_published,
    "NPO": NPO,
}


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("name", PREFERENCES)
def test_every_loss_of_pairs_and_its_gradient_are_the_same_on_an_accelerator(name, causal):
    read, model = (
        PreferencePairs(tokens(4, 3), tokens(4, 2), tokens(4, 4)[:, :2], tokens(4)[:, 0] > 2),
        model_of(causal=causal),
    )
    reference = model_of(causal=causal, heads=1)
    expected = slopes(PREFERENCES[name](reference)(model, read), model)
    with Accelerator():
        model, reference = model.to(DEVICE), reference.to(DEVICE)
        agree(slopes(PREFERENCES[name](reference)(model, to_device(read, DEVICE)), model), expected, name)


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
        ways = (
            WAYS_TO_WRITE if kind == "vector" else WAYS_TO_WRITE[:1]
        )  # what is added has no part in how tokens are drawn
        return slopes(loss, steered), written(steered, read, ways), again(read), steered.only((1,))(read)

    expected = go(model_of(), tokens())
    with Accelerator():
        agree(go(model_of().to(DEVICE), tokens().to(DEVICE)), expected, kind)


# Training ------------------------------------------------------------------------------------------------------------


CONFIG = TrainConfig(steps=4, warmup=2, cooldown=1, evaluate_every=2, rows=4, weight_decay=0.1)


def trained(model: nn.Module, loss: Callable, batches: Callable, **options: Any) -> Any:
    """A model after a few steps, and what was measured on the way."""
    device = device_of(model)
    state = train(model, loss, lambda step: to_device(batches(step), device), CONFIG, **options)
    return model, state.history


@pytest.mark.parametrize("kind", ["next token", "counts", "pairs", "vectors", "low rank", "policy"])
def test_training_takes_the_same_steps_on_an_accelerator(tmp_path, kind):
    held = evaluate.by_length(ITERATED, 0, (3, 4), 4)

    def go(place: Place, folder: str) -> Any:
        model = place(Transformer.for_task(ITERATED, ModelConfig(width=16)))
        if kind == "next token":
            options = {
                "evaluate": lambda it: evaluate.evaluation_metrics(it, held),
                "record": AttentionHistory(
                    tmp_path / folder / "film", [RecordedSequence("", torch.from_numpy(held[3].tokens[0]), (), {})]
                ).add,
                "checkpoint": tmp_path / folder / "checkpoint",
            }
            made = trained(model, next_token_loss, training_batches(ITERATED, 0, 4), **options)
            again = place(Transformer.for_task(ITERATED, ModelConfig(width=16)))
            return made, trained(again, next_token_loss, training_batches(ITERATED, 0, 4), **options)
        if kind == "counts":
            teacher = place(counting.RegionTeacher(counter()))
            batches = counting.fresh_strings(COUNTING, 0, 4, auxiliary=counting.linear_decay(4, 0.5))
            return trained(teacher, counting.count_loss, batches)
        if kind == "pairs":
            model = place(concept.concept_model(CONCEPT, SMALL))
            return trained(model, DPO(model), concept.fine_tuning_batches(CONCEPT, 0, 4, 0.5))
        if kind == "low rank":
            model = add_lora(place(concept.concept_model(CONCEPT, SMALL)), 2)
            trained(model, RefusalLoss(), concept.fine_tuning_batches(CONCEPT, 0, 4, 0.5))
            return merge_lora(model)
        steered = steer(place(reasoning.reasoning_model(CHAINS, replace(reasoning.MODEL, layers=2, width=32))))
        if kind == "policy":
            sampler = reasoning.RolloutSampler(steered, CHAINS, 0, 2, 4, reference=steered.model)
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
        data = [training_batches(ITERATED, seed, 4, pad) for seed in range(2)]
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
