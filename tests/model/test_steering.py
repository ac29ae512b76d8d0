"""Laws of steering: what a vector does at which positions, what is trained and saved, and what it can do at all."""

import math
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from toylab.console import ToylabError
from toylab.files import read_tensors, write_tensors
from toylab.model.config import ModelConfig
from toylab.model.generate import generate
from toylab.model.steering import (
    PreFlight,
    Scaled,
    Steered,
    Vector,
    folded_unembedding,
    load_steering,
    pre_flight,
    rms_normed,
    save_steering,
    vectors,
)
from toylab.model.transformer import Transformer
from toylab.probes import edit, watch

VOCAB, CONTEXT, WIDTH, LAYERS = 7, 12, 16, 3
CONFIG = ModelConfig(layers=LAYERS, heads=2, width=WIDTH, hidden=12, positions="learned")
seeds = st.integers(0, 2**31)
layers = st.integers(0, LAYERS - 1)
some = settings(max_examples=6)
few = settings(max_examples=3)


def build(seed: int = 0, **shape) -> Transformer:
    """In float64, with norms that are not the identity."""
    model = Transformer(replace(CONFIG, **shape), VOCAB, CONTEXT, seed).double()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "ln" in name:
                parameter += 0.3 * numbers(seed, *parameter.shape)
    return model


def numbers(seed: int, *shape: int) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(size=shape))


def rows(seed: int, count: int = 2, width: int = 8) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).integers(VOCAB, size=(count, width)))


def scaled(seed: int, gate: str = "linear", centre: Tensor | None = None, **given: Tensor) -> Scaled:
    """With nothing left at its first value but for what is given."""
    addition = Scaled(WIDTH, gate, centre).double()
    with torch.no_grad():
        for i, (name, parameter) in enumerate(addition.named_parameters()):
            parameter.copy_(given.get(name, numbers(seed + i, *parameter.shape)))
    return addition


def additions(seed: int) -> dict[str, dict[int, nn.Module]]:
    centre = numbers(seed + 9, WIDTH)
    return {
        "a vector": {1: Vector(WIDTH, numbers(seed, WIDTH))},
        "joint": {layer: Vector(WIDTH, numbers(seed + layer, WIDTH)) for layer in range(LAYERS)},
        "scaled": {2: scaled(seed)},
        "scaled and bounded": {0: scaled(seed, "tanh", centre)},
        "all kinds": {0: scaled(seed, "linear", centre), 1: Vector(WIDTH, numbers(seed, WIDTH)), 2: scaled(1, "tanh")},
    }


KINDS = sorted(additions(0))


# What is added -------------------------------------------------------------------------------------------------------


@some
@given(seeds, st.sampled_from(["pre", "post", "entry", "none"]))
def test_vectors_of_zeros_and_fresh_scaled_ones_change_no_bit(seed, norm):
    model, tokens, queries = build(seed, norm=norm), rows(seed), torch.tensor([[7], [3]])
    expected, there = model(tokens), model(tokens, queries=queries)
    for steered in (
        vectors(model),
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
    found, expected = vectors(model, drawn)(tokens), biased(model, drawn)(tokens)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-10)
    assert (found - model(tokens)).abs().max() > 1e-3
    elsewhere = biased(model, {(layer + 1) % LAYERS: vector for layer, vector in drawn.items()})
    assert len(at) == LAYERS or (found - elsewhere(tokens)).abs().max() > 1e-3


@few
@given(seeds, layers)
def test_a_steered_model_writes_what_the_biased_one_writes(seed, layer):
    model, prompt, vector = build(seed), rows(seed, 3, 3), 2 * numbers(seed, WIDTH)
    expected = generate(biased(model, {layer: vector}), prompt, 6).tolist()
    assert generate(vectors(model, {layer: vector}), prompt, 6).tolist() == expected


@some
@given(seeds, st.floats(-2, 2), layers)
def test_a_scaled_vector_that_reads_nothing_is_a_plain_one(seed, bias, layer):
    model, tokens, vector = build(seed), rows(seed), numbers(seed, WIDTH)
    fixed = {"weight": torch.zeros(WIDTH), "bias": torch.tensor(bias), "vector": vector}
    for gate, length in (("linear", fixed["bias"].item()), ("tanh", math.tanh(fixed["bias"].item()))):
        steered = Steered(model, {layer: scaled(seed, gate, numbers(seed + 5, WIDTH), **fixed)})
        expected = vectors(model, {layer: length * vector})(tokens)
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


