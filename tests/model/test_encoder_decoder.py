"""Laws of the encoder-decoder: its formulas once more in loops, and who sees whom."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.model.small_encoder_decoders import (
    CLASSES,
    CONTEXT,
    QUERIES,
    SEEDS,
    SYMBOLS,
    WIDTH,
    build,
    close,
    configs,
    draw_tokens,
    few,
    normal,
    small,
)
from toylab.model.encoder_decoder import ENCODER, EncoderDecoder, EncoderDecoderConfig, smooth_head
from toylab.model.positions import POSITIONS
from toylab.model.transformer import Transformer
from toylab.probes import edit

# An oracle: the whole model once more, in loops ----------------------------------------------------------------------


@given(configs(), SEEDS, st.integers(1, 6))
def test_the_model_computes_what_its_formulas_say(config, seed, width):
    model, tokens = build(config, seed), draw_tokens(seed, 2, width)
    logits = model(tokens).detach().numpy()
    assert logits.shape == (2, QUERIES, CLASSES)
    for row in range(2):
        np.testing.assert_allclose(logits[row], by_hand(model, tokens[row].tolist()), rtol=0, atol=1e-9)


@pytest.mark.parametrize(
    "mutant",
    [
        {"heads": 1},
        {"residual": False},
        {"self_attention": False},
        {"hidden": 0},
        {"logit_scale": 2.0},
        {"encoder": {"causal": False}},
        {"encoder": {"norm": "none"}},
        {"encoder": {"heads": 1}},
        {"encoder": {"positions": "none"}},
    ],
    ids=str,
)
def test_the_formulas_of_another_model_are_told_apart(mutant):
    inner = {"heads": 2, "norm": "pre", "positions": "alibi"}
    config = small(inner, heads=2, residual=True, self_attention=True, hidden=6)
    model, row = build(config), [4, 0, 1, 1, 2, 3]
    right = model(torch.tensor([row]))[0].detach().numpy()
    np.testing.assert_allclose(right, by_hand(model, row), rtol=0, atol=1e-10)
    changed = {**mutant, "encoder": replace(config.encoder, **mutant.get("encoder", {}))}
    assert np.abs(right - by_hand(model, row, replace(config, **changed))).max() > 1e-3


def by_hand(model: EncoderDecoder, row: list[int], config: EncoderDecoderConfig | None = None) -> np.ndarray:
    """The logits of one string by the formulas of `config`, the model's own if not given."""
    config = config or model.config
    inner = config.encoder
    held = {name: tensor.numpy() for name, tensor in model.state_dict().items()}

    def affine(x: np.ndarray, name: str) -> np.ndarray:
        return np.array([[weights @ one for weights in held[f"{name}.weight"]] for one in x]) + held.get(
            f"{name}.bias", 0
        )

    def normed(x: np.ndarray, name: str) -> np.ndarray:
        scaled = [(one - one.mean()) / math.sqrt(((one - one.mean()) ** 2).mean() + 1e-5) for one in x]
        return np.array(scaled) * held[f"{name}.weight"] + held.get(f"{name}.bias", 0)

    def attention(reading: np.ndarray, read: np.ndarray, name: str, heads: int, lowered) -> np.ndarray:
        size = inner.width // heads
        out = np.zeros((len(reading), inner.width))
        q, k, v = affine(reading, f"{name}.query"), affine(read, f"{name}.key"), affine(read, f"{name}.value")
        for head in range(heads):
            own = slice(head * size, (head + 1) * size)
            for i in range(len(reading)):
                weights = [
                    math.exp(q[i, own] @ k[j, own] / math.sqrt(size) - lowered(head, i, j)) for j in range(len(read))
                ]
                out[i, own] = sum(w * v[j, own] for j, w in enumerate(weights)) / sum(weights)
        return affine(out, f"{name}.output")

    def mlp(x: np.ndarray, name: str) -> np.ndarray:
        def activated(x: float) -> float:
            return max(x, 0.0) if inner.activation == "relu" else x / 2 * (1 + math.erf(x / math.sqrt(2)))

        return affine(np.vectorize(activated)(affine(x, f"{name}.up")), f"{name}.down")

    def lowered(head: int, query: int, key: int) -> float:
        if inner.causal and key > query:
            return math.inf
        return 2 ** (-8 * (head + 1) / inner.heads) * abs(query - key) if inner.positions == "alibi" else 0.0

    x = np.array([held["encoder.embedding.weight"][token] for token in row])
    if inner.positions == "learned":
        x = x + held["encoder.positions.table"][: len(row)]
    for layer in range(inner.layers):
        block = f"encoder.blocks.{layer}"
        if inner.norm == "entry":
            x = normed(x, f"{block}.ln1")
        read = normed(x, f"{block}.ln1") if inner.norm == "pre" else x
        x = x + attention(read, read, f"{block}.attn", inner.heads, lowered)
        if inner.norm == "post":
            x = normed(x, f"{block}.ln1")
        if inner.hidden:
            x = x + mlp(normed(x, f"{block}.ln2") if inner.norm in ("pre", "entry") else x, f"{block}.mlp")
            if inner.norm == "post":
                x = normed(x, f"{block}.ln2")
    stream = normed(x, "encoder.ln_final") if inner.norm in ("pre", "entry") else x

    x = held["decoder.queries"]
    if config.self_attention:
        read = normed(x, "decoder.ln1")
        x = x + attention(read, read, "decoder.attn", config.heads, lambda *place: 0.0)
    fetched = attention(x, stream, "decoder.cross", config.heads, lambda *place: 0.0)
    x = x + fetched if config.residual else fetched
    if config.hidden:
        x = x + mlp(normed(x, "decoder.ln2"), "decoder.mlp")
    return affine(x * config.logit_scale, "decoder.head")


