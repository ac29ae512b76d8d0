"""Laws of scores taken apart: the parts are those of the model, and they add up."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from toylab.model.config import ModelConfig
from toylab.model.positions import RotaryPositions
from toylab.model.transformer import Transformer
from toylab.probes import rotary_planes, score_table, watch

VOCAB, CONTEXT = 6, 12
SEEDS = st.integers(0, 2**31)
few = settings(max_examples=10)


def normal(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def close(one: torch.Tensor, other: torch.Tensor, atol: float = 1e-12) -> None:
    torch.testing.assert_close(one, other, rtol=0, atol=atol)


# By types of token ---------------------------------------------------------------------------------------------------


def test_a_table_worked_out_by_hand():
    queries = torch.tensor([[[1.0, 0, 0, 2], [0, 1, 0, 0]], [[0, 0, 3, 0], [1, 1, 1, 1]]])  # type, head, feature
    keys = torch.tensor([[[5.0, 0, 1, 1], [1, 2, 3, 4]], [[0, 0, 0, 0], [-1, 0, 0, 0]]])
    assert score_table(queries, keys).tolist() == [[[3.5, 0], [1.5, 0]], [[1, 0], [5, -0.5]]]


@few
@given(SEEDS, st.sampled_from([1, 2, 4]), st.booleans(), st.sampled_from(["pre", "none", "entry"]), st.integers(2, 9))
def test_without_positions_every_score_of_the_first_layer_is_in_the_table(seed, heads, biases, norm, width):
    config = ModelConfig(heads=heads, width=8, biases=biases, norm=norm, positions="none", causal=False)
    model = Transformer(config, VOCAB, CONTEXT, seed).double()
    tokens = torch.randint(VOCAB, (2, width), generator=torch.Generator().manual_seed(seed))
    with watch(model, "blocks.0.attn.*") as seen:
        model(torch.arange(VOCAB)[None])
    table = score_table(seen["blocks.0.attn.q"][0], seen["blocks.0.attn.k"][0])
    assert table.shape == (heads, VOCAB, VOCAB)
    with watch(model, "blocks.0.attn.scores") as seen:
        model(tokens)
    for row, string in enumerate(tokens.tolist()):
        for at, query in enumerate(string):
            for read, key in enumerate(string):
                close(seen["blocks.0.attn.scores"][row, :, at, read], table[:, query, key])


def test_a_table_that_is_transposed_or_lacks_the_root_would_be_noticed():
    queries, keys = normal(0, 3, 2, 4), normal(1, 3, 2, 4)
    table = score_table(queries, keys)
    assert not torch.allclose(table, table.transpose(1, 2), atol=1e-3)
    assert table[1, 0, 2].item() == pytest.approx(float(queries[0, 1] @ keys[2, 1]) / 2, abs=1e-12)


@given(SEEDS, st.integers(1, 5), st.integers(1, 3))
def test_to_exchange_queries_and_keys_is_to_turn_the_table_over(seed, types, heads):
    one, other = normal(seed, types, heads, 3), normal(seed + 1, types, heads, 3)
    close(score_table(other, one), score_table(one, other).transpose(1, 2))


# By planes of a rotation ---------------------------------------------------------------------------------------------


def test_planes_worked_out_by_hand():
    query, key = torch.tensor([1.0, 2, 3, 4]), torch.tensor([5.0, 6, 7, 8])
    assert rotary_planes(query, key).tolist() == [(5 + 21) / 2, (12 + 32) / 2]


@given(SEEDS, st.integers(1, 6), st.sampled_from([(), (3,), (2, 3)]))
def test_planes_add_up_to_the_score_at_distance_zero(seed, half, shape):
    query, key = normal(seed, *shape, 2 * half), normal(seed + 1, *shape, 2 * half)
    parts = rotary_planes(query, key)
    assert parts.shape == (*shape, half)
    close(parts.sum(dim=-1), (query * key).sum(dim=-1) / math.sqrt(2 * half))


@given(SEEDS, st.integers(1, 6), st.integers(0, 40), st.integers(0, 40), st.sampled_from([50.0, 1e4]))
def test_planes_turned_at_the_models_frequencies_add_up_to_its_scores_at_any_distance(seed, half, at, read, base):
    # In plane i, distance d turns the pair of features by d * f_i: the part at distance 0 is the real part of the
    # product q conj(k), and at distance d that of q conj(k) exp(i d f_i).
    config = ModelConfig(heads=1, width=2 * half, positions="rotary", position_base=base)
    encoding = RotaryPositions(config, CONTEXT, torch.Generator())
    encoding.frequencies = encoding.frequencies.double()
    query, key = normal(seed, 2 * half), normal(seed + 1, 2 * half)
    turned, other = (
        encoding.rotate(x[None, None, None], torch.tensor([[place]]))[0, 0, 0]
        for x, place in ((query, at), (key, read))
    )
    score = float(turned @ other) / math.sqrt(2 * half)
    here = rotary_planes(query, key)
    # A quarter turn of the key shows the imaginary part.
    aside = rotary_planes(query, torch.cat([-key[half:], key[:half]]))
    total = 0.0
    for plane in range(half):
        angle = (at - read) * float(encoding.frequencies[plane])
        total += float(here[plane]) * math.cos(angle) - float(aside[plane]) * math.sin(angle)
    assert score == pytest.approx(total, abs=1e-10)
    for plane in range(half):
        assert float(encoding.frequencies[plane]) == pytest.approx(base ** (-plane / half), rel=1e-5)


@given(SEEDS, st.integers(2, 6), st.integers(0, 5), st.integers(1, 30))
def test_each_plane_turns_at_its_own_frequency_fastest_first(seed, half, plane, distance):
    plane %= half
    config = ModelConfig(heads=1, width=2 * half, positions="rotary")
    encoding = RotaryPositions(config, CONTEXT, torch.Generator())
    encoding.frequencies = encoding.frequencies.double()
    only = torch.zeros(2 * half, dtype=torch.float64)
    only[[plane, plane + half]] = normal(seed, 2)
    parts = rotary_planes(only, only)
    assert parts.nonzero().flatten().tolist() == [plane]
    places = torch.tensor([[0, distance]])
    start, end = encoding.rotate(only.expand(1, 2, 1, -1), places)[0, :, 0]
    expected = float(parts[plane]) * math.cos(distance * 10_000 ** (-plane / half))
    assert float(end @ start) / math.sqrt(2 * half) == pytest.approx(expected, abs=1e-4)


@few
@given(SEEDS, st.sampled_from([1, 2]))
def test_planes_of_a_rotary_model_sum_to_the_scores_of_tokens_with_themselves(seed, heads):
    model = Transformer(ModelConfig(heads=heads, width=8, positions="rotary"), VOCAB, CONTEXT, seed).double()
    tokens = torch.arange(VOCAB)[None]
    with watch(model, "blocks.0.attn.q", "blocks.0.attn.k", "blocks.0.attn.scores") as seen:
        model(tokens, positions=torch.zeros_like(tokens))
    q, k, scores = seen.values()
    close(rotary_planes(q, k).sum(dim=-1)[0].T, scores[0].diagonal(dim1=1, dim2=2), 1e-12)


@pytest.mark.parametrize("size", [0, 1, 3, 7])
def test_an_odd_number_of_features_raises(size):
    with pytest.raises(ValueError, match=rf"features={size}: rotary planes are pairs, so their number must be even"):
        rotary_planes(torch.ones(2, size), torch.ones(2, size))


def test_tokens_without_features_have_no_score():
    with pytest.raises(ValueError, match=r"queries: shape \(2, 1, 0\) holds nothing to measure"):
        score_table(torch.ones(2, 1, 0), torch.ones(2, 1, 0))
