"""Laws of where steering acts: at its positions and at no other, whichever way the model is run."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from tests.model import small_transformers
from tests.model.small_steerings import (
    CONTEXT,
    KINDS,
    LAYERS,
    WIDTH,
    additions,
    build,
    few,
    numbers,
    rows,
    seeds,
    some,
)
from toylab.console import ToylabError
from toylab.model.config import ModelConfig
from toylab.model.generate import generate
from toylab.model.layers import KVCache
from toylab.model.steering import (
    Steered,
    Vector,
    load_steering,
    rms_normed,
    save_steering,
)
from toylab.model.strategies import model_configs
from toylab.model.transformer import Transformer
from toylab.probes import edit, watch


def streams(steered: Steered | Transformer, tokens: Tensor) -> list[Tensor]:
    """What each block reads, and what the final norm gives."""
    model = steered.model if isinstance(steered, Steered) else steered
    names = [*(f"blocks.{layer}.resid_pre" for layer in range(LAYERS)), "final"]
    with watch(model, *names) as seen:
        steered(tokens)
    return [seen[name] for name in names]


@some
@given(seeds, st.integers(0, 1), st.integers(0, 8), st.integers(1, 8))
def test_a_block_moves_the_stream_at_its_positions_and_at_no_other(seed, layer, start, stop):
    model, tokens, vector = build(seed), rows(seed), numbers(seed, WIDTH)
    before = streams(model, tokens)
    chosen = tuple(sorted(set(np.random.default_rng(seed).integers(8, size=3).tolist())))
    for at, places in (
        (slice(start, start + stop), range(start, start + stop)),
        (slice(start, None), range(start, 8)),
        (slice(None, stop), range(stop)),
        (slice(None), range(8)),
        (chosen, chosen),
    ):
        after = streams(Steered(model, {layer: Vector(WIDTH, vector)}, at), tokens)
        assert all(torch.equal(*pair) for pair in zip(before[: layer + 1], after[: layer + 1], strict=True))
        for position in range(8):
            expected = before[layer + 1][:, position] + (vector if position in places else 0)
            assert torch.equal(after[layer + 1][:, position], expected)
        first = min(places, default=8)
        for one, other in zip(before[layer + 2 :], after[layer + 2 :], strict=True):
            torch.testing.assert_close(one[:, :first], other[:, :first], rtol=0, atol=1e-12)


@few
@given(seeds, st.sampled_from(KINDS), st.integers(1, 8))
def test_two_masks_that_share_out_the_positions_add_up_in_one_layer(seed, kind, cut):
    model, tokens = build(seed), rows(seed)
    layer, addition = next(iter(additions(seed)[kind].items()))
    plain = streams(model, tokens)[layer + 1]
    whole, first, rest = (
        streams(Steered(model, {layer: addition}, at), tokens)[layer + 1] - plain
        for at in (slice(None), slice(0, cut), slice(cut, None))
    )
    assert whole.abs().max() > 0
    torch.testing.assert_close(first + rest, whole, rtol=0, atol=1e-12)
    assert not first[:, cut:].any()
    assert not rest[:, :cut].any()


@few
@given(seeds, st.integers(1, 7))
def test_in_the_last_layer_the_prompt_does_not_matter_for_what_is_generated(seed, prompt):
    model, tokens = build(seed), rows(seed)
    last = Steered(model, {LAYERS - 1: Vector(WIDTH, 2 * numbers(seed, WIDTH))})
    expected, found = last(tokens), last.only(slice(prompt - 1, None))(tokens)
    torch.testing.assert_close(found[:, prompt - 1 :], expected[:, prompt - 1 :], rtol=0, atol=1e-12)
    torch.testing.assert_close(found[:, : prompt - 1], model(tokens)[:, : prompt - 1], rtol=0, atol=1e-12)
    begun = tokens[:, :prompt]
    assert generate(last, begun, 4).tolist() == generate(last.only(slice(prompt - 1, None)), begun, 4).tolist()
    early = Steered(model, {0: Vector(WIDTH, 2 * numbers(seed, WIDTH))})
    apart = (early(tokens) - early.only(slice(prompt, None))(tokens))[:, prompt:]
    assert apart.abs().max() > 1e-6  # earlier layers are read from the prompt as well


@few
@given(seeds, st.sampled_from(KINDS))
def test_the_same_additions_elsewhere_are_the_same_parameters(seed, kind):
    steered = Steered(build(seed), additions(seed)[kind])
    first = steered.only((0,))
    assert (steered.at, first.at) == (slice(None), (0,))
    assert [id(one) for one in first.additions.parameters()] == [id(one) for one in steered.additions.parameters()]
    tokens = rows(seed)
    assert not torch.equal(first(tokens), steered(tokens))
    assert torch.equal(first.only(slice(None))(tokens), steered(tokens))


@few
@given(seeds, st.sampled_from(KINDS))
def test_the_edits_of_a_steered_model_are_what_it_does(seed, kind):
    steered, tokens = Steered(build(seed), additions(seed)[kind], slice(2, 6)), rows(seed)
    plain = steered.model(tokens)
    with edit(steered.model, steered.edits()):
        edited = steered.model(tokens)
    assert torch.equal(edited, steered(tokens))
    assert not torch.equal(edited, plain)
    assert torch.equal(steered.model(tokens), plain)


@pytest.mark.parametrize(
    "at",
    [
        *(
            (-1,),
            (2, -1),
            (),
            [],
            slice(3, 3),
            slice(5, 2),
            slice(None, 0),
            slice(-1, None),
            slice(0, -1),
            slice(0, 4, 2),
        ),
        *(
            (True,),
            (1.0,),
            (np.float64(1),),
            (None,),
            ("1",),
            slice(0.5, None),
            slice(True, None),
            torch.tensor([True]),
        ),
        *((CONTEXT,), slice(CONTEXT, None)),  # past the end of learned positions
    ],
    ids=str,
)
def test_positions_that_cannot_be_steered_are_refused(at):
    with pytest.raises(ToylabError, match=r"^at"):
        Steered(build(), {0: Vector(WIDTH)}, at)


@pytest.mark.parametrize(
    "at", [(np.int64(3),), [3], range(3, 4), 3, slice(np.int64(3), np.int32(4)), torch.tensor([3])]
)
def test_whole_numbers_of_every_kind_are_positions(tmp_path, at):
    model, tokens, vector = build().float(), rows(0), numbers(0, WIDTH)
    steered = Steered(model, {0: Vector(WIDTH, vector)}, at)
    expected = Steered(model, {0: Vector(WIDTH, vector)}, (3,))(tokens)
    assert torch.equal(steered(tokens), expected)
    save_steering(tmp_path / "steering", steered)
    assert torch.equal(load_steering(tmp_path / "steering", model)(tokens), expected)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_additions_of_all_kinds_take_the_type_of_the_model(tmp_path, dtype):
    model, tokens, held = build().to(dtype), rows(0), additions(3)["all kinds"]
    steered, exact = Steered(model, held), Steered(build().to(dtype).double(), additions(3)["all kinds"])
    assert {parameter.dtype for parameter in steered.parameters()} == {dtype}
    found = steered(tokens)
    assert found.dtype == dtype
    error = (found.double() - exact(tokens)).abs().max() / exact(tokens).abs().max()
    assert error < 30 * torch.finfo(dtype).eps
    save_steering(tmp_path / "steering", steered)
    assert torch.equal(load_steering(tmp_path / "steering", model)(tokens), found)


@pytest.mark.parametrize("size", [0.0, 1e-3, 1.0, 1e3])
def test_the_root_mean_square_of_half_precision_neither_overflows_nor_vanishes(size):
    h = (size * numbers(0, 3, WIDTH)).half()
    torch.testing.assert_close(rms_normed(h).double(), rms_normed(h.double()), rtol=2e-3, atol=1e-6)


# Pieces, queries, and writing ----------------------------------------------------------------------------------------


NUMBERS = st.none() | st.integers(0, 8)
SPANS = st.one_of(
    st.builds(lambda start, stop: slice(start, stop and (start or 0) + stop), NUMBERS, st.none() | st.integers(1, 8)),
    st.lists(st.integers(0, 8), min_size=1, max_size=4).map(tuple),
)


def steered(config: ModelConfig, seed: int, layers: set[int], at: slice | tuple[int, ...]) -> Steered:
    """With a drawn vector after each of these layers that the model has."""
    source = torch.Generator().manual_seed(seed)
    drawn = {layer: torch.randn(config.width, generator=source, dtype=torch.double) for layer in sorted(layers)}
    held = {layer % config.layers: Vector(config.width, vector) for layer, vector in drawn.items()}
    return Steered(small_transformers.build(config, seed), held, at)


BLOCKS = st.sets(st.integers(0, 1), min_size=1)


@some
@given(
    model_configs(),
    small_transformers.SEEDS,
    BLOCKS,
    SPANS,
    st.integers(1, 3),
    st.lists(st.integers(1, 3), min_size=1, max_size=4),
)
def test_an_edit_by_position_does_the_same_to_whole_rows_to_pieces_and_to_chosen_queries(
    config, seed, layers, at, rows, pieces
):
    model, tokens = steered(config, seed, layers, at), small_transformers.draw_tokens(seed, rows, sum(pieces))
    whole = model(tokens)
    for sizes in (pieces, [1] * sum(pieces)):
        cache = KVCache()
        found = torch.cat([model(piece, cache=cache) for piece in tokens.split(sizes, dim=1)], dim=1)
        torch.testing.assert_close(found, whole, rtol=0, atol=1e-10)
    queries = torch.randint(sum(pieces), (rows, 2), generator=torch.Generator().manual_seed(seed))
    expected = torch.stack([row[places] for row, places in zip(whole, queries, strict=True)])
    torch.testing.assert_close(model(tokens, queries=queries), expected, rtol=0, atol=1e-10)


@some
@given(model_configs(), small_transformers.SEEDS, BLOCKS, SPANS, st.integers(1, 3), st.integers(1, 5))
def test_a_model_edited_by_position_writes_the_same_with_a_cache_and_without(config, seed, layers, at, samples, steps):
    model, prompt = steered(config, seed, layers, at), small_transformers.draw_tokens(seed, 2, 3)

    def written(cache: bool) -> list[list[int]]:
        source = torch.Generator().manual_seed(seed)
        return generate(model, prompt, steps, temperature=1.5, generator=source, samples=samples, cache=cache).tolist()

    assert written(True) == written(False)
