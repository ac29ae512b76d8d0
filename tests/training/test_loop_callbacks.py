"""Laws of what is passed to the training loop: what callbacks may do to a model, and what a loss must depend on."""

import itertools
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.utils.parametrize import is_parametrized, register_parametrization

from tests.training.small_trainings import (
    PLAIN,
    TASK,
    Number,
    bits,
    build,
    free_of_times,
)
from toylab.console import ToylabError
from toylab.training.batches import ScoredBatch, next_token_loss, training_batches
from toylab.training.loop import Training, train
from toylab.training.optimizer import flat_parameters

# What a callback does to the model -----------------------------------------------------------------------------------


def gradient_of_its_own(model: nn.Module) -> None:
    with torch.enable_grad():
        sum(p.sum() for p in model.parameters()).backward()
    for p in model.parameters():
        p.grad = p.grad.clone()


def memory_of_its_own(model: nn.Module) -> None:
    for p in model.parameters():
        p.data = p.data.clone()


def trained_elsewhere(model: nn.Module) -> None:
    """Its parameters are laid into another vector and come back, with nothing changed."""
    with flat_parameters(p for p in model.parameters() if p.requires_grad):
        pass


def swapped(model: nn.Module) -> None:
    held = [p.data for p in model.parameters()]
    for p in model.parameters():
        p.data = torch.zeros_like(p)
    for p, data in zip(model.parameters(), held, strict=True):
        p.data = data.clone()


HARMLESS = {
    "gradients cleared": lambda model: model.zero_grad(),
    "gradients zeroed": lambda model: model.zero_grad(set_to_none=False),
    "gradients measured": gradient_of_its_own,
    "another type and back": lambda model: model.double().float(),
    "memory of its own": memory_of_its_own,
    "swapped and back": swapped,
    "trained elsewhere": trained_elsewhere,
    "frozen and back": lambda model: model.requires_grad_(False).requires_grad_(True),
    "evaluation mode": lambda model: model.eval(),
    "training mode": lambda model: model.train(),
    "reloaded": lambda model: model.load_state_dict(model.state_dict()),
}


def meddled(what: Callable[[nn.Module], Any], where: str, model: nn.Module, at: int = 0, **options: Any) -> Training:
    """Train while a callback does something to the model from a step on."""
    config, data, at_step = replace(PLAIN, steps=3), training_batches(TASK, 0, 4), itertools.count()

    def do(place: str) -> None:
        if place == where and next(at_step) >= at:
            what(model)

    def loss(model: nn.Module, scored: ScoredBatch) -> torch.Tensor:
        do("loss")
        value = next_token_loss(model, scored)
        do("loss, after the model ran")
        return value

    def batch_at(step: int) -> ScoredBatch:
        do("batch_at")
        return data(step)

    return train(
        model, loss, batch_at, config, record=lambda *_: do("record"),
        evaluate=lambda _: do("evaluate") or {"score": 1.0}, **options,
    )  # fmt: skip


PLACES = ("evaluate", "record", "batch_at", "loss", "loss, after the model ran")


@cache
def unmeddled() -> tuple[dict, dict[str, bytes]]:
    """Where the training ends if its callbacks do nothing, and its weights there."""
    model = build()
    return free_of_times(meddled(lambda _: None, "nowhere", model)), bits(model)


@pytest.mark.parametrize("where", PLACES)
@pytest.mark.parametrize("what", HARMLESS)
def test_what_a_callback_does_and_leaves_as_it_was_changes_no_bit_of_the_training(what, where):
    if (what, where) == ("reloaded", PLACES[-1]):
        return  # autograd itself refuses a change in place between the two passes
    model = build()
    assert (free_of_times(meddled(HARMLESS[what], where, model)), bits(model)) == unmeddled()
    assert bits(model) != bits(build())


@pytest.mark.parametrize("where", PLACES[:4])
def test_values_that_a_callback_gives_to_a_parameter_are_trained_on(where):
    def in_place(model: nn.Module) -> None:
        with torch.no_grad():
            model.unembedding.weight.mul_(0.5)

    def rebound(model: nn.Module) -> None:
        model.unembedding.weight.data = 0.5 * model.unembedding.weight.data

    one, other = build(), build()
    meddled(in_place, where, one)
    meddled(rebound, where, other)
    assert bits(one) == bits(other)


def replaced(model: nn.Module) -> None:
    model.unembedding.weight = nn.Parameter(model.unembedding.weight.detach().clone())


def grown(model: nn.Module) -> None:
    model.unembedding.bias = nn.Parameter(torch.zeros(len(TASK.vocabulary)))


