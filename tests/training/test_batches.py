"""Laws of batches: packing loses nothing and adds nothing, and the batch of a step depends on nothing but the step."""

import inspect
import math
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from tests.examples import fewer
from tests.training.drawn_batches import SEEDS, draws, sample
from toylab.console import ToylabError
from toylab.model.config import ModelConfig
from toylab.model.transformer import Transformer
from toylab.tasks import IGNORE, Batch, Copy, ModularSum, Parity, Polynomial
from toylab.tasks import stream as random_stream
from toylab.training.batches import (
    BLOCK_STEPS,
    ScoredBatch,
    epoch_batches,
    length_curriculum,
    likeliest,
    next_token_loss,
    pack,
    pad,
    tokens_for,
    training_batches,
)


def sequences(batch: Batch) -> Counter:
    """What the rows hold, padding left out."""
    rows = zip(batch.tokens.tolist(), batch.targets.tolist(), batch.sizes.tolist(), strict=True)
    return Counter((tuple(tokens[:size]), tuple(targets[:size])) for tokens, targets, size in rows)


def targets_of(scored: ScoredBatch) -> torch.Tensor:
    """The target of every position, as the batch had it."""
    full = torch.full_like(scored.tokens, IGNORE)
    for row, (queries, targets) in enumerate(zip(scored.queries.tolist(), scored.targets.tolist(), strict=True)):
        for query, target in zip(queries, targets, strict=True):
            if target != IGNORE:
                full[row, query] = target
    return full


@given(draws(), st.integers(0, 9))
def test_unpacking_gives_the_rows_back(drawn, spare):
    batch = sample(drawn)
    width = int(batch.sizes.max()) + spare
    packed = pack(batch, width)
    assert packed.tokens.shape[1] == width
    targets, found = targets_of(packed), Counter()
    for segment in range(len(batch)):
        row, at = (packed.segments == segment).nonzero(as_tuple=True)
        assert len(set(row.tolist())) == 1
        assert packed.positions[row, at].tolist() == list(range(len(at)))
        assert at.tolist() == list(range(int(at[0]), int(at[0]) + len(at)))
        found[tuple(packed.tokens[row, at].tolist()), tuple(targets[row, at].tolist())] += 1
    assert found == sequences(batch)
    assert int((packed.segments >= 0).sum()) == batch.sizes.sum()
    assert (targets[packed.segments < 0] == IGNORE).all()


@given(draws())
def test_padding_keeps_every_row_in_its_place(drawn):
    batch = sample(drawn)
    padded = pad(batch)
    assert padded.segments is None
    assert padded.tokens.tolist() == batch.tokens.tolist()
    assert targets_of(padded).tolist() == batch.targets.tolist()


@given(draws(), st.sampled_from([pad, pack]))
def test_every_target_is_scored_once(drawn, layout):
    batch = sample(drawn)
    scored = layout(batch)
    assert int((scored.targets != IGNORE).sum()) == int((batch.targets != IGNORE).sum())
    for queries in scored.queries.tolist():
        assert len(set(queries)) == len(queries)


@given(SEEDS, st.integers(1, 4), st.integers(1, 16))
def test_lengths_in_equal_numbers_fill_packed_rows_without_a_gap(seed, rounds, longest):
    task = Copy(lengths=(1, longest), p=7)
    packed = pack(task.sample(random_stream(seed, "rows"), rounds * 2 * longest))
    assert (packed.segments >= 0).all()
    assert packed.tokens.shape == (rounds * longest, task.size(1) + task.size(longest))


@given(draws(), st.integers(1, 40))
def test_a_row_too_narrow_for_the_longest_sequence_is_refused(drawn, less):
    batch = sample(drawn)
    longest = int(batch.sizes.max())
    width = max(longest - less, 0)
    with pytest.raises(ValueError, match=rf"^width={width}: .* {longest} .*; give"):
        pack(batch, width)


@fewer(0.4)
@given(draws(12), SEEDS, st.sampled_from(["sinusoidal", "learned", "rotary", "alibi", "none"]))
def test_packed_and_padded_rows_have_the_same_loss(drawn, seed, positions):
    batch = sample(drawn)
    model = Transformer.for_task(drawn[0], ModelConfig(width=8, positions=positions), seed).double()
    packed, padded = next_token_loss(model, pack(batch)), next_token_loss(model, pad(batch))
    torch.testing.assert_close(packed, padded, rtol=0, atol=1e-12)


