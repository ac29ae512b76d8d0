"""Laws of patching: a path that is cut carries nothing, the others carry all, and algebra by hand says the same."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from toylab import ModelConfig, Transformer, generate
from toylab.probes import Paths, edit, put_back, watch

SEEDS = st.integers(0, 2**31)
few = settings(max_examples=8)
VOCAB, LENGTH, WIDTH, LAYERS = 7, 6, 8, 3
POINT = "blocks.0.resid_post"
LATER = ("blocks.1.ln1", "blocks.1.ln2", "blocks.2.ln1", "blocks.2.ln2", "ln_final")
WITHIN = tuple(
    f"blocks.{layer}.{name}"
    for layer in (1, 2)
    for name in ("attn.q", "attn.k", "attn.v", "attn.pattern", "attn.z", "attn_out", "mlp.post", "mlp_out", "ln1")
)

# Ways to name positions, each with what it means.
POSITIONS = [
    (slice(None), [0, 1, 2, 3, 4, 5]),
    (slice(2, 4), [2, 3]),
    (slice(-1, None), [5]),
    ([1, 4], [1, 4]),
    ((3,), [3]),
    (range(1, 4), [1, 2, 3]),
    ([-2], [4]),
    ([], []),
]


def normal(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def close(found, expected, tolerance: float = 1e-9):
    assert np.shape(found) == np.shape(expected)
    np.testing.assert_allclose(found.detach(), expected.detach(), rtol=tolerance, atol=tolerance)


def transformer(seed: int, **options) -> Transformer:
    """A small model in float64, with gains and biases of its norms drawn, so that leaving one out shows."""
    config = ModelConfig(layers=LAYERS, heads=2, width=WIDTH, hidden=10, **options)
    model = Transformer(config, VOCAB, 16, seed).double()
    for i, norm in enumerate(module for module in model.modules() if isinstance(module, nn.LayerNorm)):
        norm.weight.data = 1 + normal(seed + i, *norm.weight.shape) / 2
        if norm.bias is not None:
            norm.bias.data = normal(seed + i + 50, *norm.bias.shape)
    return model.requires_grad_(False)


def prompts(seed: int, rows: int = 3, length: int = LENGTH) -> torch.Tensor:
    return torch.randint(0, VOCAB, (rows, length), generator=torch.Generator().manual_seed(seed))


def adder(seed: int, width: int = WIDTH):
    """A change that depends on what it changes."""
    vector, gate = 2 * normal(seed, width), normal(seed + 1, width)
    return lambda x: x + (1 + torch.tanh(x @ gate))[..., None] * vector


def hooks(model: nn.Module) -> int:
    return sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules())


# Activation patching -------------------------------------------------------------------------------------------------


@few
@given(SEEDS, st.integers(0, LAYERS - 1))
def test_a_whole_layer_put_back_makes_a_corrupted_run_the_clean_one(seed, layer):
    model, clean, corrupted = transformer(seed), prompts(seed), prompts(seed + 1)
    point = f"blocks.{layer}.resid_post"
    with watch(model, point) as seen:
        expected = model(clean)
    assert not torch.allclose(model(corrupted), expected)
    with edit(model, {point: put_back(seen[point])}):
        assert torch.equal(model(corrupted), expected)


@few
@given(SEEDS, st.integers(0, LAYERS - 1), st.sampled_from(POSITIONS))
def test_what_is_put_back_is_put_at_its_positions_and_nowhere_else(seed, layer, named):
    positions, places = named
    model, clean, corrupted = transformer(seed), prompts(seed), prompts(seed + 1)
    point = f"blocks.{layer}.resid_post"
    with watch(model, point) as there:
        model(clean)
    with watch(model, point) as usual:
        unpatched = model(corrupted)
    kept, before = there[point].clone(), usual[point].clone()
    with edit(model, {point: put_back(there[point], positions)}), watch(model, point) as seen:
        patched = model(corrupted)
    for place in range(LENGTH):
        assert torch.equal(seen[point][:, place], (kept if place in places else before)[:, place])
    first = min(places, default=LENGTH)
    assert torch.equal(patched[:, :first], unpatched[:, :first]), "the past does not hear of a patch"
    assert torch.equal(there[point], kept)
    assert torch.equal(usual[point], before)


def test_an_activation_is_put_into_a_copy_and_gradients_reach_both_runs():
    x, kept = normal(0, 2, 4, 3).requires_grad_(True), normal(1, 2, 4, 3).requires_grad_(True)
    before = x.detach().clone()
    put_back(kept, [1, 2])(x).sum().backward()
    assert torch.equal(x, before)
    assert x.grad[0, :, 0].tolist() == [1, 0, 0, 1]
    assert kept.grad[0, :, 0].tolist() == [0, 1, 1, 0]


@pytest.mark.parametrize("rows", [1, 3])
@pytest.mark.parametrize("positions", [slice(None), [1, 4]])
def test_what_was_recorded_in_another_run_can_be_put_back_along_chosen_paths(rows, positions):
    model, clean, corrupted = transformer(0), prompts(0, rows), prompts(1, rows)
    (there,), _ = streams(model, clean, POINT)
    change = put_back(there, positions)
    _, expected = streams(model, corrupted, edits={POINT: change})
    close(Paths(model, change, POINT)(corrupted), expected)
    close(Paths(model, change, POINT, blind=LATER)(corrupted), model(corrupted))


# Path patching where all is known ------------------------------------------------------------------------------------


class TwoReaders(nn.Module):
    """h, then h + tanh(h A), then that + tanh(that B), then C."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.stream, self.read_a, self.read_b, self.read_out = (nn.Identity() for _ in range(4))
        self.a, self.b, self.c = normal(seed, 3, WIDTH, WIDTH)

    def forward(self, x):
        h = self.stream(x)
        h = h + torch.tanh(self.read_a(h) @ self.a)
        h = h + torch.tanh(self.read_b(h) @ self.b)
        return self.read_out(h) @ self.c


