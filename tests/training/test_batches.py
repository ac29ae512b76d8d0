"""Laws of batches: packing loses nothing and adds nothing, and the batch of a step depends on nothing but the step."""

import inspect
import math
import re
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from toylab.console import ToylabError
from toylab.model.config import ModelConfig
from toylab.model.transformer import Transformer
from toylab.tasks import IGNORE, ITERATED_MAPS, Batch, Copy, IteratedMap, ModularSum, Parity, Polynomial
from toylab.tasks import stream as random_stream
from toylab.training.batches import BLOCK, Scored, epochs, fresh, likeliest, next_token_loss, pack, pad, tokens_for
from toylab.training.loop import TrainConfig, train
from toylab.training.population import Population

SEEDS = st.integers(0, 2**32)


@st.composite
def draws(draw: st.DrawFn, most: int = 40) -> tuple[IteratedMap, int, int]:
    """A task, a seed and a number of rows (drawn apart from the rows: beartype's own dice upset hypothesis)."""
    kind = draw(st.sampled_from(ITERATED_MAPS))
    low = draw(st.integers(1, 5))
    task = kind(lengths=(low, low + draw(st.integers(0, 6))), chain_of_thought=draw(st.booleans()))
    return task, draw(SEEDS), draw(st.integers(1, most))


def sample(drawn: tuple[IteratedMap, int, int]) -> Batch:
    task, seed, rows = drawn
    assume(all(task.capacity(length, "train") for length in range(task.shortest, task.longest + 1)))
    return task.sample(random_stream(seed, "rows"), rows)


def sequences(batch: Batch) -> Counter:
    """What the rows hold, padding left out."""
    rows = zip(batch.tokens.tolist(), batch.targets.tolist(), batch.sizes.tolist(), strict=True)
    return Counter((tuple(tokens[:size]), tuple(targets[:size])) for tokens, targets, size in rows)


def targets_of(scored: Scored) -> torch.Tensor:
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
    with pytest.raises(ValueError, match=rf"width={width}: the longest sequence has {longest} positions; give at"):
        pack(batch, width)


@settings(max_examples=15)
@given(draws(12), SEEDS, st.sampled_from(["sinusoidal", "learned", "rotary", "alibi", "none"]))
def test_packed_and_padded_rows_have_the_same_loss(drawn, seed, positions):
    batch = sample(drawn)
    model = Transformer.for_task(drawn[0], ModelConfig(width=8, positions=positions), seed).double()
    packed, padded = next_token_loss(model, pack(batch)), next_token_loss(model, pad(batch))
    torch.testing.assert_close(packed, padded, rtol=0, atol=1e-12)


@settings(max_examples=15)
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


def content(scored: Scored) -> tuple:
    return scored.tokens.tolist(), scored.queries.tolist(), scored.targets.tolist(), scored.positions.tolist()


@given(SEEDS, st.integers(1, 5), st.permutations([0, 1, 63, 64, 65, 127, 128, 200, 0, 64]))
def test_the_batch_of_a_step_is_the_same_in_any_order_of_asking(seed, rows, steps):
    asked, task = fresh(ModularSum(lengths=(2, 5)), seed, rows), ModularSum(lengths=(2, 5))
    found = {step: content(asked(step)) for step in steps}
    for step in sorted(found, reverse=True):
        assert content(fresh(task, seed, rows)(step)) == found[step]


@given(st.integers(0, 2**31), st.integers(0, 300))
def test_neighbouring_seeds_and_steps_share_no_rows(seed, step):
    def rows(s: int, at: int) -> set[tuple[int, ...]]:
        return set(map(tuple, fresh(Polynomial(lengths=16), s, 4, pad)(at).tokens.tolist()))

    drawn = [rows(s, at) for s in (seed, seed + 1) for at in (step, step + 1, step + BLOCK)]
    assert all(len(one) == 4 for one in drawn)
    assert len(set().union(*drawn)) == 4 * len(drawn)


@pytest.mark.parametrize("layout", [pad, pack])
def test_fresh_batches_have_the_rows_and_the_layout_asked_for(layout):
    scored = fresh(Parity(lengths=(1, 4)), 0, 12, layout)(5)
    if layout is pad:
        assert len(scored.tokens) == 12
    else:
        assert len(scored.segments.unique()) == 12


