"""Laws of losses, worked out by hand in worlds of two and three tokens, and the mutants that each law catches."""

import itertools
import math
import re
from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from toylab.console import ToylabError
from toylab.model.config import ModelConfig
from toylab.model.transformer import Transformer
from toylab.training.losses import (
    DPO,
    NPO,
    Pairs,
    PolicyGradient,
    Refusal,
    Rollouts,
    Unlearning,
    answer_log_probs,
    both_log_probs,
    entropy,
    kl_divergence,
    leave_one_out,
)

seeds = st.integers(0, 2**31)
some = settings(max_examples=15)
Chances = list[list[float]]
Make = Callable[[nn.Module], Callable[[nn.Module, Pairs], Tensor]]
"""From the reference model to a loss."""


class World(nn.Module):
    """What comes next depends on the current token alone: row by row the chances of each token."""

    def __init__(self, chances: Chances) -> None:
        super().__init__()
        table = torch.tensor(chances, dtype=torch.double).log()
        self.table = nn.Parameter(table + torch.arange(len(table))[:, None])  # logits, which need no sum of 1

    def forward(self, tokens, *, queries):
        return self.table[tokens.gather(1, queries)]


def surprises(chances: Chances, prompt: list[int], answer: list[int]) -> list[float]:
    return [-math.log(chances[last][token]) for last, token in itertools.pairwise([prompt[-1], *answer])]


def draw(seed: int, rows: int = 3, prompt: int = 2, answer: int = 3, vocab: int = 3) -> Pairs:
    rng = np.random.default_rng(seed)
    parts = (torch.from_numpy(rng.integers(vocab, size=(rows, n))) for n in (prompt, answer, answer))
    return Pairs(*parts, torch.from_numpy(rng.random(rows) < 0.5))


def two_worlds(seed: int) -> tuple[Chances, Chances]:
    rng = np.random.default_rng([seed, 1])
    now, before = (rng.dirichlet([1, 1, 1], size=3) * 0.94 + 0.02 for _ in range(2))
    return now.tolist(), before.tolist()


def transformer(seed: int, **shape) -> Transformer:
    config = ModelConfig(**{"layers": 1, "heads": 2, "width": 8, "hidden": 8, "positions": "learned", **shape})
    return Transformer(config, 5, 9, seed).double()


def gradient(loss: Tensor, model: nn.Module) -> Tensor:
    return torch.cat([slope.flatten() for slope in torch.autograd.grad(loss, list(model.parameters()))])


def swapped(pairs: Pairs) -> Pairs:
    return replace(pairs, chosen=pairs.rejected, rejected=pairs.chosen)


def built(formula: Callable[..., Tensor]) -> Make:
    """A loss from log-probabilities: of the chosen and rejected answers now, then of the same for the reference."""
    return lambda old: lambda model, pairs: formula(*both_log_probs(model, pairs), *both_log_probs(old, pairs))


# By hand: of each row the surprises (c, r now, c0, r0 of the reference), of the batch the mean ------------------------


def hand_refusal(c, r, c0, r0):
    return sum(c) / len(c)


def hand_unlearning(c, r, c0, r0, weight=0.3, cap=1.2):
    return sum(c) / len(c) - weight * sum(min(x, cap) for x in r) / len(r)


def hand_dpo(c, r, c0, r0, beta=0.1, beta_rejected=0.1, average=False, anchor=0.0):
    n = len(c) if average else 1
    ratio = math.exp(beta * (sum(c0) - sum(c)) / n - beta_rejected * (sum(r0) - sum(r)) / n)
    return -math.log(1 / (1 + 1 / ratio)) + anchor * sum(c) / len(c)


def hand_npo(c, r, c0, r0, beta=0.4, weight=0.6):
    p, p_ref = math.exp(-sum(r)), math.exp(-sum(r0))
    return sum(c) / len(c) + weight * 2 / beta * math.log(1 + (p / p_ref) ** beta) / len(r)


def both_betas(reference: nn.Module) -> DPO:
    return DPO(reference, 0.7, 0.2, anchor=0.25)


BY_HAND = {
    "refusal": (lambda _: Refusal(), hand_refusal),
    "unlearning": (lambda _: Unlearning(0.3, 1.2), hand_unlearning),
    "standard DPO": (DPO, hand_dpo),
    "published DPO": (DPO.as_published, lambda *x: hand_dpo(*x, 0.1, 0.01, average=True)),
    "anchored DPO": (both_betas, lambda *x: hand_dpo(*x, 0.7, 0.2, anchor=0.25)),
    "NPO": (lambda reference: NPO(reference, 0.4, 0.6), hand_npo),
}


def the_loss_is_worked_out_by_hand(make: Make, hand: Callable, seed: int = 0, **sizes: int) -> None:
    (now, before), pairs = two_worlds(seed), draw(seed, **sizes)
    rows = [
        hand(*(surprises(chances, p, answer) for chances in (now, before) for answer in (c, r)))
        for p, c, r in zip(pairs.prompts.tolist(), pairs.chosen.tolist(), pairs.rejected.tolist(), strict=True)
    ]
    found = make(World(before))(World(now), pairs)
    assert found.item() == pytest.approx(sum(rows) / len(rows), abs=1e-10)


@some
@given(st.sampled_from(sorted(BY_HAND)), seeds, st.integers(1, 4), st.integers(1, 3), st.integers(1, 4))
def test_every_loss_is_the_mean_over_rows_of_what_one_works_out_by_hand(name, seed, rows, prompt, answer):
    the_loss_is_worked_out_by_hand(*BY_HAND[name], seed, rows=rows, prompt=prompt, answer=answer)


LOG2, LOG3 = math.log(2), math.log(3)
TWO_TOKENS = [  # the answer 0 1 has p = 1/4, and 3/16 before; 1 0 has 1/8, and 3/8 before: ratios 4/3 and 1/3
    (lambda _: Refusal(), LOG2),
    (lambda _: Unlearning(0.5, LOG3), LOG2 - 0.5 * (LOG2 + LOG3) / 2),
    (lambda reference: DPO(reference, 1, 2), math.log(13 / 12)),
    (lambda reference: DPO(reference, 1, average=True), math.log(3 / 2)),
    (lambda reference: DPO(reference, 1, anchor=2), math.log(5)),
    (DPO.as_published, math.log(1 + 0.75**0.05 / 3**0.005)),
    (lambda reference: NPO(reference, 1), math.log(8 / 3)),
    (lambda reference: NPO(reference, 2, 3), LOG2 + 1.5 * math.log(10 / 9)),
]