READERS = ("read_a", "read_b", "read_out")


def blind_readers_are_those_of_the_algebra(paths, seed):
    model, x, change = TwoReaders(seed), normal(seed + 1, 2, 4, WIDTH), adder(seed + 2)
    d = change(x) - x
    for mask in range(8):
        blind = [name for i, name in enumerate(READERS) if mask >> i & 1]
        seen_a, seen_b, seen_out = (0 if name in blind else 1 for name in READERS)
        a = torch.tanh((x + seen_a * d) @ model.a)
        b = torch.tanh((x + a + seen_b * d) @ model.b)
        close(paths(model, change, "stream", blind=blind)(x), (x + a + b + seen_out * d) @ model.c)


def blind_readers_that_hear_nothing_of_the_others(model, change, point, blind=()):
    return Paths(model, change, point, clean=blind)


def a_reader_beside_that_goes_blind_with_the_first(model, change, point, blind=()):
    return Paths(model, change, point, blind=["read_a", "read_b"] if "read_a" in blind else blind)


def all_blind_but_the_named(model, change, point, blind=()):
    return Paths(model, change, point, blind=[name for name in READERS if name not in blind])


@few
@given(SEEDS)
def test_every_set_of_blind_readers_is_that_of_the_algebra(seed):
    blind_readers_are_those_of_the_algebra(Paths, seed)


@pytest.mark.parametrize(
    "mutant",
    [
        blind_readers_that_hear_nothing_of_the_others,
        a_reader_beside_that_goes_blind_with_the_first,
        all_blind_but_the_named,
        lambda model, change, point, blind=(): Paths(model, change, point),
    ],
)
def test_broken_paths_are_caught_by_the_algebra(mutant):
    with pytest.raises(AssertionError):
        blind_readers_are_those_of_the_algebra(mutant, 0)


@few
@given(SEEDS, st.sets(st.sampled_from(READERS)))
def test_a_reader_made_clean_undoes_all_that_reached_it(seed, clean):
    model, x, change = TwoReaders(seed), normal(seed + 1, 2, 4, WIDTH), adder(seed + 2)
    plain_b = x + torch.tanh(x @ model.a)
    h = change(x)
    h = h + torch.tanh((x if "read_a" in clean else h) @ model.a)
    h = h + torch.tanh((plain_b if "read_b" in clean else h) @ model.b)
    expected = model(x) if "read_out" in clean else h @ model.c
    close(Paths(model, change, "stream", clean=clean)(x), expected)


