"""Laws of a population: each member becomes what it would become alone."""

from dataclasses import dataclass

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from tests.examples import fewer
from toylab.console import ToylabError
from toylab.model.config import ModelConfig
from toylab.model.transformer import Transformer
from toylab.tasks import IGNORE, Polynomial
from toylab.training.batches import ScoredBatch, next_token_loss, pack, pad, training_batches
from toylab.training.loop import DivergedError, TrainConfig, train
from toylab.training.population import Population, stack_batches

TASK = Polynomial(p=5, lengths=(1, 4))
CONFIG = TrainConfig(steps=6, warmup=2, cooldown=2, evaluate_every=6, weight_decay=0.1, clip=0.5)


def member(seed: int, **shape) -> Transformer:
    return Transformer.for_task(TASK, ModelConfig(heads=2, width=8, **shape), seed).double()


@fewer(0.2)
@given(
    st.lists(st.integers(0, 2**32), min_size=1, max_size=3, unique=True),
    st.sampled_from([pad, pack]),
    st.sampled_from(["sinusoidal", "learned", "rotary", "alibi", "none"]),
    st.sampled_from(["learned", "frozen", "tied"]),
)
def test_members_become_what_they_would_become_alone(seeds, layout, positions, unembedding):
    if layout is pack and positions == "learned":
        return  # which look at the largest position, and that differs from member to member
    models = [member(seed, positions=positions, unembedding=unembedding) for seed in seeds]
    data = [training_batches(TASK, seed, 6, layout) for seed in seeds]
    population = Population(models, next_token_loss, CONFIG)
    losses = population.train(data)
    assert losses.shape == (CONFIG.steps, len(seeds))
    for model, together, batches in zip(models, population.members(), data, strict=True):
        train(model, next_token_loss, batches, CONFIG)
        for alone, other in zip(model.parameters(), together.parameters(), strict=True):
            torch.testing.assert_close(other, alone, rtol=1e-7, atol=1e-9)


def test_the_models_that_are_given_are_left_as_they_were():
    model = member(0)
    before = [p.detach().clone() for p in model.parameters()]
    Population([model], next_token_loss, CONFIG).train([training_batches(TASK, 0, 6, pad)], 2)
    assert all(torch.equal(p, b) for p, b in zip(model.parameters(), before, strict=True))


def test_smaller_batches_are_filled_up_with_what_nobody_is_scored_on():
    def scored(rows: int, width: int) -> ScoredBatch:
        full = torch.full((rows, width), 3)
        return ScoredBatch(full, full, full, full, full)

    found = stack_batches([scored(1, 2), scored(2, 3)])
    assert found["tokens"].tolist() == [[[3, 3, 0], [0, 0, 0]], [[3, 3, 3], [3, 3, 3]]]
    assert found["targets"].tolist()[0] == [[3, 3, IGNORE], [IGNORE] * 3]
    assert found["segments"].tolist()[0] == [[3, 3, -1], [-1] * 3]


def test_what_cannot_be_one_program_is_refused():
    with pytest.raises(ValueError, match="models: a population needs at least one"):
        Population([], next_token_loss)
    with pytest.raises(ValueError, match="models: members must have the same parameters"):
        Population([member(0), member(0, layers=1)], next_token_loss)
    population = Population([member(0), member(1)], next_token_loss)
    with pytest.raises(ValueError, match="batches: 1 for 2 members"):
        population.step([training_batches(TASK, 0, 6, pad)(0)], 0.1)
    with pytest.raises(ValueError, match="batches: must be dataclasses"):
        stack_batches([torch.zeros(1)])


@dataclass(frozen=True)
class Weighted:
    """A batch with a number that is no tensor."""

    x: Tensor
    weight: float


def test_numbers_that_are_no_tensors_must_agree():
    assert set(stack_batches([Weighted(torch.ones(2), 0.5), Weighted(torch.ones(2), 0.5)])) == {"x"}
    with pytest.raises(ValueError, match="batches: weight differs"):
        stack_batches([Weighted(torch.ones(2), 0.5), Weighted(torch.ones(2), 0.25)])


def broken(model: nn.Module, batch: Weighted) -> Tensor:
    return (batch.x.log() * model(batch.x)).sum()


def test_a_member_that_diverges_stops_all_before_anything_is_changed():
    population = Population([nn.Linear(1, 1), nn.Linear(1, 1)], broken)
    before = population.weights.clone()
    good, bad = Weighted(torch.ones(1), 1.0), Weighted(-torch.ones(1), 1.0)
    with pytest.raises(DivergedError, match="training diverged"):
        population.step([good, bad], 0.1)
    assert torch.equal(population.weights, before)


# What is trained -----------------------------------------------------------------------------------------------------


class Unread(nn.Module):
    """A linear map, and a head that no loss reads."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.head = nn.Linear(1, 1), nn.Linear(1, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x)


def squared(model: nn.Module, batch: Weighted) -> Tensor:
    return model(batch.x).square().sum()


def test_a_parameter_that_the_loss_does_not_depend_on_is_refused_by_its_name_before_anything_is_changed():
    population = Population([Unread(), Unread()], squared)
    before, batch = population.weights.clone(), Weighted(torch.ones(1), 1.0)
    with pytest.raises(ToylabError, match=r"parameter 'head\.weight': the loss does not depend on it"):
        population.step([batch, batch], 0.1)
    assert torch.equal(population.weights, before)
    models = [Unread(), Unread()]
    for model in models:
        model.head.requires_grad_(False)
    assert Population(models, squared).step([batch, batch], 0.1).shape == (2,)


@pytest.mark.parametrize(
    "loss",
    [lambda model, batch: model(batch.x).detach().sum(), lambda model, batch: batch.x.clone().requires_grad_().sum()],
)
def test_a_loss_that_depends_on_no_parameter_is_refused(loss):
    batch = Weighted(torch.ones(1), 1.0)
    with pytest.raises(ToylabError, match="loss: does not depend on any parameter"):
        Population([nn.Linear(1, 1)], loss).step([batch], 0.1)


def test_members_that_train_different_parameters_or_none_are_refused():
    one, other = nn.Linear(1, 1), nn.Linear(1, 1)  # as many numbers each
    one.weight.requires_grad_(False)
    other.bias.requires_grad_(False)
    with pytest.raises(ToylabError, match="same parameters, of the same shapes and requires_grad"):
        Population([one, other], squared)
    with pytest.raises(ToylabError, match="nothing has requires_grad=True"):
        Population([nn.Linear(1, 1).requires_grad_(False)], squared)


def test_members_given_in_evaluation_mode_are_trained_in_training_mode():
    told = []

    def loss(model: nn.Module, batch: Weighted) -> Tensor:
        return model(batch.x).sum()

    model = nn.Sequential(nn.Linear(1, 1), nn.Identity()).eval()
    population = Population([model], loss)
    population._skeleton[1].register_forward_hook(lambda module, *_: told.append(module.training))
    batch = Weighted(torch.ones(1), 1.0)
    population.step([batch], 0.1)
    assert told
    assert all(told)
    assert not model.training