@pytest.mark.parametrize(("make", "expected"), TWO_TOKENS)
def test_the_losses_in_a_world_of_two_tokens(make, expected):
    now, before = World([[1 / 2, 1 / 2], [1 / 4, 3 / 4]]), World([[1 / 4, 3 / 4], [1 / 2, 1 / 2]])
    pairs = Pairs(*(torch.tensor([row]) for row in ([1, 0], [0, 1], [1, 0])), torch.tensor([True]))
    assert len(pairs) == 1
    assert make(before)(now, pairs).item() == pytest.approx(expected, abs=1e-12)


# Log-probabilities of answers ----------------------------------------------------------------------------------------


def the_log_probs_are_those_of_one_token_after_another(log_probs: Callable, seed: int = 0, **shape) -> None:
    model, pairs = transformer(seed, **shape), draw(seed, vocab=5)
    found = log_probs(model, pairs.prompts, pairs.chosen)
    assert found.shape == pairs.chosen.shape
    for row, (prompt, answer) in enumerate(zip(pairs.prompts.tolist(), pairs.chosen.tolist(), strict=True)):
        for i, token in enumerate(answer):
            logits = model(torch.tensor([prompt + answer[:i]]))[0, -1].tolist()
            expected = logits[token] - math.log(sum(math.exp(x) for x in logits))
            assert found[row, i].item() == pytest.approx(expected, abs=1e-10)


@some
@given(seeds, st.sampled_from(["learned", "rotary", "none"]), st.sampled_from([1, 2]))
def test_a_tokens_log_probability_is_that_of_a_model_that_has_read_the_answer_up_to_it(seed, positions, layers):
    the_log_probs_are_those_of_one_token_after_another(answer_log_probs, seed, positions=positions, layers=layers)


@some
@given(seeds, st.integers(0, 3), st.integers(0, 4))
def test_a_tokens_log_probability_depends_on_nothing_after_it(seed, at, token):
    model, pairs = transformer(seed), draw(seed, answer=4, vocab=5)
    changed = pairs.chosen.clone()
    changed[:, at] = (changed[:, at] + token) % 5
    first, second = (answer_log_probs(model, pairs.prompts, answers) for answers in (pairs.chosen, changed))
    torch.testing.assert_close(first[:, :at], second[:, :at], rtol=0, atol=1e-12)
    assert torch.equal(first[:, at], second[:, at]) == (token == 0)


def two_passes_say_the_same(both: Callable, model: nn.Module, pairs: Pairs) -> None:
    chosen, rejected = both(model, pairs)
    for found, answers in ((chosen, pairs.chosen), (rejected, pairs.rejected)):
        torch.testing.assert_close(found, answer_log_probs(model, pairs.prompts, answers), rtol=0, atol=1e-12)
    weights = torch.linspace(0.5, 2, chosen.numel()).view_as(chosen)
    apart = [answer_log_probs(model, pairs.prompts, answers) for answers in (pairs.chosen, pairs.rejected)]
    slopes = [gradient((weights * (c - 0.3 * r)).sum(), model) for c, r in ((chosen, rejected), apart)]
    torch.testing.assert_close(*slopes, rtol=0, atol=1e-10)


@some
@given(seeds, st.sampled_from(["learned", "rotary"]), st.sampled_from([1, 2]), st.booleans(), st.integers(1, 4))
def test_both_answers_at_once_are_read_as_in_two_passes(seed, positions, layers, causal, answer):
    model = transformer(seed, positions=positions, layers=layers, causal=causal)
    two_passes_say_the_same(both_log_probs, model, draw(seed, answer=answer, vocab=5))
    two_passes_say_the_same(both_log_probs, World(two_worlds(seed)[0]), draw(seed, answer=answer))


# Symmetries of preferences -------------------------------------------------------------------------------------------


def the_chances_of_both_orders_sum_to_one(make: Make, seed: int = 0) -> None:
    (now, before), pairs = two_worlds(seed), draw(seed, rows=1)
    loss = make(World(before))
    there, back = (math.exp(-loss(World(now), order).item()) for order in (pairs, swapped(pairs)))
    assert there + back == pytest.approx(1, abs=1e-10)


@some
@given(seeds, st.floats(0.01, 3), st.booleans())
def test_with_one_beta_a_swap_of_the_answers_turns_the_sigmoid_around(seed, beta, average):
    the_chances_of_both_orders_sum_to_one(lambda reference: DPO(reference, beta, average=average), seed)


def at_the_reference_nothing_is_preferred(make: Make, expected: Callable[[Tensor], float], seed: int = 0) -> None:
    model, pairs = World(two_worlds(seed)[0]), draw(seed)
    surprise = Refusal()(model, pairs).item()
    assert make(model)(model, pairs).item() == pytest.approx(expected(surprise), abs=1e-10)


@some
@given(seeds, st.floats(0.01, 3), st.floats(0.01, 3), st.booleans(), st.floats(0, 2))
def test_at_the_reference_every_pair_costs_one_bit(seed, beta, other, average, weight):
    at_the_reference_nothing_is_preferred(
        lambda m: DPO(m, beta, other, average=average, anchor=weight), lambda c: LOG2 + weight * c, seed
    )
    weight += 0.1
    at_the_reference_nothing_is_preferred(lambda m: NPO(m, beta, weight), lambda c: c + weight * 2 / beta * LOG2 / 3)


def the_length_counts(make: Make, average: bool) -> None:
    now, before = World([[0.5, 0.3, 0.2]] * 3), World([[0.3, 0.5, 0.2]] * 3)  # every token earns as much anywhere
    prompt, chosen, rejected = torch.tensor([[2]]), torch.tensor([[0]]), torch.tensor([[1]])
    for length in (1, 2, 5):
        pairs = Pairs(prompt, chosen.repeat(1, length), rejected.repeat(1, length), torch.tensor([True]))
        gained = 0.5 * math.log(5 / 3) * 2 * (1 if average else length)
        assert make(before)(now, pairs).item() == pytest.approx(math.log(1 + math.exp(-gained)), abs=1e-12)


@pytest.mark.parametrize("average", [False, True])
def test_dpo_is_invariant_to_the_length_of_answers_only_if_it_averages(average):
    the_length_counts(lambda reference: DPO(reference, 0.5, average=average), average)


# Gradients -----------------------------------------------------------------------------------------------------------


