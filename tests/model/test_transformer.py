"""Laws of the transformer: who sees whom, what is drawn from where, and the same numbers had by another route."""

import inspect
import itertools
import math
import pickle
from typing import get_args, get_type_hints

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from toylab.console import ToylabError
from toylab.model.config import ModelConfig
from toylab.model.generate import generate
from toylab.model.layers import ACTIVATIONS, Cache
from toylab.model.positions import POSITIONS
from toylab.model.steering import Steered, Vector
from toylab.model.transformer import Transformer
from toylab.probes import edit, points, watch
from toylab.tasks import IGNORE, ITERATED_MAPS, ModularSum, stream
from toylab.training.batches import pack, pad

VOCAB, CONTEXT = 7, 14
NORMS, UNEMBEDDINGS, ACTIVATION_NAMES = (
    get_args(get_type_hints(ModelConfig)[name]) for name in ("norm", "unembedding", "activation")
)
ENCODINGS = tuple(POSITIONS)
UNEMBEDDINGS = tuple(name for name in UNEMBEDDINGS if name != "none")  # a model without one is no language model
SEEDS = st.integers(0, 2**32)
some = settings(max_examples=15)


@st.composite
def configs(draw: st.DrawFn, **fixed) -> ModelConfig:
    """Small shapes of every kind."""
    heads = draw(st.sampled_from([1, 2, 4]))
    drawn = {
        "layers": draw(st.integers(1, 2)),
        "heads": heads,
        "width": draw(st.sampled_from([8, 16])),
        "hidden": draw(st.sampled_from([None, 0, 5])),
        "activation": draw(st.sampled_from(ACTIVATION_NAMES)),
        "norm": draw(st.sampled_from(NORMS)),
        "biases": draw(st.booleans()),
        "positions": draw(st.sampled_from(ENCODINGS)),
        "position_base": draw(st.sampled_from([35.0, 1e4])),
        "position_frequency": draw(st.sampled_from([0.5, 1.0])),
        "position_width": draw(st.sampled_from([None, 2, 6])),
        "unembedding": draw(st.sampled_from(UNEMBEDDINGS)),
    }
    return ModelConfig(**{**drawn, **fixed})


def build(config: ModelConfig, seed: int = 0, context: int = CONTEXT) -> Transformer:
    """In float64, so that what is left over is a mistake and no noise."""
    return Transformer(config, VOCAB, context, seed).double()


def draw_tokens(seed: int, rows: int, width: int) -> torch.Tensor:
    return torch.randint(VOCAB, (rows, width), generator=torch.Generator().manual_seed(seed))


def test_the_choices_of_a_config_are_those_that_exist():
    assert set(ACTIVATION_NAMES) == set(ACTIVATIONS)
    with pytest.raises(ValueError, match="no positional encoding 'rotery'; did you mean rotary"):
        ModelConfig(positions="rotery")


# What is drawn -------------------------------------------------------------------------------------------------------


@some
@given(configs(), SEEDS, SEEDS)
def test_one_seed_gives_the_same_bits_and_another_seed_others(config, seed, other):
    def bits(s: int) -> bytes:
        return b"".join(p.detach().numpy().tobytes() for p in Transformer(config, VOCAB, CONTEXT, s).parameters())

    assert bits(seed) == bits(seed)
    assert (bits(seed) == bits(other)) == (seed == other)
    assert len({bits(s) for s in (seed, seed + 2**32, seed + 2**40, seed + 2**80)}) == 4


@given(configs())
def test_constructing_draws_nothing_from_torchs_own_generator(config):
    before = torch.get_rng_state()
    Transformer(config, VOCAB, CONTEXT, 3)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("unembedding", UNEMBEDDINGS)
