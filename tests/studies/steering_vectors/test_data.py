"""Laws of step-by-step answers: the shared readout, what pre-training shows, what is written, what a rollout holds."""

import itertools
import math
from collections.abc import Callable
from dataclasses import astuple, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from toylab.model.steering import Scaled, Steered, Vector
from toylab.model.transformer import Transformer
from toylab.studies.steering_vectors.data import (
    MODEL,
    READOUT_SEED,
    RL,
    Answers,
    Sampler,
    answers,
    by_temperature,
    freeze_readout,
    held_out_questions,
    readout_rows,
    reasoning_batches,
    reasoning_model,
    trimmed,
    write_answers,
)
from toylab.tasks import IGNORE, SPLITS, Batch, Reasoning, Styles, split_of, stream
from toylab.training.batches import BLOCK
from toylab.training.loop import History, train
from toylab.training.losses import PolicyGradient, Rollouts

TASK = Reasoning(p=3, length=4)
FLAGGED = Reasoning(p=3, length=4, flag=True)
SMALL = replace(MODEL, layers=1, heads=2, width=32, hidden=16)
THINK, DIRECT, ANS, EOS = (TASK.token(name) for name in ("THINK", "DIRECT", "ANS", "EOS"))
seeds = st.integers(0, 2**31)
some = settings(max_examples=6)
few = settings(max_examples=3)

# The model -----------------------------------------------------------------------------------------------------------


@some
@given(seeds, st.integers(16, 40), st.floats(0, 1), st.booleans())
def test_rows_are_orthonormal_but_for_the_openers_and_blind_to_a_constant(seed, width, cosine, flag):
    task = FLAGGED if flag else TASK
    rows = readout_rows(task, width, seed, cosine)
    vocab = len(task.vocabulary)
    assert rows.shape == (vocab, width)
    for one, other in itertools.product(range(vocab), repeat=2):
        wanted = 1 if one == other else cosine if {one, other} == {THINK, DIRECT} else 0
        assert (rows[one] @ rows[other]).item() == pytest.approx(wanted, abs=1e-5)
    np.testing.assert_allclose(rows.sum(dim=1).numpy(), 0, atol=1e-5)
    plain = readout_rows(task, width, seed)
    for token in set(range(vocab)) - {THINK, DIRECT}:
        assert torch.equal(rows[token], plain[token])
    middle = (plain[THINK] + plain[DIRECT]) / math.sqrt(2)
    torch.testing.assert_close(rows[THINK] + rows[DIRECT], math.sqrt(2 + 2 * cosine) * middle, rtol=0, atol=1e-5)


def test_rows_depend_on_their_seed_alone():
    before = torch.get_rng_state()
    first, again, other = (readout_rows(TASK, 32, seed) for seed in (4, 4, 5))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(first, again)
    assert (first - other).norm() > 1
    assert torch.equal(readout_rows(TASK, 32), readout_rows(TASK, 32, READOUT_SEED, 0))


@pytest.mark.parametrize("cosine", [-0.1, 1.1, math.nan, -1])
def test_openers_are_turned_toward_each_other_at_most_until_they_meet(cosine):
    with pytest.raises(ValueError, match=rf"^cosine={cosine}: must be from 0 \(orthogonal openers\) to 1"):
        readout_rows(TASK, 32, cosine=cosine)


@pytest.mark.parametrize("width", [4, 13])
def test_rows_need_one_dimension_more_than_there_are_tokens(width):
    assert len(TASK.vocabulary) == 13
    with pytest.raises(ValueError, match=rf"^width={width}: must be larger than the vocabulary of 13 tokens"):
        readout_rows(TASK, width)
    assert readout_rows(TASK, 14).shape == (13, 14)