def gradients_agree(one: Callable, other: Callable, factor: float, seed: int, tolerance: float) -> None:
    """Whether the gradient of one loss is a multiple of that of another."""
    model, pairs = transformer(seed), draw(seed, vocab=5)
    first, second = (gradient(loss(model, pairs), model) for loss in (one, other))
    assert second.norm() > 1e-3
    assert ((first - factor * second).norm() / (factor * second).norm()).item() < tolerance


@some
@given(seeds)
def test_at_the_reference_the_gradient_of_the_published_loss_is_a_twentieth_of_that_of_unlearning(seed):
    published = DPO.as_published(transformer(seed))
    gradients_agree(published, Unlearning(weight=0.1, cap=1e9), 0.05, seed, 1e-10)
    with pytest.raises(AssertionError):
        gradients_agree(DPO(transformer(seed), 0.01, 0.1, average=True), Unlearning(cap=1e9), 0.05, seed, 1e-10)


@some
@given(seeds, st.floats(0.2, 2))
def test_for_small_betas_the_gradient_of_npo_is_that_of_plain_ascent(seed, weight):
    other = transformer(seed + 1)
    ascent = built(lambda c, r, c0, r0: -c.mean() + weight * r.mean())(other)
    gradients_agree(NPO(other, 1e-7, weight), ascent, 1, seed, 1e-5)
    for broken in (NPO(other, 1e-7, weight / 2), NPO(other, 3.0, weight)):  # a large beta slows the ascent down
        with pytest.raises(AssertionError):
            gradients_agree(broken, ascent, 1, seed, 1e-5)


def tokens_beyond_the_cap_are_left_alone(make: Make, seed: int = 0, weight: float = 0.3, cap: float = 1.2) -> None:
    (now, _), pairs = two_worlds(seed), draw(seed)
    world, slopes, capped = World(now), np.zeros((3, 3)), 0
    for answers, scale in ((pairs.chosen, -1.0), (pairs.rejected, weight)):
        for prompt, answer in zip(pairs.prompts.tolist(), answers.tolist(), strict=True):
            for last, token in itertools.pairwise([prompt[-1], *answer]):
                if scale > 0 and -math.log(now[last][token]) > cap:
                    capped += 1
                else:  # the slope of a log-softmax
                    slopes[last] += scale / answers.numel() * (np.eye(3)[token] - np.array(now[last]))
    assert 0 < capped < pairs.rejected.numel()
    found = gradient(make(world)(world, pairs), world).view(3, 3).numpy()
    np.testing.assert_allclose(found, slopes, rtol=0, atol=1e-12)


@pytest.mark.parametrize("seed", range(5))
def test_the_cap_stops_the_gradient_of_tokens_beyond_it_and_of_no_other(seed):
    tokens_beyond_the_cap_are_left_alone(lambda _: Unlearning(0.3, 1.2), seed)


def the_reference_stays(make: Make) -> None:
    model, pairs = transformer(0), draw(0, vocab=5)
    with torch.no_grad():
        model.unembedding.weight.mul_(2)
    held = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    loss = make(model)
    assert model.training
    assert all(parameter.requires_grad for parameter in model.parameters())
    first = loss(model, pairs)
    first.backward()
    torch.optim.SGD(model.parameters(), lr=0.5).step()
    assert not torch.equal(model.unembedding.weight, held["unembedding.weight"])
    assert loss(model, pairs).item() < first.item()
    assert not loss.reference.training
    assert all(torch.equal(tensor, held[name]) for name, tensor in loss.reference.state_dict().items())
    assert not any(p.requires_grad or p.grad is not None for p in loss.reference.parameters())


@pytest.mark.parametrize("make", [DPO, DPO.as_published, both_betas, NPO])
def test_the_reference_is_a_frozen_copy_that_training_does_not_move(make):
    the_reference_stays(make)


NO_NUMBERS = [0.0, -1, math.nan, math.inf]
SETTINGS = [
    ("weight", [0.0, -1], "a positive number, for example 0.1", lambda _, x: Unlearning(weight=x)),
    ("cap", [0.0, -1], "a positive number, for example 20.0", lambda _, x: Unlearning(cap=x)),
    ("beta", NO_NUMBERS, "a positive number, for example 0.1", lambda model, x: DPO(model, x)),
    ("beta_rejected", NO_NUMBERS, "a positive number, for example 0.1", lambda model, x: DPO(model, 1, x)),
    ("anchor", [-0.1, math.nan], "a number of at least 0; 0 leaves it out", lambda model, x: DPO(model, anchor=x)),
    ("beta", NO_NUMBERS, "a positive number, for example 0.1", lambda model, x: NPO(model, x)),
    ("weight", NO_NUMBERS, "a positive number, for example 1.0", lambda model, x: NPO(model, 1, x)),
]


@pytest.mark.parametrize(("name", "values", "needed", "make"), SETTINGS)
def test_settings_without_a_meaning_are_refused_by_name(name, values, needed, make):
    for value in values:
        with pytest.raises(ValueError, match="^" + re.escape(f"{name}={value}: must be {needed}") + "$"):
            make(World([[1.0]]), value)


# What the model wrote itself -----------------------------------------------------------------------------------------


def advantages_are_what_is_earned_beyond_the_others(baseline: Callable[[Tensor], Tensor], seed: int = 0, **n) -> None:
    prompts, samples = n.get("prompts", 3), n.get("samples", 4)
    rewards = np.random.default_rng(seed).normal(size=(prompts, samples))
    expected = [
        [earned - sum(row[:i] + row[i + 1 :]) / (samples - 1) for i, earned in enumerate(row)]
        for row in rewards.tolist()
    ]
    found = baseline(torch.from_numpy(rewards))
    np.testing.assert_allclose(found.numpy(), expected, rtol=0, atol=1e-12)
    np.testing.assert_allclose(found.sum(dim=1).numpy(), 0, rtol=0, atol=1e-12)


@given(seeds, st.integers(1, 4), st.integers(2, 9))
def test_an_advantage_is_the_reward_less_the_mean_of_the_others(seed, prompts, samples):
    advantages_are_what_is_earned_beyond_the_others(leave_one_out, seed, prompts=prompts, samples=samples)


def test_advantages_are_worked_out_by_hand():
    found = leave_one_out(torch.tensor([[1.0, 0, 0, 0], [1, 1, 0, 0], [0, 0, 0, 0], [1, 1, 1, 1]]))
    expected = [[1, -1 / 3, -1 / 3, -1 / 3], [2 / 3, 2 / 3, -2 / 3, -2 / 3], [0] * 4, [0] * 4]
    np.testing.assert_allclose(found.numpy(), expected, rtol=0, atol=1e-7)
    assert leave_one_out(torch.tensor([[5.0, 3.0]])).tolist() == [[2, -2]]