@pytest.mark.parametrize("norm", NORMS)
def test_an_untrained_model_is_about_as_good_as_guessing(norm, unembedding):
    tokens = draw_tokens(0, 32, CONTEXT)
    for positions, hidden in itertools.product(ENCODINGS, [None, 0]):
        config = ModelConfig(norm=norm, unembedding=unembedding, positions=positions, hidden=hidden)
        logits = Transformer(config, VOCAB, CONTEXT)(tokens)
        loss = F.cross_entropy(logits[:, :-1].flatten(0, 1), tokens[:, 1:].flatten()).item()
        assert math.isfinite(loss)
        # A tied model speaks of the token it stands on: of unit vectors, with a logit of at most the root of the width.
        assert -0.2 < loss - math.log(VOCAB) < (math.sqrt(config.width) if unembedding == "tied" else 1.5), config


@given(configs(), SEEDS)
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


@given(configs(), SEEDS, st.integers(2, CONTEXT), st.data())
def test_a_later_token_changes_no_earlier_logit(config, seed, width, data):
    model, tokens = build(config, seed), draw_tokens(seed, 2, width)
    at = data.draw(st.integers(0, width - 1))
    changed = tokens.clone()
    changed[:, at] = (changed[:, at] + data.draw(st.integers(1, VOCAB - 1))) % VOCAB
    before, after = model(tokens), model(changed)
    torch.testing.assert_close(after[:, :at], before[:, :at], rtol=0, atol=1e-12)
    assert not torch.allclose(after[:, at], before[:, at], rtol=0, atol=1e-6)


@given(configs(layers=2), SEEDS)
def test_an_earlier_token_changes_later_logits(config, seed):
    model, tokens = build(config, seed), draw_tokens(seed, 2, 6)
    changed = tokens.clone()
    changed[:, 0] = (changed[:, 0] + 1) % VOCAB
    assert not torch.allclose(model(changed)[:, -1], model(tokens)[:, -1], rtol=0, atol=1e-9)


@given(configs(), SEEDS, st.integers(1, 4), st.integers(1, CONTEXT))
def test_rows_do_not_see_each_other(config, seed, rows, width):
    model, tokens = build(config, seed), draw_tokens(seed, rows, width)
    alone = torch.cat([model(tokens[row : row + 1]) for row in range(rows)])
    torch.testing.assert_close(model(tokens), alone, rtol=0, atol=1e-11)


@given(configs(), SEEDS, st.sampled_from(ITERATED_MAPS), st.integers(1, 9))
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


@given(configs(), SEEDS, st.integers(1, 3), st.integers(1, 10), st.data())
def test_queries_give_the_logits_that_the_full_forward_has_there(config, seed, rows, width, data):
    model, tokens = build(config, seed), draw_tokens(seed, rows, width)
    one = st.lists(st.integers(0, width - 1), min_size=3, max_size=3)
    queries = torch.tensor(data.draw(st.lists(one, min_size=rows, max_size=rows)))
    chosen = model(tokens, queries=queries)
    every = model(tokens)
    for row, column in itertools.product(range(rows), range(3)):
        torch.testing.assert_close(chosen[row, column], every[row, queries[row, column]], rtol=0, atol=1e-11)


@given(configs(), SEEDS, st.integers(1, 9))
def test_queries_work_on_packed_rows_as_well(config, seed, rows):
    task = ModularSum(p=2, lengths=(1, 4))
    if not _fits(config, task):
        config = ModelConfig(unembedding="orthogonal")
    model = Transformer(config, len(task.vocabulary), task.context, seed).double()
    scored = pack(task.sample(stream(seed, "rows"), rows))
    every = model(scored.tokens, positions=scored.positions, segments=scored.segments)
    expected = every.gather(1, scored.queries[:, :, None].expand(-1, -1, every.shape[-1]))
    torch.testing.assert_close(scored.logits(model), expected, rtol=0, atol=1e-11)


# Writing -------------------------------------------------------------------------------------------------------------


