"""Laws of the transformer: who sees whom, what is drawn from where, and the same numbers had by another route."""

import itertools
import math
import pickle

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from tests.model.small_transformers import (
    CONTEXT,
    ENCODINGS,
    NORMS,
    SEEDS,
    UNEMBEDDINGS,
    VOCAB,
    build,
    draw_tokens,
    some,
)
from toylab.model.config import ModelConfig
from toylab.model.generate import generate
from toylab.model.strategies import model_configs
from toylab.model.transformer import Transformer
from toylab.probes import points, watch
from toylab.tasks import IGNORE, ITERATED_MAPS, ModularSum, stream
from toylab.training.batches import pack, pad

# What is drawn -------------------------------------------------------------------------------------------------------


@some
@given(model_configs(), SEEDS, SEEDS)
def test_one_seed_gives_the_same_bits_and_another_seed_others(config, seed, other):
    def bits(s: int) -> bytes:
        return b"".join(p.detach().numpy().tobytes() for p in Transformer(config, VOCAB, CONTEXT, s).parameters())

    assert bits(seed) == bits(seed)
    assert (bits(seed) == bits(other)) == (seed == other)
    assert len({bits(s) for s in (seed, seed + 2**32, seed + 2**40, seed + 2**80)}) == 4


@some
@given(model_configs())
def test_constructing_draws_nothing_from_torchs_own_generator(config):
    before = torch.get_rng_state()
    Transformer(config, VOCAB, CONTEXT, 3)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("unembedding", UNEMBEDDINGS)
@given(st.sampled_from([64, 256]), st.sampled_from([0.125, 1.0, 3.0]), SEEDS)
def test_embeddings_are_drawn_with_the_scale_asked_for_and_tied_ones_a_root_of_the_width_smaller(
    unembedding, width, scale, seed
):
    config = ModelConfig(width=width, unembedding=unembedding, embedding_std=scale)
    weight = Transformer(config, 64, CONTEXT, seed).embedding.weight.detach()
    expected = scale / math.sqrt(width) if unembedding == "tied" else scale
    assert weight.std().item() == pytest.approx(expected, rel=0.08)  # that is seven standard deviations or more
    assert abs(weight.mean().item()) < 0.1 * expected


@pytest.mark.parametrize("unembedding", UNEMBEDDINGS)
@pytest.mark.parametrize("norm", NORMS)
def test_an_untrained_model_is_about_as_good_as_guessing(norm, unembedding):
    tokens = draw_tokens(0, 32, CONTEXT)
    for positions, hidden in zip(ENCODINGS, itertools.cycle([None, 0]), strict=False):
        config = ModelConfig(norm=norm, unembedding=unembedding, positions=positions, hidden=hidden)
        logits = Transformer(config, VOCAB, CONTEXT)(tokens)
        loss = F.cross_entropy(logits[:, :-1].flatten(0, 1), tokens[:, 1:].flatten()).item()
        assert math.isfinite(loss)
        # A tied model speaks of the token it stands on: of unit vectors, with a logit of at most the root of the width.
        assert -0.2 < loss - math.log(VOCAB) < (math.sqrt(config.width) if unembedding == "tied" else 1.5), config


@some
@given(model_configs(), SEEDS)
def test_every_parameter_gets_a_finite_gradient_unless_it_is_frozen(config, seed):
    model = build(config, seed)
    model(draw_tokens(seed, 3, 6)).square().sum().backward()
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, name
            assert parameter.grad.isfinite().all(), name
        else:
            assert parameter.grad is None, name


# Who sees whom -------------------------------------------------------------------------------------------------------


@some
@given(model_configs(), SEEDS, st.integers(2, CONTEXT), st.data())
def test_a_later_token_changes_no_earlier_logit(config, seed, width, data):
    model, tokens = build(config, seed), draw_tokens(seed, 2, width)
    at = data.draw(st.integers(0, width - 1))
    changed = tokens.clone()
    changed[:, at] = (changed[:, at] + data.draw(st.integers(1, VOCAB - 1))) % VOCAB
    before, after = model(tokens), model(changed)
    torch.testing.assert_close(after[:, :at], before[:, :at], rtol=0, atol=1e-12)
    assert not torch.allclose(after[:, at], before[:, at], rtol=0, atol=1e-6)