def test_one_sample_has_no_others_to_be_compared_with():
    for rewards in (torch.ones(3, 1), torch.ones(3, 0)):
        with pytest.raises(ValueError, match=rf"^samples={rewards.shape[1]}: .* at least 2 a prompt, for example 8$"):
            leave_one_out(rewards)
    alone = roll_out(0, prompts=2, samples=1)
    with pytest.raises(ValueError, match=r"^samples=1: "):
        PolicyGradient()(World(two_worlds(0)[0]), alone)


def roll_out(seed: int, prompts: int = 2, samples: int = 3, steps: int = 4, vocab: int = 3) -> Rollouts:
    """Random tokens, of which some first ones count, and random rewards."""
    rng = np.random.default_rng([seed, 2])
    rows = prompts * samples
    asked = rng.integers(vocab, size=(prompts, 2)).repeat(samples, axis=0)
    counted = np.arange(steps) < rng.integers(1, steps + 1, size=(rows, 1))
    parts = asked, rng.integers(vocab, size=(rows, steps)), counted, rng.normal(size=(prompts, samples))
    return Rollouts(*map(torch.from_numpy, parts))


@some
@given(seeds, st.integers(1, 3), st.integers(1, 4))
def test_the_log_probs_of_rollouts_are_those_of_one_token_after_another(seed, prompts, steps):
    model, rollouts = transformer(seed), roll_out(seed, prompts, 2, steps, vocab=5)
    found = rollouts.log_probs(model)
    assert found.shape == (2 * prompts, steps, 5)
    for row, (prompt, said) in enumerate(zip(rollouts.prompts.tolist(), rollouts.written.tolist(), strict=True)):
        for i in range(steps):
            logits = model(torch.tensor([prompt + said[:i]]))[0, -1].tolist()
            total = math.log(sum(math.exp(x) for x in logits))
            np.testing.assert_allclose(found[row, i].tolist(), [x - total for x in logits], rtol=0, atol=1e-10)


@given(seeds, st.integers(1, 3), st.integers(1, 5))
def test_the_mean_is_over_the_tokens_that_count_whatever_stands_elsewhere(seed, prompts, steps):
    rollouts = roll_out(seed, prompts, 2, steps)
    values = torch.from_numpy(np.random.default_rng(seed).normal(size=(2 * prompts, steps)))
    kept = [
        value
        for row, counts in zip(values.tolist(), rollouts.counted.tolist(), strict=True)
        for value, counts in zip(row, counts, strict=True)
        if counts
    ]
    assert rollouts.mean(values).item() == pytest.approx(sum(kept) / len(kept), abs=1e-12)
    assert rollouts.mean(values.masked_fill(~rollouts.counted, math.nan)).item() == rollouts.mean(values).item()


# Entropy and KL ------------------------------------------------------------------------------------------------------


def chances(seed: int, n: int, rows: int = 3) -> np.ndarray:
    return np.random.default_rng([seed, 3]).dirichlet(np.ones(n), size=rows) * 0.9 + 0.1 / n


@given(seeds, st.integers(1, 9))
def test_entropy_and_kl_are_sums_over_what_might_happen(seed, n):
    p, q = chances(seed, n), chances(seed + 1, n)
    one, other = (torch.from_numpy(x).log() for x in (p, q))
    bits = [-sum(x * math.log(x) for x in row) for row in p.tolist()]
    apart = [sum(x * math.log(x / y) for x, y in zip(*rows, strict=True)) for rows in zip(p, q, strict=True)]
    np.testing.assert_allclose(entropy(one).numpy(), bits, rtol=0, atol=1e-12)
    np.testing.assert_allclose(kl_divergence(one, other).numpy(), apart, rtol=0, atol=1e-12)
    assert (entropy(one) <= math.log(n) + 1e-12).all()
    assert (kl_divergence(one, other) >= -1e-12).all()
    if n > 1:  # one outcome leaves nothing to differ in but rounding
        assert (kl_divergence(one, other) > 0).all()
    assert kl_divergence(one, one).tolist() == [0] * 3
    uniform = torch.full((3, n), -math.log(n), dtype=torch.double)
    assert entropy(uniform).tolist() == pytest.approx([math.log(n)] * 3, abs=1e-12)
    torch.testing.assert_close(kl_divergence(one, uniform), math.log(n) - entropy(one), rtol=0, atol=1e-12)


def test_entropy_and_kl_of_two_coins_are_worked_out_by_hand():
    fair, bent = torch.tensor([[1 / 2, 1 / 2], [1 / 4, 3 / 4]], dtype=torch.double).log()
    assert entropy(fair).item() == pytest.approx(LOG2, abs=1e-12)
    assert entropy(bent).item() == pytest.approx(2 * LOG2 - 0.75 * LOG3, abs=1e-12)
    assert kl_divergence(fair, bent).item() == pytest.approx(LOG2 - LOG3 / 2, abs=1e-12)
    assert kl_divergence(bent, fair).item() == pytest.approx(0.75 * LOG3 - LOG2, abs=1e-12)


# What is impossible --------------------------------------------------------------------------------------------------

ZERO = -torch.inf


def by_limit(formula: Callable[[float, float], float], p: np.ndarray, q: np.ndarray) -> list[float]:
    return [sum(formula(x, y) for x, y in zip(*rows, strict=True) if x) for rows in zip(p, q, strict=True)]


@given(seeds, st.integers(2, 9), st.sampled_from([torch.float32, torch.float64]))
def test_what_has_probability_0_adds_nothing_to_entropy_and_kl_nor_to_their_gradients(seed, n, dtype):
    rng = np.random.default_rng(seed)
    logits = torch.from_numpy(rng.normal(size=(2, 3, n))).to(dtype)
    logits[0, :, 1:][torch.from_numpy(rng.random((3, n - 1)) < 0.5)] = ZERO  # one token is always possible
    logits[1, 0, 1:] = logits[0, 0, 1:]  # impossible in both
    logits[0, 2, 1:] = -3e38  # so unlikely that its probability is 0
    logits.requires_grad_(True)
    one, other = logits.log_softmax(dim=-1)
    p, q = one.detach().double().exp().numpy(), other.detach().double().exp().numpy()
    found = entropy(one), kl_divergence(one, other), kl_divergence(one, one.clone())
    np.testing.assert_allclose(found[0].tolist(), by_limit(lambda x, _: -x * math.log(x), p, p), atol=1e-5)
    np.testing.assert_allclose(found[1].tolist(), by_limit(lambda x, y: x * math.log(x / y), p, q), atol=1e-5)
    assert found[2].tolist() == [0] * 3
    for value in found:
        (slope,) = torch.autograd.grad(value.sum(), logits, retain_graph=True)
        assert bool(slope.isfinite().all())