@given(configs(), SEEDS, st.integers(1, 3), st.integers(1, 6), st.integers(0, 6), st.sampled_from([0.0, 0.7, 2.0]))
def test_writing_with_a_cache_gives_the_tokens_and_logits_of_writing_without(config, seed, rows, size, steps, heat):
    model, prompt = build(config, seed), draw_tokens(seed, rows, size)
    written, logits = [], []
    for cache in (True, False):
        source = torch.Generator().manual_seed(seed)
        with watch(model, "unembedding", every_call=True) as seen:
            written.append(generate(model, prompt, steps, temperature=heat, generator=source, cache=cache))
        logits.append([call[:, -1] for call in seen.get("unembedding", [])])
    assert torch.equal(*written)
    assert written[0].shape == (rows, size + steps)
    assert torch.equal(written[0][:, :size], prompt)
    assert len(logits[0]) == steps
    for cached, plain in zip(*logits, strict=True):
        torch.testing.assert_close(cached, plain, rtol=0, atol=1e-10)


@given(configs(), SEEDS, st.integers(1, 5), st.integers(1, 5), st.integers(1, 4))
def test_reading_in_two_pieces_gives_the_logits_of_reading_at_once(config, seed, first, second, third):
    model, tokens, cache = build(config, seed), draw_tokens(seed, 2, first + second + third), Cache()
    pieces = [model(piece, cache=cache) for piece in tokens.split([first, second, third], dim=1)]
    assert cache.length == tokens.shape[1]
    torch.testing.assert_close(torch.cat(pieces, dim=1), model(tokens), rtol=0, atol=1e-10)


@given(configs(), SEEDS, st.integers(1, 6))
def test_greedy_writing_takes_the_likeliest_token_each_time(config, seed, steps):
    model, prompt = build(config, seed), draw_tokens(seed, 2, 3)
    rows = prompt.tolist()
    for _ in range(steps):
        for row in rows:
            row.append(int(model(torch.tensor([row]))[0, -1].argmax()))
    assert generate(model, prompt, steps).tolist() == rows


def test_drawn_tokens_follow_the_softmax_of_logits_over_temperature():
    model, draws = build(ModelConfig(width=8, layers=1)), 10_000
    prompt = draw_tokens(0, 1, 4)
    for heat in (0.5, 3.0):
        chances = (model(prompt)[0, -1] / heat).softmax(dim=0)
        source = torch.Generator().manual_seed(1)
        written = generate(model, prompt.expand(draws, -1), 1, temperature=heat, generator=source)[:, -1]
        shares = torch.bincount(written, minlength=VOCAB) / draws
        spread = (chances * (1 - chances) / draws).sqrt()
        assert ((shares - chances).abs() < 4.5 * spread).all()


@given(SEEDS, st.integers(1, 4), st.integers(1, 8), st.integers(0, VOCAB - 1))
def test_stop_fills_a_row_up_and_ends_when_all_rows_have_written_it(seed, rows, steps, stop):
    model, prompt = build(ModelConfig(width=8, positions="rotary"), seed), draw_tokens(seed, rows, 3)
    free = generate(model, prompt, steps)[:, 3:].tolist()
    ends = [row.index(stop) + 1 if stop in row else steps for row in free]
    expected = [(row[:end] + [stop] * steps)[: max(ends)] for row, end in zip(free, ends, strict=True)]
    assert generate(model, prompt, steps, stop=stop)[:, 3:].tolist() == expected


@some
@given(configs(), SEEDS, st.integers(1, 3), st.integers(0, 4), st.integers(1, 3), st.booleans())
def test_the_likeliest_continuation_is_the_same_in_every_sample(config, seed, rows, steps, samples, cache):
    model, prompt = build(config, seed), draw_tokens(seed, rows, 3)
    expected = [row for row in generate(model, prompt, steps).tolist() for _ in range(samples)]
    assert generate(model, prompt, steps, samples=samples, cache=cache).tolist() == expected