# Who sees whom -------------------------------------------------------------------------------------------------------


@few
@given(configs(), SEEDS, st.integers(1, 5), st.integers(1, 5))
def test_padding_that_is_not_seen_might_as_well_be_cut_off(config, seed, size, padding):
    model, tokens = build(config, seed), draw_tokens(seed, 3, size + padding)
    seen = torch.ones(3, size + padding, dtype=torch.bool)
    seen[0, size:] = False
    seen[2, 1:] = False
    padded = model(tokens, seen=seen)
    for row, end in enumerate((size, size + padding, 1)):
        close(padded[row], model(tokens[row : row + 1, :end])[0], 1e-10)
    tokens[~seen] = (tokens[~seen] + 1) % SYMBOLS
    assert torch.equal(model(tokens, seen=seen), padded), "somebody read the padding"


def test_padding_that_is_seen_counts():
    model, tokens = build(small()), draw_tokens(0, 1, 6)
    assert (model(tokens) - model(tokens[:, :4])).abs().max() > 1e-3


@few
@given(configs(encoder={"positions": "alibi"}), SEEDS, st.integers(1, 5), st.integers(1, 5))
def test_padding_may_stand_in_front_where_positions_are_relative(config, seed, size, padding):
    model, tokens = build(config, seed), draw_tokens(seed, 2, size + padding)
    seen = (torch.arange(size + padding) >= padding).expand(2, -1)
    close(model(tokens, seen=seen), model(tokens[:, padding:]), 1e-10)


@few
@given(configs(), SEEDS)
def test_seeing_everything_is_the_default(config, seed):
    model, tokens = build(config, seed), draw_tokens(seed, 2, 5)
    close(model(tokens, seen=torch.ones(2, 5, dtype=torch.bool)), model(tokens))


@few
@given(configs(), SEEDS, st.integers(2, CONTEXT), st.data())
def test_a_causal_encoder_sees_no_future_and_a_bidirectional_one_does(config, seed, width, data):
    model, tokens = build(config, seed), draw_tokens(seed, 2, width)
    at = data.draw(st.integers(1, width - 1))
    changed = tokens.clone()
    changed[:, at] = (changed[:, at] + data.draw(st.integers(1, SYMBOLS - 1))) % SYMBOLS
    moved = (model.encoder(changed) - model.encoder(tokens)).abs().amax(dim=2)
    assert (moved[:, at] > 1e-6).all()
    if config.encoder.causal:
        assert (moved[:, :at] < 1e-12).all()
    else:
        assert (moved[:, :at] > 0).all()


@few
@given(configs(), SEEDS, st.integers(1, 4))
def test_rows_do_not_see_each_other(config, seed, rows):
    model, tokens = build(config, seed), draw_tokens(seed, rows, 5)
    alone = torch.cat([model(tokens[row : row + 1]) for row in range(rows)])
    close(model(tokens), alone, 1e-10)