@fewer(0.4)
@given(draws(6), SEEDS, st.booleans())
def test_the_loss_is_the_mean_surprise_at_scored_positions(drawn, seed, weighted):
    batch = sample(drawn)
    model, vocab = Transformer.for_task(drawn[0], ModelConfig(width=8), seed).double(), len(drawn[0].vocabulary)
    chances = model(torch.from_numpy(batch.tokens)).softmax(dim=-1)
    weights = torch.arange(1, vocab + 1).double() if weighted else torch.ones(vocab).double()
    total, count = 0.0, 0.0
    for row, position in zip(*np.nonzero(batch.targets != IGNORE), strict=True):
        target = batch.targets[row, position]
        total -= weights[target].item() * math.log(chances[row, position, target].item())
        count += weights[target].item()
    found = next_token_loss(model, pack(batch), weights) if weighted else next_token_loss(model, pack(batch))
    assert found.item() == pytest.approx(total / count, abs=1e-10)


def test_padding_does_not_reach_the_loss():
    task = Parity(lengths=(2, 6))
    batch = task.sample(random_stream(0, "rows"), 10)
    model = Transformer.for_task(task).double()
    noise = np.arange(batch.tokens.shape[1]) >= batch.sizes[:, None]
    other = Batch(np.where(noise, 0, batch.tokens), batch.targets, batch.sizes)
    assert noise.any()
    assert next_token_loss(model, pad(other)).item() == next_token_loss(model, pad(batch)).item()


# The batch of a step -------------------------------------------------------------------------------------------------


def content(scored: ScoredBatch) -> tuple:
    return scored.tokens.tolist(), scored.queries.tolist(), scored.targets.tolist(), scored.positions.tolist()


@fewer(0.3)
@given(SEEDS, st.integers(1, 5), st.permutations([0, 1, 63, 64, 65, 127, 128, 200, 0, 64]))
def test_the_batch_of_a_step_is_the_same_in_any_order_of_asking(seed, rows, steps):
    asked, task = training_batches(ModularSum(lengths=(2, 5)), seed, rows), ModularSum(lengths=(2, 5))
    found = {step: content(asked(step)) for step in steps}
    for step in sorted(found, reverse=True):
        assert content(training_batches(task, seed, rows)(step)) == found[step]


@fewer(0.4)
@given(st.integers(0, 2**31), st.integers(0, 300))
def test_neighbouring_seeds_and_steps_share_no_rows(seed, step):
    def rows(s: int, at: int) -> set[tuple[int, ...]]:
        return set(map(tuple, training_batches(Polynomial(lengths=16), s, 4, pad)(at).tokens.tolist()))

    drawn = [rows(s, at) for s in (seed, seed + 1) for at in (step, step + 1, step + BLOCK_STEPS)]
    assert all(len(one) == 4 for one in drawn)
    assert len(set().union(*drawn)) == 4 * len(drawn)


@pytest.mark.parametrize("layout", [pad, pack])
def test_fresh_batches_have_the_rows_and_the_layout_asked_for(layout):
    scored = training_batches(Parity(lengths=(1, 4)), 0, 12, layout)(5)
    if layout is pad:
        assert len(scored.tokens) == 12
    else:
        assert len(scored.segments.unique()) == 12