@some
@given(configs(), SEEDS, st.integers(1, 3), st.integers(1, 5), st.integers(2, 4), st.none() | st.integers(0, VOCAB - 1))
def test_samples_are_those_of_a_prompt_that_is_given_again_and_again(config, seed, rows, steps, samples, stop):
    model, prompt = build(config, seed), draw_tokens(seed, rows, 3)

    def drawn(given: torch.Tensor, **options) -> list[list[int]]:
        source = torch.Generator().manual_seed(seed)
        return generate(model, given, steps, temperature=1.5, generator=source, stop=stop, **options).tolist()

    again = torch.stack([row for row in prompt for _ in range(samples)])
    expected = drawn(again, cache=False)
    assert drawn(prompt, samples=samples) == drawn(prompt, samples=samples, cache=False) == drawn(again) == expected


def test_the_samples_of_a_prompt_differ_and_the_prompt_is_read_once():
    model, prompt = build(ModelConfig(width=8, positions="rotary")), draw_tokens(0, 2, 3)
    with watch(model, "embed", every_call=True) as seen:
        written = generate(model, prompt, 4, temperature=3.0, generator=torch.Generator().manual_seed(0), samples=6)
    assert [tuple(x.shape[:2]) for x in seen["embed"]] == [(2, 3), (12, 1), (12, 1), (12, 1)]
    assert written[:, :3].tolist() == [prompt[row].tolist() for row in (0, 1) for _ in range(6)]
    assert all(len({tuple(row) for row in group.tolist()}) > 1 for group in written[:, 3:].split(6))


@some
@given(configs(), SEEDS, st.integers(1, 3), st.integers(1, 3))
def test_a_repeated_cache_goes_on_as_if_each_row_had_been_read_several_times(config, seed, rows, times):
    model, cache = build(config, seed), Cache()
    begun, then = draw_tokens(seed, rows, 4), draw_tokens(seed + 1, rows * times, 2)
    model(begun, cache=cache)
    cache.repeat(times)
    assert cache.length == 4
    whole = torch.cat([torch.stack([row for row in begun for _ in range(times)]), then], dim=1)
    torch.testing.assert_close(model(then, cache=cache), model(whole)[:, 4:], rtol=0, atol=1e-10)


def test_writing_leaves_no_gradient_and_works_under_an_edit():
    model, prompt = build(ModelConfig(width=8)), draw_tokens(0, 2, 3)
    assert not generate(model, prompt, 2).requires_grad
    with edit(model, {"unembedding": lambda logits: torch.zeros_like(logits).index_fill(-1, torch.tensor(5), 1)}):
        assert (generate(model, prompt, 4)[:, 3:] == 5).all()


NUMBERS = st.none() | st.integers(0, 8)
PLACES = st.one_of(
    st.builds(lambda start, stop: slice(start, stop and (start or 0) + stop), NUMBERS, st.none() | st.integers(1, 8)),
    st.lists(st.integers(0, 8), min_size=1, max_size=4).map(tuple),
)


def steered(config: ModelConfig, seed: int, layers: set[int], at: slice | tuple[int, ...]) -> Steered:
    """With a drawn vector after each of these layers that the model has."""
    source = torch.Generator().manual_seed(seed)
    drawn = {layer: torch.randn(config.width, generator=source, dtype=torch.double) for layer in sorted(layers)}
    held = {layer % config.layers: Vector(config.width, vector) for layer, vector in drawn.items()}
    return Steered(build(config, seed), held, at)


LAYERS = st.sets(st.integers(0, 1), min_size=1)


@some
@given(configs(), SEEDS, LAYERS, PLACES, st.integers(1, 3), st.lists(st.integers(1, 3), min_size=1, max_size=4))
def test_an_edit_by_position_does_the_same_to_whole_rows_to_pieces_and_to_chosen_queries(
    config, seed, layers, at, rows, pieces
):
    model, tokens = steered(config, seed, layers, at), draw_tokens(seed, rows, sum(pieces))
    whole = model(tokens)
    for sizes in (pieces, [1] * sum(pieces)):
        cache = Cache()
        found = torch.cat([model(piece, cache=cache) for piece in tokens.split(sizes, dim=1)], dim=1)
        torch.testing.assert_close(found, whole, rtol=0, atol=1e-10)
    queries = torch.randint(sum(pieces), (rows, 2), generator=torch.Generator().manual_seed(seed))
    expected = torch.stack([row[places] for row, places in zip(whole, queries, strict=True)])
    torch.testing.assert_close(model(tokens, queries=queries), expected, rtol=0, atol=1e-10)


