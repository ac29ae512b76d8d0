"""Laws of path patching in a transformer: a path that is cut carries nothing, the others carry all."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from tests.probes.patched_models import (
    LATER,
    LAYERS,
    LENGTH,
    POINT,
    SEEDS,
    VOCAB,
    WIDTH,
    WITHIN,
    adder,
    close,
    few,
    normal,
    prompts,
    streams,
    transformer,
)
from toylab import generate
from toylab.probes import PathPatched, edit, watch


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


@few
@given(SEEDS, st.sampled_from(["sinusoidal", "rotary", "alibi", "learned"]), st.integers(0, LAYERS - 1))
def test_with_nobody_blind_the_model_is_the_edited_one(seed, positions, layer):
    model, tokens, change = transformer(seed, positions=positions), prompts(seed), adder(seed)
    point = f"blocks.{layer}.resid_post"
    with edit(model, {point: change}):
        expected = model(tokens)
    close(PathPatched(model, change, point)(tokens), expected)
    assert not torch.allclose(model(tokens), expected)


@few
@given(SEEDS, st.booleans(), st.integers(0, LAYERS - 1))
def test_with_every_later_reader_blind_the_model_is_the_unedited_one(seed, biases, layer):
    model, tokens, change = transformer(seed, biases=biases), prompts(seed), adder(seed)
    paths = PathPatched(model, change, f"blocks.{layer}.resid_post", blind=LATER[2 * layer :])
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
    paths = PathPatched(model, change, POINT, blind=["blocks.1.ln1"])
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
    close(PathPatched(model, change, POINT, blind=["blocks.1.ln2"])(tokens), logits)


@few
@given(SEEDS)
def test_an_unembedding_that_is_blind_reads_the_last_stream_less_the_change(seed):
    model, tokens, change = transformer(seed), prompts(seed), adder(seed)
    (before,), _ = streams(model, tokens, POINT)
    (last,), _ = streams(model, tokens, "blocks.2.resid_post", edits={POINT: change})
    expected = norm_by_hand(model.ln_final, last - (change(before) - before)) @ model.unembedding.weight.T
    close(PathPatched(model, change, POINT, blind=["ln_final"])(tokens), expected)


@few
@given(SEEDS, st.sets(st.sampled_from("qkv")))
def test_clean_queries_keys_and_values_are_those_of_attention_by_hand(seed, clean):
    model, tokens, change = transformer(seed), prompts(seed), adder(seed)
    block = model.blocks[1]
    (before,), _ = streams(model, tokens, POINT)
    read = {name: norm_by_hand(block.ln1, before if name in clean else change(before)) for name in "qkv"}
    written = attention_by_hand(block.attn, *read.values())
    _, expected = streams(model, tokens, edits={POINT: change, "blocks.1.attn_out": lambda x: written})
    close(PathPatched(model, change, POINT, clean=[f"blocks.1.attn.{name}" for name in clean])(tokens), expected)


@few
@given(SEEDS, st.sets(st.sampled_from(WITHIN), max_size=4))
def test_clean_points_pass_on_what_they_did_in_an_unedited_run(seed, clean):
    model, tokens, change = transformer(seed), prompts(seed), adder(seed)
    usual, unedited = streams(model, tokens, *clean)
    held = {name: (lambda x, kept=kept: kept) for name, kept in zip(clean, usual, strict=True)}
    _, expected = streams(model, tokens, edits={POINT: change, **held})
    close(PathPatched(model, change, POINT, clean=clean)(tokens), expected)
    close(PathPatched(model, change, POINT, clean=[*clean, "blocks.2.resid_post"])(tokens), unedited)


@few
@given(SEEDS)
def test_a_pattern_of_names_makes_every_match_clean(seed):
    model, tokens, change = transformer(seed), prompts(seed), adder(seed)
    names = [f"blocks.{layer}.attn.pattern" for layer in range(LAYERS)]
    found = PathPatched(model, change, POINT, clean=["blocks.*.attn.pattern"])(tokens)
    close(found, PathPatched(model, change, POINT, clean=names)(tokens))


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
    close(PathPatched(model, change, POINT, clean_scale=norm)(tokens), expected)
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
    found = PathPatched(model, change, POINT, blind=["ln_final"], clean_scale="ln_final")(tokens)
    close(found, normed @ model.unembedding.weight.T)


@few
@given(SEEDS, st.integers(1, 4))
def test_rows_do_not_hear_of_one_another(seed, rows):
    model, tokens, change = transformer(seed), prompts(seed, rows), adder(seed)
    paths = PathPatched(model, change, POINT, blind=LATER[:1], clean=["blocks.2.attn.q"], clean_scale="ln_final")
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
        close(PathPatched(model, change, POINT)(tokens, **options), expected)
        close(PathPatched(model, change, POINT, blind=LATER)(tokens, **options), model(tokens, **options))


@few
@given(SEEDS)
def test_chosen_queries_of_a_model_whose_readers_all_see_are_rows_of_the_whole(seed):
    model, tokens, change = transformer(seed), prompts(seed), adder(seed)
    queries = torch.tensor([[0, 3], [2, 5], [4, 4]])
    for paths in (
        PathPatched(model, change, POINT),
        PathPatched(model, change, POINT, clean=["blocks.1.attn.q", "blocks.2.mlp_out"]),
    ):
        whole = paths(tokens)
        close(paths(tokens, queries=queries), torch.stack([whole[row, at] for row, at in enumerate(queries)]))


def test_gradients_flow_through_the_change_along_open_paths_alone():
    model, tokens = transformer(0), prompts(0)
    vector = torch.zeros(WIDTH, dtype=torch.float64, requires_grad=True)
    slopes = []
    for blind in ((), LATER[:1], LATER):
        loss = PathPatched(model, lambda x: x + vector, POINT, blind=blind)(tokens).square().sum()
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
    return generate(paths, prompt, 3, temperature=temperature, generator=generator, **options)


@few
@given(SEEDS, st.sampled_from(KINDS), st.sampled_from([0.0, 1.0]), st.integers(1, 3))
def test_kept_keys_and_values_change_no_token_that_is_generated(seed, kind, temperature, rows):
    prompt = prompts(seed, rows, 3)
    paths = PathPatched(transformer(seed), adder(seed), POINT, **kind)
    found = drawn(paths, prompt, seed, temperature)
    assert torch.equal(found, drawn(paths, prompt, seed, temperature, cache=False))
    assert found.shape == (rows, 6)
    assert torch.equal(found[:, :3], prompt)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_several_samples_of_each_prompt_stand_in_consecutive_rows(kind, temperature):
    prompt = prompts(0, 2, 3)
    paths = PathPatched(transformer(0), adder(0), POINT, **kind)
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
        paths = PathPatched(model, change, POINT, blind=blind)
        assert torch.equal(generate(paths, prompt, 3), generate(paths, prompt, 3, cache=False))
    tokens = prompts(seed)
    close(paths(tokens)[:, :4], model(tokens)[:, :4])


@few
@given(SEEDS)
def test_a_model_blind_to_its_change_writes_what_it_always_did(seed):
    model, prompt = transformer(seed), prompts(seed)
    assert torch.equal(
        generate(PathPatched(model, adder(seed), POINT, blind=LATER), prompt, 4), generate(model, prompt, 4)
    )