@few
@given(seeds, st.floats(0.5, 4), st.floats(0, 1))
def test_models_of_all_seeds_share_one_frozen_readout_and_nothing_else(seed, length, cosine):
    one, other = (reasoning_model(TASK, SMALL, s, length=length, cosine=cosine) for s in (seed, seed + 1))
    assert torch.equal(one.unembedding.weight, other.unembedding.weight)
    torch.testing.assert_close(one.unembedding.weight, length * readout_rows(TASK, 32, READOUT_SEED, cosine))
    elsewhere = reasoning_model(TASK, SMALL, seed, readout=7, length=length, cosine=cosine)
    assert not torch.equal(elsewhere.unembedding.weight, one.unembedding.weight)
    plain = Transformer.for_task(TASK, SMALL, seed)
    for name, parameter in one.named_parameters():
        readout = name.startswith(("ln_final", "unembedding"))
        assert parameter.requires_grad == (not readout)
        assert name == "unembedding.weight" or torch.equal(parameter, plain.get_parameter(name))
        if not readout and "ln" not in name:
            assert not torch.equal(parameter, other.get_parameter(name))


@few
@given(seeds, st.floats(0.5, 4), st.floats(1, 100))
def test_the_length_of_the_rows_bounds_the_logits(seed, length, size):
    model = reasoning_model(TASK, SMALL, seed, length=length).double()
    with torch.no_grad():
        model.embedding.weight.mul_(size)
    logits = model(held_out_questions(TASK, seed, 5))
    assert logits.abs().max() <= length * math.sqrt(32)
    assert (logits.square().sum(dim=-1) <= 32 * length**2 * (1 + 1e-5)).all()


@pytest.mark.parametrize("unembedding", ["learned", "tied"])
def test_a_readout_that_learns_is_left_as_it_is(unembedding):
    config = replace(SMALL, unembedding=unembedding)
    model, plain = reasoning_model(TASK, config, 3), Transformer.for_task(TASK, config, 3)
    assert all(torch.equal(tensor, plain.state_dict()[name]) for name, tensor in model.state_dict().items())
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_freezing_a_frozen_readout_freezes_the_gain_before_it():
    model = Transformer.for_task(TASK, replace(SMALL, unembedding="frozen"))
    assert freeze_readout(model) is model
    assert [name for name, x in model.named_parameters() if not x.requires_grad] == [
        "ln_final.weight",
        "ln_final.bias",
        "unembedding.weight",
    ]


# Pre-training --------------------------------------------------------------------------------------------------------


@few
@given(seeds, st.permutations([0, 1, 63, 64, 130]), st.sampled_from(["first", "second"]))
def test_the_batch_of_a_step_is_the_same_in_any_order_of_asking(seed, steps, purpose):
    asked, again = (reasoning_batches(TASK, seed, 3, Styles(), purpose) for _ in range(2))
    found = {step: [x.tolist() for x in (asked(step).tokens, asked(step).targets)] for step in steps}
    for step in sorted(steps):
        assert [x.tolist() for x in (again(step).tokens, again(step).targets)] == found[step]
    assert len({str(batch) for batch in found.values()}) == len(steps)
    for other in (
        reasoning_batches(TASK, seed, 3, Styles(), "third"),
        reasoning_batches(TASK, seed + 1, 3, Styles(), purpose),
    ):
        assert other(1).tokens.tolist() != found[1][0]


@few
@given(seeds, st.integers(1, 4), st.sampled_from([Styles(think=0.5), Styles.clean(), Styles(think=0)]))
def test_every_written_token_of_the_mixture_is_asked_for_and_no_prompt_is_held_out(seed, rows, styles):
    batch_at = reasoning_batches(TASK, seed, rows, styles, "phase")
    whole = TASK.mixture(stream(seed, "phase", 1), rows * BLOCK, "train", styles)
    for step in (0, 5, 63):
        found = batch_at(BLOCK + step)
        for row in range(rows):
            tokens, targets = (x[step * rows + row].tolist() for x in (whole.tokens, whole.targets))
            wanted = [(place, target) for place, target in enumerate(targets) if target != IGNORE]
            asked = zip(found.queries[row].tolist(), found.targets[row].tolist(), strict=True)
            assert [(query, target) for query, target in asked if target != IGNORE] == wanted
            assert found.tokens[row].tolist() == tokens[: found.tokens.shape[1]]
        prompts = found.tokens[:, : TASK.prompt].numpy()
        assert set(split_of(prompts).tolist()) == {SPLITS.index("train")}