@some
@given(configs(), SEEDS, LAYERS, PLACES, st.integers(1, 3), st.integers(1, 5))
def test_a_model_edited_by_position_writes_the_same_with_a_cache_and_without(config, seed, layers, at, samples, steps):
    model, prompt = steered(config, seed, layers, at), draw_tokens(seed, 2, 3)

    def written(cache: bool) -> list[list[int]]:
        source = torch.Generator().manual_seed(seed)
        return generate(model, prompt, steps, temperature=1.5, generator=source, samples=samples, cache=cache).tolist()

    assert written(True) == written(False)


@some
@given(configs(layers=2), SEEDS, st.integers(1, 3), st.integers(1, 4), st.integers(1, 4))
def test_a_block_knows_the_positions_of_the_tokens_that_pass_it(config, seed, rows, first, second):
    model, cache = build(config, seed), Cache()
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


# What is at the points -----------------------------------------------------------------------------------------------


@given(st.sampled_from(["pre", "none"]).flatmap(lambda norm: configs(norm=norm)), SEEDS)
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


@given(configs(), SEEDS, st.integers(1, 8))
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


@given(configs(), SEEDS, st.integers(1, 8))
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
@given(configs(), SEEDS)
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


@given(configs(), SEEDS, st.integers(1, 6))
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


@given(configs(), st.integers(1, 4))
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


# Mistakes ------------------------------------------------------------------------------------------------------------

MISTAKES = [
    ({"layers": 0}, r"^layers=0: .*at least 1"),
    ({"heads": 0}, r"^heads=0: .*at least 1"),
    ({"width": 0}, r"^width=0: .*at least 1"),
    ({"hidden": -1}, r"^hidden=-1: .*at least 0"),
    ({"width": 30, "heads": 4}, r"^width=30: .*multiple of heads=4, for example \d+$"),
    ({"width": 15, "heads": 1, "positions": "sinusoidal"}, r"^width=15: .*even .*for example \d+$"),
    ({"width": 15, "heads": 3, "positions": "sinusoidal"}, r"^width=15: .*even .*for example \d+$"),
    ({"position_width": 3, "positions": "sinusoidal"}, r"^position_width=3: .*even .*for example \d+$"),
    ({"position_width": 64, "width": 32, "positions": "sinusoidal"}, r"^position_width=64: .*width=32, for example"),
    ({"width": 10, "heads": 2, "positions": "rotary"}, r"^width=10: .*even width per head, for example \d+$"),
]


@pytest.mark.parametrize(("given", "message"), MISTAKES)
def test_an_impossible_shape_is_refused_with_its_value_and_a_remedy(given, message):
    with pytest.raises(ValueError, match=message) as error:
        ModelConfig(**given)
    if "for example" in str(error.value):
        name, remedy = str(error.value).split("=")[0], int(str(error.value).split()[-1])
        ModelConfig(**{**given, name: remedy})


def test_an_orthogonal_unembedding_needs_room_for_every_token():
    with pytest.raises(ValueError, match=r"width=8: .*9 tokens needs a width of at least that"):
        Transformer(ModelConfig(width=8, unembedding="orthogonal"), 9, CONTEXT)


def test_learned_positions_end_with_the_context():
    model = Transformer(ModelConfig(positions="learned"), VOCAB, 5)
    assert model(draw_tokens(0, 1, 5)).shape == (1, 5, VOCAB)
    with pytest.raises(ValueError, match=r"position=5: learned positions end at 4; .*larger\s+context"):
        model(draw_tokens(0, 1, 6))
    with pytest.raises(ValueError, match=r"position=5: learned positions end at 4"):
        generate(model, draw_tokens(0, 1, 4), 3)


