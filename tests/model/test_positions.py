"""Laws of the positional encodings: what each depends on, and its formula written out once more."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.examples import fewer
from toylab.console import ToylabError
from toylab.model.checkpoint import load_model, save_model
from toylab.model.config import ModelConfig
from toylab.model.positions import POSITIONS
from toylab.model.transformer import Transformer

VOCAB, CONTEXT = 6, 12
SEEDS = st.integers(0, 2**32)


def encoding(name: str, **settings) -> torch.nn.Module:
    config = ModelConfig(positions=name, **settings)
    return POSITIONS[name](config, CONTEXT, torch.Generator().manual_seed(0)).double()


def build(name: str, seed: int = 0, layers: int = 2) -> Transformer:
    return Transformer(ModelConfig(positions=name, layers=layers, width=16), VOCAB, CONTEXT, seed).double()


def normal(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("name", POSITIONS)
def test_each_encoding_speaks_at_the_places_that_its_kind_has(name):
    one, places = encoding(name), torch.arange(5)[None]
    x = normal(0, 1, 5, 2, 16)
    assert (one.embed(places) is not None) == (name in ("learned", "sinusoidal"))
    assert torch.equal(one.rotate(x, places), x) == (name != "rotary")
    assert (one.bias(places, places) is not None) == (name == "alibi")


@given(SEEDS, st.integers(2, CONTEXT), st.randoms())
def test_without_positions_one_layer_cannot_tell_the_order_of_what_it_reads(seed, width, shuffler):
    tokens = torch.randint(VOCAB, (1, width), generator=torch.Generator().manual_seed(seed))
    order = list(range(width - 1))
    shuffler.shuffle(order)
    model = build("none", seed, layers=1)
    shuffled = tokens[:, [*order, width - 1]]
    torch.testing.assert_close(model(shuffled)[:, -1], model(tokens)[:, -1], rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", [name for name in POSITIONS if name != "none"])
def test_every_encoding_tells_order_apart(name):
    model = build(name, layers=1)
    there, back = torch.tensor([[1, 2, 3]]), torch.tensor([[2, 1, 3]])
    assert not torch.allclose(model(there)[:, -1], model(back)[:, -1], rtol=0, atol=1e-6)


@fewer(0.3)
@given(SEEDS, st.integers(1, 8), st.integers(1, 1000))
def test_relative_encodings_do_not_see_where_a_sequence_starts(seed, width, shift):
    tokens = torch.randint(VOCAB, (2, width), generator=torch.Generator().manual_seed(seed))
    places = torch.arange(width)[None]
    for name in ("none", "rotary", "alibi"):
        model = build(name, seed)
        torch.testing.assert_close(
            model(tokens, positions=places + shift), model(tokens, positions=places), rtol=0, atol=1e-9
        )


@pytest.mark.parametrize("name", ["learned", "sinusoidal"])
def test_absolute_encodings_see_where_a_sequence_starts(name):
    model, tokens, places = build(name), torch.tensor([[1, 2, 3]]), torch.arange(3)[None]
    assert not torch.allclose(model(tokens, positions=places), model(tokens, positions=places + 4), atol=1e-6)


@pytest.mark.parametrize("name", POSITIONS)
def test_positions_by_default_count_from_zero(name):
    model, tokens = build(name), torch.tensor([[1, 2, 3, 4], [4, 3, 2, 1]])
    assert torch.equal(model(tokens), model(tokens, positions=torch.arange(4)[None]))
    assert torch.equal(model(tokens), model(tokens, positions=torch.arange(4).repeat(2, 1)))


PLACES = st.lists(st.integers(0, 200), min_size=1, max_size=6)


@given(st.integers(1, 8), st.integers(0, 5), st.floats(2, 1e5), st.floats(0.1, 3), st.floats(0.1, 3), PLACES)
def test_sinusoidal_vectors_are_sines_then_cosines_of_falling_frequencies_then_zeros(
    half, free, base, fastest, std, places
):
    shape = {"width": 2 * half + free, "position_width": 2 * half, "heads": 1}
    scales = {"position_base": base, "position_frequency": fastest, "position_std": std}
    found = encoding("sinusoidal", **shape, **scales).embed(torch.tensor([places]))
    assert found.shape == (1, len(places), 2 * half + free)
    assert (found[:, :, 2 * half :] == 0).all()
    for at, place in enumerate(places):
        for i in range(half):
            angle = place * fastest / base ** (i / half)
            assert found[0, at, i].item() == pytest.approx(std * math.sin(angle), abs=1e-11)
            assert found[0, at, half + i].item() == pytest.approx(std * math.cos(angle), abs=1e-11)


def test_sinusoidal_positions_take_the_whole_width_unless_told():
    places = torch.arange(5)[None]
    whole = encoding("sinusoidal", width=8, position_width=8).embed(places)
    assert torch.equal(encoding("sinusoidal", width=8).embed(places), whole)


@given(st.integers(0, 500), st.integers(0, 500))
def test_sinusoidal_vectors_have_one_length_and_overlap_by_distance_alone(one, other):
    vectors = encoding("sinusoidal", width=32).embed(torch.tensor([[one, other, 0, abs(one - other)]]))[0]
    torch.testing.assert_close(vectors.square().sum(dim=1), torch.full((4,), 16.0, dtype=torch.float64))
    torch.testing.assert_close(vectors[0] @ vectors[1], vectors[2] @ vectors[3], rtol=0, atol=1e-9)


@given(SEEDS, st.integers(0, 300), st.integers(0, 300), st.integers(0, 300), st.sampled_from([1, 2, 4]))
def test_rotary_scores_depend_on_the_distance_alone(seed, query, key, shift, heads):
    rotary = encoding("rotary", width=16, heads=heads)
    q, k = normal(seed, 1, 1, heads, 16 // heads), normal(seed + 1, 1, 1, heads, 16 // heads)

    def scores(at: int, read: int) -> torch.Tensor:
        turned = rotary.rotate(q, torch.tensor([[at]])) * rotary.rotate(k, torch.tensor([[read]]))
        return turned.sum(dim=-1)

    torch.testing.assert_close(scores(query, key), scores(query + shift, key + shift), rtol=0, atol=1e-9)


@given(SEEDS, st.integers(1, 300), st.floats(0.1, 1))
def test_rotary_turns_every_pair_of_features_and_keeps_its_length(seed, place, fastest):
    rotary = encoding("rotary", width=8, heads=1, position_frequency=fastest)
    x = normal(seed, 1, 1, 1, 8)
    turned = rotary.rotate(x, torch.tensor([[place]]))
    for i in range(4):
        before, after = (complex(t[0, 0, 0, i].item(), t[0, 0, 0, i + 4].item()) for t in (x, turned))
        angle = place * fastest * 10_000 ** (-2 * i / 8)
        expected = before * complex(math.cos(angle), math.sin(angle))
        assert after == pytest.approx(expected, abs=1e-11)
    assert torch.equal(rotary.rotate(x, torch.tensor([[0]])), x)


@given(st.integers(1, 12), st.integers(0, 60), st.integers(0, 60))
def test_alibi_lowers_a_score_by_slope_times_distance(heads, query, key):
    alibi = encoding("alibi", width=heads * 2, heads=heads)
    found = alibi.bias(torch.tensor([[query]]), torch.tensor([[key]]))
    assert found.shape == (1, heads, 1, 1)
    for head in range(heads):
        slope = (2 ** (-8 / heads)) ** (head + 1)  # a geometric series that starts at its own ratio
        assert found[0, head, 0, 0].item() == pytest.approx(-slope * abs(query - key), rel=1e-12)


def test_learned_positions_are_the_rows_of_a_table_that_is_trained():
    learned = encoding("learned", width=8, position_std=0.5)
    places = torch.tensor([[3, 0, 11], [1, 1, 2]])
    assert torch.equal(learned.embed(places), torch.stack([learned.table[row] for row in places]))
    assert [name for name, p in learned.named_parameters() if p.requires_grad] == ["table"]
    assert learned.table.std().item() == pytest.approx(0.5, rel=0.3)


@pytest.mark.parametrize("name", [name for name in POSITIONS if name != "learned"])
def test_other_encodings_have_nothing_to_train_or_to_save(name):
    assert not list(encoding(name).parameters())
    assert not encoding(name).state_dict()


def test_sinusoids_leave_the_coordinates_beyond_their_width_free():
    config = ModelConfig(width=16, heads=2, position_width=6, position_std=2.0)
    placed = Transformer(config, vocab=5, context=9).positions.embed(torch.arange(9)[None])
    assert placed.shape == (1, 9, 16)
    assert bool((placed[..., 6:] == 0).all())
    assert torch.allclose(placed[..., :3] ** 2 + placed[..., 3:6] ** 2, torch.full((1, 9, 3), 4.0))


# Types and captured graphs -------------------------------------------------------------------------------------------

HALVES = {torch.float16: 2.0**-11, torch.bfloat16: 2.0**-8}
"""Half the distance of two neighbouring numbers near 1."""


def spoken(one: torch.nn.Module, x: torch.Tensor, places: torch.Tensor) -> dict[str, torch.Tensor]:
    """What an encoding says at each of its places."""
    said = {"embed": one.embed(places), "rotate": one.rotate(x, places), "bias": one.bias(places, places)}
    return {where: value for where, value in said.items() if value is not None}


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("name", POSITIONS)
@fewer(0.4)
@given(seed=SEEDS, at=st.integers(0, 4000))
def test_in_half_precision_only_the_result_is_rounded(name, dtype, seed, at):
    config = ModelConfig(positions=name, alibi_slope=0.01)
    exact, half = (POSITIONS[name](config, 4001, torch.Generator().manual_seed(0)) for _ in range(2))
    half.to(dtype)
    exact.load_state_dict(half.state_dict())  # a learned table is rounded once for all
    exact.double()
    x, places = normal(seed, 1, 2, 2, 16).to(dtype), torch.tensor([[at, 0]])
    found, true = spoken(half, x, places), spoken(exact, x.double(), places)
    assert found.keys() == true.keys()
    for where, value in found.items():
        assert value.dtype == dtype or where == "bias"  # the model adds biases in its own type
        # Angles are float32 numbers of up to 4000; a rotated pair is as long as it was.
        size = true[where].abs() + (2 if where == "rotate" else 0) * x.double().abs().max()
        error = (value.to(dtype).double() - true[where]).abs()
        assert bool((error <= HALVES[dtype] * size + 1e-3).all())


@pytest.mark.parametrize("name", POSITIONS)
def test_a_model_that_was_half_for_a_while_has_its_old_frequencies_and_slopes(name):
    model = Transformer(ModelConfig(positions=name), VOCAB, CONTEXT)
    before = {key: buffer.clone() for key, buffer in model.named_buffers()}
    assert bool(before) == (name in ("sinusoidal", "rotary", "alibi"))
    for dtype in (torch.bfloat16, torch.float16, torch.float64, torch.bfloat16, torch.float32):
        model.to(dtype)
        for key, buffer in model.named_buffers():
            assert buffer.dtype == torch.promote_types(dtype, torch.float32)
            torch.testing.assert_close(buffer.float(), before[key], rtol=2e-6, atol=0)
            assert torch.equal(buffer, before[key]) or dtype == torch.float64
    assert not [key for key in model.state_dict() if key in before]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
@pytest.mark.parametrize("name", ["sinusoidal", "rotary"])
def test_frequencies_that_were_changed_stay_changed_in_every_type(name, dtype):
    one = POSITIONS[name](ModelConfig(positions=name), CONTEXT, torch.Generator())
    one.frequencies[2:] = 0.0
    one.frequencies[3] = 0.25
    for other in (dtype, torch.float32):
        one.to(other)
        assert one.frequencies[0] == 1
        assert one.frequencies[2:].tolist() == [0, 0.25] + [0] * (len(one.frequencies) - 4)


@pytest.mark.parametrize("name", ["sinusoidal", "rotary", "alibi"])
def test_memory_that_was_only_planned_is_filled_with_the_fixed_numbers(name):
    usual, planned = (Transformer(ModelConfig(positions=name), VOCAB, CONTEXT) for _ in range(2))
    planned.to("meta").to_empty(device="cpu").load_state_dict(usual.state_dict())
    tokens = torch.zeros(1, CONTEXT, dtype=torch.long)
    assert torch.equal(planned(tokens), usual(tokens))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("name", POSITIONS)
def test_a_model_of_any_type_answers_like_the_float32_model_of_its_weights(name, dtype):
    model = Transformer(ModelConfig(positions=name, alibi_slope=0.01), VOCAB, 400, 3)
    tokens = torch.randint(VOCAB, (1, 400), generator=torch.Generator().manual_seed(0))
    other = Transformer(ModelConfig(positions=name, alibi_slope=0.01), VOCAB, 400, 3).to(dtype)
    model.load_state_dict(other.state_dict())
    logits = other(tokens)
    assert logits.dtype == dtype
    assert (logits.double() - model(tokens).double()).abs().max() < (0.05 if dtype == torch.bfloat16 else 0.01)


@pytest.mark.parametrize("name", POSITIONS)
def test_a_half_model_comes_back_from_its_file_with_the_same_logits(tmp_path, name):
    model, tokens = Transformer(ModelConfig(positions=name), VOCAB, 40).bfloat16(), torch.zeros(1, 40, dtype=torch.long)
    save_model(tmp_path / "model", model)
    assert torch.equal(load_model(tmp_path / "model")(tokens), model(tokens))


def test_frequencies_do_not_follow_a_half_default_type():
    try:
        torch.set_default_dtype(torch.bfloat16)
        made = {n: POSITIONS[n](ModelConfig(), 3, torch.Generator()) for n in ("sinusoidal", "rotary", "alibi")}
    finally:
        torch.set_default_dtype(torch.float32)
    for name, one in made.items():
        usual = POSITIONS[name](ModelConfig(), 3, torch.Generator())
        assert all(torch.equal(*pair) for pair in zip(one.buffers(), usual.buffers(), strict=True))
    assert made["sinusoidal"].embed(torch.arange(3)[None]).dtype == torch.bfloat16


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The tensor attributes:UserWarning")  # where an edit acts is noted in the blocks
@pytest.mark.parametrize("name", POSITIONS)
def test_a_model_can_be_exported(name):
    model = build(name).eval()
    tokens = torch.tensor([[1, 2, 3, 4], [4, 3, 2, 1]])
    assert torch.equal(torch.export.export(model, (tokens,)).module()(tokens), model(tokens))


@given(st.lists(st.integers(-3, CONTEXT + 3), min_size=1, max_size=6))
def test_learned_positions_refuse_every_position_that_is_not_in_the_table(places):
    learned, outside = encoding("learned"), [p for p in places if not 0 <= p < CONTEXT]
    if not outside:
        assert torch.equal(learned.embed(torch.tensor([places]))[0], learned.table[places])
        return
    with pytest.raises(ToylabError, match=rf"position={min(outside) if min(outside) < 0 else max(outside)}: learned"):
        learned.embed(torch.tensor([places]))