def test_what_only_the_second_distribution_denies_makes_kl_infinite():
    one, other = torch.tensor([[0.5, 0.5], [1.0, 0.0]]).log()
    assert kl_divergence(one, other).item() == torch.inf
    assert kl_divergence(other, one).item() == pytest.approx(LOG2)


class Denies(nn.Module):
    """Every token is as likely as the others, but for those whose probability is 0."""

    def __init__(self, *tokens: int, vocab: int = 4) -> None:
        super().__init__()
        self.logits = nn.Parameter(torch.zeros(vocab, dtype=torch.double))
        self.register_buffer("denied", torch.isin(torch.arange(vocab), torch.tensor(tokens)))

    def forward(self, tokens, *, queries):
        return self.logits.masked_fill(self.denied, ZERO).expand(*queries.shape, -1)


DENYING = {
    "refusal": (lambda _: Refusal(), math.log(3)),
    "unlearning": (lambda _: Unlearning(0.3, 7.0), math.log(3) - 0.3 * 7),
    "DPO": (DPO, LOG2),
    "published DPO": (DPO.as_published, LOG2),
    "NPO": (NPO, math.log(3) + 2 / 0.1 * LOG2 / 2),
}


@pytest.mark.parametrize("name", DENYING)
def test_a_rejected_answer_that_was_impossible_from_the_start_has_gained_nothing(name):
    make, expected = DENYING[name]
    model, answers = Denies(2), torch.tensor([[0, 1], [1, 0]])
    loss = make(deepcopy(model))(model, Pairs(answers, answers, torch.full_like(answers, 2), answers[:, 0] == 0))
    assert loss.item() == pytest.approx(expected, abs=1e-9)
    assert bool(gradient(loss, model).isfinite().all())


@pytest.mark.parametrize("name", DENYING)
def test_a_rejected_answer_that_has_become_impossible_costs_nothing_more(name):
    make, _ = DENYING[name]
    model, answers = Denies(2), torch.tensor([[0, 1], [1, 0]])
    loss = make(Denies())(model, Pairs(answers, answers, torch.full_like(answers, 2), answers[:, 0] == 0))
    rest = {"unlearning": -0.3 * 7, "DPO": -math.log(3), "published DPO": -math.log(3)}.get(name, 0)
    assert loss.item() == pytest.approx(math.log(3) + rest, abs=1e-9)
    assert bool(gradient(loss, model).isfinite().all())


def test_an_impossible_token_whose_reward_is_like_the_others_gives_no_gradient():
    model, written = Denies(2), torch.tensor([[0, 2], [1, 1]])
    for reward in (0.0, 1.0):
        rollouts = Rollouts(written, written, torch.ones(2, 2, dtype=torch.bool), torch.full((1, 2), reward))
        loss = PolicyGradient(entropy=0.1, kl=0.1, reference=model)(model, rollouts)
        assert loss.item() == pytest.approx(-0.1 * math.log(3))
        assert bool(gradient(loss, model).isfinite().all())


# What is empty, and what is no number --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "empty",
    [lambda x: (x[:0], x[:0]), lambda x: (x, x[:, :0]), lambda x: (x[:, :0], x)],
    ids=["row", "answer", "prompt"],
)
@pytest.mark.parametrize("name", [*DENYING, "rollouts"])
def test_a_loss_of_no_token_is_refused(name, empty):
    model, (prompts, answers) = transformer(0), empty(torch.tensor([[0, 1], [1, 0]]))

    def use() -> object:
        if name == "rollouts":
            return Rollouts(prompts, answers, answers >= 0, torch.ones(1, len(prompts)))
        return DENYING[name][0](model)(model, Pairs(prompts, answers, answers, torch.ones(len(prompts)) > 0))

    with pytest.raises(ToylabError, match=r"prompts of shape .*at least one"):
        use()


@pytest.mark.parametrize("wrong", [math.nan, math.inf, -math.inf])
def test_a_reward_that_is_not_finite_is_refused_where_it_comes_in(wrong):
    rewards = torch.tensor([[1.0, wrong], [0.0, 1.0]])
    whole = roll_out(0, prompts=2, samples=2)
    for use in (leave_one_out, lambda x: replace(whole, rewards=x)):
        with pytest.raises(ToylabError, match=rf"rewards: holds {wrong:g} at \[0, 1\]; .*finite"):
            use(rewards)


def test_rollouts_have_a_reward_for_each_row_and_a_token_that_counts():
    whole = roll_out(0, prompts=2, samples=2)
    with pytest.raises(ToylabError, match="rewards: 6 for 4 rows"):
        replace(whole, rewards=torch.ones(2, 3))
    silent = replace(whole, counted=torch.zeros_like(whole.counted))
    for use in (lambda: silent.mean(torch.ones(4, 4)), lambda: PolicyGradient()(World(two_worlds(0)[0]), silent)):
        with pytest.raises(ToylabError, match="counted: is nowhere True"):
            use()


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.bool, torch.uint8])
def test_rewards_may_be_whole_numbers_or_booleans(dtype):
    rewards = torch.tensor([[1.0, 0.0, 0.0], [1.0, 1.0, 0.0]])
    whole, model = roll_out(0, prompts=2, samples=3), World(two_worlds(0)[0])
    found, expected = (PolicyGradient()(model, replace(whole, rewards=given)) for given in (rewards.to(dtype), rewards))
    assert torch.equal(found, expected)


@pytest.mark.parametrize("name", DENYING)
def test_answers_of_32_bit_integers_have_the_same_loss(name):
    pairs, model = draw(0), World(two_worlds(0)[0])
    small = Pairs(*(x.int() for x in (pairs.prompts, pairs.chosen, pairs.rejected)), pairs.unsafe)
    loss = DENYING[name][0](World(two_worlds(0)[1]))
    assert torch.equal(loss(model, small), loss(model, pairs))


# The policy gradient -------------------------------------------------------------------------------------------------

Policy = Callable[[nn.Module | None], Callable[[nn.Module, Rollouts], Tensor]]
"""From the reference model to a loss."""