@some
@given(model_configs(layers=2), SEEDS)
def test_an_earlier_token_changes_later_logits(config, seed):
    model, tokens = build(config, seed), draw_tokens(seed, 2, 6)
    changed = tokens.clone()
    changed[:, 0] = (changed[:, 0] + 1) % VOCAB
    assert not torch.allclose(model(changed)[:, -1], model(tokens)[:, -1], rtol=0, atol=1e-9)


@some
@given(model_configs(), SEEDS, st.integers(1, 4), st.integers(1, CONTEXT))
def test_rows_do_not_see_each_other(config, seed, rows, width):
    model, tokens = build(config, seed), draw_tokens(seed, rows, width)
    alone = torch.cat([model(tokens[row : row + 1]) for row in range(rows)])
    torch.testing.assert_close(model(tokens), alone, rtol=0, atol=1e-11)


@some
@given(model_configs(), SEEDS, st.sampled_from(ITERATED_MAPS), st.integers(1, 9))
def test_packed_rows_give_the_logits_of_the_sequences_alone(config, seed, kind, rows):
    task = kind(lengths=(1, 4))
    model = Transformer(config, len(task.vocabulary), task.context, seed) if _fits(config, task) else None
    if model is None:
        return
    model = model.double()
    packed = pack(task.sample(stream(seed, "rows"), rows))
    together = model(packed.tokens, positions=packed.positions, segments=packed.segments)
    for segment in range(rows):
        row, at = (packed.segments == segment).nonzero(as_tuple=True)
        alone = model(packed.tokens[row, at][None])
        torch.testing.assert_close(together[row, at][None], alone, rtol=0, atol=1e-11)


def _fits(config: ModelConfig, task) -> bool:
    return config.unembedding != "orthogonal" or len(task.vocabulary) <= config.width


@some
@given(model_configs(), SEEDS, st.integers(1, 3), st.integers(1, 10), st.data())
def test_queries_give_the_logits_that_the_full_forward_has_there(config, seed, rows, width, data):
    model, tokens = build(config, seed), draw_tokens(seed, rows, width)
    one = st.lists(st.integers(0, width - 1), min_size=3, max_size=3)
    queries = torch.tensor(data.draw(st.lists(one, min_size=rows, max_size=rows)))
    chosen = model(tokens, queries=queries)
    every = model(tokens)
    for row, column in itertools.product(range(rows), range(3)):
        torch.testing.assert_close(chosen[row, column], every[row, queries[row, column]], rtol=0, atol=1e-11)


@some
@given(model_configs(), SEEDS, st.integers(1, 9))
def test_queries_work_on_packed_rows_as_well(config, seed, rows):
    task = ModularSum(p=2, lengths=(1, 4))
    if not _fits(config, task):
        config = ModelConfig(unembedding="orthogonal")
    model = Transformer(config, len(task.vocabulary), task.context, seed).double()
    scored = pack(task.sample(stream(seed, "rows"), rows))
    every = model(scored.tokens, positions=scored.positions, segments=scored.segments)
    expected = every.gather(1, scored.queries[:, :, None].expand(-1, -1, every.shape[-1]))
    torch.testing.assert_close(scored.logits(model), expected, rtol=0, atol=1e-11)


# What is at the points -----------------------------------------------------------------------------------------------


@some
@given(st.sampled_from(["pre", "none"]).flatmap(lambda norm: model_configs(norm=norm)), SEEDS)
def test_the_residual_stream_is_the_sum_of_what_was_added_to_it(config, seed):
    model = build(config, seed)
    with watch(model, "embed", "pos_embed", "blocks.*.resid_*", "blocks.*_out") as seen:
        model(draw_tokens(seed, 2, 5))
    stream = seen["embed"] + seen.get("pos_embed", 0)
    for layer in range(config.layers):
        torch.testing.assert_close(seen[f"blocks.{layer}.resid_pre"], stream, rtol=0, atol=1e-12)
        stream = stream + seen[f"blocks.{layer}.attn_out"]
        torch.testing.assert_close(seen[f"blocks.{layer}.resid_mid"], stream, rtol=0, atol=1e-12)
        stream = stream + seen.get(f"blocks.{layer}.mlp_out", 0)
        torch.testing.assert_close(seen[f"blocks.{layer}.resid_post"], stream, rtol=0, atol=1e-12)