def test_two_readers_by_hand():
    # tanh is the identity to first order: with A = B = 1, a small change d makes 4 of itself, half through each reader.
    model, x, d = TwoReaders(0), torch.zeros(1, 1, WIDTH).double(), torch.full((WIDTH,), 1e-7).double()
    model.a = model.b = model.c = torch.eye(WIDTH).double()
    for blind, factor in [((), 4), (("read_a",), 2), (("read_b",), 3), (("read_a", "read_b"), 1), (READERS, 0)]:
        found = Paths(model, lambda x: x + d, "stream", blind=blind)(x)
        assert (found / 1e-7).flatten().tolist() == pytest.approx([factor] * WIDTH, abs=1e-6)


# Path patching in a transformer --------------------------------------------------------------------------------------


def attention_by_hand(attn: nn.Module, asking, asked, told):
    """Output of causal attention whose queries, keys and values come from three streams, head by head."""
    heads, width = attn.heads, WIDTH // attn.heads
    future = torch.ones(asking.shape[1], asked.shape[1]).triu(1).bool()
    z = []
    for head in range(heads):
        part = slice(head * width, (head + 1) * width)
        q, k, v = (
            x @ map_.weight[part].T + map_.bias[part]
            for x, map_ in ((asking, attn.query), (asked, attn.key), (told, attn.value))
        )
        scores = (q @ k.transpose(1, 2) / math.sqrt(width)).masked_fill(future, -math.inf)
        z.append(scores.softmax(dim=-1) @ v)
    return torch.cat(z, dim=-1) @ attn.output.weight.T + attn.output.bias


def norm_by_hand(norm: nn.Module, x, deviation_of=None):
    """A LayerNorm that may divide by the deviation of another stream."""
    other = x if deviation_of is None else deviation_of
    deviation = (other.var(dim=-1, correction=0, keepdim=True) + norm.eps).sqrt()
    return (x - x.mean(dim=-1, keepdim=True)) / deviation * norm.weight + norm.bias


def streams(model, tokens, *names, edits=None):
    """What passes some points, and the logits."""
    with edit(model, edits or {}), watch(model, *names) as seen:
        logits = model(tokens)
    return [seen[name] for name in names], logits


@few
@given(SEEDS, st.sampled_from(["sinusoidal", "rotary", "alibi", "learned"]), st.integers(0, LAYERS - 1))
def test_with_nobody_blind_the_model_is_the_edited_one(seed, positions, layer):
    model, tokens, change = transformer(seed, positions=positions), prompts(seed), adder(seed)
    point = f"blocks.{layer}.resid_post"
    with edit(model, {point: change}):
        expected = model(tokens)
    close(Paths(model, change, point)(tokens), expected)
    assert not torch.allclose(model(tokens), expected)


@few
@given(SEEDS, st.booleans(), st.integers(0, LAYERS - 1))
def test_with_every_later_reader_blind_the_model_is_the_unedited_one(seed, biases, layer):
    model, tokens, change = transformer(seed, biases=biases), prompts(seed), adder(seed)
    paths = Paths(model, change, f"blocks.{layer}.resid_post", blind=LATER[2 * layer :])
    close(paths(tokens), model(tokens))


@few
@given(SEEDS)
def test_a_blind_attention_is_that_of_a_block_written_out_by_hand(seed):
    model, tokens, change = transformer(seed), prompts(seed), adder(seed)
    block = model.blocks[1]
    (before,), _ = streams(model, tokens, POINT)
    after, read = change(before), norm_by_hand(block.ln1, before)
    middle = after + attention_by_hand(block.attn, read, read, read)
    expected = middle + block.mlp(norm_by_hand(block.ln2, middle))
    with edit(model, {"blocks.1.resid_post": lambda x: expected}):
        logits = model(tokens)
    paths = Paths(model, change, POINT, blind=["blocks.1.ln1"])
    with watch(model, "blocks.1.resid_post") as seen:
        close(paths(tokens), logits)
    close(seen["blocks.1.resid_post"][: len(tokens)], expected)


@few
@given(SEEDS)
def test_a_blind_mlp_hears_of_the_change_from_the_attention_alone(seed):
    model, tokens, change = transformer(seed), prompts(seed), adder(seed)
    block = model.blocks[1]
    (before,), _ = streams(model, tokens, POINT)
    read = norm_by_hand(block.ln1, change(before))
    written = attention_by_hand(block.attn, read, read, read)
    expected = change(before) + written + block.mlp(norm_by_hand(block.ln2, before + written))
    with edit(model, {"blocks.1.resid_post": lambda x: expected}):
        logits = model(tokens)
    close(Paths(model, change, POINT, blind=["blocks.1.ln2"])(tokens), logits)