class Coin(nn.Module):
    """Writes 0 with chance sigmoid(a), whatever it has read; 1 otherwise."""

    def __init__(self, a: float) -> None:
        super().__init__()
        self.a = nn.Parameter(torch.tensor(a, dtype=torch.double))

    def forward(self, tokens, *, queries):
        return torch.stack([self.a, torch.zeros_like(self.a)]).expand(*queries.shape, 2)


def flips(*rows: str, rewards: tuple[float, ...]) -> Rollouts:
    """Written as 0 and 1; a 1 is the end, and what comes after it does not count."""
    written = torch.tensor([[int(x) for x in row] for row in rows])
    counted = torch.tensor([["1" not in row[:i] for i in range(len(row))] for row in rows])
    return Rollouts(torch.zeros(len(rows), 1, dtype=torch.long), written, counted, torch.tensor([rewards]).double())


def the_coin_is_worked_out_by_hand(make: Policy, weight: float = 0.0, kl: float = 0.0) -> None:
    a, b = math.log(3), -math.log(2)
    p, q = 3 / 4, 1 / 3
    bits, apart = -p * math.log(p) - (1 - p) * math.log(1 - p), p * math.log(p / q) + (1 - p) * math.log(1.5 - 1.5 * p)
    more = -weight * bits + kl * apart, p * (1 - p) * (weight * a + kl * (a - b))
    by_hand = [
        # One token each: advantages 1 and -1, so log p - log(1 - p) = a is raised.
        (flips("0", "1", rewards=(1, 0)), -a / 2, -1 / 2),
        (flips("0", "1", rewards=(0, 1)), a / 2, 1 / 2),
        # 0 and the end, against the end at once: the ends cancel, and log p is left.
        (flips("01", "11", rewards=(1, 0)), -math.log(p) / 2, -(1 - p) / 2),
        (flips("010", "100", "000", rewards=(0, 0, 3)), (math.log(p) * (1.5 - 9) + 3 * math.log(1 - p)) / 3,
         ((1 - p) * -7.5 - 3 * p) / 3),
        (flips("0", "1", rewards=(1, 1)), 0, 0),
    ]  # fmt: skip
    for rollouts, value, slope in by_hand:
        coin = Coin(a)
        found = make(Coin(b))(coin, rollouts)
        assert found.item() == pytest.approx(value + more[0], abs=1e-7)
        assert gradient(found, coin).item() == pytest.approx(slope + more[1], abs=1e-7)


@pytest.mark.parametrize(("weight", "kl"), [(0, 0), (0.3, 0), (0, 0.2), (2, 1)])
def test_the_loss_and_its_gradient_in_a_world_of_two_tokens(weight, kl):
    the_coin_is_worked_out_by_hand(lambda reference: PolicyGradient(weight, kl, reference), weight, kl)


def the_policy_loss_is_worked_out_by_hand(make: Policy, seed: int = 0, weight: float = 0, kl: float = 0, **n) -> None:
    (now, before), rollouts = two_worlds(seed), roll_out(seed, **n)
    samples = rollouts.rewards.shape[1]
    rewards, rows = rollouts.rewards.flatten().tolist(), len(rollouts.prompts)
    first, slopes, bits, apart, tokens = 0.0, np.zeros((3, 3)), 0.0, 0.0, int(rollouts.counted.sum())
    for row in range(rows):
        group = row // samples * samples
        others = [rewards[i] for i in range(group, group + samples) if i != row]
        advantage = rewards[row] - sum(others) / len(others)
        last = rollouts.prompts[row, -1].item()
        for token, counts in zip(rollouts.written[row].tolist(), rollouts.counted[row].tolist(), strict=True):
            if counts:
                p, q = np.array(now[last]), np.array(before[last])
                first -= advantage * math.log(p[token]) / rows
                slopes[last] -= advantage / rows * (np.eye(3)[token] - p)
                surprise, gain = -np.log(p), np.log(p / q)
                bits += p @ surprise / tokens
                apart += p @ gain / tokens
                slopes[last] -= weight / tokens * p * (surprise - p @ surprise)
                slopes[last] += kl / tokens * p * (gain - p @ gain)
            last = token
    world = World(now)
    found = make(World(before))(world, rollouts)
    assert found.item() == pytest.approx(first - weight * bits + kl * apart, abs=1e-10)
    np.testing.assert_allclose(gradient(found, world).view(3, 3).numpy(), slopes, rtol=0, atol=1e-10)


@some
@given(seeds, st.integers(1, 3), st.integers(2, 4), st.integers(1, 4), st.floats(0, 2), st.floats(0, 2))
def test_the_policy_loss_is_what_one_works_out_by_hand(seed, prompts, samples, steps, weight, kl):
    the_policy_loss_is_worked_out_by_hand(
        lambda reference: PolicyGradient(weight, kl, reference), seed, weight, kl,
        prompts=prompts, samples=samples, steps=steps,
    )  # fmt: skip


def what_does_not_count_changes_nothing(make: Policy, seed: int = 0) -> None:
    model, rollouts = transformer(seed), roll_out(seed, vocab=5)
    rollouts.counted[:, -1] = False
    other = torch.where(rollouts.counted, rollouts.written, (rollouts.written + 1) % 5)
    assert not torch.equal(other, rollouts.written)
    loss = make(transformer(seed + 1))
    found = [loss(model, x) for x in (rollouts, replace(rollouts, written=other))]
    assert found[0].item() == found[1].item()
    assert torch.equal(*(gradient(value, model) for value in found))


@some
@given(seeds)
def test_tokens_after_the_end_change_neither_the_loss_nor_its_gradient(seed):
    what_does_not_count_changes_nothing(lambda reference: PolicyGradient(0.3, 0.4, reference), seed)


def equal_rewards_teach_nothing(make: Policy, seed: int = 0) -> None:
    model, rollouts = transformer(seed), roll_out(seed, prompts=3, vocab=5)
    rewards = torch.tensor([0.0, 1.0, seed % 2]).double()[:, None].expand(3, 3)
    loss = make(None)(model, replace(rollouts, rewards=rewards))
    assert loss.item() == 0
    assert not gradient(loss, model).any()


@some
@given(seeds)
def test_groups_of_equal_rewards_give_no_gradient_at_all(seed):
    equal_rewards_teach_nothing(lambda _: PolicyGradient(), seed)


@some
@given(seeds, st.integers(-5, 5), st.floats(0.5, 3))
def test_what_all_samples_of_a_prompt_earn_alike_does_not_matter(seed, more, scale):
    model, rollouts = transformer(seed), roll_out(seed, vocab=5)
    gradients = [
        gradient(PolicyGradient()(model, replace(rollouts, rewards=rewards)), model)
        for rewards in (rollouts.rewards, scale * rollouts.rewards + torch.tensor([[more], [-1]]))
    ]
    torch.testing.assert_close(gradients[1], scale * gradients[0], rtol=0, atol=1e-10)