@pytest.mark.parametrize("positions", [name for name in ENCODINGS if name != "learned"])
def test_other_encodings_go_past_the_context(positions):
    model = Transformer(ModelConfig(positions=positions), VOCAB, 5)
    assert model(draw_tokens(0, 1, 40)).isfinite().all()


def test_drawing_needs_a_temperature_that_makes_sense_and_a_generator():
    model, prompt = Transformer(ModelConfig(), VOCAB, CONTEXT), draw_tokens(0, 1, 2)
    with pytest.raises(ValueError, match=r"temperature=-0\.5: must be 0 \(greedy\) or more"):
        generate(model, prompt, 1, temperature=-0.5)
    with pytest.raises(ValueError, match=r"temperature=1\.0: drawing needs a generator=torch\.Generator"):
        generate(model, prompt, 1, temperature=1.0)


class Says(torch.nn.Module):
    """Always has the same logits."""

    def __init__(self, *logits: float, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.logits = torch.tensor(logits, dtype=dtype)

    def forward(self, tokens):
        return self.logits.expand(*tokens.shape, -1)


def said(model: torch.nn.Module, temperature: float, rows: int = 1) -> torch.Tensor:
    source = torch.Generator().manual_seed(0)
    prompt = torch.zeros(rows, 1, dtype=torch.long)
    return generate(model, prompt, 1, temperature=temperature, generator=source, cache=False)[:, 1]


HEATS = [0.0, 1e-300, 1e-50, 1e-39, 1e-30, 1e-10, 1e-4, 9e-4, 1e-3, 0.01]


@pytest.mark.parametrize("temperature", HEATS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_a_temperature_towards_0_takes_the_likeliest_token(dtype, temperature):
    largest = min(float(torch.finfo(dtype).max), 1e30)
    for logits in ((1.0, 5.0, -torch.inf, 4.0), (0.0, largest, 0.5 * largest), (-largest, -0.5 * largest)):
        assert (said(Says(*logits, dtype=dtype), temperature, rows=50) == logits.index(max(logits))).all()


@pytest.mark.parametrize("temperature", [1e-39, 1e-4, 1.0])
def test_equally_likely_tokens_stay_so_at_every_temperature(temperature):
    drawn = said(Says(3.0, 3.0, -1e4), temperature, rows=2000).bincount(minlength=3)
    assert drawn[2] == 0
    assert drawn[:2].min() > 850  # fewer than that are as rare as 7 standard deviations


@pytest.mark.parametrize("temperature", [math.nan, -math.inf, -1e-9])
def test_a_temperature_that_is_none_is_refused(temperature):
    with pytest.raises(ToylabError, match=f"temperature={temperature}"):
        said(Says(0.0, 1.0), temperature)


@some
@given(st.sampled_from([torch.int32, torch.int16, torch.int8]), SEEDS, st.booleans(), st.floats(0, 2))
def test_prompts_may_be_whole_numbers_of_any_size(dtype, seed, cache, temperature):
    model, prompt = build(ModelConfig(), seed), draw_tokens(seed, 2, 3)
    found, expected = (
        generate(model, given, 4, temperature=temperature, generator=torch.Generator().manual_seed(0), cache=cache)
        for given in (prompt.to(dtype), prompt)
    )
    assert torch.equal(found, expected)


@pytest.mark.parametrize("positions", ENCODINGS)
@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"prompt": torch.zeros(2, 0, dtype=torch.long)}, r"prompt: .*\(2, 0\).*at least one token"),
        ({"prompt": torch.zeros(4, dtype=torch.long)}, r"prompt: .*\(4,\).*position"),
        ({"prompt": torch.zeros(2, 3)}, r"prompt: .*float32.*whole numbers"),
        ({"prompt": torch.zeros(2, 3, dtype=torch.bool)}, r"prompt: .*bool.*whole numbers"),
        ({"steps": -1}, r"steps=-1: must be at least 0"),
        ({"stop": VOCAB}, rf"stop={VOCAB}: .*0 to {VOCAB - 1}"),
        ({"stop": -1}, rf"stop=-1: .*0 to {VOCAB - 1}"),
    ],
)
def test_what_cannot_be_continued_is_refused(positions, given, message):
    model = Transformer(ModelConfig(positions=positions), VOCAB, CONTEXT)
    unchecked = inspect.unwrap(generate)  # the type checks of the tests would refuse some first
    with pytest.raises(ToylabError, match=message):
        unchecked(model, **{"prompt": draw_tokens(0, 2, 3), "steps": 2, **given})


