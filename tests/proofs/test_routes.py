"""Every route to the answers is held to whole rows, in float64."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import toylab
from tests.examples import fewer
from tests.model.small_transformers import SEEDS
from toylab.model.config import ModelConfig
from toylab.model.encoder_decoder import ENCODER, EncoderDecoder, EncoderDecoderConfig
from toylab.model.layers import short_softmax
from toylab.model.strategies import model_configs
from toylab.model.transformer import Transformer
from toylab.probes import edit, watch
from toylab.proofs import prefixes, properties
from toylab.proofs.routes import (
    answers_due,
    proof_copy,
    route_of,
    shared_prefixes,
    token_counts,
    token_states,
    whole_rows,
)
from toylab.tasks import (
    IGNORE,
    Addition,
    AssociativeRecall,
    ContextualCounting,
    Dyck,
    ModularAddition,
    MultiHopRecall,
    Parity,
    Polynomial,
    Reasoning,
)

TASKS = (
    Polynomial(p=3, lengths=(1, 4)),
    Polynomial(p=3, lengths=3, chain_of_thought=False),
    Parity(lengths=(1, 5)),
    ContextualCounting(length=(4, 5), regions=(1, 2)),
    Reasoning(p=3, length=2, flag=True),
    AssociativeRecall(pairs=2, keys=3, values=2),
    MultiHopRecall(hops=1, pairs=(2, 3), nodes=4, chain_of_thought=True),
    ModularAddition(p=5),
    Addition(digits=(1, 2), base=3),
    Dyck(pairs=(1, 3)),
)
COUNTING = ContextualCounting(length=(4, 7), regions=(1, 2))


def some_rows(data, task):
    length = data.draw(st.sampled_from(task.sampled_lengths))
    count = task.count(length)
    start = data.draw(st.integers(0, count - 1))
    return task.enumerate(length, np.arange(start, min(start + data.draw(st.integers(1, 40)), count)))


@fewer(1)
@given(st.sampled_from(TASKS), model_configs(causal=True), SEEDS, st.data())
def test_shared_prefixes_give_the_logits_of_whole_rows(task, config, seed, data):
    if config.unembedding == "orthogonal" and len(task.vocabulary) > config.width:
        config = replace(config, unembedding="learned")
    model = Transformer.for_task(task, config, seed).double()
    batch = some_rows(data, task)
    assert route_of(model) is shared_prefixes
    is_due = torch.from_numpy(answers_due(model, batch) != IGNORE)
    with torch.no_grad():
        expected, logits = whole_rows(model, batch)[is_due], shared_prefixes(model, batch)[is_due]
    torch.testing.assert_close(logits, expected, rtol=1e-9, atol=1e-9)


def test_a_model_with_hooks_takes_whole_rows():
    task = Polynomial(p=3, lengths=4)
    model = Transformer.for_task(task, ModelConfig(width=8))
    batch = task.enumerate(4, np.arange(task.count(4)))
    with torch.no_grad(), edit(model, {"blocks.0.attn.z": lambda z: 2 * z}):
        assert torch.equal(shared_prefixes(model, batch), whole_rows(model, batch))


def test_a_shared_prefix_is_computed_once(monkeypatch):
    monkeypatch.setattr("toylab.proofs.routes.has_hooks", lambda *modules: False)  # the hooks here only count rows
    task = Polynomial(p=3, lengths=4)
    model = Transformer.for_task(task, ModelConfig(width=8))
    with torch.no_grad(), watch(model, "embed", every_call=True) as cache:
        shared_prefixes(model, task.enumerate(4, np.arange(task.count(4))))
    rows = [tuple(x.shape[:2]) for x in cache["embed"]]
    assert rows == [(1, 1), (2, 1), (4, 1), (8, 1)]  # task token, x_1, x_2, x_3; x_4, EoI and states come from tables


@pytest.mark.parametrize("task", [Polynomial(p=5, lengths=4), Dyck(pairs=4), MultiHopRecall(pairs=3, nodes=4, hops=1)])
def test_prefixes_of_other_sizes_and_answers_inside_prefixes_give_the_logits_of_whole_rows(task, monkeypatch):
    monkeypatch.setattr(prefixes, "_ROWS", 30)  # several passes
    (length,) = task.sampled_lengths
    model = Transformer.for_task(task, ModelConfig(width=8, positions="learned"), 1).double()
    numbers = np.arange(task.count(length))[3:-2]  # the first and last groups are not full
    for rows in (numbers, numbers[::3], np.repeat(numbers[:9], 2)):
        batch = task.enumerate(length, rows)
        with torch.no_grad():
            expected, logits = whole_rows(model, batch), shared_prefixes(model, batch)
        torch.testing.assert_close(logits, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("scale", [-1e4, 1e4])
def test_scores_beyond_the_range_of_exp_take_whole_rows(scale):
    task = Polynomial(p=3, lengths=4)
    model = Transformer.for_task(task, ModelConfig(width=8, layers=1, heads=1))
    with torch.no_grad():
        attn = model.blocks[0].attn
        attn.query.bias.fill_(1.0)
        attn.key.bias.fill_(scale)
    batch = task.enumerate(4, np.arange(task.count(4)))
    tokens, scored = torch.from_numpy(batch.tokens), torch.arange(5, 10)
    with torch.no_grad():
        assert prefixes.prefix_logits(model, tokens, scored).isnan().any()
        torch.testing.assert_close(shared_prefixes(model, batch), whole_rows(model, batch), rtol=0, atol=0)


@pytest.mark.parametrize("seed", range(2))
def test_decisions_are_those_of_whole_rows(seed, monkeypatch):
    task = Polynomial(p=7, lengths=(1, 4))
    model = Transformer.for_task(task, ModelConfig(width=16, heads=4, activation="silu"), seed)
    with torch.no_grad():
        model.unembedding.weight[task.end_of_sequence] *= 3  # answers that differ, some with small margins
    fast = toylab.prove(model, task)
    monkeypatch.setattr(properties, "route_of", lambda model: whole_rows)
    slow = toylab.prove(model, task)
    assert [block.digest for block in fast.blocks] == [block.digest for block in slow.blocks]
    assert [replace(block, margin=None) for block in fast.blocks] == [replace(b, margin=None) for b in slow.blocks]
    for one, other in zip(fast.blocks, slow.blocks, strict=True):
        assert one.margin == pytest.approx(other.margin, rel=1e-2, abs=1e-5)


def encoder_decoder(causal, layers, seed, **fields):
    encoder = replace(ENCODER, causal=causal, layers=layers, width=8, **fields)
    return EncoderDecoder(EncoderDecoderConfig(encoder=encoder), COUNTING.symbols, 2, 9, 8, seed).double()


@fewer(1)
@given(st.booleans(), st.booleans(), SEEDS, st.data())
def test_counts_and_states_give_the_logits_of_whole_rows(causal, has_mlp, seed, data):
    layers = 1 if causal else data.draw(st.integers(1, 2))
    model = encoder_decoder(causal, layers, seed, hidden=6 * has_mlp)
    route = token_states if causal else token_counts
    assert route_of(model) is route
    batch = some_rows(data, COUNTING)
    with torch.no_grad():
        torch.testing.assert_close(route(model, batch), whole_rows(model, batch), rtol=1e-9, atol=1e-9)


def test_strings_with_equal_counts_are_computed_once_and_others_apart():
    model = encoder_decoder(False, 1, 0)
    batch = COUNTING.enumerate(5, np.arange(COUNTING.count(5)))
    counts = {tuple(sorted(row[:6])) for row in batch.tokens.tolist()}
    with torch.no_grad(), watch(model, "encoder.embed") as cache:
        token_counts(model, batch)
    assert len(cache["encoder.embed"]) == len(counts) < len(batch) / 4


@pytest.mark.parametrize(
    "model",
    [
        encoder_decoder(True, 2, 0),  # a second layer sees the order of the tokens
        encoder_decoder(True, 1, 0, positions="learned"),
        encoder_decoder(False, 1, 0, positions="rotary"),
        Transformer(ModelConfig(causal=False), 8, 8),
        torch.nn.Linear(1, 1),
    ],
)
def test_other_models_take_whole_rows(model):
    assert route_of(model) is whole_rows


def test_a_watched_model_takes_whole_rows():
    model = Transformer(ModelConfig(width=8), 8, 8)
    with watch(model, "embed"):
        assert route_of(model) is whole_rows
    assert route_of(model) is shared_prefixes


@given(SEEDS, st.integers(1, 20))
def test_the_short_softmax_is_the_softmax(seed, keys):
    scores = 200 * torch.randn(3, keys, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    scores[0, 1:] = -torch.inf
    torch.testing.assert_close(short_softmax(scores), scores.softmax(dim=-1), rtol=1e-12, atol=1e-15)


def test_the_copy_of_a_prover_has_the_short_softmax_and_the_model_keeps_its_own():
    task = Parity(lengths=3)
    model = Transformer.for_task(task, ModelConfig(width=8))
    copy = proof_copy(model)
    assert {block.attn.normalise for block in copy.blocks} == {short_softmax}
    assert short_softmax not in {block.attn.normalise for block in model.blocks}
    assert not copy.training