@few
@given(configs(), SEEDS, st.integers(0, QUERIES - 1))
def test_label_queries_see_each_other_in_self_attention_alone(config, seed, changed):
    model, tokens = build(config, seed), draw_tokens(seed, 1, 5)
    before = model(tokens)[0]
    with torch.no_grad():
        model.decoder.queries[changed] = normal(seed, WIDTH)
    moved = (model(tokens)[0] - before).abs().amax(dim=1)
    others = [query for query in range(QUERIES) if query != changed]
    assert moved[changed] > 1e-6
    if config.self_attention:
        assert (moved[others] > 0).all()
    else:
        assert (moved[others] < 1e-12).all()


@few
@given(configs(encoder={"positions": "none", "causal": False}), SEEDS, st.permutations(range(7)))
def test_without_positions_and_mask_the_order_of_a_string_is_not_seen(config, seed, order):
    model, tokens = build(config, seed), draw_tokens(seed, 2, 7)
    close(model(tokens[:, order]), model(tokens), 1e-9)


@pytest.mark.parametrize(
    ("causal", "positions"),
    [(True, "none"), *((causal, name) for causal in (True, False) for name in POSITIONS if name != "none")],
)
def test_a_causal_mask_or_positions_show_the_order(causal, positions):
    model = build(small({"causal": causal, "positions": positions}))
    one, other = model(torch.tensor([[4, 2, 1, 0, 3, 0]])), model(torch.tensor([[4, 0, 0, 2, 1, 3]]))
    assert (one - other).abs().max() > 1e-4


# Lengths -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("name", [name for name in POSITIONS if name != "learned"])
def test_every_encoding_but_the_learned_one_knows_any_length(name, causal):
    config = small({"positions": name, "causal": causal})
    short, long = build(config, context=4), build(config, context=30)
    for width in (1, 4, 5, 30):
        tokens = draw_tokens(width, 2, width)
        logits = short(tokens)
        assert logits.isfinite().all()
        assert torch.equal(logits, long(tokens)), "the context decides more than the table of learned positions"


def test_learned_positions_end_with_the_context_and_say_so():
    model = build(small({"positions": "learned"}), context=4)
    assert model(draw_tokens(0, 2, 4)).isfinite().all()
    with pytest.raises(ValueError, match=r"^position=5: .* 3; "):
        model(draw_tokens(0, 2, 6))


# Weights -------------------------------------------------------------------------------------------------------------


def bits(model: torch.nn.Module) -> bytes:
    return b"".join(parameter.detach().numpy().tobytes() for parameter in model.parameters())


@few
@given(configs(), SEEDS, SEEDS)
def test_one_seed_gives_the_same_bits_and_another_seed_others_in_both_halves(config, seed, other):
    def one(s: int) -> EncoderDecoder:
        return EncoderDecoder(config, SYMBOLS, QUERIES, CLASSES, CONTEXT, s)

    assert bits(one(seed)) == bits(one(seed))
    for half in ("encoder", "decoder"):
        same = bits(one(seed).get_submodule(half)) == bits(one(other).get_submodule(half))
        assert same == (seed == other)


@few
@given(configs(), SEEDS)
def test_constructing_draws_nothing_from_torchs_own_generator(config, seed):
    before = torch.get_rng_state()
    EncoderDecoder(config, SYMBOLS, QUERIES, CLASSES, CONTEXT, seed)
    assert torch.equal(torch.get_rng_state(), before)


@few
@given(configs(), SEEDS)
def test_the_encoder_is_the_transformer_of_its_config_and_seed(config, seed):
    model = EncoderDecoder(config, SYMBOLS, QUERIES, CLASSES, CONTEXT, seed)
    assert bits(model.encoder) == bits(Transformer(config.encoder, SYMBOLS, CONTEXT, seed))


def test_the_decoder_starts_from_other_numbers_than_any_encoder():
    # Queries drawn like the embeddings, from the same stream, would each be the embedding of a token. And the streams
    # must not merely be shifted: the decoder of one seed would then repeat the encoder of another.
    config = small({"embedding_std": 1.0}, query_std=1.0)
    models = [EncoderDecoder(config, SYMBOLS, QUERIES, CLASSES, CONTEXT, seed) for seed in range(12)]
    tokens = torch.cat([model.encoder.embedding.weight for model in models])
    queries = torch.cat([model.decoder.queries for model in models])
    assert not (queries[:, None] == tokens).all(dim=2).any()