@given(SEEDS, st.integers(1, 3), st.integers(0, 3), st.sampled_from([1, 2, 4]))
def test_a_sweep_goes_from_the_shortest_length_to_the_longest_and_repeats(seed, low, more, batches_each):
    task, rows = Copy(lengths=(low, low + more), p=7), 8 // batches_each
    at = epochs(task, seed, rows, per_length=8)
    period = batches_each * (more + 1)
    for step in range(period):
        scored = at(step)
        assert scored.tokens.shape == (rows, task.size(low + step // batches_each))
        assert content(at(step + 3 * period)) == content(scored)
        assert content(epochs(task, seed, rows, per_length=8)(step)) == content(scored)


def test_a_sweep_shows_every_row_of_its_pool_once_a_round():
    task = Polynomial(lengths=(5, 6))
    whole, parts = epochs(task, 3, 16, per_length=16), epochs(task, 3, 4, per_length=16)
    for length in (0, 1):
        seen = torch.cat([parts(4 * length + part).tokens for part in range(4)])
        assert torch.equal(seen, whole(length).tokens)


def test_a_sweep_needs_rows_that_divide_its_pool():
    with pytest.raises(ValueError, match=r"rows=5: a sweep has 1024 rows of each length; give a divisor, such as 256"):
        epochs(Parity(), 0, 5)


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

    scored = Scored(
        tokens=torch.zeros(1, 2, dtype=torch.long),
        positions=torch.arange(2)[None],
        segments=None,
        queries=torch.arange(2)[None],
        targets=torch.tensor([[0, 1]]),
    )
    plain, weighted = -(math.log(0.5) + math.log(0.75)) / 2, -(math.log(0.5) + 3 * math.log(0.75)) / 4
    assert next_token_loss(Fixed(), scored).item() == pytest.approx(plain)
    assert next_token_loss(Fixed(), scored, torch.tensor([1.0, 3.0])).item() == pytest.approx(weighted)


# Models of one's own -------------------------------------------------------------------------------------------------


class Plain(nn.Module):
    """Takes tokens alone."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, tokens: Tensor) -> Tensor:
        return self.inner(tokens)


class Placed(Plain):
    def forward(self, tokens: Tensor, positions: Tensor) -> Tensor:
        return self.inner(tokens, positions=positions)


class Parted(Plain):
    def forward(self, tokens: Tensor, *, segments: Tensor | None = None) -> Tensor:
        return self.inner(tokens, segments=segments)


class Whole(Plain):
    def forward(self, tokens: Tensor, positions: Tensor, segments: Tensor | None) -> Tensor:
        return self.inner(tokens, positions=positions, segments=segments)


class Asked(Plain):
    def forward(self, tokens: Tensor, queries: Tensor, positions: Tensor, segments: Tensor | None) -> Tensor:
        return self.inner(tokens, queries=queries, positions=positions, segments=segments)


class Anything(Plain):
    def forward(self, *inputs: Tensor, **options: Tensor | None) -> Tensor:
        return self.inner(*inputs, **options)


WRAPPED = [Plain, Placed, Parted, Whole, Asked, Anything]


@given(
    draws(), st.sampled_from(WRAPPED), st.sampled_from([pad, pack]), st.sampled_from(["none", "sinusoidal", "rotary"])
)
def test_a_model_of_ones_own_is_given_what_it_takes_and_has_the_loss_of_the_model_inside(
    drawn, kind, layout, positions
):
    task, *_ = drawn
    model = Transformer.for_task(task, ModelConfig(layers=1, width=8, positions=positions)).double()
    scored = layout(sample(drawn))
    in_order = bool((scored.positions == torch.arange(scored.tokens.shape[1])).all())
    lacking = {Plain: ["segments"], Placed: ["segments"], Parted: [] if in_order else ["positions"]}
    for name in lacking.get(kind, []) if scored.segments is not None else []:
        with pytest.raises(ToylabError, match=rf"^{name}: forward of {kind.__name__} takes none"):
            next_token_loss(kind(model), scored)
        return
    found, expected = next_token_loss(kind(model), scored), next_token_loss(model, scored)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)


def test_positions_of_ones_own_are_not_left_out_in_silence():
    task = Copy(lengths=(2, 3))
    scored = pad(task.sample(random_stream(0, "rows"), 4))
    far = Scored(**{**vars(scored), "positions": 2 * scored.positions})
    model = Transformer.for_task(task, ModelConfig(layers=1, width=8))
    with pytest.raises(ToylabError, match=r"^positions: forward of Plain takes none"):
        next_token_loss(Plain(model), far)
    assert next_token_loss(Placed(model), far) == next_token_loss(model, far)


class Returning(nn.Module):
    """Takes tokens alone and gives something."""

    def __init__(self, out: object) -> None:
        super().__init__()
        self.out = out

    def forward(self, tokens: Tensor) -> object:
        return self.out


class Swallowing(Returning):
    """Takes what it does not know, and does not heed it."""

    def forward(self, tokens: Tensor, **options: object) -> object:
        return self.out


@pytest.mark.parametrize("kind", [Returning, Swallowing])
@pytest.mark.parametrize("out", [torch.zeros(4, 20), torch.zeros(4, 99, 20), torch.zeros(3, 9, 20), (torch.zeros(1),)])
def test_logits_of_another_shape_are_refused_with_what_is_given_and_what_must_be(kind, out):
    scored = pad(Copy(lengths=(2, 3)).sample(random_stream(0, "rows"), 4))
    given = r"in a tuple" if isinstance(out, tuple) else re.escape(str(tuple(out.shape)))
    with pytest.raises(
        ToylabError, match=rf"^model: {kind.__name__} gives logits .*{given}.*\(batch, position, vocab\)"
    ):
        next_token_loss(kind(out), scored)


def test_a_model_that_swallows_the_queries_is_refused():
    scored = pad(Copy(lengths=(2, 3)).sample(random_stream(0, "rows"), 4))
    assert scored.queries.shape != scored.tokens.shape
    every = torch.zeros(*scored.tokens.shape, 20)
    assert torch.isfinite(next_token_loss(Returning(every), scored))
    with pytest.raises(ToylabError, match=r"^model: Swallowing gives logits of shape"):
        next_token_loss(Swallowing(every), scored)


def test_a_recurrent_network_trains_alone_and_in_a_population():
    """Without a word about positions, segments or queries."""
    task, config = Copy(lengths=(1, 3), p=3), TrainConfig(steps=40, warmup=1, cooldown=0, learning_rate=0.02)

    class Recurrent(nn.Module):
        def __init__(self, seed: int) -> None:
            super().__init__()
            with torch.random.fork_rng():
                torch.manual_seed(seed)
                self.embedding, self.step = nn.Embedding(len(task.vocabulary), 16), nn.Linear(32, 16)
                self.out = nn.Linear(16, len(task.vocabulary))

        def forward(self, tokens: Tensor) -> Tensor:
            state, states = torch.zeros(len(tokens), 16), []
            for x in self.embedding(tokens).unbind(1):
                state = self.step(torch.cat([x, state], dim=1)).tanh()
                states.append(state)
            return self.out(torch.stack(states, dim=1))

    data = [fresh(task, seed, 16, pad) for seed in (0, 1)]
    together = Population([Recurrent(seed) for seed in (0, 1)], next_token_loss, config)
    together.train(data)
    for seed, member in enumerate(together.members()):
        alone = Recurrent(seed)
        history = train(alone, next_token_loss, data[seed], config).history
        assert history[-1]["loss"] < 0.8 * history[0]["loss"]
        for one, other in zip(alone.parameters(), member.parameters(), strict=True):
            torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)


def test_a_compiled_model_is_given_what_the_model_inside_takes():
    task = Copy(lengths=(2, 3))
    scored = pad(task.sample(random_stream(0, "rows"), 4))
    model = Plain(nn.Sequential(nn.Embedding(len(task.vocabulary), 8), nn.Linear(8, len(task.vocabulary))))
    compiled = torch.compile(model, backend="eager")
    torch.testing.assert_close(next_token_loss(compiled, scored), next_token_loss(model, scored))