def no_target_is_lost(trim: Callable[[Batch], Batch], seed: int = 0, rows: int = 5, think: float = 0.3) -> None:
    batch = TASK.mixture(stream(seed), rows, "train", Styles(think=think, early=0.3))
    found = trim(batch)
    width = found.tokens.shape[1]
    assert found.targets.shape == found.tokens.shape
    assert (found.targets != IGNORE).sum() == (batch.targets != IGNORE).sum()
    assert batch.tokens[:, :width].tolist() == found.tokens.tolist()
    assert batch.targets[:, :width].tolist() == found.targets.tolist()
    assert (batch.tokens[:, width:] == TASK.token("PAD")).all()
    assert (found.tokens[:, -1] != TASK.token("PAD")).any()
    assert found.sizes.tolist() == batch.sizes.tolist()
    assert (found.labels, found.links) == (batch.labels, batch.links)


@some
@given(seeds, st.integers(1, 6), st.sampled_from([0, 0.3, 1]))
def test_trimming_takes_away_padding_and_no_target(seed, rows, think):
    no_target_is_lost(trimmed, seed, rows, think)


def test_a_batch_of_nothing_is_trimmed_to_nothing():
    empty = TASK.mixture(stream(0), 3, "train", Styles()).rows(0, 0)
    assert trimmed(empty).tokens.shape == (0, 0)


def cut_at(size: Callable[[Batch], int]) -> Callable[[Batch], Batch]:
    return lambda batch: replace(batch, tokens=batch.tokens[:, : size(batch)], targets=batch.targets[:, : size(batch)])


BROKEN = {
    "nothing": (lambda batch: batch, 0),
    "one column too many": (cut_at(lambda batch: int(batch.sizes.max()) - 1), 0.5),
    "what the shortest row lacks": (cut_at(lambda batch: int(batch.sizes.min())), 0.5),
}


@pytest.mark.parametrize("name", BROKEN)
def test_taking_away_too_little_or_too_much_is_caught(name):
    broken, think = BROKEN[name]
    no_target_is_lost(cut_at(lambda batch: int(batch.sizes.max())), think=think)
    with pytest.raises(AssertionError):
        no_target_is_lost(broken, think=think)


# What is written -----------------------------------------------------------------------------------------------------


class Scribe(nn.Module):
    """Writes the answers that it is told to give to prompts, all but surely."""

    def __init__(self, given: Callable[[list[int]], list[int]], task: Reasoning = TASK) -> None:
        super().__init__()
        self.given, self.task = given, task

    def forward(self, tokens, *, cache=None, queries=None):
        if cache is not None:
            tokens = torch.cat([*(held[0] for held in cache.layers.values()), tokens], dim=1)
            cache.layers[0] = tokens, tokens
        said = [self.given(row[: self.task.prompt]) for row in tokens.tolist()]
        filled = torch.tensor([(row + [EOS] * self.task.answer)[: self.task.answer] for row in said])
        following = torch.cat([filled.new_zeros(len(tokens), self.task.prompt - 1), filled], dim=1)
        logits = 200.0 * F.one_hot(following, len(self.task.vocabulary)).float()
        if queries is None:
            return logits[:, tokens.shape[1] - 1 : tokens.shape[1]]
        return logits.gather(1, queries[..., None].expand(-1, -1, logits.shape[-1]))


def ends(row: list[int]) -> list[int]:
    """Up to the end and with it."""
    return row[: row.index(EOS) + 1] if EOS in row else row


@few
@given(seeds, st.integers(1, 3), st.sampled_from([None, "THINK", "DIRECT"]), st.floats(0.5, 2))
def test_what_is_written_is_filled_up_after_the_end_and_opens_as_told(seed, samples, opener, temperature):
    model, prompts = reasoning_model(TASK, SMALL, seed), held_out_questions(TASK, seed, 4)
    source = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        model.unembedding.weight.mul_(0.3)  # or the end would hardly ever come
    written = write_answers(model, TASK, prompts, temperature, source, samples, opener)
    assert written.shape == (4 * samples, TASK.answer)
    for row in written.tolist():
        assert row[len(ends(row)) :] == [EOS] * (TASK.answer - len(ends(row)))
        assert opener is None or row[0] == TASK.token(opener)