def stepped(model: nn.Module, loss: Callable, rollouts: Rollouts, rate: float = 1e-3) -> nn.Module:
    moved = deepcopy(model)
    loss(moved, rollouts).backward()
    torch.optim.SGD(moved.parameters(), lr=rate).step()
    return moved


def level(rollouts: Rollouts) -> Rollouts:
    return replace(rollouts, rewards=torch.ones_like(rollouts.rewards))


@some
@given(seeds, st.floats(0.1, 2))
def test_a_step_on_entropy_alone_raises_it_and_one_on_kl_alone_comes_nearer_to_the_reference(seed, weight):
    model, reference, rollouts = transformer(seed), transformer(seed + 1), level(roll_out(seed, vocab=5))

    def bits(x: nn.Module) -> float:
        return rollouts.mean(entropy(rollouts.log_probs(x))).item()

    def apart(x: nn.Module) -> float:
        return rollouts.mean(kl_divergence(rollouts.log_probs(x), rollouts.log_probs(reference))).item()

    assert bits(stepped(model, PolicyGradient(weight), rollouts)) > bits(model)
    assert 0 < apart(stepped(model, PolicyGradient(kl=weight, reference=reference), rollouts)) < apart(model)


@some
@given(seeds, st.floats(0.1, 2))
def test_at_the_reference_kl_costs_nothing_and_pulls_nowhere(seed, weight):
    model, rollouts = transformer(seed), level(roll_out(seed, vocab=5))
    loss = PolicyGradient(kl=weight, reference=model)
    assert loss(model, rollouts).item() == 0
    assert gradient(loss(model, rollouts), model).abs().max() < 1e-12
    held = [parameter.clone() for parameter in loss.reference.parameters()]
    moved = stepped(model, PolicyGradient(weight), rollouts, 0.1)
    assert loss(moved, rollouts).item() > 0
    loss(moved, rollouts).backward()
    assert all(torch.equal(*pair) for pair in zip(held, loss.reference.parameters(), strict=True))
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert not any(p.requires_grad or p.grad is not None for p in loss.reference.parameters())


@some
@given(seeds)
def test_a_step_makes_what_earned_more_likelier_and_what_earned_less_rarer(seed):
    rollouts = roll_out(seed, prompts=1, samples=2, vocab=5)
    rollouts = replace(rollouts, rewards=torch.tensor([[1.0, 0]]).double())
    model = transformer(seed)

    def preference(x: nn.Module) -> float:
        chosen = rollouts.log_probs(x).gather(-1, rollouts.written[..., None])[..., 0]
        one, other = (chosen * rollouts.counted).sum(dim=1).tolist()
        return one - other

    assert preference(stepped(model, PolicyGradient(), rollouts)) >= preference(model)


NOT_WEIGHTS = [-0.1, -1, math.nan, math.inf, -math.inf]


@pytest.mark.parametrize("name", ["entropy", "kl"])
def test_weights_that_are_no_number_of_at_least_0_are_refused_by_name(name):
    for value in NOT_WEIGHTS:
        with pytest.raises(ValueError, match="^" + re.escape(f"{name}={value}: must be a number of at least 0")):
            PolicyGradient(**{name: value}, reference=World([[1.0]]))


def test_kl_needs_something_to_stay_near_to():
    with pytest.raises(ValueError, match=r"^kl=0\.1: needs reference="):
        PolicyGradient(kl=0.1)
    assert PolicyGradient(0.1, 0).reference is None


# The mutants: each breaks one thing, and the law named beside it must say so ------------------------------------------


def dpo(c, r, c0, r0, beta=0.7, other=0.2, anchor=0.25):
    return -F.logsigmoid(beta * (c - c0).sum(1) - other * (r - r0).sum(1)).mean() - anchor * c.mean()


def npo(c, gain, scale=5.0):
    return -c.mean() - 0.6 * scale / 3 * F.logsigmoid(-0.4 * gain).mean()


def unlearning(c, r, cap=lambda x: x.clamp(max=1.2), weight=0.3):
    return -c.mean() - weight * cap(-r).mean()


RIGHT = {"unlearning": "unlearning(c, r)", "anchored DPO": "dpo(c, r, c0, r0)", "NPO": "npo(c, (r - r0).sum(1))"}
BROKEN = {
    "refusal": ["c.mean()", "-r.mean()", "-c.sum(1).mean()", "-(c - c0).mean()"],
    "unlearning": [
        "unlearning(c, r, weight=-0.3)", "unlearning(r, c)", "unlearning(c, r, lambda x: x)",
        "unlearning(c, r, lambda x: x.mean().clamp(max=1.2))", "unlearning(c, r, lambda x: x.mean(1).clamp(max=1.2))",
        "unlearning(c, r, lambda x: x.clamp(max=1.2).sum(1))",
    ],
    "standard DPO": [  # means, not sums; no reference; the sigmoid of a mean
        "dpo(c, r, c0, r0, 0.1 / 3, 0.1 / 3, 0)", "dpo(c, r, 0 * c, 0 * r, 0.1, 0.1, 0)",
        "-F.logsigmoid(0.1 * (c - c0 - r + r0).sum(1).mean())",
    ],
    "published DPO": ["dpo(c, r, c0, r0, 0.01 / 3, 0.1 / 3, 0)"],  # betas exchanged
    "anchored DPO": [
        "dpo(c, r, c0, r0, -0.7, -0.2)", "dpo(c, r, c0, r0, 0.2, 0.7)", "dpo(c, r, c0, r0, anchor=-0.25)",
        "dpo(c, r, c0, 0 * r)", "dpo(r, c, r0, c0)",
    ],
    "NPO": [
        "npo(c, (r0 - r).sum(1))", "npo(c, r.sum(1))", "npo(c, (c - c0).sum(1))", "npo(c, (r - r0).mean(1))",
        "npo(c, (r - r0).sum(1).mean())", "npo(c, (r - r0).sum(1), scale=15)", "npo(c, (r - r0).sum(1), scale=2.5)",
        "npo(-c, (r - r0).sum(1))",
    ],
}  # fmt: skip


def written(formula: str) -> Make:
    return built(eval("lambda c, r, c0, r0: " + formula))