# Where it acts -------------------------------------------------------------------------------------------------------


def streams(steered: Steered | Transformer, tokens: Tensor) -> list[Tensor]:
    """What each block reads, and what the final norm gives."""
    model = steered.model if isinstance(steered, Steered) else steered
    names = [*(f"blocks.{layer}.resid_pre" for layer in range(LAYERS)), "final"]
    with watch(model, *names) as seen:
        steered(tokens)
    return [seen[name] for name in names]


def last_stream(model: Transformer, tokens: Tensor) -> Tensor:
    """What the final norm reads at the last position."""
    with watch(model, f"blocks.{LAYERS - 1}.resid_post") as seen:
        model(tokens)
    return seen[f"blocks.{LAYERS - 1}.resid_post"][:, -1]


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


@some
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


@some
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
@pytest.mark.parametrize("kind", KINDS)
def test_additions_take_the_type_of_the_model(tmp_path, kind, dtype):
    model, tokens = build().to(dtype), rows(0)
    steered, exact = Steered(model, additions(3)[kind]), Steered(build().to(dtype).double(), additions(3)[kind])
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
    steered = vectors(model, {0: numbers(0, WIDTH)})
    before = steered(tokens)
    with torch.no_grad():
        model.embedding.weight.mul_(2)
    assert torch.equal(steered(tokens), before)


def test_without_given_vectors_there_is_one_for_each_block():
    steered = vectors(build())
    assert list(steered.additions) == [str(layer) for layer in range(LAYERS)]
    assert sum(x.numel() for x in steered.parameters() if x.requires_grad) == LAYERS * WIDTH


@pytest.mark.parametrize("layer", [-1, LAYERS, 99])
def test_a_layer_that_the_model_does_not_have_is_refused(layer):
    with pytest.raises(ValueError, match=rf"^layer={layer}: the model has layers 0 to {LAYERS - 1}$"):
        Steered(build(), {0: Vector(WIDTH), layer: Vector(WIDTH)})


def test_nothing_to_add_is_refused():
    with pytest.raises(ValueError, match=r"^additions: at least one layer is needed, for example \{0: Vector\(64\)\}$"):
        Steered(build(), {})
    with pytest.raises(ValueError, match=r"^additions: at least one layer"):
        vectors(build(), {})


# What is saved -------------------------------------------------------------------------------------------------------

PLACES = [slice(None), slice(2, 5), slice(3, None), slice(None, 4), (1, 6), (0,)]


@pytest.mark.parametrize("at", PLACES)
@pytest.mark.parametrize("kind", KINDS)
def test_what_was_saved_steers_to_the_same_bits(tmp_path, kind, at):
    model, path, tokens = build().float(), tmp_path / "of" / "steering.safetensors", rows(0)
    steered = Steered(model, additions(3)[kind], at).float()
    save_steering(path, steered)
    found = load_steering(path, model)
    assert torch.equal(found(tokens), steered(tokens))
    assert not torch.equal(found(tokens), model(tokens))
    assert found.at == at
    assert [type(x) for x in found.additions.values()] == [type(x) for x in steered.additions.values()]
    one, other = (x.additions.state_dict() for x in (found, steered))
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert {id(x) for x in found.parameters() if x.requires_grad} == {id(x) for x in found.additions.parameters()}
    again = tmp_path / "again.safetensors"
    save_steering(again, found)
    assert again.read_bytes() == path.read_bytes()


def test_the_additions_alone_are_saved(tmp_path):
    path = tmp_path / "steering.safetensors"
    save_steering(path, Steered(build(), additions(0)["scaled"]))
    tensors, _ = read_tensors(path)
    assert {name: tuple(x.shape) for name, x in tensors.items()} == {
        "2.vector": (WIDTH,), "2.weight": (WIDTH,), "2.bias": (), "2.centre": (WIDTH,),
    }  # fmt: skip


def refused(path: Path, model: Transformer) -> str:
    with pytest.raises(ValueError, match=re.escape(f"{path}: ")) as error:
        load_steering(path, model)
    assert str(error.value).startswith(f"{path}: ")
    return str(error.value)