@few
@given(seeds, st.sampled_from([None, "THINK", "DIRECT"]), st.integers(1, 2))
def test_at_temperature_0_each_token_is_the_likeliest_after_those_before_it(seed, opener, samples):
    model, prompts = reasoning_model(TASK, SMALL, seed).double(), held_out_questions(TASK, seed, 3)
    expected = []
    for prompt in prompts.tolist():
        said = [] if opener is None else [TASK.token(opener)]
        while len(said) < TASK.answer and EOS not in said:
            said.append(int(model(torch.tensor([prompt + said]))[0, -1].argmax()))
        expected += [said + [EOS] * (TASK.answer - len(said))] * samples
    assert write_answers(model, TASK, prompts, 0, samples=samples, opener=opener).tolist() == expected


def test_an_answer_that_ends_at_once_is_as_long_as_any():
    prompts = held_out_questions(TASK, 0, 3)
    assert write_answers(Scribe(lambda _: []), TASK, prompts, 0).tolist() == [[EOS] * TASK.answer] * 3
    assert (
        write_answers(Scribe(lambda _: []), TASK, prompts, 0, opener="THINK").tolist()
        == [[THINK] + [EOS] * (TASK.answer - 1)] * 3
    )


def direct(prompt: list[int], task: Reasoning = TASK, more: int = 0) -> list[int]:
    y = prompt[1] if task.flag and prompt[-1] == task.token("SEP'") else chained(prompt, task)[-2]
    return [DIRECT, (y + more) % task.p, EOS]


def chained(prompt: list[int], task: Reasoning = TASK, prime: int = 0) -> list[int]:
    """The whole chain, also to a flagged prompt; in the second dialect with a `prime`."""
    states = [prompt[1]]
    for a in prompt[2:-1]:
        states.append(int(task.permutation[(states[-1] + a) % task.p]))
    return [THINK, *(s + prime * task.p for s in states[1:]), ANS, states[-1], EOS]


def sometimes(one: Callable, other: Callable) -> Callable[[list[int]], list[int]]:
    """One answer where x0 is 0, the other elsewhere."""
    return lambda prompt: one(prompt) if prompt[1] == 0 else other(prompt)


def shares(found: Answers) -> dict[str, float]:
    names = ("right", "thinks", "dialect", "right_if_thinks", "flagged_right", "flagged_thinks")
    return {name: share for name, share in zip(names, astuple(found), strict=True) if share}


BY_HAND = [  # z is the share of prompts whose x0 is 0
    (chained, lambda z: {"right": 1, "thinks": 1, "right_if_thinks": 1}),
    (direct, lambda z: {"right": 1}),
    (lambda x: direct(x, more=1), lambda z: {}),
    (lambda x: chained(x, prime=1), lambda z: {"right": 1, "thinks": 1, "dialect": 1, "right_if_thinks": 1}),
    (sometimes(chained, lambda x: direct(x, more=1)), lambda z: {"right": z, "thinks": z, "right_if_thinks": 1}),
    (sometimes(direct, lambda x: chained(x, prime=1)),
     lambda z: {"right": 1, "thinks": 1 - z, "dialect": 1, "right_if_thinks": 1}),
    (sometimes(chained, lambda x: chained(x, prime=1)[:-2]),  # neither a digit nor, for long, an end after ANS
     lambda z: {"right": z, "thinks": 1, "dialect": 1 - z, "right_if_thinks": z}),
    (sometimes(lambda x: [DIRECT, x[1] + 3, EOS], lambda x: [THINK, ANS, chained(x)[-2], EOS]),
     lambda z: {"right": 1 - z, "thinks": 1 - z, "right_if_thinks": 1}),
]  # fmt: skip


@pytest.mark.parametrize(("given", "expected"), BY_HAND)
@pytest.mark.parametrize("temperature", [0, 0.7, 1])
def test_shares_of_answers_are_those_of_models_written_by_hand(given, expected, temperature):
    prompts = held_out_questions(TASK, 0, 40)
    zeros = (prompts[:, 1] == 0).float().mean().item()
    assert 0 < zeros < 1
    found = shares(answers(Scribe(given), TASK, prompts, temperature))
    assert found == pytest.approx(expected(zeros), abs=1e-6)