class Doubled(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 2 * x


REFUSED = {
    "another type": (lambda model: model.double(), "'embedding.weight': was torch.float32 .* became torch.float64"),
    "replaced": (replaced, "'unembedding.weight': was replaced"),
    "assigned": (lambda model: model.load_state_dict(build().state_dict(), assign=True), "'.*': was replaced"),
    "grown": (grown, "'unembedding.bias': was replaced, or its requires_grad changed"),
    "frozen": (lambda model: model.unembedding.requires_grad_(False), "'unembedding.weight': .*requires_grad changed"),
    "parametrized": (
        lambda model: (
            is_parametrized(model.unembedding) or register_parametrization(model.unembedding, "weight", Doubled())
        ),
        "'unembedding.weight': was replaced",
    ),
}


@pytest.mark.parametrize(("where", "at"), [*((where, 0) for where in PLACES[:4]), ("record", 1), ("loss", 2)])
@pytest.mark.parametrize("what", REFUSED)
def test_what_would_end_the_training_of_a_parameter_is_refused_by_its_name(what, where, at):
    do, words = REFUSED[what]
    with pytest.raises(ToylabError, match=f"parameter {words}"):
        meddled(do, where, build(), at)


def test_a_parameter_that_takes_another_shape_is_refused_by_its_name():
    with pytest.raises(ToylabError, match=r"parameter 'ln_final\.bias': was .* became torch\.float32 of \(1, 8\)"):
        meddled(lambda model: setattr(model.ln_final.bias, "data", torch.zeros(1, 8)), "record", build())


def test_a_parameter_that_is_unfrozen_during_training_is_refused_by_its_name():
    model = build()
    model.unembedding.requires_grad_(False)
    with pytest.raises(ToylabError, match=r"parameter 'unembedding\.weight': .*requires_grad changed"):
        meddled(lambda model: model.requires_grad_(True), "record", model, 1)


def test_parameters_have_their_own_memory_after_a_training_that_was_meddled_with():
    model = build()
    meddled(memory_of_its_own, "loss, after the model ran", model)
    parameters = list(model.parameters())
    assert len({p.untyped_storage().data_ptr() for p in parameters}) == len(parameters)
    assert all(p.grad is None for p in parameters)


# What the loss depends on --------------------------------------------------------------------------------------------


class Headed(nn.Module):
    """A model with a part that its loss may use or not."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.head = nn.Linear(3, 3), nn.Linear(3, 1)

    def forward(self, x: torch.Tensor, headed: bool) -> torch.Tensor:
        y = self.inner(x)
        return (self.head(y) if headed else y).square().mean()


def headed(since: int) -> Callable[[Headed, int], torch.Tensor]:
    """A loss that uses the head from a step on."""
    return lambda model, step: model(torch.ones(2, 3), step >= since)


@pytest.mark.parametrize("steps", [1, 2, 6])
def test_a_parameter_that_the_loss_does_not_depend_on_is_named_at_the_first_evaluation(tmp_path, steps):
    checkpoint = tmp_path / "checkpoint.safetensors"
    config = replace(PLAIN, steps=steps, weight_decay=0.1)
    words = rf"'head\.weight': the loss does not depend on it in the first {min(steps, 2)} steps"
    with pytest.raises(ToylabError, match=words):
        train(Headed(), headed(99), lambda step: step, config, checkpoint=checkpoint)
    assert not checkpoint.exists()
    model = Headed()
    model.head.requires_grad_(False)
    assert train(model, headed(99), lambda step: step, config).step == steps


def test_a_parameter_that_the_loss_reaches_before_the_first_evaluation_is_trained():
    model = Headed()
    before = bits(model)
    train(model, headed(1), lambda step: step, PLAIN)
    assert all(held != before[name] for name, held in bits(model).items())


def test_the_first_step_is_like_the_others_whether_all_is_reached_or_not():
    """The vector of gradients is filled by another way in the first step; a frozen head takes that way out."""
    whole, parts = Headed(), Headed()
    parts.load_state_dict(whole.state_dict())
    train(whole, headed(0), lambda step: step, replace(PLAIN, steps=1))
    oracle = torch.optim.AdamW(parts.parameters(), lr=PLAIN.learning_rate, betas=PLAIN.betas, weight_decay=0)
    headed(0)(parts, 0).backward()
    oracle.step()
    for one, other in zip(whole.parameters(), parts.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-7)


LOST = {
    "detached": lambda model, x: model.weight.detach().sum(),
    "a number": lambda model, x: torch.tensor(model.weight.item()),
    "another parameter": lambda model, x: nn.Parameter(torch.ones(())) * model.weight.item(),
    "gradients switched off": torch.no_grad()(lambda model, x: model.weight.sum()),
}


@pytest.mark.parametrize("loss", LOST.values(), ids=LOST)
def test_a_loss_that_depends_on_no_parameter_is_refused(loss):
    with pytest.raises(ToylabError, match="loss: does not depend on any parameter"):
        train(Number(), loss, lambda step: step, PLAIN)


def test_a_hook_that_takes_a_gradient_away_is_refused_and_one_that_changes_it_is_heard():
    model, other = Number(3.0), Number(3.0)
    model.weight.register_post_accumulate_grad_hook(lambda p: setattr(p, "grad", None))
    with pytest.raises(ToylabError, match=r"loss: does not depend|'weight': a hook took its gradient away"):
        train(model, lambda m, _: m.weight.square().sum(), lambda step: step, PLAIN)
    other.weight.register_post_accumulate_grad_hook(lambda p: setattr(p, "grad", torch.zeros_like(p)))
    train(other, lambda m, _: m.weight.square().sum(), lambda step: step, PLAIN)
    assert other.weight.item() == 3