def test_files_that_hold_no_steering_for_the_model_are_refused_by_name(tmp_path):
    model, path = build().float(), tmp_path / "steering.safetensors"
    assert "there is no such file" in refused(path, model)
    save_steering(path, vectors(model))
    load_steering(path, model)
    assert "for a model of width 8" in refused(path, build(width=8))
    content = path.read_bytes()
    for damaged in (content[: len(content) // 2], content[:-4] + b"abcd", b"", b"{}"):
        path.write_bytes(damaged)
        assert "is damaged" in refused(path, model)
    fine = {"steering": {"0": {"kind": "Vector", "gate": None}}, "at": {"from": None, "to": None}}
    vector = {"0.vector": torch.ones(WIDTH)}
    write_tensors(path, vector, fine)
    assert torch.equal(load_steering(path, model).additions["0"].vector, torch.ones(WIDTH))
    for tensors, about in (
        ({"embedding.weight": torch.ones(VOCAB, WIDTH)}, {"model": 1}),
        (vector, {"at": fine["at"]}),
        (vector, {"steering": fine["steering"]}),
        (vector, {**fine, "steering": ["0"]}),
        (vector, {**fine, "steering": {"0": {}}}),
        (vector, {**fine, "steering": {"0": {"kind": "Scaled", "gate": "linear"}}}),
        (vector, {**fine, "at": {}}),
        (vector, {**fine, "at": 3}),
        ({}, fine),
        ({**vector, "1.vector": torch.ones(WIDTH)}, fine),
    ):
        write_tensors(path, tensors, about)
        assert f"does not hold steering vectors for a model of width {WIDTH}" in refused(path, model)


# What a vector can do ------------------------------------------------------------------------------------------------


@some
@given(seeds, st.sampled_from(["pre", "none"]), st.booleans())
def test_folded_rows_read_from_the_normalised_stream_what_the_model_reads(seed, norm, biases):
    model, h = build(seed, norm=norm, biases=biases), numbers(seed, 5, WIDTH)
    normed = (
        h
        if norm == "none"
        else (h - h.mean(dim=1, keepdim=True)) / (h.var(dim=1, correction=0, keepdim=True) + 1e-5).sqrt()
    )
    logits = model.unembedding(model.ln_final(h))
    found = normed @ folded_unembedding(model).T
    constant = (logits - found)[0]
    torch.testing.assert_close(found + constant, logits, rtol=0, atol=1e-10)
    assert bool(constant.abs().max() > 1e-9) == (norm == "pre" and biases)


def standing_still(h: Tensor, this: Tensor, other: Tensor) -> Transformer:
    """A model whose stream is h from the first token to the end, and whose tokens 0 and 1 have these rows."""
    model = Transformer(ModelConfig(layers=1, heads=1, width=len(h), hidden=0, positions="none"), 2, 4).double()
    with torch.no_grad():
        for weights in model.blocks[0].attn.output.parameters():
            weights.zero_()
        model.embedding.weight.copy_(h.expand(2, -1))
        model.unembedding.weight.copy_(torch.stack([this, other]))
    return model


def log_odds(model: Transformer, h: Tensor) -> Tensor:
    logits = model.unembedding(model.ln_final(h))
    return logits[..., 0] - logits[..., 1]


def test_what_is_known_before_the_start_is_worked_out_by_hand():
    this, other = torch.tensor([1.0, 1, 0, 0]).double(), torch.tensor([0.0, 1, 1, 0]).double()
    model = standing_still(torch.tensor([2.0, -2, 2, -2]).double(), this, other)
    found = pre_flight(model, torch.tensor([[0, 1], [1, 1]]), 0, 1, norm=3)
    assert (found.cosine, found.distance) == pytest.approx((1 / 2, math.sqrt(2)), abs=1e-12)
    assert found.length == pytest.approx(4, abs=1e-12)
    assert found.bound == pytest.approx(2 * math.sqrt(2) * 3 / 5, abs=1e-12)  # the rows differ across the stream
    with torch.no_grad():
        model.ln_final.weight.copy_(torch.tensor([3.0, 0, 4, 1]))
    folded = pre_flight(model, torch.tensor([[0]]), 0, 1, norm=3)
    assert (folded.cosine, folded.distance) == pytest.approx((0, 5), abs=1e-12)


@given(seeds, st.integers(4, 24), st.floats(0.1, 50))
def test_no_vector_across_the_stream_moves_the_choice_beyond_the_bound_and_one_comes_near(seed, width, norm):
    def centred(x: Tensor) -> Tensor:
        return x - x.mean(dim=-1, keepdim=True)

    def across(x: Tensor) -> Tensor:
        return x - (x @ h)[..., None] * h / (h @ h)

    h = centred(numbers(seed, width)) * 3
    apart = across(centred(numbers(seed + 1, width)))
    middle = numbers(seed + 2, width)
    model = standing_still(h, middle + apart, middle - apart)
    bound = pre_flight(model, torch.tensor([[0, 1, 0]]), 0, 1, norm=norm).bound
    tried = across(torch.cat([numbers(seed + 3, 500, width), apart[None], -apart[None]]))
    tried = norm * tried / tried.norm(dim=1, keepdim=True)
    shifts = (log_odds(model, h + tried) - log_odds(model, h)).abs()
    assert (shifts[-2:] <= bound * (1 + 1e-9)).all()
    assert (shifts[-2:] >= bound / math.sqrt(2) * (1 - 1e-2)).all()
    mean_free = centred(tried[:500])
    mean_free = norm * mean_free / mean_free.norm(dim=1, keepdim=True)
    assert ((log_odds(model, h + mean_free) - log_odds(model, h)).abs() <= bound * (1 + 1e-9)).all()


@few
@given(seeds, st.floats(0.5, 30))
def test_vectors_at_random_do_not_move_a_drawn_model_beyond_the_bound(seed, norm):
    model = build(seed, width=32, heads=2)
    prompt = rows(seed, 1)
    h = last_stream(model, prompt)[0]
    bound = pre_flight(model, prompt, 2, 5, norm=norm).bound
    drawn = numbers(seed, 2000, 32)
    drawn = norm * drawn / drawn.norm(dim=1, keepdim=True)
    logits = model.unembedding(model.ln_final(torch.cat([h[None], h + drawn])))
    odds = logits[:, 2] - logits[:, 5]
    assert 0 < (odds[1:] - odds[0]).abs().max() < bound


@some
@given(seeds, st.integers(1, 5), st.integers(1, 8))
def test_the_length_is_the_mean_over_prompts_at_their_last_position(seed, count, width):
    model, prompts = build(seed), rows(seed, count, width)
    found = pre_flight(model, prompts, 0, 3)
    lengths = [math.sqrt(sum(x * x for x in last_stream(model, row[None])[0].tolist())) for row in prompts]
    assert found.length == pytest.approx(sum(lengths) / count, abs=1e-10)
    one, other = (folded_unembedding(model)[token].tolist() for token in (0, 3))
    assert found.distance == pytest.approx(math.dist(one, other), abs=1e-10)
    product = sum(a * b for a, b in zip(one, other, strict=True))
    assert found.cosine == pytest.approx(product / math.hypot(*one) / math.hypot(*other), abs=1e-10)
    back = pre_flight(model, prompts, 3, 0)
    assert (back.cosine, back.bound) == pytest.approx((found.cosine, found.bound), abs=1e-10)


def test_equal_rows_cannot_be_told_apart_and_orthogonal_ones_can():
    row = numbers(0, 8)
    equal = pre_flight(standing_still(numbers(1, 8), row, row), torch.tensor([[0, 1]]), 0, 1)
    assert equal.cosine == pytest.approx(1, abs=1e-12)
    assert (equal.distance, equal.bound) == (0, 0)
    with pytest.raises(
        ValueError, match=r"^bound=0 nats: .* the 3 nats needed: .* a cosine of 1\.00 and differ by 0; "
    ):
        equal.check()
    with pytest.raises(ValueError, match=r"unembedding='orthogonal'"):
        equal.check(0.001)
    model = Transformer(replace(CONFIG, unembedding="orthogonal"), VOCAB, CONTEXT)
    orthogonal = pre_flight(model, rows(0), 0, 1)
    assert orthogonal.cosine == pytest.approx(0, abs=1e-6)
    assert orthogonal.distance == pytest.approx(math.sqrt(2), abs=1e-6)
    orthogonal.check()


def test_the_check_is_on_the_bound_and_says_what_is_needed():
    found = PreFlight(cosine=0.875, distance=0.25, length=9.0, bound=2.0)
    found.check(2.0)
    found.check(1)
    with pytest.raises(
        ValueError, match=r"^bound=2 nats: .* by the 2\.5 nats needed: .* cosine of 0\.88 .* by 0\.25; "
    ):
        found.check(2.5)


def test_looking_ahead_changes_nothing():
    model, prompts = build(), rows(0)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    logits = model(prompts)
    assert pre_flight(model, prompts, 0, 1) == pre_flight(model, prompts, 0, 1)
    assert torch.equal(model(prompts), logits)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert not any(module._forward_hooks for module in model.modules())