def test_flagged_prompts_have_shares_of_their_own():
    prompts = held_out_questions(FLAGGED, 0, 60)
    flagged = [row for row in prompts.tolist() if row[-1] == FLAGGED.token("SEP'")]
    share = len(flagged) / 60
    # A chain that happens to end in x0 is right there as well.
    luck = sum(chained(row, FLAGGED)[-2] == row[1] for row in flagged)
    assert 0 < luck < len(flagged) < 60

    def found(given: Callable) -> dict[str, float]:
        return shares(answers(Scribe(given, FLAGGED), FLAGGED, prompts, 0))

    assert found(lambda x: direct(x, FLAGGED)) == {"right": 1, "flagged_right": 1}
    right = 1 - share + luck / 60
    assert found(lambda x: chained(x, FLAGGED)) == pytest.approx(
        {
            "right": right, "thinks": 1, "right_if_thinks": right,
            "flagged_right": luck / len(flagged), "flagged_thinks": 1,
        },
        abs=1e-6,
    )  # fmt: skip
    assert found(FLAGGED.solve) == pytest.approx(
        {"right": 1, "thinks": 1 - share, "right_if_thinks": 1, "flagged_right": 1}, abs=1e-6
    )


def test_a_forced_opener_is_the_first_token_of_the_answer():
    prompts, always = held_out_questions(TASK, 1, 30), Scribe(chained)
    assert shares(answers(always, TASK, prompts, 0, opener="DIRECT")) == {}
    assert shares(answers(always, TASK, prompts, 1, opener="THINK")) == shares(answers(always, TASK, prompts, 1))
    forced = answers(Scribe(direct), TASK, prompts, 0, opener="THINK")
    assert shares(forced) == {"thinks": 1}


@few
@given(seeds)
def test_shares_at_each_temperature_are_rounded_and_the_same_whenever_asked(seed):
    model, prompts = reasoning_model(TASK, SMALL, seed), held_out_questions(TASK, seed, 25)
    found = by_temperature(model, TASK, prompts, seed=seed)
    assert list(found) == [0, 0.7, 1]
    assert by_temperature(model, TASK, prompts, (1, 0), seed) == {t: found[t] for t in (1, 0)}
    for temperature in (0, 0.7, 1):
        expected = vars(answers(model, TASK, prompts, temperature, seed))
        assert vars(found[temperature]) == {name: round(share, 4) for name, share in expected.items()}
    assert astuple(answers(model, TASK, prompts, 0, seed)) == astuple(answers(model, TASK, prompts, 0, seed + 1))


@pytest.mark.parametrize("split", ["validation", "test"])
def test_held_out_prompts_are_of_their_split_and_the_same_whenever_asked(split):
    first, again, other = (held_out_questions(TASK, seed, 20, split) for seed in (0, 0, 1))
    assert first.shape == (20, TASK.prompt)
    assert set(split_of(first.numpy()).tolist()) == {SPLITS.index(split)}
    assert first.tolist() == again.tolist() != other.tolist()
    assert held_out_questions(TASK, 0, 20).tolist() == held_out_questions(TASK, 0, 20, "test").tolist()


# Reinforcement learning ----------------------------------------------------------------------------------------------


def odd(asked: np.ndarray, said: np.ndarray, step: int) -> np.ndarray:
    """A reward that varies within a prompt, unlike that of an untrained model."""
    return said[:, 0] % 2 == 1


def content(rollouts: Rollouts) -> list:
    return [x.tolist() for x in vars(rollouts).values()]


def hot(seed: int) -> Transformer:
    """Whose answers vary, and end at all lengths."""
    model = reasoning_model(TASK, SMALL, seed)
    with torch.no_grad():
        model.unembedding.weight.mul_(0.3)
    return model


@few
@given(seeds, st.permutations([0, 1, 2, 50]))
def test_the_rollouts_of_a_step_are_the_same_in_any_order_of_asking(seed, steps):
    model = hot(seed)
    sampler, again = (Sampler(model, TASK, seed, 3, 3, reward=odd) for _ in range(2))
    found = {step: content(sampler(step)) for step in steps}
    assert all(content(again(step)) == found[step] for step in sorted(steps))
    assert len({str(rollouts[0]) for rollouts in found.values()}) == len(steps)
    for other in (Sampler(model, TASK, seed + 1, 3, 3), Sampler(model, TASK, seed, 3, 3, purpose="another")):
        assert other(1).prompts.tolist() != found[1][0]
        assert other(1).written.tolist() != found[1][1]


