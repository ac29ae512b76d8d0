"""Laws of the policy gradient, worked out by hand in small worlds, and the mutants that each law catches."""

import math
import re
from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from tests.training.worlds import World, gradient, roll_out, seeds, some, transformer, two_worlds
from toylab.training.losses import (
    PolicyGradient,
    Rollouts,
    entropy,
    kl_divergence,
    leave_one_out,
    up_to_end,
)

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
        with pytest.raises(ValueError, match=rf"^samples={rewards.shape[1]}: .*at least 2; .*8 a prompt"):
            leave_one_out(rewards)
    alone = roll_out(0, prompts=2, samples=1)
    with pytest.raises(ValueError, match=r"^samples=1: "):
        PolicyGradient()(World(two_worlds(0)[0]), alone)


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


@given(seeds, st.integers(1, 3), st.integers(2, 5))
def test_equal_rollouts_are_computed_once(seed, prompts, samples):
    model, rollouts, rows = transformer(seed), roll_out(seed, prompts, samples, vocab=2), []
    model.embed.register_forward_hook(lambda module, inputs, output: rows.append(len(output)))
    rollouts.log_probs(model)
    pairs = zip(rollouts.prompts.tolist(), rollouts.written.tolist(), strict=True)
    assert rows == [len({(*asked, *said) for asked, said in pairs})]


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


@given(st.lists(st.lists(st.integers(0, 3), min_size=5, max_size=5), min_size=1), st.integers(0, 3))
def test_tokens_count_up_to_the_first_end_and_the_end_with_them(written, end):
    expected = [[end not in row[:i] for i in range(len(row))] for row in written]
    assert up_to_end(end, torch.tensor(written)).tolist() == expected


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
    torch.testing.assert_close(*found, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(*(gradient(value, model) for value in found), rtol=1e-12, atol=1e-12)


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
        with pytest.raises(ValueError, match=f"^{re.escape(f'{name}={value}')}: .*at least 0"):
            PolicyGradient(**{name: value}, reference=World([[1.0]]))


def test_kl_needs_something_to_stay_near_to():
    with pytest.raises(ValueError, match=r"^kl=0\.1: needs reference="):
        PolicyGradient(kl=0.1)
    assert PolicyGradient(0.1, 0).reference is None


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
    *[
        (advantages_are_what_is_earned_beyond_the_others, options["baseline"])
        for options in BROKEN_POLICIES.values()
        if "baseline" in options
    ],
    (what_does_not_count_changes_nothing, policy(**BROKEN_POLICIES["tokens after the end"])),
    (equal_rewards_teach_nothing, lambda _: policy(lambda r: r, bonus=0, pull=0)(transformer(1))),
    (equal_rewards_teach_nothing, lambda _: policy(pull=0)(transformer(1))),
]


@pytest.mark.parametrize(("law", "broken"), CAUGHT)
def test_what_is_broken_is_caught_by_its_law(law, broken):
    with pytest.raises(AssertionError):
        law(broken)