@few
@given(SEEDS)
def test_an_unembedding_that_is_blind_reads_the_last_stream_less_the_change(seed):
    model, tokens, change = transformer(seed), prompts(seed), adder(seed)
    (before,), _ = streams(model, tokens, POINT)
    (last,), _ = streams(model, tokens, "blocks.2.resid_post", edits={POINT: change})
    expected = norm_by_hand(model.ln_final, last - (change(before) - before)) @ model.unembedding.weight.T
    close(Paths(model, change, POINT, blind=["ln_final"])(tokens), expected)


@few
@given(SEEDS, st.sets(st.sampled_from("qkv")))
def test_clean_queries_keys_and_values_are_those_of_attention_by_hand(seed, clean):
    model, tokens, change = transformer(seed), prompts(seed), adder(seed)
    block = model.blocks[1]
    (before,), _ = streams(model, tokens, POINT)
    read = {name: norm_by_hand(block.ln1, before if name in clean else change(before)) for name in "qkv"}
    written = attention_by_hand(block.attn, *read.values())
    _, expected = streams(model, tokens, edits={POINT: change, "blocks.1.attn_out": lambda x: written})
    close(Paths(model, change, POINT, clean=[f"blocks.1.attn.{name}" for name in clean])(tokens), expected)


@few
@given(SEEDS, st.sets(st.sampled_from(WITHIN), max_size=4))
def test_clean_points_pass_on_what_they_did_in_an_unedited_run(seed, clean):
    model, tokens, change = transformer(seed), prompts(seed), adder(seed)
    usual, unedited = streams(model, tokens, *clean)
    held = {name: (lambda x, kept=kept: kept) for name, kept in zip(clean, usual, strict=True)}
    _, expected = streams(model, tokens, edits={POINT: change, **held})
    close(Paths(model, change, POINT, clean=clean)(tokens), expected)
    close(Paths(model, change, POINT, clean=[*clean, "blocks.2.resid_post"])(tokens), unedited)


@few
@given(SEEDS)
def test_a_pattern_of_names_makes_every_match_clean(seed):
    model, tokens, change = transformer(seed), prompts(seed), adder(seed)
    names = [f"blocks.{layer}.attn.pattern" for layer in range(LAYERS)]
    found = Paths(model, change, POINT, clean=["blocks.*.attn.pattern"])(tokens)
    close(found, Paths(model, change, POINT, clean=names)(tokens))


@few
@given(SEEDS, st.sampled_from([("blocks.1.ln1", POINT), ("blocks.2.ln2", "blocks.2.resid_mid"), ("ln_final", "last")]))
def test_a_clean_scale_divides_by_the_deviation_of_the_other_run(seed, named):
    norm, read = named
    read = "blocks.2.resid_post" if read == "last" else read
    model, tokens, change = transformer(seed), prompts(seed), adder(seed)
    (usual,), _ = streams(model, tokens, read)
    (steered,), plain = streams(model, tokens, read, edits={POINT: change})
    normed = norm_by_hand(model.get_submodule(norm), steered, deviation_of=usual)
    _, expected = streams(model, tokens, edits={POINT: change, norm: lambda x: normed})
    close(Paths(model, change, POINT, clean_scale=norm)(tokens), expected)
    assert not torch.allclose(plain, expected)


@few
@given(SEEDS)
def test_a_blind_norm_of_clean_scale_differs_from_the_unedited_one_by_what_others_made_of_the_change(seed):
    model, tokens, change = transformer(seed, biases=False), prompts(seed), adder(seed)
    (usual,), _ = streams(model, tokens, "blocks.2.resid_post")
    (first,), _ = streams(model, tokens, POINT)
    (steered,), _ = streams(model, tokens, "blocks.2.resid_post", edits={POINT: change})
    read = steered - (change(first) - first)
    deviation = (usual.var(dim=-1, correction=0, keepdim=True) + model.ln_final.eps).sqrt()
    normed = (read - read.mean(dim=-1, keepdim=True)) / deviation * model.ln_final.weight
    found = Paths(model, change, POINT, blind=["ln_final"], clean_scale="ln_final")(tokens)
    close(found, normed @ model.unembedding.weight.T)