@pytest.mark.parametrize(("name", "formula"), [(name, formula) for name in BROKEN for formula in BROKEN[name]])
def test_a_broken_loss_is_not_what_one_works_out_by_hand(name, formula):
    for right, sound in RIGHT.items():
        the_loss_is_worked_out_by_hand(written(sound), BY_HAND[right][1])
    with pytest.raises(AssertionError):
        the_loss_is_worked_out_by_hand(written(formula), BY_HAND[name][1])


def asked(model, prompts, answers, shift: int = 0, normal: Callable = lambda x: x.log_softmax(dim=-1), late: int = 0):
    """`answer_log_probs` with queries `shift` too late, or answers that the model reads `late` tokens too late."""
    read = torch.cat([prompts, answers.roll(late, dims=1)], dim=1)
    where = torch.arange(prompts.shape[1] - 1, read.shape[1] - 1) + shift
    return normal(model(read, queries=where.expand(len(read), -1))).gather(-1, answers[..., None])[..., 0]


@pytest.mark.parametrize("how", [{"shift": 1}, {"shift": -1}, {"late": 1}, {"normal": lambda x: x}])
def test_broken_log_probs_are_not_those_of_one_token_after_another(how):
    the_log_probs_are_those_of_one_token_after_another(asked)
    with pytest.raises(AssertionError):
        the_log_probs_are_those_of_one_token_after_another(lambda *x: asked(*x, **how))


def mixed_up(model: nn.Module, pairs: Pairs) -> tuple[Tensor, ...]:
    return both_log_probs(model, replace(pairs, prompts=pairs.prompts.roll(1, dims=0)))


def referring_to(change: Callable[[nn.Module], nn.Module], reference: nn.Module) -> DPO:
    loss = DPO(reference)
    loss.reference = change(reference)
    return loss


def policy(
    baseline: Callable[[Tensor], Tensor] = leave_one_out,
    counts: Callable[[Rollouts], Tensor] = lambda x: x.counted,
    reduce: Callable[[Tensor, Tensor], Tensor] = lambda x, counts: x.sum(dim=1),
    bonus: float = 0.3,
    pull: float = 0.2,
    turned: bool = False,
) -> Policy:
    """The policy gradient once more, with parts to break."""

    def make(reference: nn.Module) -> Callable[[nn.Module, Rollouts], Tensor]:
        def loss(model: nn.Module, rollouts: Rollouts) -> Tensor:
            counted = counts(rollouts)
            now, before = rollouts.log_probs(model), rollouts.log_probs(reference).detach()
            chosen = now.gather(-1, rollouts.written[..., None])[..., 0] * counted
            apart = kl_divergence(before, now) if turned else kl_divergence(now, before)
            first = -(baseline(rollouts.rewards).flatten() * reduce(chosen, counted)).mean()
            rest = pull * apart - bonus * entropy(now)
            return first + (rest * counted).sum() / counted.sum()

        return loss

    return make


BROKEN_POLICIES = {
    "a baseline of all samples, its own too": {"baseline": lambda r: r - r.mean(dim=1, keepdim=True)},
    "a baseline of the whole batch": {"baseline": lambda r: r - (r.sum() - r) / (r.numel() - 1)},
    "no baseline": {"baseline": lambda r: r},
    "advantages over their spread": {"baseline": lambda r: leave_one_out(r) / (r.std(dim=1, keepdim=True) + 1e-4)},
    "the other sign": {"baseline": lambda r: -leave_one_out(r)},
    "samples of a prompt apart": {"baseline": lambda r: leave_one_out(r).T.contiguous()},
    "tokens after the end": {"counts": lambda x: torch.ones_like(x.counted)},
    "without the end": {"counts": lambda x: x.counted & x.counted.roll(-1, dims=1)},
    "a mean over tokens": {"reduce": lambda x, counts: x.sum(dim=1) / counts.sum(dim=1)},
    "less entropy": {"bonus": -0.3},
    "away from the reference": {"pull": -0.2},
    "KL the other way round": {"turned": True},
}


@pytest.mark.parametrize("name", BROKEN_POLICIES)
def test_a_broken_policy_gradient_is_not_what_one_works_out_by_hand(name):
    the_policy_loss_is_worked_out_by_hand(policy(), 0, 0.3, 0.2)
    the_coin_is_worked_out_by_hand(policy(), 0.3, 0.2)
    with pytest.raises(AssertionError):
        the_policy_loss_is_worked_out_by_hand(policy(**BROKEN_POLICIES[name]), 0, 0.3, 0.2)
    if name not in ("a baseline of the whole batch", "samples of a prompt apart"):  # there is one prompt alone
        with pytest.raises(AssertionError):
            the_coin_is_worked_out_by_hand(policy(**BROKEN_POLICIES[name]), 0.3, 0.2)


CAUGHT = [
    (two_passes_say_the_same, mixed_up, transformer(0), draw(0, vocab=5)),
    (two_passes_say_the_same, lambda model, x: both_log_probs(model, swapped(x)), transformer(0), draw(0, vocab=5)),
    (the_reference_stays, partial(referring_to, lambda model: model)),
    (the_reference_stays, partial(referring_to, deepcopy)),
    (the_chances_of_both_orders_sum_to_one, both_betas),
    (the_chances_of_both_orders_sum_to_one, written("dpo(c, r, c0, 0 * r, 1, 1, 0)")),
    (at_the_reference_nothing_is_preferred, written("dpo(c, r, 0 * c, 0 * r)"), lambda c: LOG2 + 0.25 * c),
    (at_the_reference_nothing_is_preferred, written("npo(c, r.sum(1))"), lambda c: c + LOG2),
    (the_length_counts, lambda reference: DPO(reference, 0.5), True),
    (the_length_counts, lambda reference: DPO(reference, 0.5, average=True), False),
    *[(tokens_beyond_the_cap_are_left_alone, written(formula)) for formula in BROKEN["unlearning"]],
    *[
        (advantages_are_what_is_earned_beyond_the_others, options["baseline"])
        for options in BROKEN_POLICIES.values()
        if "baseline" in options
    ],
    (what_does_not_count_changes_nothing, policy(**BROKEN_POLICIES["tokens after the end"])),
    (equal_rewards_teach_nothing, lambda _: policy(lambda r: r, bonus=0, pull=0)(transformer(1))),
    (equal_rewards_teach_nothing, lambda _: policy(pull=0)(transformer(1))),
]


@pytest.mark.parametrize(("law", "broken"), [(law, broken) for law, *broken in CAUGHT])
def test_what_is_broken_is_caught_by_its_law(law, broken):
    with pytest.raises(AssertionError):
        law(*broken)
