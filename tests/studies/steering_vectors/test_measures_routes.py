"""Laws of the routes of a vector: a reader that writes nothing is skipped without a trace, and the others are not."""

import pytest
import torch
from hypothesis import given
from torch import Tensor, nn

from tests.examples import fewer
from tests.model.small_steerings import numbers
from tests.studies.steering_vectors.helpers import TASK, seeds
from tests.studies.steering_vectors.worlds import (
    LAYERS,
    WIDTH,
    biased,
    drawn,
    questions,
    rightly,
    silenced,
    still,
    streams,
    witnessed,
    writers,
)
from toylab.model.generate import generate
from toylab.model.steering import Vector, steer
from toylab.model.transformer import Transformer
from toylab.studies.steering_vectors.measures import (
    ForcedRoute,
    accuracy_by_route,
    path_patched,
    skipped_readers,
    with_clean_scale,
)

once = fewer(0.1)
BEFORE = LAYERS - 2
"""The last layer but one."""
EVERY = {
    *("skip query", "skip key", "skip value", "skip attention", "skip MLP", "skip block", "skip unembedding"),
    *("only attention", "only MLP"),
}


def accuracies(model: Transformer, layer: int, vector: Tensor, seed: int = 0, temperature: float = 1) -> dict:
    """By route, and of the model with the vector and without."""
    prompts = questions(0, 5)
    with witnessed():
        found = accuracy_by_route(steer(model, {layer: vector}), TASK, prompts, seed, temperature)
    full, none = (
        rightly(one, prompts, temperature, seed) for one in (biased(model, {layer: vector}), biased(model, {}))
    )
    return found | {"steered": full, "base": none}


def same(found: dict[str, float], as_that: str) -> set[str]:
    """The routes with the accuracy of another, but for rounding."""
    return {name for name, value in found.items() if abs(value - found[as_that]) < 2e-4} - {as_that}


def part(model: Transformer, layer: int) -> tuple[nn.Module, nn.Module]:
    return writers(model.blocks[layer])


@once
@given(seeds)
def test_where_all_readers_write_something_no_two_routes_are_the_same(seed):
    found = accuracies(drawn(seed), BEFORE, 0.4 * numbers(seed, WIDTH), seed % 5, 0.5)
    assert set(found) == EVERY | {"steered", "base"}
    assert len({round(value, 3) for value in found.values()}) == len(found)


@once
@given(seeds)
def test_without_an_mlp_in_the_next_block_skipping_it_changes_nothing(seed):
    model = drawn(seed)
    silenced([part(model, LAYERS - 1)[1]])
    found = accuracies(model, BEFORE, 0.4 * numbers(seed, WIDTH))
    assert same(found, "steered") == {"skip MLP"}
    assert same(found, "skip attention") == {"skip block"}
    assert same(found, "skip unembedding") == {"only attention"}
    assert same(found, "base") == {"only MLP"}


@once
@given(seeds)
def test_without_an_attention_in_the_next_block_skipping_it_changes_nothing(seed):
    model = drawn(seed)
    silenced([part(model, LAYERS - 1)[0]])
    found = accuracies(model, BEFORE, 0.4 * numbers(seed, WIDTH))
    assert same(found, "steered") == {"skip attention", "skip query", "skip key", "skip value"}
    assert same(found, "skip MLP") == {"skip block"}
    assert same(found, "skip unembedding") == {"only MLP"}
    assert same(found, "base") == {"only attention"}


def test_without_a_next_block_the_vector_acts_on_the_unembedding_alone():
    found = accuracies(still(0, after=BEFORE), BEFORE, 0.4 * numbers(0, WIDTH))
    assert same(found, "base") == {"skip unembedding", "only attention", "only MLP"}
    assert same(found, "steered") == EVERY - same(found, "base")


def test_queries_keys_and_values_are_what_they_would_be_without_the_vector():
    kinds = ("query", "key", "value")
    for kind in kinds:
        model = drawn(1)
        nn.init.zeros_(getattr(model.blocks[LAYERS - 1].attn, kind).weight)
        found = accuracies(model, BEFORE, 0.4 * numbers(0, WIDTH))
        # Constant keys have scores that are constant in the softmax, and constant values a constant mean.
        blind = {"query": {"query"}, "key": {"query", "key"}, "value": {*kinds}}[kind]
        assert same(found, "steered") & {f"skip {one}" for one in kinds} == {f"skip {one}" for one in blind}


