"""Laws of steering: what a vector does, and what is trained."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from tests.model.small_steerings import (
    CONTEXT,
    KINDS,
    LAYERS,
    VOCAB,
    WIDTH,
    additions,
    build,
    few,
    layers,
    numbers,
    rows,
    scaled,
    seeds,
    some,
)
from toylab.model.generate import generate
from toylab.model.steering import (
    Scaled,
    Steered,
    Vector,
    rms_normed,
    steer,
)
from toylab.model.transformer import Transformer

# What is added -------------------------------------------------------------------------------------------------------


@some
@given(seeds, st.sampled_from(["pre", "post", "entry", "none"]))
def test_vectors_of_zeros_and_fresh_scaled_ones_change_no_bit(seed, norm):
    model, tokens, queries = build(seed, norm=norm), rows(seed), torch.tensor([[7], [3]])
    expected, there = model(tokens), model(tokens, queries=queries)
    for steered in (
        steer(model),
        Steered(model, {0: Vector(WIDTH)}, slice(2, 5)),
        Steered(model, {0: Scaled(WIDTH), 2: Scaled(WIDTH, "tanh", numbers(seed, WIDTH))}).double(),
    ):
        assert torch.equal(steered(tokens), expected)
        assert torch.equal(steered(tokens, queries=queries), there)


def biased(model: Transformer, by_layer: dict[int, Tensor]) -> Transformer:
    moved = Transformer(model.config, VOCAB, CONTEXT).double()
    moved.load_state_dict(model.state_dict())
    with torch.no_grad():
        for layer, vector in by_layer.items():
            moved.blocks[layer].mlp.down.bias += vector
    return moved


@some
@given(seeds, st.sets(layers, min_size=1))
def test_a_vector_after_a_block_is_a_bias_of_its_last_map(seed, at):
    model, tokens = build(seed), rows(seed)
    drawn = {layer: 2 * numbers(seed + layer, WIDTH) for layer in at}
    found, expected = steer(model, drawn)(tokens), biased(model, drawn)(tokens)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-10)
    assert (found - model(tokens)).abs().max() > 1e-3
    elsewhere = biased(model, {(layer + 1) % LAYERS: vector for layer, vector in drawn.items()})
    assert len(at) == LAYERS or (found - elsewhere(tokens)).abs().max() > 1e-3


@few
@given(seeds, layers)
def test_a_steered_model_writes_what_the_biased_one_writes(seed, layer):
    model, prompt, vector = build(seed), rows(seed, 3, 3), 2 * numbers(seed, WIDTH)
    expected = generate(biased(model, {layer: vector}), prompt, 6).tolist()
    assert generate(steer(model, {layer: vector}), prompt, 6).tolist() == expected


@some
@given(seeds, st.floats(-2, 2), layers)
def test_a_scaled_vector_that_reads_nothing_is_a_plain_one(seed, bias, layer):
    model, tokens, vector = build(seed), rows(seed), numbers(seed, WIDTH)
    fixed = {"weight": torch.zeros(WIDTH), "bias": torch.tensor(bias), "vector": vector}
    for gate, length in (("linear", fixed["bias"].item()), ("tanh", math.tanh(fixed["bias"].item()))):
        steered = Steered(model, {layer: scaled(seed, gate, numbers(seed + 5, WIDTH), **fixed)})
        expected = steer(model, {layer: length * vector})(tokens)
        torch.testing.assert_close(steered(tokens), expected, rtol=0, atol=1e-10)


@some
@given(seeds, st.sampled_from(["linear", "tanh"]), st.booleans())
def test_how_much_a_scaled_vector_adds_is_worked_out_by_hand_token_by_token(seed, gate, centred):
    centre = numbers(seed + 9, WIDTH) if centred else None
    addition, h = scaled(seed, gate, centre), 3 * numbers(seed + 7, 2, 3, WIDTH)
    moved = addition(h)
    w, b, v = (getattr(addition, name).tolist() for name in ("weight", "bias", "vector"))
    mu = [0.0] * WIDTH if centre is None else centre.tolist()
    for row in range(2):
        for position in range(3):
            x = h[row, position].tolist()
            size = math.sqrt(sum(one * one for one in x) / WIDTH)
            scale = sum(wi * (xi / size - m) for wi, xi, m in zip(w, x, mu, strict=True)) + b
            scale = math.tanh(scale) if gate == "tanh" else scale
            assert addition.scale(h)[row, position].item() == pytest.approx(scale, abs=1e-10)
            expected = [xi + scale * vi for xi, vi in zip(x, v, strict=True)]
            assert moved[row, position].tolist() == pytest.approx(expected, abs=1e-10)


@given(seeds, st.floats(0.1, 1e3))
def test_tanh_bounds_the_scale_and_the_length_of_the_stream_does_not_count(seed, size):
    h = numbers(seed, 4, 5, WIDTH)
    torch.testing.assert_close(rms_normed(size * h).square().mean(dim=-1), torch.ones(4, 5).double())
    bounded, free = scaled(seed + 1, "tanh", weight=0.5 * numbers(seed + 2, WIDTH)), scaled(seed + 1)
    assert (bounded.scale(h).abs() < 1).all()
    assert (free.scale(h).abs() > 1).any()
    for addition in (bounded, free):
        torch.testing.assert_close(addition.scale(size * h), addition.scale(h), rtol=1e-9, atol=1e-9)


def test_a_stream_of_zeros_is_no_accident():
    assert not rms_normed(torch.zeros(2, WIDTH)).any()


def test_vectors_are_given_or_zeros_and_scaled_ones_are_drawn_from_a_generator():
    given = numbers(0, WIDTH)
    vector = Vector(WIDTH, given).vector
    assert torch.equal(vector, given)
    assert vector.data_ptr() != given.data_ptr()
    assert not Vector(WIDTH).vector.any()
    before = torch.get_rng_state()
    drawn = [Scaled(WIDTH, generator=torch.Generator().manual_seed(seed)).vector for seed in (0, 0, 1)]
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])


# What is trained -----------------------------------------------------------------------------------------------------


@few
@given(seeds, st.sampled_from(KINDS))
def test_training_moves_the_additions_and_nothing_else(seed, kind):
    model, tokens = build(seed, unembedding="orthogonal"), rows(seed)
    held = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    wanted = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    steered = Steered(model, additions(seed)[kind])
    begun = [parameter.clone() for parameter in steered.additions.parameters()]
    trained = [parameter for parameter in steered.parameters() if parameter.requires_grad]
    assert [id(x) for x in trained] == [id(x) for x in steered.additions.parameters()]
    steered.train()
    steered(tokens).log_softmax(dim=-1)[..., 0].sum().backward()
    torch.optim.AdamW(steered.parameters(), lr=0.1).step()
    assert all(parameter.grad.any() for parameter in trained)
    assert not any(torch.equal(*pair) for pair in zip(begun, trained, strict=True))
    for one in (model, steered.model):
        assert all(torch.equal(tensor, held[name]) for name, tensor in one.state_dict().items())
        assert all(parameter.grad is None for parameter in one.parameters())
    assert {name: parameter.requires_grad for name, parameter in model.named_parameters()} == wanted
    assert any(wanted.values())
    assert model.training


def test_a_model_trained_on_does_not_move_its_steered_copy():
    model, tokens = build(), rows(0)
    steered = steer(model, {0: numbers(0, WIDTH)})
    before = steered(tokens)
    with torch.no_grad():
        model.embedding.weight.mul_(2)
    assert torch.equal(steered(tokens), before)


def test_without_given_vectors_there_is_one_for_each_block():
    steered = steer(build())
    assert list(steered.additions) == [str(layer) for layer in range(LAYERS)]
    assert sum(x.numel() for x in steered.parameters() if x.requires_grad) == LAYERS * WIDTH


@pytest.mark.parametrize("layer", [-1, LAYERS, 99])
def test_a_layer_that_the_model_does_not_have_is_refused(layer):
    with pytest.raises(ValueError, match=rf"^layer={layer}: .* 0 to {LAYERS - 1}"):
        Steered(build(), {0: Vector(WIDTH), layer: Vector(WIDTH)})


def test_nothing_to_add_is_refused():
    with pytest.raises(ValueError, match=r"^additions: at least one layer .*Vector"):
        Steered(build(), {})
    with pytest.raises(ValueError, match=r"^additions: "):
        steer(build(), {})