class Noise(nn.Module):
    """Finds every token equally likely, whatever it has read."""

    def forward(self, tokens, *, cache=None):
        return torch.zeros(*tokens.shape, len(TASK.vocabulary))


@few
@given(seeds)
def test_each_step_seed_and_purpose_has_a_chance_of_its_own(seed):
    samplers = [
        Sampler(Noise(), TASK, seed, 4, 4),
        Sampler(Noise(), TASK, seed + 1, 4, 4),
        Sampler(Noise(), TASK, seed, 4, 4, purpose="another"),
    ]
    drawn = [sampler(step).written.tolist() for sampler in samplers for step in range(3)]
    assert len({str(written) for written in drawn}) == 9


@few
@given(seeds, st.integers(1, 4), st.integers(1, 4))
def test_the_samples_of_a_prompt_stand_together_and_count_up_to_their_end(seed, prompts, samples):
    found = Sampler(hot(seed), TASK, seed, prompts, samples, reward=odd)(seed % 7)
    assert found.written.shape == found.counted.shape == (prompts * samples, TASK.answer)
    assert found.rewards.shape == (prompts, samples)
    assert set(split_of(found.prompts.numpy()).tolist()) == {SPLITS.index("train")}
    for row, (said, counted) in enumerate(zip(found.written.tolist(), found.counted.tolist(), strict=True)):
        assert found.prompts[row].tolist() == found.prompts[row // samples * samples].tolist()
        assert counted == [i < len(ends(said)) for i in range(TASK.answer)]
        assert found.rewards[row // samples, row % samples].item() == said[0] % 2
    assert not found.written.requires_grad


def test_without_another_reward_the_verifier_decides():
    sampler = Sampler(Scribe(sometimes(chained, lambda x: direct(x, more=1))), TASK, 0, 12, 3)
    found = sampler(4)
    zeros = [float(row[1] == 0) for row in found.prompts.tolist()]
    assert 0 < sum(zeros) < len(zeros)
    assert found.rewards.flatten().tolist() == zeros
    right = Sampler(Scribe(direct), TASK, 0)(0)
    assert right.rewards.tolist() == [[1] * 8] * 16
    assert right.counted.sum(dim=1).tolist() == [3] * 128


def test_another_reward_knows_what_was_asked_what_was_said_and_the_step():
    asked_of = []

    def reward(asked: np.ndarray, said: np.ndarray, step: int) -> np.ndarray:
        asked_of.append((asked.tolist(), said.tolist(), step))
        return np.full(len(asked), step > 2)

    sampler = Sampler(hot(0), TASK, 0, 3, 2, reward=reward)
    for step in (1, 5):
        found = sampler(step)
        assert asked_of[-1] == (found.prompts.tolist(), found.written.tolist(), step)
        assert set(found.rewards.flatten().tolist()) == {float(step > 2)}


def test_at_a_low_temperature_the_likeliest_answers_are_written():
    model = hot(1)
    cold, warm = (Sampler(model, TASK, 0, 3, 4, temperature=heat)(0) for heat in (0, 1))
    assert len({tuple(row) for row in cold.written.tolist()}) <= 3
    assert len({tuple(row) for row in warm.written.tolist()}) > 3
    assert cold.written.tolist() == write_answers(model, TASK, cold.prompts[::4], 0, samples=4).tolist()


@few
@given(seeds)
def test_a_summary_is_of_what_was_seen_since_the_last_one(seed):
    model, other = hot(seed), hot(seed + 1)
    sampler = Sampler(model, TASK, seed, 4, 3, reward=odd, reference=other)
    sampler(9)
    sampler.summary(model)
    seen = [sampler(step) for step in range(3)]
    found = sampler.summary(model)
    assert list(found) == ["reward", "spread", "dead_groups", "thinks", "entropy", "kl"]
    groups = [group for rollouts in seen for group in rollouts.rewards.tolist()]
    shares = [sum(group) / 3 for group in groups]
    assert found["reward"] == pytest.approx(sum(shares) / 12, abs=1e-6)
    assert found["spread"] == pytest.approx(sum(math.sqrt(x * (1 - x)) for x in shares) / 12, abs=1e-6)
    assert found["dead_groups"] == pytest.approx(sum(len(set(group)) == 1 for group in groups) / 12, abs=1e-6)
    openers = [row[0] for rollouts in seen for row in rollouts.written.tolist()]
    assert found["thinks"] == pytest.approx(openers.count(THINK) / 36, abs=1e-6)
    bits, apart = [], []
    with torch.no_grad():
        for prompt, said in zip(seen[-1].prompts.tolist(), seen[-1].written.tolist(), strict=True):
            for i in range(len(ends(said))):
                p, q = (x(torch.tensor([prompt + said[:i]]))[0, -1].softmax(dim=0).tolist() for x in (model, other))
                bits.append(-sum(a * math.log(a) for a in p))
                apart.append(sum(a * math.log(a / b) for a, b in zip(p, q, strict=True)))
    assert found["entropy"] == pytest.approx(np.mean(bits), abs=1e-4)
    assert found["kl"] == pytest.approx(np.mean(apart), abs=1e-4)
    assert found["kl"] > 0


def test_to_itself_a_model_has_no_distance_and_without_a_reference_none_is_told():
    model = hot(0)
    itself, alone = (Sampler(model, TASK, 0, 2, 2, reference=reference) for reference in (model, None))
    itself(0), alone(0)
    assert itself.summary(model)["kl"] == 0
    assert list(alone.summary(model)) == ["reward", "spread", "dead_groups", "thinks", "entropy"]


CONFIG = replace(RL, steps=5, rows=2, evaluate_every=2, learning_rate=0.3)


class Killed(Exception):  # noqa: N818
    pass


def trained(at: Path | None = None, killed: int | None = None) -> tuple[Steered, History]:
    """Vectors trained by reinforcement; killed at a step, then continued from the checkpoint by another process."""
    base = hot(2)

    def begin(last: int | None) -> tuple[Steered, History]:
        steered = Steered(base, {0: Scaled(32, "tanh", generator=torch.Generator().manual_seed(1))})
        sampler = Sampler(steered, TASK, 5, CONFIG.rows, 4, reward=odd, reference=base)

        def batch_at(step: int) -> Rollouts:
            if step == last:
                raise Killed
            return sampler(step)

        loss = PolicyGradient(0.02, 0.01, base)
        return steered, train(steered, loss, batch_at, CONFIG, evaluate=sampler.summary, checkpoint=at).history

    if killed is not None:
        with pytest.raises(Killed):
            begin(killed)
    return begin(None)


def bits(model: nn.Module) -> dict[str, bytes]:
    return {name: tensor.numpy().tobytes() for name, tensor in model.state_dict().items()}


@pytest.mark.parametrize("killed", [1, 3, 4])
def test_reinforcement_that_was_interrupted_ends_with_the_same_bits(tmp_path, killed):
    (whole, history), (resumed, again) = trained(), trained(tmp_path / "checkpoint", killed)
    assert bits(whole) == bits(resumed)
    assert history == again
    assert [entry["step"] for entry in history] == [0, 2, 4, 5]
    assert all({"reward", "spread", "dead_groups", "thinks", "entropy", "kl"} < entry.keys() for entry in history)
    assert history[0]["kl"] == 0 < history[-1]["kl"]


def test_reinforcement_moves_the_additions_toward_what_is_rewarded_and_leaves_the_model():
    base = hot(3)
    before = bits(base)
    steered = Steered(base, {0: Vector(32)})
    sampler = Sampler(steered, TASK, 5, 4, 8, reward=odd)
    config = replace(CONFIG, steps=12, evaluate_every=12)
    history = train(steered, PolicyGradient(), sampler, config, evaluate=sampler.summary).history
    later = np.mean([sampler(step).rewards.mean().item() for step in range(100, 110)])
    earlier = np.mean(
        [Sampler(base, TASK, 5, 4, 8, reward=odd)(step).rewards.mean().item() for step in range(100, 110)]
    )
    assert later > earlier + 0.1
    assert history[0]["step"] == 0
    assert bits(base) == before == bits(steered.model)
    assert steered.additions["0"].vector.abs().max() > 0.1