def test_every_norm_and_encoding_has_the_same_points():
    held = {
        points(Transformer(ModelConfig(norm=norm, positions=positions), VOCAB, CONTEXT))
        for norm, positions in itertools.product(NORMS, ENCODINGS)
    }
    assert len(held) == 1
    names = held.pop()
    for layer in range(2):
        for name in ("attn.q", "attn.k", "attn.v", "attn.scores", "attn.pattern", "attn.z", "mlp.pre", "mlp.post"):
            assert f"blocks.{layer}.{name}" in names


def test_without_mlps_only_their_own_points_are_gone():
    full = points(Transformer(ModelConfig(), VOCAB, CONTEXT))
    bare = points(Transformer(ModelConfig(hidden=0), VOCAB, CONTEXT))
    gone = {f"blocks.{layer}.mlp.{name}" for layer in range(2) for name in ("pre", "post")}
    assert set(full) - set(bare) - {"blocks.0.mlp_out", "blocks.1.mlp_out"} == gone
    assert set(bare) <= set(full)


@some
@given(model_configs(), SEEDS)
def test_a_model_comes_back_from_a_pickle_as_it_was(config, seed):
    model, tokens = build(config, seed), draw_tokens(seed, 2, 4)
    assert torch.equal(pickle.loads(pickle.dumps(model))(tokens), model(tokens))


# The unembedding -----------------------------------------------------------------------------------------------------


def test_a_tied_unembedding_is_the_embedding_itself():
    model = Transformer(ModelConfig(unembedding="tied"), VOCAB, CONTEXT)
    assert model.unembedding.weight is model.embedding.weight
    assert sum(p.shape == (VOCAB, model.config.width) for p in model.parameters()) == 1


@pytest.mark.parametrize("unembedding", ["frozen", "orthogonal"])
def test_a_frozen_unembedding_is_not_trained(unembedding):
    model = Transformer(ModelConfig(unembedding=unembedding), VOCAB, CONTEXT)
    assert [n for n, p in model.named_parameters() if not p.requires_grad] == ["unembedding.weight"]


@given(SEEDS, st.integers(1, 16))
def test_orthogonal_unembeddings_have_orthonormal_rows(seed, vocab):
    model = Transformer(ModelConfig(unembedding="orthogonal", width=16), vocab, CONTEXT, seed)
    gram = model.unembedding.weight @ model.unembedding.weight.T
    torch.testing.assert_close(gram, torch.eye(vocab), rtol=0, atol=1e-5)


# An oracle: the whole model once more, in loops ----------------------------------------------------------------------


@some
@given(model_configs(), SEEDS, st.integers(1, 6))
def test_the_model_computes_what_its_formulas_say(config, seed, width):
    model, tokens = build(config, seed), draw_tokens(seed, 1, width)
    with torch.no_grad():  # norms start as the identity, which would hide a missing one
        source = torch.Generator().manual_seed(seed)
        for name, parameter in model.named_parameters():
            if "ln" in name:
                parameter += 0.3 * torch.randn(parameter.shape, generator=source)
    expected = by_hand(model, tokens[0].tolist())
    np.testing.assert_allclose(model(tokens)[0].detach().numpy(), expected, rtol=0, atol=1e-9)