@few
@given(SEEDS, st.integers(1, 4))
def test_rows_do_not_hear_of_one_another(seed, rows):
    model, tokens, change = transformer(seed), prompts(seed, rows), adder(seed)
    paths = Paths(model, change, POINT, blind=LATER[:1], clean=["blocks.2.attn.q"], clean_scale="ln_final")
    found = paths(tokens)
    assert found.shape == (rows, LENGTH, VOCAB)
    close(torch.cat([paths(row[None]) for row in tokens]), found)


@few
@given(SEEDS, st.integers(1, 3))
def test_options_of_each_row_are_those_of_both_its_runs(seed, rows):
    model, tokens, change = transformer(seed), prompts(seed, rows), adder(seed)
    generator = torch.Generator().manual_seed(seed)
    segments = torch.randint(0, 2, (rows, LENGTH), generator=generator).sort(dim=1).values
    for positions in (torch.randint(0, 9, (n, LENGTH), generator=generator).sort(dim=1).values for n in (1, rows)):
        options = {"positions": positions, "segments": segments}
        with edit(model, {POINT: change}):
            expected = model(tokens, **options)
        close(Paths(model, change, POINT)(tokens, **options), expected)
        close(Paths(model, change, POINT, blind=LATER)(tokens, **options), model(tokens, **options))


@few
@given(SEEDS)
def test_chosen_queries_of_a_model_whose_readers_all_see_are_rows_of_the_whole(seed):
    model, tokens, change = transformer(seed), prompts(seed), adder(seed)
    queries = torch.tensor([[0, 3], [2, 5], [4, 4]])
    for paths in (
        Paths(model, change, POINT),
        Paths(model, change, POINT, clean=["blocks.1.attn.q", "blocks.2.mlp_out"]),
    ):
        whole = paths(tokens)
        close(paths(tokens, queries=queries), torch.stack([whole[row, at] for row, at in enumerate(queries)]))


def test_gradients_flow_through_the_change_along_open_paths_alone():
    model, tokens = transformer(0), prompts(0)
    vector = torch.zeros(WIDTH, dtype=torch.float64, requires_grad=True)
    slopes = []
    for blind in ((), LATER[:1], LATER):
        loss = Paths(model, lambda x: x + vector, POINT, blind=blind)(tokens).square().sum()
        slopes.append(torch.autograd.grad(loss, vector)[0])
    assert (slopes[0] - slopes[1]).abs().max() > 1e-3
    close(slopes[2], torch.zeros(WIDTH), 1e-8)


# Token by token ------------------------------------------------------------------------------------------------------

KINDS = [
    {},
    {"blind": LATER[:1]},
    {"blind": LATER[1::2], "clean": ["blocks.1.attn.k"]},
    {"clean": ["blocks.1.attn.q", "blocks.2.attn.v"], "clean_scale": "ln_final"},
    {"blind": LATER},
]


def drawn(paths, prompt, seed, temperature=0.0, **options):
    generator = torch.Generator().manual_seed(seed)
    return generate(paths, prompt, 5, temperature=temperature, generator=generator, **options)


@few
@given(SEEDS, st.sampled_from(KINDS), st.sampled_from([0.0, 1.0]), st.integers(1, 3))
def test_kept_keys_and_values_change_no_token_that_is_generated(seed, kind, temperature, rows):
    prompt = prompts(seed, rows, 3)
    paths = Paths(transformer(seed), adder(seed), POINT, **kind)
    found = drawn(paths, prompt, seed, temperature)
    assert torch.equal(found, drawn(paths, prompt, seed, temperature, cache=False))
    assert found.shape == (rows, 8)
    assert torch.equal(found[:, :3], prompt)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_several_samples_of_each_prompt_stand_in_consecutive_rows(kind, temperature):
    prompt = prompts(0, 2, 3)
    paths = Paths(transformer(0), adder(0), POINT, **kind)
    found = drawn(paths, prompt, 0, temperature, samples=3)
    assert torch.equal(found, drawn(paths, prompt, 0, temperature, samples=3, cache=False))
    assert torch.equal(found, drawn(paths, prompt.repeat_interleave(3, dim=0), 0, temperature))
    assert torch.equal(found[:, :3], prompt[[0, 0, 0, 1, 1, 1]])