def test_of_an_earlier_layer_the_next_block_alone_is_skipped_and_others_see_the_vector():
    assert set(skipped_readers(0, LAYERS - 1)) == {name for name in EVERY if name.startswith("skip")}
    assert set(skipped_readers(LAYERS - 2, LAYERS - 1)) == EVERY
    model = drawn(0)
    silenced(part(model, 1))
    found = accuracies(model, 0, 0.4 * numbers(0, WIDTH))
    assert same(found, "steered") == {
        "skip query", "skip key", "skip value", "skip attention", "skip MLP", "skip block",
    }  # fmt: skip
    model = drawn(0)
    silenced(part(model, 2))
    found = accuracies(model, 0, 0.4 * numbers(0, WIDTH))
    assert same(found, "steered") == same(found, "base") == set()


def behind(model: Transformer, x: Tensor, less: Tensor) -> Tensor:
    """The logits from the stream after the last block, of which a part is taken away."""
    x = x - less
    mean, deviation = x.mean(dim=-1, keepdim=True), (x.var(dim=-1, correction=0, keepdim=True) + 1e-5).sqrt()
    return ((x - mean) / deviation * model.ln_final.weight + model.ln_final.bias) @ model.unembedding.weight.T


@once
@given(seeds)
def test_on_a_forced_route_all_blocks_see_the_vector_and_the_unembedding_does_not(seed):
    model, rows = drawn(seed), questions(seed, 4)
    for layer in range(LAYERS):
        vector = 3 * numbers(seed + layer, WIDTH)
        forced = ForcedRoute(model, {layer: Vector(WIDTH, vector)})
        stream = streams(biased(model, {layer: vector}), rows, LAYERS - 1)
        torch.testing.assert_close(forced(rows), behind(model, stream, vector), rtol=0, atol=1e-10)
        nothing = ForcedRoute(still(seed, after=layer), {layer: Vector(WIDTH, vector)})
        torch.testing.assert_close(nothing(rows), still(seed, after=layer)(rows), rtol=0, atol=1e-10)
    forced, queries = ForcedRoute(model, {BEFORE: Vector(WIDTH, vector)}), torch.full((4, 1), 3)
    torch.testing.assert_close(forced(rows, queries=queries), forced(rows)[:, 3:4], rtol=0, atol=1e-10)
    assert generate(forced, rows, 4).tolist() == generate(forced, rows, 4, cache=False).tolist()


def test_a_vector_is_trained_through_what_it_does_on_a_forced_route_alone():
    rows = questions(0, 4)
    forced = ForcedRoute(still(0, after=BEFORE), {BEFORE: Vector(WIDTH, numbers(0, WIDTH))})
    forced(rows).square().sum().backward()
    assert forced.additions[str(BEFORE)].vector.grad.abs().max() < 1e-9


@once
@given(seeds)
def test_with_a_clean_scale_the_changed_stream_is_divided_by_the_deviation_of_the_other(seed):
    model, rows = drawn(seed), questions(seed, 4)
    for layer in range(LAYERS):
        vector = 3 * numbers(seed + layer, WIDTH)
        clean, changed = (streams(one, rows, LAYERS - 1) for one in (model, biased(model, {layer: vector})))
        deviation = (clean.var(dim=-1, correction=0, keepdim=True) + 1e-5).sqrt()
        normed = (changed - changed.mean(dim=-1, keepdim=True)) / deviation
        expected = (normed * model.ln_final.weight + model.ln_final.bias) @ model.unembedding.weight.T
        found = with_clean_scale(steer(model, {layer: vector}))(rows)
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-9)
        assert (found - steer(model, {layer: vector})(rows)).abs().max() > 1e-3


def test_a_path_is_of_one_addition_at_its_places():
    model, rows, vector = drawn(0), questions(0, 4), 3 * numbers(0, WIDTH)
    steered = steer(model, {1: vector}).only((2, 5))
    torch.testing.assert_close(path_patched(steered)(rows), steered(rows), rtol=0, atol=1e-10)
    with pytest.raises(ValueError, match="unpack"):
        path_patched(steer(model))