def by_hand(model: Transformer, row: list[int]) -> np.ndarray:
    config = model.config
    held = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    size = config.width // config.heads

    def linear(x: np.ndarray, name: str) -> np.ndarray:
        return np.array([[weights @ one for weights in held[f"{name}.weight"]] for one in x]) + held.get(
            f"{name}.bias", 0
        )

    def normed(x: np.ndarray, name: str) -> np.ndarray:
        scaled = [(one - one.mean()) / math.sqrt(((one - one.mean()) ** 2).mean() + 1e-5) for one in x]
        return np.array(scaled) * held[f"{name}.weight"] + held.get(f"{name}.bias", 0)

    def turned(x: np.ndarray) -> np.ndarray:
        if config.positions != "rotary":
            return x
        out = np.empty_like(x)
        for place, one in enumerate(x):
            for i in range(size // 2):
                number = complex(one[i], one[i + size // 2])
                angle = place * config.position_frequency / config.position_base ** (2 * i / size)
                number *= complex(math.cos(angle), math.sin(angle))
                out[place, i], out[place, i + size // 2] = number.real, number.imag
        return out

    def attention(x: np.ndarray, name: str) -> np.ndarray:
        heads = []
        for head in range(config.heads):
            own = slice(head * size, (head + 1) * size)
            q, k = (turned(linear(x, f"{name}.{part}")[:, own]) for part in ("query", "key"))
            v = linear(x, f"{name}.value")[:, own]
            slope = 2 ** (-8 * (head + 1) / config.heads) if config.positions == "alibi" else 0
            z = []
            for query in range(len(x)):
                weights = np.array(
                    [math.exp(q[query] @ k[key] / math.sqrt(size) - slope * (query - key)) for key in range(query + 1)]
                )
                z.append(sum(w * v[key] for key, w in enumerate(weights / weights.sum())))
            heads.append(np.array(z))
        return linear(np.concatenate(heads, axis=1), f"{name}.output")

    def activated(x: float) -> float:
        if config.activation == "relu":
            return max(x, 0.0)
        if config.activation == "silu":
            return x / (1 + math.exp(-x))
        if config.activation == "gelu":
            return x * 0.5 * (1 + math.erf(x / math.sqrt(2)))
        return 0.5 * x * (1 + math.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))

    x = np.array([held["embedding.weight"][token] for token in row])
    if config.positions == "learned":
        x = x + held["positions.table"][: len(row)]
    if config.positions == "sinusoidal":
        half = (config.position_width or config.width) // 2
        for place, i in itertools.product(range(len(row)), range(half)):
            angle = place * config.position_frequency / config.position_base ** (i / half)
            x[place, i] += math.sin(angle)
            x[place, half + i] += math.cos(angle)
    for layer in range(config.layers):
        block = f"blocks.{layer}"
        if config.norm == "entry":
            x = normed(x, f"{block}.ln1")
        x = x + attention(normed(x, f"{block}.ln1") if config.norm == "pre" else x, f"{block}.attn")
        if config.norm == "post":
            x = normed(x, f"{block}.ln1")
        if config.hidden == 0:
            continue
        up = linear(normed(x, f"{block}.ln2") if config.norm in ("pre", "entry") else x, f"{block}.mlp.up")
        x = x + linear(np.vectorize(activated)(up), f"{block}.mlp.down")
        if config.norm == "post":
            x = normed(x, f"{block}.ln2")
    if config.norm in ("pre", "entry"):
        x = normed(x, "ln_final")
    return linear(x, "unembedding")


@some
@given(model_configs(), st.integers(1, 4))
def test_the_number_of_weights_is_what_the_shape_says(config, vocab):
    model = Transformer(config, vocab, CONTEXT)
    w, h = config.width, 4 * config.width if config.hidden is None else config.hidden
    bias = 1 if config.biases else 0
    norms = 0 if config.norm == "none" else (2 if h else 1) * w * (1 + bias)
    block = 4 * (w * w + bias * w) + (2 * w * h + bias * (h + w) if h else 0) + norms
    ends = vocab * w * (1 if config.unembedding == "tied" else 2)
    final = w * (1 + bias) if config.norm in ("pre", "entry") else 0
    table = CONTEXT * w if config.positions == "learned" else 0
    assert sum(p.numel() for p in model.parameters()) == config.layers * block + ends + final + table


@pytest.mark.parametrize("kind", ITERATED_MAPS)
def test_a_model_for_a_task_has_its_vocabulary_and_reads_its_longest_row(kind):
    task = kind(lengths=(1, 5))
    model = Transformer.for_task(task, ModelConfig(positions="learned"))
    scored = pad(task.sample(stream(0, "rows"), 3, length=5))
    logits = model(scored.tokens)
    assert logits.shape == (3, task.context, len(task.vocabulary))
    assert (scored.targets != IGNORE).any()


def test_an_orthogonal_unembedding_needs_room_for_every_token():
    with pytest.raises(ValueError, match=r"width=8: .*9 tokens needs a width of at least that"):
        Transformer(ModelConfig(width=8, unembedding="orthogonal"), 9, CONTEXT)


def test_learned_positions_end_with_the_context():
    model = Transformer(ModelConfig(positions="learned"), VOCAB, 5)
    assert model(draw_tokens(0, 1, 5)).shape == (1, 5, VOCAB)
    with pytest.raises(ValueError, match=r"position=5: learned positions end at 4; .*larger\s+context"):
        model(draw_tokens(0, 1, 6))
    with pytest.raises(ValueError, match=r"^position=5: "):
        generate(model, draw_tokens(0, 1, 4), 3)


@pytest.mark.parametrize("positions", [name for name in ENCODINGS if name != "learned"])
def test_other_encodings_go_past_the_context(positions):
    model = Transformer(ModelConfig(positions=positions), VOCAB, 5)
    assert model(draw_tokens(0, 1, 40)).isfinite().all()