@few
@given(st.integers(1, 30), st.integers(1, 12), SEEDS, st.sampled_from([1, 4.0, 17.5]))
def test_a_smooth_head_is_a_curve_of_second_degree_in_the_saturating_count(classes, width, seed, half):
    found = smooth_head(classes, width, torch.Generator().manual_seed(seed), half)
    assert found.shape == (classes, width)
    first, second = torch.randn(2, width, generator=torch.Generator().manual_seed(seed)).tolist()
    for count in range(classes):
        share = count / (count + half)
        expected = [(share * a + share**2 * b) / math.sqrt(width) for a, b in zip(first, second, strict=True)]
        assert found[count].tolist() == pytest.approx(expected, abs=1e-6)


def test_the_head_is_smooth_or_has_classes_that_are_independent():
    smooth, default = (
        EncoderDecoder(EncoderDecoderConfig(head=head), 5, 4, 40, 10).decoder.head.weight.double()
        for head in ("smooth", "default")
    )
    assert torch.linalg.matrix_rank(smooth, rtol=1e-5) == 2
    assert torch.linalg.matrix_rank(default, rtol=1e-5) == 32
    steps = [(head[1:] - head[:-1]).norm(dim=1) for head in (smooth, default)]
    assert steps[0][20:].max() < steps[1].min() / 20


@few
@given(configs(), SEEDS, st.sampled_from([0.25, 1, 7.5]))
def test_the_scale_multiplies_the_logits_and_leaves_their_bias_out(config, seed, scale):
    tokens = draw_tokens(seed, 2, 5)
    one, other = build(replace(config, logit_scale=1), seed), build(replace(config, logit_scale=scale), seed)
    bias = one.decoder.head.bias
    assert bias.abs().min() > 0
    close(other(tokens) - bias, scale * (one(tokens) - bias), 1e-10)


@pytest.mark.parametrize("bends", [False, True])
def test_logits_are_linear_in_what_is_fetched_unless_an_mlp_follows(bends):
    model, tokens = build(small(hidden=6 * bends)), draw_tokens(0, 1, 5)

    def logits(fetched: torch.Tensor) -> torch.Tensor:
        with edit(model, {"decoder.cross_out": lambda x: fetched}):
            return model(tokens)

    one, other = normal(1, 1, QUERIES, WIDTH), normal(2, 1, QUERIES, WIDTH)
    bent = (logits(one) + logits(other) - 2 * logits((one + other) / 2)).abs().max()
    assert (bent > 1e-2) if bends else (bent < 1e-11)


@few
@given(configs(), SEEDS)
def test_every_weight_gets_a_finite_gradient(config, seed):
    model = build(config, seed)
    model(draw_tokens(seed, 3, 6)).square().sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name


@few
@given(configs(query_std=1.0), SEEDS, st.sampled_from([0.0, 0.5, 3]))
def test_query_std_scales_the_initial_queries_alone(config, seed, std):
    one, other = (
        dict(EncoderDecoder(replace(config, query_std=s), SYMBOLS, QUERIES, CLASSES, CONTEXT, seed).named_parameters())
        for s in (1.0, std)
    )
    for name, weight in one.items():
        torch.testing.assert_close(other[name], weight * (std if name == "decoder.queries" else 1))


# Mistakes ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mistake", "message"),
    [
        *(
            ({"encoder": replace(ENCODER, unembedding=kind)}, rf"encoder\.unembedding={kind}: .*; set it to none")
            for kind in ("learned", "tied", "frozen", "orthogonal")
        ),
        *(
            ({"heads": heads}, rf"heads={heads}: must divide encoder\.width=32; 1 always does")
            for heads in (-1, 0, 3, 64)
        ),
        ({"hidden": -1}, r"hidden=-1: must be at least 0; 0 leaves the MLP out"),
        *(
            ({"logit_scale": scale}, rf"logit_scale={scale}: must be above 0; 1 leaves the logits as they are")
            for scale in (0, -2.0)
        ),
    ],
)
def test_a_mistake_in_the_config_is_told_with_name_value_and_remedy(mistake, message):
    with pytest.raises(ValueError, match=message):
        EncoderDecoderConfig(**mistake)


def test_the_remedies_that_mistakes_name_are_accepted():
    config = EncoderDecoderConfig(encoder=replace(ENCODER, unembedding="none"), heads=1, hidden=0, logit_scale=1)
    assert EncoderDecoder(config, 5, 4, 9, 10)(draw_tokens(0, 2, 3)).isfinite().all()


def test_heads_of_the_decoder_need_no_even_width_where_the_encoder_turns_its_own():
    model = build(small({"positions": "rotary"}, heads=WIDTH))
    assert model(draw_tokens(0, 2, 5)).isfinite().all()
