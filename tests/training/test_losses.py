"""Laws of losses of given answers, worked out by hand in small worlds, and the mutants that each law catches."""

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
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from tests.training.worlds import (
    LOG2,
    LOG3,
    Make,
    World,
    built,
    draw,
    gradient,
    seeds,
    some,
    surprises,
    swapped,
    transformer,
    two_worlds,
)
from toylab.training.losses import (
    DPO,
    NPO,
    PreferencePairs,
    RefusalLoss,
    Unlearning,
    answer_log_probs,
    pair_log_probs,
)

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
    "refusal": (lambda _: RefusalLoss(), hand_refusal),
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


TWO_TOKENS = [  # the answer 0 1 has p = 1/4, and 3/16 before; 1 0 has 1/8, and 3/8 before: ratios 4/3 and 1/3
    (lambda _: RefusalLoss(), LOG2),
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
    pairs = PreferencePairs(*(torch.tensor([row]) for row in ([1, 0], [0, 1], [1, 0])), torch.tensor([True]))
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


def two_passes_say_the_same(both: Callable, model: nn.Module, pairs: PreferencePairs) -> None:
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
    two_passes_say_the_same(pair_log_probs, model, draw(seed, answer=answer, vocab=5))
    two_passes_say_the_same(pair_log_probs, World(two_worlds(seed)[0]), draw(seed, answer=answer))


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
    surprise = RefusalLoss()(model, pairs).item()
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
        pairs = PreferencePairs(prompt, chosen.repeat(1, length), rejected.repeat(1, length), torch.tensor([True]))
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
    ("weight", [0.0, -1], "above 0", lambda _, x: Unlearning(weight=x)),
    ("cap", [0.0, -1], "above 0", lambda _, x: Unlearning(cap=x)),
    ("beta", NO_NUMBERS, "above 0", lambda model, x: DPO(model, x)),
    ("beta_rejected", NO_NUMBERS, "above 0", lambda model, x: DPO(model, 1, x)),
    ("anchor", [-0.1, math.nan], "at least 0", lambda model, x: DPO(model, anchor=x)),
    ("beta", NO_NUMBERS, "above 0", lambda model, x: NPO(model, x)),
    ("weight", NO_NUMBERS, "above 0", lambda model, x: NPO(model, 1, x)),
]


@pytest.mark.parametrize(("name", "values", "needed", "make"), SETTINGS)
def test_settings_without_a_meaning_are_refused_by_name(name, values, needed, make):
    for value in values:
        with pytest.raises(ValueError, match=f"^{re.escape(f'{name}={value}')}: .*{needed}"):
            make(World([[1.0]]), value)


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


def mixed_up(model: nn.Module, pairs: PreferencePairs) -> tuple[Tensor, ...]:
    return pair_log_probs(model, replace(pairs, prompts=pairs.prompts.roll(1, dims=0)))


def referring_to(change: Callable[[nn.Module], nn.Module], reference: nn.Module) -> DPO:
    loss = DPO(reference)
    loss.reference = change(reference)
    return loss


CAUGHT = [
    (two_passes_say_the_same, mixed_up, transformer(0), draw(0, vocab=5)),
    (two_passes_say_the_same, lambda model, x: pair_log_probs(model, swapped(x)), transformer(0), draw(0, vocab=5)),
    (the_reference_stays, partial(referring_to, lambda model: model)),
    (the_reference_stays, partial(referring_to, deepcopy)),
    (the_chances_of_both_orders_sum_to_one, both_betas),
    (the_chances_of_both_orders_sum_to_one, written("dpo(c, r, c0, 0 * r, 1, 1, 0)")),
    (at_the_reference_nothing_is_preferred, written("dpo(c, r, 0 * c, 0 * r)"), lambda c: LOG2 + 0.25 * c),
    (at_the_reference_nothing_is_preferred, written("npo(c, r.sum(1))"), lambda c: c + LOG2),
    (the_length_counts, lambda reference: DPO(reference, 0.5), True),
    (the_length_counts, lambda reference: DPO(reference, 0.5, average=True), False),
    *[(tokens_beyond_the_cap_are_left_alone, written(formula)) for formula in BROKEN["unlearning"]],
]


@pytest.mark.parametrize(("law", "broken"), [(law, broken) for law, *broken in CAUGHT])
def test_what_is_broken_is_caught_by_its_law(law, broken):
    with pytest.raises(AssertionError):
        law(*broken)