@few
@given(SEEDS)
def test_a_change_at_one_position_is_made_once_while_tokens_are_generated(seed):
    model, prompt, vector = transformer(seed), prompts(seed, 2, 3), 3 * normal(seed, WIDTH)

    def change(x):
        return torch.where((model.blocks[0].positions == 4)[..., None], x + vector, x)

    for blind in ((), LATER[:1]):
        paths = Paths(model, change, POINT, blind=blind)
        assert torch.equal(generate(paths, prompt, 5), generate(paths, prompt, 5, cache=False))
    tokens = prompts(seed)
    close(paths(tokens)[:, :4], model(tokens)[:, :4])


@few
@given(SEEDS)
def test_a_model_blind_to_its_change_writes_what_it_always_did(seed):
    model, prompt = transformer(seed), prompts(seed)
    assert torch.equal(generate(Paths(model, adder(seed), POINT, blind=LATER), prompt, 6), generate(model, prompt, 6))


# What is left behind, and what is refused ----------------------------------------------------------------------------


def test_nothing_stays_on_the_model_after_a_run_and_hooks_of_others_do():
    model, tokens = transformer(0), prompts(0)
    before = model(tokens)
    paths = Paths(model, adder(0), POINT, blind=LATER, clean=["blocks.*.attn.q"], clean_scale="ln_final")
    assert hooks(model) == 0, "hooks are set only while the model runs"
    paths(tokens)
    generate(paths, tokens, 3)
    assert hooks(model) == 0
    assert torch.equal(model(tokens), before)
    with watch(model, POINT):
        paths(tokens)
        assert hooks(model) == 1


def stumble(x):
    raise RuntimeError("on purpose")


@pytest.mark.parametrize(
    ("change", "point", "options", "error"),
    [
        (stumble, POINT, {"blind": LATER, "clean": ["blocks.1.attn.q"], "clean_scale": "ln_final"}, RuntimeError),
        (torch.zeros_like, "blocks.9.resid_post", {"blind": LATER}, ValueError),
        (torch.zeros_like, POINT, {"blind": LATER, "clean": ["blocks.1.attn.w"]}, ValueError),
        (torch.zeros_like, POINT, {"blind": [*LATER, "blocks.9.ln1"]}, (ValueError, AttributeError)),
        (torch.zeros_like, POINT, {"blind": LATER, "clean_scale": "ln_last"}, (ValueError, AttributeError)),
        (lambda x: x[:, 1:], POINT, {"blind": LATER}, (ValueError, RuntimeError)),
    ],
)
def test_nothing_stays_on_the_model_after_an_error(change, point, options, error):
    model, tokens = transformer(0), prompts(0)
    before = model(tokens)
    with pytest.raises(error):
        Paths(model, change, point, **options)(tokens)
    assert hooks(model) == 0
    assert torch.equal(model(tokens), before)


@pytest.mark.parametrize("reader", ["blocks.2.ln2", "ln_final"])
def test_a_blind_reader_of_chosen_queries_is_refused(reader):
    model, tokens = transformer(0), prompts(0)
    paths = Paths(model, adder(0), POINT, blind=[reader])
    with pytest.raises(ValueError, match=r"^queries: a blind reader needs the stream at all positions"):
        paths(tokens, queries=torch.tensor([[0, 3], [2, 5], [4, 4]]))
    assert hooks(model) == 0


def test_a_reader_that_does_not_run_behind_the_change_is_refused():
    model, tokens = transformer(0), prompts(0)
    with pytest.raises(ValueError, match=r"^blind='blocks.0.ln1': runs before the change"):
        Paths(model, adder(0), POINT, blind="blocks.0.ln1")(tokens)
    model.blocks[1].forward = lambda x, *rest: x
    with pytest.raises(ValueError, match=r"^blind='blocks.1.ln1': is never run"):
        Paths(model, adder(0), POINT, blind="blocks.1.ln1")(tokens)
    assert hooks(model) == 0


def test_a_wrong_name_is_refused_with_those_that_are_near():
    model, tokens = transformer(0), prompts(0)
    with pytest.raises(
        ValueError, match=r"no point is named 'blocks.0.resid_pots'; the nearest are blocks.0.resid_post"
    ):
        Paths(model, adder(0), "blocks.0.resid_pots")(tokens)
    with pytest.raises(ValueError, match=r"no point is named 'blocks.1.attn.w'"):
        Paths(model, adder(0), POINT, clean=["blocks.1.attn.w"])(tokens)