@fewer(0.4)
@given(SEEDS, st.integers(1, 3), st.integers(0, 3), st.sampled_from([1, 2, 4]))
def test_a_sweep_goes_from_the_shortest_length_to_the_longest_and_repeats(seed, low, more, batches_each):
    task, rows = Copy(lengths=(low, low + more), p=7), 8 // batches_each
    at = epoch_batches(task, seed, rows, per_length=8)
    period = batches_each * (more + 1)
    for step in range(period):
        scored = at(step)
        assert scored.tokens.shape == (rows, task.size(low + step // batches_each))
        assert content(at(step + 3 * period)) == content(scored)
        assert content(epoch_batches(task, seed, rows, per_length=8)(step)) == content(scored)


def test_a_sweep_shows_every_row_of_its_pool_once_a_round():
    task = Polynomial(lengths=(5, 6))
    whole, parts = epoch_batches(task, 3, 16, per_length=16), epoch_batches(task, 3, 4, per_length=16)
    for length in (0, 1):
        seen = torch.cat([parts(4 * length + part).tokens for part in range(4)])
        assert torch.equal(seen, whole(length).tokens)


def test_two_lengths_of_a_sweep_have_tokens_in_common_by_chance_alone():
    same = []
    for seed in range(20):
        at = epoch_batches(Copy(lengths=(8, 9), p=16), seed, 1, per_length=1)
        same += (at(0).tokens[0, 1:9] == at(1).tokens[0, 1:9]).tolist()
    assert abs(np.mean(same) - 1 / 16) < 5 * math.sqrt(1 / 16 / len(same))


def test_a_sweep_needs_rows_that_divide_its_pool():
    with pytest.raises(ValueError, match=r"^rows=5: .* 1024 .*; give .* 256"):
        epoch_batches(Parity(), 0, 5)


def test_scored_padding_weighs_short_rows_as_the_published_code_does():
    task = Parity(lengths=(1, 3), score_padding=True)
    batch = task.batch(np.array([[1, 0, 0]]), np.array([1]))
    scored = pad(batch)
    # One state, then EoS at every later position up to the end of the longest row: 2 * 3 + 2 positions from EoI (2) on.
    assert scored.queries.tolist() == [[2, 3, 4, 5, 6, 7]]
    assert scored.targets.tolist() == [[1] + [task.end_of_sequence] * 5]
    model = Transformer.for_task(task).double()
    logits = model(torch.from_numpy(batch.tokens))[0, 2:]
    expected = F.cross_entropy(logits, scored.targets[0])
    torch.testing.assert_close(next_token_loss(model, scored), expected)


@pytest.mark.parametrize("layout", [pad, pack])
def test_a_batch_in_which_nothing_is_scored_has_no_loss(layout):
    task = Copy()
    batch, model = task.sample(random_stream(0), 3), Transformer.for_task(task)
    empty = layout(replace(batch, targets=np.full_like(batch.targets, IGNORE)))
    unscored = layout(batch)
    unscored = replace(unscored, targets=torch.full_like(unscored.targets, IGNORE))
    for scored in (empty, unscored, pad(task.sample(random_stream(0), 0))):
        with pytest.raises(ToylabError, match=r"targets: .*nothing is scored"):
            next_token_loss(model, scored)
    with pytest.raises(ToylabError, match="batch: has no rows"):
        pack(task.sample(random_stream(0), 0))


@pytest.mark.parametrize("layout", [pad, pack])
def test_batches_of_32_bit_integers_have_the_same_loss_and_gradient(layout):
    task = Copy()
    batch, model = task.sample(random_stream(0), 3), Transformer.for_task(task)
    small = replace(batch, tokens=batch.tokens.astype(np.int32), targets=batch.targets.astype(np.int32))
    found = []
    for one in (batch, small):
        loss = next_token_loss(model, layout(one))
        found.append((loss, *torch.autograd.grad(loss, model.parameters())))
    assert all(torch.equal(*pair) for pair in zip(*found, strict=True))


def test_tokens_go_where_the_model_is_and_are_whole_numbers():
    model = Transformer(ModelConfig(), 5, 6)
    assert tokens_for(model, np.ones((2, 3), dtype=np.uint8)).tolist() == [[1, 1, 1]] * 2
    with pytest.raises(ToylabError, match="tokens: are float64"):
        inspect.unwrap(tokens_for)(model, np.ones((2, 3)))


@given(SEEDS)
def test_the_likeliest_is_the_first_of_the_largest_and_none_where_logits_are_nan(seed):
    logits = torch.from_numpy(np.random.default_rng(seed).integers(0, 3, size=(4, 5)).astype(float))
    assert likeliest(logits).tolist() == [row.index(max(row)) for row in logits.tolist()]
    logits[seed % 4, seed % 5] = math.nan
    with pytest.raises(ToylabError, match="logits: are nan"):
        likeliest(logits)


def test_weights_count_some_targets_more_than_others_as_worked_out_by_hand():
    class Fixed(torch.nn.Module):
        def forward(self, tokens, *, positions, segments, queries):
            return torch.log(torch.tensor([[[0.5, 0.5], [0.25, 0.75]]]))

    scored = ScoredBatch(
        tokens=torch.zeros(1, 2, dtype=torch.long),
        positions=torch.arange(2)[None],
        segments=None,
        queries=torch.arange(2)[None],
        targets=torch.tensor([[0, 1]]),
    )
    plain, weighted = -(math.log(0.5) + math.log(0.75)) / 2, -(math.log(0.5) + 3 * math.log(0.75)) / 4
    assert next_token_loss(Fixed(), scored).item() == pytest.approx(plain)
    assert next_token_loss(Fixed(), scored, torch.tensor([1.0, 3.0])).item() == pytest.approx(weighted)


@given(st.integers(1, 40), st.integers(0, 80), st.integers(1, 500))
def test_a_curriculum_grows_by_the_same_factor_to_the_last_length_and_stays_there(first, longer, steps):
    longest = length_curriculum(first, first + longer, steps)
    found = [longest(step) for step in range(steps + 1)]
    assert found == sorted(found)
    assert (found[0], found[-1], longest(2 * steps)) == (first, first + longer, first + longer)
    assert found[steps // 2] == pytest.approx(first * (1 + longer / first) ** (steps // 2 / steps), abs=0.5)
    assert length_curriculum(first, first + longer, 0)(0) == first + longer
