"""Laws of step-by-step answers: the shared readout, and what pre-training shows."""

import itertools
import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.studies.steering_vectors.helpers import (
    DIRECT,
    FLAGGED,
    SMALL,
    TASK,
    THINK,
    few,
    questions,
    seeds,
    some,
)
from toylab.model.transformer import Transformer
from toylab.studies.steering_vectors.data import (
    READOUT_SEED,
    freeze_readout,
    readout_rows,
    reasoning_batches,
    reasoning_model,
    trim_padding,
)
from toylab.tasks import IGNORE, SPLITS, Batch, Styles, split_of, stream
from toylab.training.batches import BLOCK_STEPS

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
    with pytest.raises(
        ValueError, match=rf"^cosine={cosine}: must be at least 0 and at most 1; openers are orthogonal at 0"
    ):
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
    logits = model(questions(TASK, seed, 5))
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
    whole = TASK.mixture(stream(seed, "phase", 1), rows * BLOCK_STEPS, "train", styles)
    for step in (0, 5, 63):
        found = batch_at(BLOCK_STEPS + step)
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
    no_target_is_lost(trim_padding, seed, rows, think)


def test_a_batch_of_nothing_is_trimmed_to_nothing():
    empty = TASK.mixture(stream(0), 3, "train", Styles()).rows(0, 0)
    assert trim_padding(empty).tokens.shape == (0, 0)


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
