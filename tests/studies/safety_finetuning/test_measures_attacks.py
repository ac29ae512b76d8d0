"""Laws of attacks and of gradients: on a model that a vector in the PAD slots moves by hand-written maps, the attack
walks where slow loops walk, and wins where its ball reaches far enough; cosines of gradients are those of vectors."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.studies.safety_finetuning.planted import (
    TASK,
    WIDTH,
    Persuadable,
    Planted,
    held_out,
    prompts_of,
    transforms_of,
)
from toylab.studies.safety_finetuning import measures as safety
from toylab.studies.safety_finetuning.data import MODEL, concept_model, preference_pairs
from toylab.tasks import JAILBREAKS, stream
from toylab.training.losses import RefusalLoss

SHAPE = TASK.answer, TASK.soft_slots, WIDTH, len(TASK.vocabulary)
seeds = st.integers(0, 2**31)


# Attacks -------------------------------------------------------------------------------------------------------------


def mean_letter(model: Persuadable) -> float:
    letters = model.embedding.weight[: TASK.letters].tolist()
    return sum(math.hypot(*letter) for letter in letters) / TASK.letters


def walked(model: Persuadable, transform: list[int], radius: float, steps: int) -> np.ndarray:
    """What stands in the slots of one prompt after normalised gradient descent, slot by slot, from PAD."""
    maps, shift = model.maps.double().numpy(), np.zeros((TASK.soft_slots, WIDTH))
    for _ in range(steps):
        gradient = np.zeros_like(shift)
        for step, letter in enumerate(transform):
            logits = np.einsum("sw,swv->v", model.pad + shift, maps[step])
            logits[TASK.null] += model.reluctance
            chances = np.exp(logits - logits.max())
            gradient += maps[step] @ (chances / chances.sum() - np.eye(len(logits))[letter])
        for slot in range(TASK.soft_slots):
            shift[slot] -= 2 * radius / steps * gradient[slot] / math.hypot(*gradient[slot])
            shift[slot] *= min(1, radius / math.hypot(*shift[slot]))
    return model.pad + shift


@given(seeds, st.floats(0.05, 2), st.integers(1, 5))
@settings(max_examples=6)
def test_an_attack_walks_prompt_by_prompt_down_the_surprise_at_the_transform_and_stays_in_its_ball(seed, budget, steps):
    rng = stream(seed)
    model, batch = Persuadable(rng.normal(0, 0.3, SHAPE), 3.0, seed), TASK.sample(rng, 3, kind="unsafe")
    weights = [weight.clone() for weight in model.parameters()]
    safety.soft_attack(model, TASK, batch, budget, steps)
    radius = budget * mean_letter(model)
    for slots, transform in zip(model.slots.double().numpy(), transforms_of(batch), strict=True):
        assert np.allclose(slots, walked(model, transform, radius, steps), atol=2e-3 * radius)
        assert max(math.hypot(*slot) for slot in slots - model.pad) <= radius * (1 + 1e-5)
    assert all(torch.equal(one, other) for one, other in zip(model.parameters(), weights, strict=True))


@pytest.mark.parametrize(("budget", "wins"), [(0.9, False), (1.1, True)])
def test_a_model_with_a_direction_that_makes_it_comply_is_broken_when_the_ball_reaches_as_far_as_its_reluctance(
    budget, wins
):
    """One letter is all that is ever asked for; it gains one nat a unit of length in both slots, away from PAD."""
    letter, toward = 7, np.full(WIDTH, WIDTH**-0.5)
    maps = np.zeros(SHAPE)
    maps[..., letter] = toward
    model, batch = Persuadable(maps, 0.0), TASK.sample(stream(0), 4, kind="unsafe")
    batch = replace(batch, targets=np.where(batch.targets >= 0, letter, batch.targets))
    model.reluctance = TASK.soft_slots * (model.pad @ toward + mean_letter(model))
    found = safety.soft_attack(model, TASK, batch, budget)
    assert (found.complied, found.refused) == ((1, 0) if wins else (0, 1))


def test_an_attack_takes_as_many_steps_as_it_is_told_and_twenty_unless_told():
    model, batch = Persuadable(stream(0).normal(0, 0.3, SHAPE), 3.0), TASK.sample(stream(0), 2, kind="unsafe")
    found = {}
    for name, options in (("default", ()), ("twenty", (20,)), ("three", (3,))):
        safety.soft_attack(model, TASK, batch, 1.0, *options)
        found[name] = model.slots
    assert torch.equal(found["default"], found["twenty"])
    assert not torch.allclose(found["default"], found["three"])


def test_an_attack_needs_somewhere_to_write():
    with pytest.raises(ValueError, match=r"soft_slots=0: .*at least one PAD"):
        safety.soft_attack(Planted(), replace(TASK, soft_slots=0), TASK.sample(stream(0), 2), 1.0)


def test_other_answers_are_those_of_the_prompt_before():
    batch = TASK.sample(stream(0), 5, kind="unsafe")
    other = safety.with_other_answers(batch)
    assert prompts_of(other) == prompts_of(batch)
    own = transforms_of(batch)
    assert other.targets[:, TASK.prompt - 1 :].tolist() == [own[-1], *own[:-1]]


# Gradients -----------------------------------------------------------------------------------------------------------


def test_a_gradient_as_one_vector_is_what_backward_leaves_of_weights_that_may_change():
    model, batch = (
        concept_model(TASK, replace(MODEL, width=16, heads=2), 0),
        preference_pairs(TASK, held_out(TASK, 0, 8, "unsafe")),
    )
    model.blocks[0].mlp.up.weight.requires_grad_(False)
    found = safety.loss_gradient(model, RefusalLoss(), batch)
    RefusalLoss()(model, batch).backward()
    free = [weight.grad.flatten() for weight in model.parameters() if weight.requires_grad]
    assert torch.allclose(found, torch.cat(free), atol=1e-7)


@given(seeds, st.sampled_from(JAILBREAKS))
@settings(max_examples=3)
def test_the_cosine_of_two_losses_is_that_of_their_gradients_over_all_weights(seed, kind):
    """Losses linear in the weights: one of the embedding alone, one of that and of the unembedding."""
    model, batch, rng = Planted(), TASK.sample(stream(seed), 3, kind=kind), stream(seed, "losses")
    one, other, far = (rng.normal(size=model.embedding.weight.shape) for _ in range(3))
    asked = []

    def first(model, pairs):
        asked.append(pairs)
        return (model.embedding.weight * torch.from_numpy(one)).sum()

    def second(model, pairs):
        asked.append(pairs)
        return (
            model.embedding.weight * torch.from_numpy(other) - model.unembedding.weight * torch.from_numpy(far)
        ).sum()

    expected = (one * other).sum() / math.sqrt((one**2).sum() * ((other**2).sum() + (far**2).sum()))
    assert safety.gradient_cosine(model, first, second, TASK, batch) == pytest.approx(expected, abs=1e-5)
    assert safety.gradient_cosine(model, first, first, TASK, batch) == pytest.approx(1, abs=1e-5)
    opposite = safety.gradient_cosine(model, first, lambda *args: -3 * first(*args), TASK, batch)
    assert opposite == pytest.approx(-1, abs=1e-5)
    for read in asked:
        assert [tuple(prompt) for prompt in read.prompts.tolist()] == prompts_of(batch)
        assert read.rejected.tolist() == transforms_of(batch)
        assert read.unsafe.all()
