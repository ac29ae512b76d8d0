"""Laws of attention for few queries: two routes, and the same numbers on either."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.model.small_encoder_decoders import (
    EDITS,
    SEEDS,
    WIDTH,
    close,
    few,
    normal,
)
from toylab.model.config import ModelConfig
from toylab.model.layers import Attention, AttentionContext
from toylab.model.positions import NoPositions
from toylab.probes import edit, watch


def attention_case(seed: int, heads: int, biases: bool, queries: int, keys: int, hidden: float = 0.0):
    """An attention, what it reads and from where, and a geometry without positions that hides a share of the keys."""
    config = ModelConfig(width=WIDTH, heads=heads, biases=biases, positions="none")
    attn = Attention(config, torch.Generator().manual_seed(seed), few_queries=True).double()
    bias = torch.zeros(2, 1, queries, keys, dtype=torch.float64)
    away = torch.rand(bias.shape, generator=torch.Generator().manual_seed(seed)) < hidden
    away[..., 0] = False  # somebody is always seen
    at = torch.zeros(1, max(queries, keys), dtype=torch.long)
    encoding = NoPositions(config, keys, torch.Generator())
    geometry = AttentionContext(encoding, at[:, :queries], at[:, :keys], bias.masked_fill(away, -torch.inf))
    return attn, normal(seed + 1, 2, queries, WIDTH), normal(seed + 2, 2, keys, WIDTH), geometry


def usual(attn: Attention, *inputs):
    """The output by keys and values of every position."""
    attn.few_queries = False
    try:
        return attn(*inputs)
    finally:
        attn.few_queries = True


cases = st.tuples(SEEDS, st.sampled_from([1, 2, 4]), st.booleans(), st.integers(1, 3), st.integers(1, 6))
shares = st.sampled_from([0.0, 0.4])


@few
@given(cases, shares)
def test_few_queries_get_what_the_usual_attention_gives_them(case, hidden):
    attn, reading, read, geometry = attention_case(*case, hidden)
    close(attn(reading, read, geometry), usual(attn, reading, read, geometry))


@few
@given(cases, shares)
def test_few_queries_send_back_the_gradients_of_the_usual_attention(case, hidden):
    attn, reading, read, geometry = attention_case(*case, hidden)
    reading.requires_grad_(True)
    read.requires_grad_(True)
    into = [reading, read, *attn.parameters()]
    weights = normal(9, *reading.shape)
    for one, other in zip(
        torch.autograd.grad((weights * attn(reading, read, geometry)).sum(), into),
        torch.autograd.grad((weights * usual(attn, reading, read, geometry)).sum(), into),
        strict=True,
    ):
        close(one, other, 1e-11)


@pytest.mark.parametrize("point", ["k", "v", "q", "scores", "pattern", "z"])
@few
@given(cases, shares)
def test_watching_one_point_of_few_queries_shows_what_the_usual_attention_shows_there(point, case, hidden):
    attn, reading, read, geometry = attention_case(*case, hidden)
    alone = attn(reading, read, geometry)
    with watch(attn, point) as seen:
        watched = attn(reading, read, geometry)
    with watch(attn, point) as expected:
        usual(attn, reading, read, geometry)
    close(seen[point], expected[point])
    close(watched, alone)
    if point not in ("k", "v"):
        assert torch.equal(watched, alone), "watching changed a bit"


@pytest.mark.parametrize("also", [(), ("k",)])
@pytest.mark.parametrize("point", EDITS)
def test_an_edit_does_to_few_queries_what_it_does_to_the_usual_attention(also, point):
    # An edit must mean the same whether or not somebody also watches keys, which sends few queries the long way.
    for heads, biases, hidden in ((1, True, 0.0), (2, False, 0.4), (4, True, 0.4)):
        attn, reading, read, geometry = attention_case(heads, heads, biases, 3, 5, hidden)
        with edit(attn, {point: EDITS[point]}):
            expected = usual(attn, reading, read, geometry)
            with watch(attn, *also):
                close(attn(reading, read, geometry), expected)