def test_no_step_and_no_row_are_continued_by_nothing():
    model, prompt = Transformer(ModelConfig(), VOCAB, CONTEXT), draw_tokens(0, 2, 3)
    assert torch.equal(generate(model, prompt, 0), prompt)
    for temperature in (0, 1):
        written = generate(model, prompt[:0], 3, temperature=float(temperature), generator=torch.Generator())
        assert written.shape == (0, 6)


def test_a_token_is_not_chosen_among_logits_that_are_nan():
    model, prompt = Transformer(ModelConfig(), VOCAB, CONTEXT), draw_tokens(0, 3, 3)

    def spoil_one_row(logits: torch.Tensor) -> torch.Tensor:
        return torch.cat([logits[:1] * math.nan, logits[1:]])

    with edit(model, {"unembedding": spoil_one_row}), pytest.raises(ToylabError, match="logits: are nan"):
        generate(model, prompt, 2)


@pytest.mark.parametrize("samples", [0, -1])
def test_a_prompt_is_continued_at_least_once(samples):
    with pytest.raises(ValueError, match=rf"^samples={samples}: must be at least 1$"):
        generate(Transformer(ModelConfig(), VOCAB, CONTEXT), draw_tokens(0, 1, 2), 1, samples=samples)


@some
@given(configs(causal=True), SEEDS, st.integers(0, VOCAB - 1), st.integers(1, 3))
def test_rows_that_have_ended_may_leave_the_batch_and_nothing_greedy_changes(config, seed, stop, samples):
    model, prompt = build(config, seed, context=24), draw_tokens(seed, 5, 4)
    whole = generate(model, prompt, 12, stop=stop, samples=samples)
    assert torch.equal(generate(model, prompt, 12, stop=stop, samples=samples, drop=True), whole)


class Countdown(torch.nn.Module):
    """Writes 1 as often as the first token of the prompt says, then 0; remembers how many rows it read each time."""

    def __init__(self) -> None:
        super().__init__()
        self.read: list[int] = []

    def forward(self, tokens, *, cache):
        self.read.append(len(tokens))
        tokens = torch.cat([*(held[0] for held in cache.layers.values()), tokens], dim=1)
        cache.layers[0] = tokens, tokens
        written = tokens.shape[1] - 1
        return F.one_hot((written < tokens[:, 0]).long(), VOCAB).float()[:, None]


def test_rows_that_leave_are_those_that_have_ended_once_they_are_a_quarter():
    prompt = torch.tensor([[2], [0], [3], [3], [5]])
    right = [[1] * n + [0] * (6 - n) for n in prompt[:, 0].tolist()]
    for drop, sizes in ((False, [5, 5, 5, 5, 5, 5]), (True, [5, 5, 5, 3, 1, 1])):
        model = Countdown()
        assert generate(model, prompt, 6, stop=0, drop=drop)[:, 1:].tolist() == right
        assert model.read == sizes


@pytest.mark.parametrize("wrong", [{}, {"stop": 0, "cache": False}])
def test_rows_leave_only_where_they_can_end_and_are_kept(wrong):
    with pytest.raises(ValueError, match="drop=True"):
        generate(build(ModelConfig(width=8)), draw_tokens(0, 4, 3), 6, drop=True, **wrong)
