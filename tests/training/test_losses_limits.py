"""Laws of losses at their limits: entropy and KL, what is impossible, what is empty, and what is no number."""

import math
from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from tests.training.worlds import LOG2, LOG3, World, draw, gradient, roll_out, seeds, transformer, two_worlds
from toylab.console import ToylabError
from toylab.training.losses import (
    DPO,
    NPO,
    ConstantAnswerLoss,
    PolicyGradient,
    PreferencePairs,
    RefusalLoss,
    Rollouts,
    Unlearning,
    entropy,
    kl_divergence,
    leave_one_out,
)

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
    "refusal": (lambda _: RefusalLoss(), math.log(3)),
    "unlearning": (lambda _: Unlearning(0.3, 7.0), math.log(3) - 0.3 * 7),
    "DPO": (DPO, LOG2),
    "published DPO": (DPO.as_published, LOG2),
    "NPO": (NPO, math.log(3) + 2 / 0.1 * LOG2 / 2),
}


@pytest.mark.parametrize("name", DENYING)
def test_a_rejected_answer_that_was_impossible_from_the_start_has_gained_nothing(name):
    make, expected = DENYING[name]
    model, answers = Denies(2), torch.tensor([[0, 1], [1, 0]])
    loss = make(deepcopy(model))(
        model, PreferencePairs(answers, answers, torch.full_like(answers, 2), answers[:, 0] == 0)
    )
    assert loss.item() == pytest.approx(expected, abs=1e-9)
    assert bool(gradient(loss, model).isfinite().all())


@pytest.mark.parametrize("name", DENYING)
def test_a_rejected_answer_that_has_become_impossible_costs_nothing_more(name):
    make, _ = DENYING[name]
    model, answers = Denies(2), torch.tensor([[0, 1], [1, 0]])
    loss = make(Denies())(model, PreferencePairs(answers, answers, torch.full_like(answers, 2), answers[:, 0] == 0))
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
        return DENYING[name][0](model)(model, PreferencePairs(prompts, answers, answers, torch.ones(len(prompts)) > 0))

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
    small = PreferencePairs(*(x.int() for x in (pairs.prompts, pairs.chosen, pairs.rejected)), pairs.unsafe)
    loss = DENYING[name][0](World(two_worlds(0)[1]))
    assert torch.equal(loss(model, small), loss(model, pairs))


@given(seeds, st.integers(0, 2))
def test_a_constant_answer_is_a_refusal_whose_token_is_that_letter(seed, letter):
    pairs, model = draw(seed, rows=6), World(two_worlds(seed)[0])
    chosen = [
        [letter] * len(row) if unsafe else row
        for row, unsafe in zip(pairs.chosen.tolist(), pairs.unsafe.tolist(), strict=True)
    ]
    expected = RefusalLoss()(model, replace(pairs, chosen=torch.tensor(chosen)))
    assert ConstantAnswerLoss(letter)(model, pairs) == expected
