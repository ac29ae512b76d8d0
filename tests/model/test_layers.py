"""Laws of the layers: attention is a share out of one, and caches go on where reading stopped."""

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from tests.model.small_transformers import SEEDS, build, draw_tokens, some
from toylab.model.layers import KVCache
from toylab.model.strategies import model_configs
from toylab.probes import watch


@some
@given(model_configs(), SEEDS, st.integers(1, 8))
def test_attention_is_a_share_out_of_one_over_what_came_before(config, seed, width):
    model = build(config, seed)
    with watch(model, "blocks.*.attn.pattern") as seen:
        model(draw_tokens(seed, 2, width))
    assert len(seen) == config.layers
    for pattern in seen.values():
        assert pattern.shape == (2, config.heads, width, width)
        assert (pattern >= 0).all()
        torch.testing.assert_close(pattern.sum(dim=-1), torch.ones_like(pattern[..., 0]))
        assert (pattern.triu(1) == 0).all()


@some
@given(model_configs(), SEEDS, st.integers(1, 8))
def test_attention_is_what_torchs_own_attention_computes(config, seed, width):
    model = build(config, seed)
    with watch(model, "blocks.*.attn.*") as seen:
        model(draw_tokens(seed, 2, width))
    places = torch.arange(width)[None]
    extra = model.positions.bias(places, places)
    mask = torch.full((width, width), -torch.inf, dtype=torch.float64).triu(1) + (0 if extra is None else extra)
    for layer in range(config.layers):
        q, k, v, z = (seen[f"blocks.{layer}.attn.{name}"].transpose(1, 2) for name in "qkvz")
        torch.testing.assert_close(F.scaled_dot_product_attention(q, k, v, mask), z, rtol=0, atol=1e-12)


@some
@given(model_configs(), SEEDS, st.integers(1, 5), st.integers(1, 5), st.integers(1, 4))
def test_reading_in_two_pieces_gives_the_logits_of_reading_at_once(config, seed, first, second, third):
    model, tokens, cache = build(config, seed), draw_tokens(seed, 2, first + second + third), KVCache()
    pieces = [model(piece, cache=cache) for piece in tokens.split([first, second, third], dim=1)]
    assert cache.length == tokens.shape[1]
    torch.testing.assert_close(torch.cat(pieces, dim=1), model(tokens), rtol=0, atol=1e-10)


@some
@given(model_configs(), SEEDS, st.integers(1, 3), st.integers(1, 3))
def test_a_repeated_cache_goes_on_as_if_each_row_had_been_read_several_times(config, seed, rows, times):
    model, cache = build(config, seed), KVCache()
    begun, then = draw_tokens(seed, rows, 4), draw_tokens(seed + 1, rows * times, 2)
    model(begun, cache=cache)
    cache.repeat(times)
    assert cache.length == 4
    whole = torch.cat([torch.stack([row for row in begun for _ in range(times)]), then], dim=1)
    torch.testing.assert_close(model(then, cache=cache), model(whole)[:, 4:], rtol=0, atol=1e-10)


@some
@given(model_configs(layers=2), SEEDS, st.integers(1, 3), st.integers(1, 4), st.integers(1, 4))
def test_a_block_knows_the_positions_of_the_tokens_that_pass_it(config, seed, rows, first, second):
    model, cache = build(config, seed), KVCache()
    tokens = draw_tokens(seed, rows, first + second)

    def known() -> list[list[list[int]]]:
        return [block.positions.expand(rows, -1).tolist() for block in model.blocks]

    model(tokens[:, :first], cache=cache)
    assert known() == [[list(range(first))] * rows] * 2
    model(tokens[:, first:], cache=cache)
    assert known() == [[list(range(first, first + second))] * rows] * 2
    queries = torch.randint(first + second, (rows, 2), generator=torch.Generator().manual_seed(seed))
    model(tokens, positions=2 + torch.arange(first + second)[None], queries=queries)
    assert known() == [[list(range(2, 2 + first + second))] * rows, (2 + queries).tolist()]
